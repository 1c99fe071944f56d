"""Programs that start ranks, wrap a command that does, or hand it on; and those that surely do not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from crossfoot.written.launch.look_alikes import plain
from crossfoot.written.launch.options import argument
from crossfoot.written.launch.shell_tree import OffsetText
from crossfoot.written.launch.statement import UNKNOWN, Command, Export, LayerKind
from crossfoot.written.source import Source

PYTHON_NAME = re.compile(r"python(\d+(\.\d+)*)?$", re.ASCII)
LAUNCHER_KINDS: Mapping[str, LayerKind] = {
    "srun": "srun",
    "deepspeed": "deepspeed",
    "ds": "deepspeed",
    "torchrun": "torchrun",
    "accelerate-launch": "accelerate",
}
_WRAPPING = """
env nohup time timeout numactl taskset stdbuf nice ionice setsid command exec sudo singularity apptainer
docker podman enroot conda mamba micromamba poetry uv pixi pipenv nsys ncu strace catchsegv unbuffer script
xvfb-run dotenv
"""
_WRAPPERS = frozenset(_WRAPPING.split())
_RUNNERS = frozenset(("conda", "mamba", "micromamba", "poetry", "uv", "pixi", "pipenv"))
_ELSEWHERE = "ssh pdsh clush pssh parallel-ssh mpirun mpiexec parallel xargs watch kubectl salloc"
ELSEWHERE = frozenset(_ELSEWHERE.split())
TERMINALS = frozenset(("tmux", "screen", "script", "su", "flock", "at", "batch", "bsub", "qsub"))
"""They hand a text to a shell on this machine."""
SHELLS = frozenset(("bash", "sh", "zsh", "dash"))
SOURCING = frozenset(("source", "."))
_QUIET = """
echo printf cat which type whereis pip pip3 conda mamba uv apt apt-get yum ls rm cp mv mkdir grep egrep rg sed
awk head tail wc kill pkill killall ps pgrep man module ml git tee touch chmod ln find du df date hostname
sleep wait trap alias unalias logger hash curl wget make cmake ldd file stat diff scp rsync tar test
"""
_STARTING_NOTHING = frozenset(_QUIET.split())
OTHERS = frozenset(("llamafactory-cli", "swift", "axolotl", "xtuner", "litgpt", "colossalai"))
"""Programs of other trainers, which start ranks."""
OURS = ("crossfoot", "crossfoot.cli")
_STARTERS = frozenset((*LAUNCHER_KINDS, *SHELLS, *OURS, "accelerate", "sbatch"))
_ASSIGNING = re.compile(r"[A-Za-z_]\w*\+?=", re.ASCII)


def trapped(words: Sequence[OffsetText]) -> Iterator[str]:
    """The signals of `trap ACTION USR1 TERM`; none when the action is to do nothing."""
    if words[0].text == "trap" and len(words) > 2 and words[1].text not in ("", "-"):
        yield from (word.text.upper().removeprefix("SIG") for word in words[2:])


def may_start(words: Sequence[OffsetText]) -> bool:
    """Whether a command may start ranks, or sets a variable, as its author reads it."""
    names = [os.path.basename(part) for word in words for part in plain(word.text).split()[:2]]
    if not names or names[0] in _STARTING_NOTHING:
        return False
    if _ASSIGNING.match(plain(words[0].text)) or (names[0].startswith("#") and names[0] != "#SBATCH"):
        return True
    return any(_is_starter(name) or name.endswith((".py", ".sh")) for name in names)


def _is_starter(name: str) -> bool:
    return name in _STARTERS or PYTHON_NAME.match(name) is not None


def launcher(name: str, words: list[OffsetText]) -> tuple[LayerKind, list[OffsetText]] | None:
    """Which launcher the first word calls, and the words behind its name; None for any other program."""
    if name == "accelerate":
        return ("accelerate", words[2:]) if len(words) > 1 and words[1].text == "launch" else None
    if name in LAUNCHER_KINDS:
        return LAUNCHER_KINDS[name], words[1:]
    return ("python", words[1:]) if PYTHON_NAME.match(name) else None


def without_wrapper(
    source: Source, words: list[OffsetText], base: Command
) -> tuple[list[OffsetText], Command]:
    """Skip `env A=b`, `nohup`, a container's own words, up to a program that starts training."""
    if not words:
        return [], base
    name = os.path.basename(words[0].text)
    if name == "exec" and not base.layers:
        base = replace(base, takes_over=True)
    if name == "command" and [word.text[:2].lower() for word in words[1:2]] == ["-v"]:
        return [], base
    if name in ELSEWHERE:
        base = replace(base, doubt=base.doubt or f"started by {name}", alternative=None)
    elif (name not in _WRAPPERS and (name in _STARTING_NOTHING or not starts_ranks(words))) or (
        name in _RUNNERS and (len(words) < 2 or words[1].text != "run")
    ):
        return words, base
    for position, word in enumerate(words[1:], 1):
        begins = os.path.basename(word.text)
        if begins in LAUNCHER_KINDS or begins in SHELLS or begins in (*OURS, *OTHERS, "accelerate"):
            return words[position:], base
        if PYTHON_NAME.match(begins):
            return words[position:], base
        if name == "env" and re.match(r"[A-Za-z_]\w*=", word.text, re.ASCII):
            variable, _, _ = word.text.partition("=")
            behind = argument(source, word.after(len(variable) + 1))
            base = replace(base, exports=(*base.exports, Export(variable, behind.known, behind.place)))
    return [], base


def text_for_a_shell(words: Sequence[OffsetText]) -> OffsetText | None:
    """`ssh HOST "cd W && torchrun ..."`: a command that is one word of another one's."""
    if not words or os.path.basename(words[0].text) not in ELSEWHERE | TERMINALS:
        return None
    for word in words[1:]:
        parts = [os.path.basename(part) for part in re.split(r"[\s;&|()]+", word.text)]
        if len(parts) > 1 and any(map(_is_starter, parts)):
            return word
    return None


def starts_ranks(words: Sequence[OffsetText]) -> bool:
    """Whether a launcher and its script stand behind a program that is not known: a site's own wrapper."""
    names = [os.path.basename(word.text) for word in words]
    if launcher(names[0], list(words)) or names[0] in SHELLS or names[0] in OURS or UNKNOWN in names[0]:
        return False
    at = next(
        (n for n, name in enumerate(names[1:], 1) if name in LAUNCHER_KINDS or name == "accelerate"), None
    )
    return at is not None and any(name.endswith(".py") or name in ("-m", "--module") for name in names[at:])


def shell_script(words: Sequence[OffsetText]) -> OffsetText | None:
    """The script of `bash -c SCRIPT`; more options may stand between the two."""
    is_script = False
    for word in words[1:]:
        if not word.text.startswith(("-", "+")):
            return word if is_script else None
        is_script |= "c" in word.text and word.text[:2] not in ("--", "++")
    return None
