"""One command of a launch script, taken apart: its launchers from the outermost in, their options, the script
that is started in the end, and the words behind it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from crossfoot.findings.finding import Place
from crossfoot.written.launch.look_alikes import as_meant, look_alike, plain
from crossfoot.written.launch.options import (
    LAUNCHERS,
    PYTHON,
    SBATCH,
    Grammar,
    Parsed,
    argument,
    parse,
    place_of,
)
from crossfoot.written.launch.shell import run_script
from crossfoot.written.launch.shell_scope import Made, RawCommand, made_name
from crossfoot.written.launch.shell_tree import OffsetText
from crossfoot.written.launch.shell_words import Value
from crossfoot.written.launch.statement import (
    UNKNOWN,
    Argument,
    Command,
    Defect,
    Export,
    Layer,
    LayerKind,
    Option,
)
from crossfoot.written.source import Source, UnreadableText, read_source

DEEPEST = 4
MOST_ARGUMENTS = 500
_PYTHON = re.compile(r"python(\d+(\.\d+)*)?$", re.ASCII)
_LAUNCHERS: Mapping[str, LayerKind] = {
    "srun": "srun",
    "deepspeed": "deepspeed",
    "ds": "deepspeed",
    "torchrun": "torchrun",
    "accelerate-launch": "accelerate",
}
_MODULES: Mapping[str, LayerKind] = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
    "accelerate.commands.launch": "accelerate",
    "deepspeed.launcher.runner": "deepspeed",
}
_GRAMMARS: Mapping[LayerKind, Grammar] = {**LAUNCHERS, "python": PYTHON}
_WRAPPING = """
env nohup time timeout numactl taskset stdbuf nice ionice setsid command exec sudo singularity apptainer
docker podman enroot conda mamba micromamba poetry uv pixi pipenv nsys ncu strace catchsegv unbuffer script
xvfb-run
dotenv
"""
_WRAPPERS = frozenset(_WRAPPING.split())
_RUNNERS = frozenset(("conda", "mamba", "micromamba", "poetry", "uv", "pixi", "pipenv"))
_ELSEWHERE = frozenset(("ssh", "pdsh", "clush", "mpirun", "mpiexec", "parallel", "xargs", "watch", "kubectl"))
_SHELLS = frozenset(("bash", "sh", "zsh", "dash"))
_SOURCING = frozenset(("source", "."))
_QUIET = """
echo printf cat which type whereis pip pip3 conda mamba uv apt apt-get yum ls rm cp mv mkdir grep egrep rg sed
awk head tail wc kill pkill killall ps pgrep man module ml git tee touch chmod ln find du df date hostname
sleep wait trap alias unalias logger hash curl wget make cmake ldd file stat diff scp rsync tar test
"""
_STARTING_NOTHING = frozenset(_QUIET.split())
_OTHERS = frozenset(("llamafactory-cli", "swift", "axolotl", "xtuner", "litgpt", "colossalai"))
"""Programs of other trainers, which start ranks."""
_OURS = ("crossfoot", "crossfoot.cli")
_BATCH_SHELL = dict.fromkeys(
    ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), OffsetText("0", (), is_default=True)
)
_STARTERS = frozenset((*_LAUNCHERS, *_SHELLS, *_OURS, "accelerate", "sbatch"))
_ASSIGNING = re.compile(r"[A-Za-z_]\w*\+?=", re.ASCII)


@dataclass(frozen=True)
class Submitted:
    """A batch script that a script hands to sbatch: the path of a file, or the text of a here-document."""

    what: OffsetText
    place: Place
    is_document: bool
    folder: str | None


@dataclass(frozen=True)
class Found:
    """What a script starts. made: the files that it writes, or that its other commands name: they may write
    them. submitted: what it hands to sbatch. missing: scripts that it starts, and that are not there.
    defects: lines that bash reads otherwise than their author. traps: signals, without SIG.
    """

    source: Source
    made: Made = field(default_factory=dict)
    submitted: list[Submitted] = field(default_factory=list)
    missing: list[Argument] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    traps: set[str] = field(default_factory=set)
    depth: int = 0

    def commands(self, is_batch: bool = False) -> tuple[Command, ...]:
        """Those that start python. is_batch: the shell is task 0 of a job."""
        text, offsets = self._unix_lines()
        fixed = _BATCH_SHELL if is_batch else {}
        return tuple(self._commands(run_script(text, offsets, self.made, given=fixed), Command(())))

    def _commands(self, raw: Iterator[RawCommand], outer: Command) -> Iterator[Command]:
        for each in map(self._as_meant, raw):
            base = Command(
                outer.layers,
                exports=_exports(self.source, each.exports),
                doubt=outer.doubt or each.doubt,
                alternative=outer.alternative if outer.doubt else each.alternative,
                folder=each.folder,
                inherited=outer.inherited,
                is_background=outer.is_background or each.is_background,
                takes_over=outer.takes_over,
            )
            self.traps.update(_trapped(each.words))
            found = list(self._unfold(each, list(each.words), base))
            if not found:
                for word in each.words[1:]:
                    self.made.setdefault(made_name(word.text), None)
            yield from found

    def _unfold(self, raw: RawCommand, words: list[OffsetText], base: Command) -> Iterator[Command]:
        """Follow a command from word to word until it is known what it starts."""
        for _ in range(20):
            words, base = _without_wrapper(self.source, words, base)
            if not words:
                return
            first = words[0]
            name = os.path.basename(first.text)
            if name in _SHELLS or name in _SOURCING or name.endswith(".sh"):
                yield from self._script(raw, words, base)
                return
            if name == "sbatch":
                self._submit(raw, words, base)
                return
            if name in _OURS or name in _OTHERS or name.endswith(".py"):
                yield from _started(self.source, base, Parsed((), (), tuple(words), True), first)
                return
            launcher = _launcher(name, words)
            if launcher is None:
                return
            kind, words = launcher
            parsed = parse(self.source, words, _GRAMMARS[kind])
            module = next((option for option in parsed.options if option.name == "--module"), None)
            if kind == "python" and module is not None:
                if module.value is not None and module.value in _MODULES:
                    kind = _MODULES[module.value]
                    parsed = parse(self.source, parsed.rest, _GRAMMARS[kind])
                elif module.value in _OURS:
                    name_of_module = Argument(module.value or "", module.place)
                    yield from _ended(self.source, base, name_of_module, parsed.rest)
                    return
                else:
                    return
            base = replace(base, layers=(*base.layers, _layer(self.source, kind, first, parsed)))
            if kind == "srun":
                base = replace(base, inherited=base.exports)
            if kind == "srun" or (kind != "python" and any(o.name == "--no_python" for o in parsed.options)):
                words = list(parsed.rest)
                continue
            yield from _started(self.source, base, parsed, first)
            return

    def _script(self, raw: RawCommand, words: Sequence[OffsetText], base: Command) -> Iterator[Command]:
        """`bash -c TEXT`, `bash FILE`, `./FILE.sh`, `source FILE`, and a text that bash reads from a
        here-document.
        """
        if self.depth >= DEEPEST:
            return
        is_shell = os.path.basename(words[0].text) in _SHELLS
        text = _shell_script(words) if is_shell else None
        behind = [word for word in words[1:] if not word.text.startswith(("-", "+"))]
        inner = replace(self, depth=self.depth + 1)
        if text is None and is_shell and not behind:
            text = raw.document
        if text is not None:
            yield from inner._commands(
                run_script(text.text, text.offsets, self.made, raw.exports, base.folder), base
            )
        elif (path := next(iter(behind), None) if is_shell or len(words) > 1 else words[0]) is not None:
            yield from inner._file(argument(self.source, path), raw, base, is_shell)

    def _file(self, written: Argument, raw: RawCommand, base: Command, is_started: bool) -> Iterator[Command]:
        """The commands of a script that is started by its name: a file, or what the script has written. What
        this one exports is not known in another file.
        """
        name = made_name(written.text)
        if name in self.made:
            made = self.made[name]
            if made is not None and made.is_known:
                commands = run_script(made.text, made.offsets, self.made, raw.exports, base.folder)
                yield from self._commands(commands, replace(base, exports=()))
            return
        if written.known is None or base.folder is None:
            return
        path = os.path.normpath(os.path.join(base.folder, os.path.expanduser(written.text)))
        try:
            source = read_source(path)
        except UnreadableText:
            if is_started:  # what is only sourced sets up an environment
                self.missing.append(replace(written, text=path))
            return
        other = replace(self, source=source)
        text, offsets = other._unix_lines()
        exports = dict.fromkeys(raw.exports)
        commands = run_script(text, offsets, self.made, exports, base.folder)
        yield from other._commands(commands, replace(base, exports=()))

    def _unix_lines(self) -> tuple[str, Sequence[int]]:
        """The text with Unix line ends, and the offset of each of its characters: what its author meant."""
        text = self.source.text
        first = text.find("\r\n")
        if first < 0:
            return text, range(len(text))
        self.defects.append(Defect("dos", self.source.place(first), "Windows line ends (\\r\\n)"))
        kept = [at for at in range(len(text)) if not text.startswith("\r\n", at)]
        return "".join(text[at] for at in kept), kept

    def _as_meant(self, raw: RawCommand) -> RawCommand:
        """The command with plain characters; those that only look so are noted."""
        if not _may_start(raw.words):
            return raw
        words: list[OffsetText] = []
        for word in raw.words:
            found = look_alike(self.source, word)
            if found is not None:
                self.defects.append(found.defect(self.source))
            words.extend([word] if found is None else as_meant(found))
        return replace(raw, words=tuple(words))

    def _submit(self, raw: RawCommand, words: Sequence[OffsetText], base: Command) -> None:
        rest = parse(self.source, words[1:], SBATCH).rest
        if rest:
            place = argument(self.source, rest[0]).place
            self.submitted.append(Submitted(rest[0], place, False, base.folder))
        elif raw.document is not None:
            place = argument(self.source, words[0]).place
            self.submitted.append(Submitted(raw.document, place, True, base.folder))


def _trapped(words: Sequence[OffsetText]) -> Iterator[str]:
    """The signals of `trap ACTION USR1 TERM`; none when the action is to do nothing."""
    if words[0].text == "trap" and len(words) > 2 and words[1].text not in ("", "-"):
        yield from (word.text.upper().removeprefix("SIG") for word in words[2:])


def _may_start(words: Sequence[OffsetText]) -> bool:
    """Whether a command may start ranks, or sets a variable, as its author reads it."""
    names = [os.path.basename(part) for word in words for part in plain(word.text).split()[:2]]
    if not names or names[0] in _STARTING_NOTHING:
        return False
    if _ASSIGNING.match(plain(words[0].text)) or (names[0].startswith("#") and names[0] != "#SBATCH"):
        return True
    return any(name in _STARTERS or name.endswith((".py", ".sh")) or _PYTHON.match(name) for name in names)


def _exports(source: Source, values: Mapping[str, Value]) -> tuple[Export, ...]:
    exports = []
    for name, value in sorted(values.items()):
        if isinstance(value, OffsetText):
            word = argument(source, value)
            exports.append(Export(name, word.known, word.place))
        else:
            exports.append(Export(name, None, source.place(0)))
    return tuple(exports)


def _launcher(name: str, words: list[OffsetText]) -> tuple[LayerKind, list[OffsetText]] | None:
    """Which launcher the first word calls, and the words behind its name; None for any other program."""
    if name == "accelerate":
        return ("accelerate", words[2:]) if len(words) > 1 and words[1].text == "launch" else None
    if name in _LAUNCHERS:
        return _LAUNCHERS[name], words[1:]
    return ("python", words[1:]) if _PYTHON.match(name) else None


def _layer(source: Source, kind: LayerKind, name: OffsetText, parsed: Parsed) -> Layer:
    return Layer(
        kind,
        place_of(source, name),
        parsed.options,
        parsed.unknown,
        parsed.is_complete and not any(_hides(kind, option) for option in parsed.unknown),
    )


def _hides(kind: LayerKind, option: Option) -> bool:
    """Whether an option that is not known may take the next word: SLURM's plugins add options."""
    return kind != "srun" or "=" not in option.words


