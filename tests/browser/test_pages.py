"""Pages as people see them: on a phone and on a desktop, light, dark and on paper. A new page is a line in
`support.shown_pages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.browser import WIDTHS, Shown, opened
from support.shown_pages import PAGES, everything

if TYPE_CHECKING:
    from playwright.sync_api import Browser

UNFOLD = "for (const one of document.querySelectorAll('details')) one.open = true"
LOOKS = [(name, width, scheme) for name, width, scheme in product(PAGES, WIDTHS, ("light", "dark"))]


@pytest.fixture(scope="module", params=LOOKS, ids=" ".join)
def shown(
    request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shown]:
    name, width, scheme = request.param
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(PAGES[name](), encoding="utf-8")
    with opened(browser, file, WIDTHS[width], scheme) as shown:
        yield shown


def test_it_fetches_nothing_and_the_console_is_silent(shown: Shown) -> None:
    assert list(shown.requests) == [] == list(shown.complaints)


def test_all_texts_and_pictures_are_there_and_can_be_read(
    shown: Shown, request: pytest.FixtureRequest
) -> None:
    seen = shown.seen()
    assert seen["wrong"] == []
    assert (seen["ground"] > 0.8) if "light" in request.node.name else (seen["ground"] < 0.05)
    assert seen["pictures"] and all(picture["colours"] for picture in seen["pictures"])
    for change in (
        UNFOLD,
        "document.getElementById('zh')?.click()",
        "document.getElementById('en')?.click()",
    ):
        shown.page.evaluate(change)
        assert shown.seen()["wrong"] == [], change
    shown.page.evaluate(UNFOLD.replace("true", "false"))


def test_every_line_dot_and_bar_is_on_the_screen(shown: Shown) -> None:
    assert shown.invisible() == []


def test_on_paper_it_is_dark_on_light_and_whole(shown: Shown) -> None:
    pages, wrong, ground = shown.printed()
    assert 1 <= pages <= 6 and wrong == [] and ground > 0.8


def test_its_language_is_chosen_without_a_script_and_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(PAGES["runs side by side"](), encoding="utf-8")
    with browser.new_context(java_script_enabled=False, locale="zh-CN") as context:
        page = context.new_page()
        page.goto(file.as_uri())
        assert page.locator("h1").inner_text() == "3 runs side by side"
        page.get_by_text("中文").click()
        assert page.locator("h1").inner_text() == "3 个训练运行的对比"
        page.keyboard.press("ArrowLeft")
        assert page.locator("h1").inner_text() == "3 runs side by side"


def test_its_language_is_at_first_that_of_the_browser_and_stays_on_paper(
    browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(PAGES["runs side by side"](), encoding="utf-8")
    with browser.new_context(locale="zh-CN") as context:
        page = context.new_page()
        page.goto(file.as_uri())
        read = page.locator("body").inner_text()
        assert "3 个训练运行的对比" in read and "runs side by side" not in read
        page.emulate_media(media="print")
        read = page.locator("body").inner_text()
        assert "3 个训练运行的对比" in read and "English" not in read


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("<style>body{width:2000px}</style>", "px wide on a screen of 390"),
        ("<style>.x{left:50%!important}</style>", "lie on one another"),
        ("<style>figcaption{width:20px;overflow:hidden;white-space:nowrap}</style>", "cut by its box"),
        ("<style>h1{margin-left:-40px}</style>", "cut by the edge"),
        ("<style>.across{font-size:5px}</style>", "too small"),
        ("<style>:root{--quiet:#ddd}</style>", "is hard to read"),
        ("<style>:root{--c0:#eee}</style>", "c0 is hard to see"),
        ("<style>.line{translate:0 300px}</style>", "is drawn outside"),
        ("<figure><figcaption>none</figcaption><svg></svg></figure>", '"none" shows nothing'),
    ],
)
def test_the_eye_sees_what_is_wrong(browser: Browser, tmp_path: Path, damage: str, says: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(everything() + damage, encoding="utf-8")
    with opened(browser, file, 390, "light") as shown:
        assert any(says in one for one in shown.seen()["wrong"])


def test_the_eye_sees_requests_complaints_and_what_is_not_drawn(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    more = "<img src='http://127.0.0.1:9/a.png'><script>missing()</script><style>.line{clip-path:inset(50%)}</style>"
    file.write_text(everything() + more, encoding="utf-8")
    with opened(browser, file, 1280, "dark") as shown:
        assert list(shown.requests) == ["http://127.0.0.1:9/a.png"]
        assert any("missing is not defined" in one for one in shown.complaints)
        assert any('"Loss"' in one for one in shown.invisible())
