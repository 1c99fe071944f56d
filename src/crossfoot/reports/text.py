"""Texts of a page: the same for all readers, or in two languages between which a page has a switch."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType, TypeAlias

Html = NewType("Html", str)
"""Made by this room, where every text has gone through `escaped`. Texts of others are plain str."""
_ENGLISH, _CHINESE = "<span lang=en>", "<span lang=zh-CN>"
_SWITCH = Html(
    '<input class="tongue" type="radio" name="tongue" id="en" checked>'
    '<input class="tongue" type="radio" name="tongue" id="zh">'
    '<div class="switch"><label for="en" lang="en">English</label>'
    '<label for="zh" lang="zh-CN">中文</label></div>'
    '<script>if(/^zh/.test(navigator.language))document.getElementById("zh").checked=true</script>\n'
)
"""The first of a page's body: what it hides are those that follow. Without its script it is English."""


@dataclass(frozen=True)
class Both:
    """A text in English and in Chinese, of which a page shows one."""

    en: str
    zh: str


Text: TypeAlias = str | Both
"""A plain str is the same in both languages: a name, a number, a word of crossfoot's terminal output."""


def escaped(text: str) -> Html:
    """A text as it can stand in HTML, between tags and inside quotes."""
    return Html(html.escape(text))


def shown(text: Text) -> Html:
    """A text as it can stand in HTML between tags."""
    if isinstance(text, str):
        return escaped(text)
    return Html(f"{_ENGLISH}{escaped(text.en)}</span>{_CHINESE}{escaped(text.zh)}</span>")


def english(text: Text) -> str:
    """What stands where there is room for one language: an attribute, what is no number."""
    return text if isinstance(text, str) else text.en


def chinese(text: Text) -> str:
    """The other one."""
    return text if isinstance(text, str) else text.zh


def joined(parts: Iterable[Text], en: str = ", ", zh: str = "，") -> Text:
    """The texts as one, with these between them. A str where all of them are, and en is zh."""
    each = list(parts)
    together = Both(en.join(map(english, each)), zh.join(map(chinese, each)))
    return together.en if together.en == together.zh else together


def language_switch(page: str) -> Html:
    """What goes before a page of this HTML, so that one of its languages is shown; empty where it has one."""
    return _SWITCH if _CHINESE in page else Html("")
