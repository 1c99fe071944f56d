"""Every page in two languages has each of its texts in both."""

from __future__ import annotations

import re
from functools import cache

import pytest

from support.shown_pages import PAGES

_PAIR = re.compile(r"<span lang=en>(.*?)</span><span lang=zh-CN>(.*?)</span>", re.DOTALL)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
IN_TWO = ("a long run", "runs side by side", "study", "study without a fit", "study of one seed")
"""Pages that have a switch."""


@cache
def page(name: str) -> str:
    return PAGES[name]()


@pytest.mark.parametrize("name", PAGES)
def test_no_text_is_empty_or_stands_untranslated(name: str) -> None:
    pairs = _PAIR.findall(page(name))
    assert len(pairs) == page(name).count("<span lang=en>") == page(name).count("<span lang=zh-CN>")
    assert [pair for pair in pairs if not pair[0].strip() or not _CHINESE.search(pair[1])] == []


@pytest.mark.parametrize("name", IN_TWO)
def test_what_is_a_text_of_ours_is_in_both_languages(name: str) -> None:
    """What stands between tags, and in no language of its own, is a name, a number or a key."""
    rest = re.sub(r"<(style|script|title)>.*?</\1>|<label.*?</label>", "", page(name), flags=re.DOTALL)
    rest = re.sub(r"<span lang=\S+>.*?</span>", "", rest, flags=re.DOTALL)
    words = {text.strip() for text in re.findall(r">([^<]+)<", rest)}
    sentences = {text for text in words if re.search(r"[a-z]+ [a-z]+ [a-z]+", text)}
    assert sentences <= FROM_ELSEWHERE


FROM_ELSEWHERE = {
    "the rate is three times the usual",
    "measured on &lt;our&gt; data &amp; co",
}
"""What others wrote, or the receipt says in the terminal's words."""
