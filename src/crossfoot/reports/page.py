"""One HTML file: a title and what follows it. Its style is inside: light, dark, phone, desktop, paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crossfoot.reports.text import Both, Html, Text, english, escaped, language_switch, shown

__all__ = [
    "Both",
    "Html",
    "Page",
    "Text",
    "figure",
    "figures",
    "folded",
    "heading",
    "paragraph",
    "table",
    "tiles",
    "verdict",
]

_STYLE = Path(__file__).with_name("page.css")
_NUMBER = re.compile(r"[-+]?[\d.]|-?$")
"""How a cell begins that stands at the right."""


class Page:
    """A page that grows from top to bottom. title: also what the browser calls it, in English. lang: of its
    texts that are plain str. With a text in two languages it has a switch at its top.
    """

    def __init__(self, title: Text, lang: str = "en") -> None:
        self._title, self._lang = title, escaped(lang)
        self._parts: list[Html] = []

    def add(self, *parts: Html) -> Page:
        """Go on with these; returns the page."""
        self._parts.extend(parts)
        return self

    def render(self) -> str:
        """The whole file."""
        body = "\n".join(filter(None, [f"<h1>{shown(self._title)}</h1>", *self._parts]))
        return (
            f'<!doctype html>\n<html lang="{self._lang}"><head><meta charset="utf-8">'
            f"<title>{escaped(english(self._title))}</title>\n"
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            '<meta name="color-scheme" content="light dark">\n'
            f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head>\n"
            f"<body>{language_switch(body)}{body}\n</body></html>\n"
        )


def heading(text: Text) -> Html:
    """What a part of the page is about."""
    return Html(f"<h2>{shown(text)}</h2>")


def paragraph(text: Text, is_small: bool = False) -> Html:
    """is_small: what only some readers want to know."""
    return Html(f"<p{' class=small' if is_small else ''}>{shown(text)}</p>")


def verdict(kind: Literal["good", "bad", "plain"], text: Text, *why: Text) -> Html:
    """The one sentence to take along, and its reasons, in a box of its colour."""
    reasons = "".join(f"<li>{shown(one)}</li>" for one in why)
    return Html(f'<div class="verdict {kind}">{shown(text)}{f"<ul>{reasons}</ul>" if reasons else ""}</div>')


def tiles(each: Sequence[tuple[Text, Text]]) -> Html:
    """The few numbers that everybody looks for: what it is, and the number, beside each other."""
    shown_each = (f"<div><dt>{shown(name)}</dt><dd>{shown(value)}</dd></div>" for name, value in each)
    return Html(f'<dl class="tiles">{"".join(shown_each)}</dl>')


def folded(words: Text, *inside: Html) -> Html:
    """What only some readers want to see: they press on the words."""
    return Html(f"<details><summary>{shown(words)}</summary>{''.join(inside)}</details>")


def table(heads: Sequence[Text], rows: Sequence[Sequence[Text]], note: Text = "") -> Html:
    """rows: as long as heads each; the first cell names the row. Columns of numbers stand at the right. A
    wide table scrolls by itself.
    """
    are_numbers = [
        at > 0 and all(_NUMBER.match(english(row[at])) for row in rows) for at in range(len(heads))
    ]
    sides = [' class="number"' if is_number else "" for is_number in are_numbers]

    def row(cells: Sequence[Text], tag: str) -> str:
        each = (f"<{tag}{side}>{shown(cell)}</{tag}>" for cell, side in zip(cells, sides, strict=True))
        return f"<tr>{''.join(each)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return Html(
        f'<div class="wide" tabindex="0"><table><thead>{row(heads, "th")}</thead>\n'
        f"<tbody>{body}</tbody></table></div>{paragraph(note, is_small=True) if note else ''}"
    )


def figure(title: Text, drawn: str, note: Text = "", is_wide: bool = False) -> Html:
    """drawn: HTML. note: below it. is_wide: as wide as the page."""
    wide, below = (' class="full"' if is_wide else ""), (paragraph(note, is_small=True) if note else "")
    return Html(f"<figure{wide}><figcaption>{shown(title)}</figcaption>{drawn}{below}</figure>")


def figures(*each: Html) -> Html:
    """Beside each other where there is room. Nothing where all of them are empty."""
    shown = "\n".join(filter(None, each))
    return Html(f'<div class="figures">{shown}</div>' if shown else "")
