"""`crossfoot report`: the page of a run, or of several side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence

from crossfoot.output import say
from crossfoot.run_pages.page import run_page
from crossfoot.run_pages.page_file import COMPARISON, PAGE, refuse_other, write_page
from crossfoot.run_pages.seen_run import see_run
from crossfoot.run_pages.side_by_side import labels, side_by_side_page
from crossfoot.run_pages.verdict_words import verdict_words
from crossfoot.shell_words import quoted_path


def folders_named(named: Sequence[str]) -> list[str]:
    """Each folder once, however it is named, in the order in which they were."""
    return list({os.path.realpath(folder): os.path.normpath(folder) for folder in named}.values())


def report_runs(folders: Sequence[str], out: str | None) -> int:
    """Write the page of runs, and say whether they foot. folders: from `folders_named`. out: its path, None
    for the usual one. Raises Refused.
    """
    again = " ".join(["crossfoot report", *map(quoted_path, folders)])
    path = out or (os.path.join(folders[0], PAGE) if len(folders) == 1 else COMPARISON)
    refuse_other(path, again)
    runs = [see_run(folder) for folder in folders]
    page = run_page(runs[0]) if len(runs) == 1 else side_by_side_page(runs)
    write_page(path, page, again)
    for label, seen in zip(labels(runs), runs, strict=True):
        say(f"{label}: {verdict_words(seen)[1].en}")
    say(f"page: {path}")
    return 0
