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
from crossfoot.written.launch.look_alikes import as_meant, look_alike
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
from crossfoot.written.launch.starters import (
    OTHERS,
    OURS,
    SHELLS,
    SOURCING,
    TERMINALS,
    launcher,
    may_start,
    shell_script,
    text_for_a_shell,
    trapped,
    without_wrapper,
)
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
_MODULES: Mapping[str, LayerKind] = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
    "accelerate.commands.launch": "accelerate",
    "deepspeed.launcher.runner": "deepspeed",
}
_GRAMMARS: Mapping[LayerKind, Grammar] = {**LAUNCHERS, "python": PYTHON}
_BATCH_SHELL = dict.fromkeys(
    ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), OffsetText("0", (), is_default=True)
)


@dataclass(frozen=True)
class Submitted:
    """A batch script that a script hands to sbatch: the path of a file, the text of a here-document, or of
    --wrap. options: those of sbatch itself, which come first.
    """

    what: OffsetText
    place: Place
    is_document: bool
    folder: str | None
    options: tuple[Option, ...] = ()
    is_wrapped: bool = False


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

    def commands(self, job: Mapping[str, str] | None = None) -> tuple[Command, ...]:
        """Those that start python. job: what the job that the script is says of itself."""
        text, offsets = self._unix_lines()
        exports = {name: OffsetText(value, ()) for name, value in (job or {}).items()}
        given = {} if job is None else _BATCH_SHELL
        return tuple(self._commands(run_script(text, offsets, self.made, exports, given=given), Command(())))

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
            self.traps.update(trapped(each.words))
            found = list(self._unfold(each, list(each.words), base))
            if not found and each.words[0].text != "sbatch":
                for word in each.words[1:]:
                    self.made.setdefault(made_name(word.text), None)
            yield from found

    def _unfold(self, raw: RawCommand, words: list[OffsetText], base: Command) -> Iterator[Command]:
        """Follow a command from word to word until it is known what it starts."""
        for _ in range(20):
            if (text := text_for_a_shell(words)) is not None:
                yield from self._handed_on(raw, text, words, base)
                return
            words, base = without_wrapper(self.source, words, base)
            if not words:
                return
            first, name = words[0], os.path.basename(words[0].text)
            if name in SHELLS or name in SOURCING or name.endswith(".sh"):
                yield from self._script(raw, words, base)
                return
            if name == "sbatch":
                self._submit(raw, words, base)
                return
            if name in OURS or name in OTHERS or name.endswith(".py"):
                yield from _started(self.source, base, Parsed((), (), tuple(words), True), first)
                return
            if (called := launcher(name, words)) is None:
                return
            kind, parsed, is_module = self._called(*called)
            if is_module:
                yield from _ended(self.source, base, argument(self.source, parsed.rest[0]), parsed.rest[1:])
                return
            base = replace(base, layers=(*base.layers, _layer(self.source, kind, first, parsed)))
            if kind == "srun":
                base = replace(base, inherited=base.exports)
            if kind == "srun" or (kind != "python" and any(o.name == "--no_python" for o in parsed.options)):
                words = list(parsed.rest)
                continue
            yield from _started(self.source, base, parsed, first)
            return

    def _called(self, kind: LayerKind, words: Sequence[OffsetText]) -> tuple[LayerKind, Parsed, bool]:
        """A launcher's options, and whether it is python with a module, which then is the first word behind
        them. A module may be a launcher.
        """
        parsed = parse(self.source, words, _GRAMMARS[kind])
        module = next((option for option in parsed.options if option.name == "--module"), None)
        if kind != "python" or module is None:
            return kind, parsed, False
        if (kind_of_module := _MODULES.get(module.value or "")) is not None:
            kind = kind_of_module
            return kind, parse(self.source, parsed.rest, _GRAMMARS[kind]), False
        at = len(words) - len(parsed.rest) - 1
        name = words[at] if words[at].text == module.text else words[at].after(2)
        return kind, replace(parsed, rest=(name, *parsed.rest)), True

    def _handed_on(
        self, raw: RawCommand, text: OffsetText, words: Sequence[OffsetText], base: Command
    ) -> Iterator[Command]:
        """The commands of a text that another program hands to a shell, here or elsewhere."""
        name = os.path.basename(words[0].text)
        doubt = base.doubt or ("" if name in TERMINALS else f"started by {name}")
        if self.depth < DEEPEST:
            script = run_script(text.text, text.offsets, self.made, raw.exports, base.folder)
            yield from replace(self, depth=self.depth + 1)._commands(script, replace(base, doubt=doubt))

    def _script(self, raw: RawCommand, words: Sequence[OffsetText], base: Command) -> Iterator[Command]:
        """`bash -c TEXT`, `bash FILE`, `./FILE.sh`, `source FILE`, and a text that bash reads from a
        here-document.
        """
        if self.depth >= DEEPEST:
            return
        is_shell = os.path.basename(words[0].text) in SHELLS
        text = shell_script(words) if is_shell else None
        behind = [word for word in words[1:] if not word.text.startswith(("-", "+"))]
        inner = replace(self, depth=self.depth + 1)
        if text is None and is_shell and not behind:
            text = raw.document
        if text is not None:
            exports = _in_the_step(raw.exports, base)
            yield from inner._commands(
                run_script(text.text, text.offsets, self.made, exports, base.folder), base
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
        if not may_start(raw.words):
            return raw
        words: list[OffsetText] = []
        for word in raw.words:
            found = look_alike(self.source, word)
            if found is not None:
                self.defects.append(found.defect(self.source))
            words.extend([word] if found is None else as_meant(found))
        return replace(raw, words=tuple(words))

    def _submit(self, raw: RawCommand, words: Sequence[OffsetText], base: Command) -> None:
        parsed = parse(self.source, words[1:], SBATCH)
        place = argument(self.source, words[0]).place
        wrap = next((option for option in parsed.options if option.name == "--wrap"), None)
        what, is_document = raw.document, True
        if wrap is not None:
            what = next((word.after(7) for word in words if word.text.startswith("--wrap=")), None)
            what = what or (parsed.rest[0] if parsed.rest else None)
        elif parsed.rest:
            what, is_document = parsed.rest[0], False
            place = argument(self.source, what).place
        if what is not None:
            self.submitted.append(
                Submitted(what, place, is_document, base.folder, parsed.options, wrap is not None)
            )


def _in_the_step(exports: Mapping[str, Value], base: Command) -> Mapping[str, Value]:
    """Without the job's numbers, where srun has its own."""
    srun = base.layer("srun")
    if srun is None or not any(srun.get(name) for name in ("--nodes", "--ntasks", "--ntasks-per-node")):
        return exports
    return {name: value for name, value in exports.items() if not name.startswith("SLURM_")}


def _exports(source: Source, values: Mapping[str, Value]) -> tuple[Export, ...]:
    exports = []
    for name, value in sorted(values.items()):
        if isinstance(value, OffsetText):
            word = argument(source, value)
            exports.append(Export(name, word.known, word.place))
        else:
            exports.append(Export(name, None, source.place(0)))
    return tuple(exports)


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