def _without_wrapper(
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
    if name in _ELSEWHERE:
        base = replace(base, doubt=base.doubt or f"started by {name}", alternative=None)
    elif (name not in _WRAPPERS and (name in _STARTING_NOTHING or not _starts_ranks(words))) or (
        name in _RUNNERS and (len(words) < 2 or words[1].text != "run")
    ):
        return words, base
    for position, word in enumerate(words[1:], 1):
        begins = os.path.basename(word.text)
        if begins in _LAUNCHERS or begins in _SHELLS or begins in (*_OURS, *_OTHERS, "accelerate"):
            return words[position:], base
        if _PYTHON.match(begins):
            return words[position:], base
        if name == "env" and re.match(r"[A-Za-z_]\w*=", word.text, re.ASCII):
            variable, _, _ = word.text.partition("=")
            behind = argument(source, word.after(len(variable) + 1))
            base = replace(base, exports=(*base.exports, Export(variable, behind.known, behind.place)))
    return [], base


def _starts_ranks(words: Sequence[OffsetText]) -> bool:
    """Whether a launcher and its script stand behind a program that is not known: a site's own wrapper."""
    names = [os.path.basename(word.text) for word in words]
    if _launcher(names[0], list(words)) or names[0] in _SHELLS or names[0] in _OURS or UNKNOWN in names[0]:
        return False
    at = next((n for n, name in enumerate(names[1:], 1) if name in _LAUNCHERS or name == "accelerate"), None)
    return at is not None and any(name.endswith(".py") or name in ("-m", "--module") for name in names[at:])


def _shell_script(words: Sequence[OffsetText]) -> OffsetText | None:
    """The script of `bash -c SCRIPT`; more options may stand between the two."""
    is_script = False
    for word in words[1:]:
        if not word.text.startswith(("-", "+")):
            return word if is_script else None
        is_script |= "c" in word.text and word.text[:2] not in ("--", "++")
    return None


def _started(source: Source, base: Command, parsed: Parsed, name: OffsetText) -> Iterator[Command]:
    """The script behind a launcher's options, and its arguments."""
    if not base.layers:
        base = replace(base, layers=(Layer("python", place_of(source, name)),))
    if not parsed.rest:
        if base.layers[-1].kind != "python":
            yield base
        return
    yield from _ended(source, base, argument(source, parsed.rest[0]), parsed.rest[1:])


def _ended(source: Source, base: Command, script: Argument, rest: Sequence[OffsetText]) -> Iterator[Command]:
    if not base.layers:
        base = replace(base, layers=(Layer("python", script.place),))
    arguments = tuple(argument(source, word) for word in rest[:MOST_ARGUMENTS])
    launcher = base.layer("deepspeed")
    if launcher is not None and launcher.get("--hostfile") and launcher.lacks("--no_ssh"):
        arguments = tuple(replace(word, text=over_ssh(word.text)) for word in arguments)
    yield replace(base, script=script, arguments=arguments)


def over_ssh(word: str) -> str:
    """A word as a rank finds it that `deepspeed` starts on another host: a shell there has read it once more.

    deepspeed 0.19 puts double quotes around a word with a blank, and escapes those in it; pdsh makes `%` of
    `%%`. A word that becomes several, or holds what only that shell knows, stays as it is.
    """
    if UNKNOWN in word:
        return word
    sent = word.replace("%%", "%")
    if " " in word:
        return re.sub(r"\\([\\$`])", r"\1", sent)
    try:
        words = shlex.split(sent)
    except ValueError:
        return word
    return words[0] if len(words) == 1 else word
