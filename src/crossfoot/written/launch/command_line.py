"""One command of a launch script, taken apart: its launchers from the outermost in, their options, the script
that is started in the end, and the words behind it.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from crossfoot.written.launch.options import (
    LAUNCHERS,
    PYTHON,
    Grammar,
    Parsed,
    argument,
    parse,
    place_of,
)
from crossfoot.written.launch.shell import Made, OffsetText, RawCommand, Value, run_script
from crossfoot.written.launch.statement import UNKNOWN, Argument, Command, Export, Layer, LayerKind
from crossfoot.written.source import Source

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
_OURS = ("crossfoot", "crossfoot.cli")


def commands_of(source: Source) -> tuple[tuple[Command, ...], Made]:
    """The commands of a script that start python, and the files that its other commands name: it may have
    made them.
    """
    made: Made = {}
    raw = run_script(source.text, range(len(source.text)), made)
    return tuple(_commands(source, raw, Command(()), made, 0)), made


def _commands(
    source: Source, raw: Iterator[RawCommand], outer: Command, made: Made, depth: int
) -> Iterator[Command]:
    for each in raw:
        base = Command(
            outer.layers,
            exports=_exports(source, each.exports),
            doubt=each.doubt or outer.doubt,
            alternative=each.alternative if not outer.doubt else outer.alternative,
            folder=each.folder,
        )
        found = list(_unfold(source, list(each.words), base, each.exports, made, depth))
        if not found:
            for word in each.words[1:]:
                made.setdefault(word.text, None)
        yield from found


def _exports(source: Source, values: Mapping[str, Value]) -> tuple[Export, ...]:
    exports = []
    for name, value in sorted(values.items()):
        if isinstance(value, OffsetText):
            word = argument(source, value)
            exports.append(Export(name, word.known, word.place))
        else:
            exports.append(Export(name, None, source.place(0)))
    return tuple(exports)


def _unfold(
    source: Source,
    words: list[OffsetText],
    base: Command,
    exports: Mapping[str, Value],
    made: Made,
    depth: int,
) -> Iterator[Command]:
    """Follow a command from word to word until it is known what it starts."""
    for _ in range(20):
        words, base = _without_wrapper(source, words, base)
        if not words:
            return
        name = os.path.basename(words[0].text)
        if name in _SHELLS:
            script = _shell_script(words)
            if script is not None and depth < DEEPEST:
                inner = run_script(script.text, script.offsets, made, exports, base.folder)
                yield from _commands(source, inner, base, made, depth + 1)
            return
        first = words[0]
        if name in _OURS or name.endswith(".py"):
            yield from _started(source, base, Parsed((), (), tuple(words), True), first)
            return
        launcher = _launcher(name, words)
        if launcher is None:
            return
        kind, words = launcher
        parsed = parse(source, words, _GRAMMARS[kind])
        module = next((option for option in parsed.options if option.name == "--module"), None)
        if kind == "python" and module is not None:
            if module.value is not None and module.value in _MODULES:
                kind = _MODULES[module.value]
                parsed = parse(source, parsed.rest, _GRAMMARS[kind])
            elif module.value in _OURS:
                name_of_module = Argument(module.value or "", module.place)
                yield from _ended(source, base, name_of_module, parsed.rest)
                return
            else:
                return
        base = replace(base, layers=(*base.layers, _layer(source, kind, first, parsed)))
        if kind == "srun" or (kind != "python" and any(o.name == "--no_python" for o in parsed.options)):
            words = list(parsed.rest)
            continue
        yield from _started(source, base, parsed, first)
        return


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
        parsed.is_complete and not parsed.unknown,
    )


def _without_wrapper(
    source: Source, words: list[OffsetText], base: Command
) -> tuple[list[OffsetText], Command]:
    """Skip `env A=b`, `nohup`, a container's own words, up to a program that starts training."""
    name = os.path.basename(words[0].text) if words else ""
    if name in _ELSEWHERE:
        base = replace(base, doubt=base.doubt or f"started by {name}", alternative=None)
    elif name not in _WRAPPERS or (name in _RUNNERS and (len(words) < 2 or words[1].text != "run")):
        return words, base
    for position, word in enumerate(words[1:], 1):
        begins = os.path.basename(word.text)
        if begins in _LAUNCHERS or begins in _SHELLS or begins in _OURS or begins == "accelerate":
            return words[position:], base
        if _PYTHON.match(begins):
            return words[position:], base
        if name == "env" and re.match(r"[A-Za-z_]\w*=", word.text, re.ASCII):
            variable, _, _ = word.text.partition("=")
            behind = argument(source, word.after(len(variable) + 1))
            base = replace(base, exports=(*base.exports, Export(variable, behind.known, behind.place)))
    return [], base


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
