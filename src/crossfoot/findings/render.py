"""Findings as text for people: the fact, the line it stands on with a caret under it, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.cells import cell_len

from crossfoot.findings.finding import LINE_BREAK, Finding, Place, Weight
from crossfoot.output import visible, visible_line
from crossfoot.phrases import counted

TAB_CELLS = 4
WIDEST_CELLS = 120
"""Source lines wider than this are shown as the part around the caret."""

_BOLD, _BLUE, _PLAIN = "\x1b[1m", "\x1b[1;34m", "\x1b[0m"
_TONES: Mapping[Weight, str] = {
    "error": "\x1b[1;31m",
    "warning": "\x1b[1;33m",
    "note": "\x1b[1;36m",
    "accepted": "\x1b[1;32m",
}


def render(findings: Sequence[Finding], colour: bool = False) -> str:
    """All findings, a blank line between them, the accepted ones last and short, and a closing count; no
    newline at the end. Reads the files again.
    """
    page = _Page(colour)
    blocks = [page.finding(finding) for finding in findings if finding.accepted is None]
    blocks += [page.accepted(finding, more) for finding, more in _each_once(findings)]
    return "\n\n".join([*blocks, _closing(findings)])


def _each_once(findings: Sequence[Finding]) -> list[tuple[Finding, int]]:
    """Of the accepted findings of each code the first, and how many more there are."""
    codes = Counter(finding.code for finding in findings if finding.accepted is not None)
    firsts = {finding.code: finding for finding in reversed(findings) if finding.accepted is not None}
    return [(firsts[code], count - 1) for code, count in codes.items()]


def _closing(findings: Sequence[Finding]) -> str:
    """`2 errors, 1 warning, 1 accepted`."""
    counts = []
    for weight in _TONES:
        number = sum(finding.counts_as == weight for finding in findings)
        if number:
            counts.append(counted(number, weight, "accepted" if weight == "accepted" else None))
    return ", ".join(counts) or "nothing found"


class _Page:
    """Renders findings; keeps the lines of the files it has read."""

    def __init__(self, colour: bool) -> None:
        self.colour = colour
        self.files: dict[str, list[str]] = {}

    def paint(self, code: str, text: str) -> str:
        return f"{code}{text}{_PLAIN}" if self.colour and text else text

    def finding(self, finding: Finding) -> str:
        """One finding, without a newline at the end."""
        places = [] if finding.place is None else [(finding.place, finding.label)]
        places.extend(finding.others)
        width = max([2, *(len(str(place.line)) for place, _ in places)])
        tone = _TONES[finding.severity]
        head = self.paint(tone, f"{finding.severity}[{finding.code}]")
        rows = [head + self.paint(_BOLD, f": {visible_line(finding.title)}")]
        for position, (place, label) in enumerate(places):
            rows.extend(
                self.place(place, label, width, is_first=position == 0 and place is finding.place, tone=tone)
            )
        for word, texts in (("note", finding.notes), ("help", finding.helps)):
            rows.extend(
                f"{' ' * width}{self.paint(_BLUE, '=')} {self.paint(_BOLD, word)}: {visible_line(text)}"
                for text in texts
            )
        return "\n".join(rows)

    def accepted(self, finding: Finding, more: int) -> str:
        """An accepted one: what it is, why that is right, and where that is written."""
        head = self.paint(_TONES["accepted"], f"accepted[{finding.code}]")
        others = f" (and {more:,} more)" if more else ""
        title = self.paint(_BOLD, f": {visible_line(finding.title)}") + others
        why = finding.accepted
        reason = "" if why is None else visible_line(f"{why.reason} ({why.place})")
        return f"{head}{title}\n  {self.paint(_BLUE, '=')} {self.paint(_BOLD, 'reason')}: {reason}"

    def place(self, place: Place, label: str, width: int, *, is_first: bool, tone: str) -> list[str]:
        """The arrow, the source line and the caret of one place."""
        arrow = self.paint(_BLUE, f"{' ' * (width - 1)}{'-->' if is_first else ':::'}")
        source = self.line(place)
        label = visible_line(label)
        if source is None:
            return [f"{arrow} {visible_line(str(place))}" + (f": {label}" if label else "")]
        before, under, after = _cut(source, place)
        mark = ("^" if is_first else "-") * max(1, cell_len(under))
        bar = self.paint(_BLUE, "|")
        number = self.paint(_BLUE, f"{place.line:<{width}}")
        pointer = self.paint(tone if is_first else _BLUE, f"{mark} {label}".rstrip())
        return [
            f"{arrow} {visible_line(str(place))}",
            f"{' ' * width}{bar}",
            f"{number}{bar} {before}{under}{after}".rstrip(),
            f"{' ' * width}{bar} {' ' * cell_len(before)}{pointer}",
        ]

    def line(self, place: Place) -> str | None:
        """The text of the line, or None when there is none to show."""
        if not place.line or not place.column:
            return None
        if place.file not in self.files:
            try:
                with open(place.file, encoding="utf-8", errors="replace", newline="") as file:
                    self.files[place.file] = LINE_BREAK.split(file.read())
            except (OSError, ValueError):
                self.files[place.file] = []
        lines = self.files[place.file]
        return lines[place.line - 1] if place.line <= len(lines) else None


def _cut(line: str, place: Place) -> tuple[str, str, str]:
    """A source line as shown, in three: before the caret, under it, after it; at most about WIDEST_CELLS
    wide.

    Tabs become spaces up to the next stop, so that the caret stands right whatever the terminal's tabs are.
    """
    start = min(place.column - 1, len(line))
    stop = min(start + place.width, len(line))
    # Far more than is shown, and far less than a line of a megabyte.
    before = _spread(line[max(0, start - 2 * WIDEST_CELLS) : start], 0)
    under = _spread(line[start : min(stop, start + 2 * WIDEST_CELLS)], cell_len(before))
    after = _spread(line[stop : stop + WIDEST_CELLS], cell_len(before) + cell_len(under))
    if cell_len(before) + cell_len(under) + cell_len(after) <= WIDEST_CELLS and stop + WIDEST_CELLS >= len(
        line
    ):
        return before, under, after
    third = WIDEST_CELLS // 3
    if len(before) > third:
        before = "..." + before[-third:]
    if len(under) > third:
        under, after = under[:third], "..."
    elif len(after) > third:
        after = after[:third] + "..."
    return before, under, after


def _spread(text: str, cells: int) -> str:
    """`text` with tabs as spaces and unprintable characters as U+FFFD; `cells`: columns already used on its
    line.
    """
    shown: list[str] = []
    for character in text:
        piece = character
        if character == "\t":
            _, past_stop = divmod(cells, TAB_CELLS)
            piece = " " * (TAB_CELLS - past_stop)
        else:
            piece = visible(character)
        cells += cell_len(piece)
        shown.append(piece)
    return "".join(shown)
