"""A page in a headless browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

WIDTHS = {"phone": 390, "desktop": 1280}
Scheme = Literal["light", "dark"]
_LOOK, _PIXELS = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("look.js", "pixels.js")
)
_PROGRAM = "chromium"
_FEWEST_PIXELS = 6
_PAPER_PIXELS = 794  # A4 at 96 dpi


def why_not() -> str | None:
    """Why there can be no browser here; None when there can."""
    if find_spec("playwright") is None:
        return "playwright is not installed (extra test)"
    if shutil.which(_PROGRAM) is None:
        return f"{_PROGRAM} is not installed (.ci/run names the package)"
    return None


@contextmanager
def started() -> Iterator[Browser]:
    """For all tests of a worker."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which(_PROGRAM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@dataclass(frozen=True)
class Shown:
    """page: as it is open. requests: what it wanted to fetch. complaints: of its console."""

    page: Page
    requests: Sequence[str]
    complaints: Sequence[str]

    def seen(self) -> dict[str, Any]:
        """What look.js returns."""
        found: dict[str, Any] = self.page.evaluate(_LOOK)
        return found

    def invisible(self) -> list[str]:
        """Lines, dots and bars of which no pixel is on the screen."""
        missing = []
        with self.page.context.new_page() as eye:
            for picture in self.seen()["pictures"]:
                clip = {key: picture[key] for key in ("x", "y", "width", "height")}
                png = base64.b64encode(self.page.screenshot(clip=clip, full_page=True)).decode()
                pixels = eye.evaluate(_PIXELS, {"png": png, "colours": picture["colours"]})
                if min(pixels, default=0) < _FEWEST_PIXELS:
                    missing.append(f"{picture['name']}: {pixels} pixels")
        return missing

    def printed(self) -> tuple[int, list[str], float]:
        """On paper: how many pages of PDF, what is wrong, and how light the ground is, 0 to 1."""
        size = self.page.viewport_size
        pages = len(re.findall(rb"/Type\s*/Page\b", self.page.pdf(format="A4")))
        self.page.set_viewport_size({"width": _PAPER_PIXELS, "height": 1123})
        self.page.emulate_media(media="print")
        try:
            found = self.seen()
        finally:
            self.page.emulate_media(media="screen")
            self.page.set_viewport_size(size or {"width": 1280, "height": 800})
        return pages, found["wrong"], found["ground"]


@contextmanager
def opened(browser: Browser, file: Path, width: int, scheme: Scheme) -> Iterator[Shown]:
    """A file in a window of its own. Nothing but the file is let through."""
    requests: list[str] = []
    complaints: list[str] = []

    def allow(route: Route) -> None:
        if route.request.url == file.as_uri():
            return route.continue_()
        requests.append(route.request.url)
        route.abort()

    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        context.route("**/*", allow)
        page = context.new_page()
        page.on("console", lambda one: complaints.append(one.text) if one.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        yield Shown(page, requests, complaints)
