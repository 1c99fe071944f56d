"""What is said about slips of the keyboard: CF027 and CF028."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from crossfoot.findings.finding import Edit, Finding, Refused
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted
from crossfoot.written.look_alikes import INVISIBLE
from crossfoot.written.slips import Kind, Slip, repaired, yaml_slips
from crossfoot.written.source import Source

_MOST_PLACES = 3


def refuse_slips(source: Source, kind_of: Callable[[str], Kind | None]) -> None:
    """Refused with the slips of the keyboard that YAML would read as text, if there are any."""
    slips = yaml_slips(source.text, kind_of)
    if any(not slip.is_blank for slip in slips):
        raise Refused(look_alikes(source, slips, "YAML"))
    if slips:
        raise Refused(no_blank(source, slips))


@rule_docs("CF027", name="look-alikes-of-ascii")
def look_alikes(source: Source, slips: Sequence[Slip], language: str) -> Finding:
    """CF027: characters that look like ASCII stand where the file needs ASCII itself.

    A Chinese input method writes `：`, `，`, `［` and a wide blank, a word processor “such quotes” and blanks
    that do not break. YAML and JSON take them for text: `name：mini` is no key with a value. Inside of a name
    or a text they are what they are. `crossfoot check --fix` writes ASCII where the language needs it, and
    changes nothing else. An `=` behind a key is one of them.
    """
    wide = [slip for slip in slips if not slip.is_blank]
    written = dict.fromkeys(_named(source.text[slip.start : slip.end]) for slip in wide)
    meant = {slip.text.strip() or ("a plain blank" if slip.text else "nothing") for slip in wide}
    verb = "stands" if len(written) == 1 else "stand"
    title = f"{' '.join(written)} {verb} where {language} needs {meant.pop() if len(meant) == 1 else 'ASCII'}"
    return _slipped("CF027", title, source, slips)


@rule_docs("CF028", name="no-blank-behind-the-colon")
def no_blank(source: Source, slips: Sequence[Slip]) -> Finding:
    """CF028: a blank is missing between a key's colon and its value.

    `name:mini` is one word in YAML, and no key with a value; what stands above it takes it for its text. A
    key needs a colon and a blank: `name: mini`.
    """
    return _slipped("CF028", "a blank is missing behind a colon", source, slips)


def edits_of(source: Source, slips: Iterable[Slip]) -> tuple[Edit, ...]:
    """What makes them right."""
    return tuple(Edit(source.path, slip.start, slip.end, slip.text) for slip in slips)


def _slipped(code: str, title: str, source: Source, slips: Sequence[Slip]) -> Finding:
    places = [source.place(slip.start, slip.end) for slip in slips]
    lines = list(dict.fromkeys(place.line for place in places))
    if len(lines) > 1:
        title += f", in {len(lines)} lines"
    right = Source(source.path, repaired(source.text, slips))
    helps = [f"write {right.line(line).strip()}" for line in lines[:_MOST_PLACES]]
    if len(lines) > _MOST_PLACES:
        more = counted(len(lines) - _MOST_PLACES, "more line")
        helps.append(f"and so in {more}; check --fix writes them all")
    firsts = [next(place for place in places if place.line == line) for line in lines]
    return Finding(
        code,
        title,
        place=firsts[0],
        others=tuple((place, "and here") for place in firsts[1:_MOST_PLACES]),
        helps=tuple(helps),
        unreadable=True,
        fix=edits_of(source, slips),
    )


def _named(character: str) -> str:
    if character in INVISIBLE:
        return f"an invisible U+{ord(character):04X}"
    return character.strip() or f"a blank U+{ord(character):04X}"
