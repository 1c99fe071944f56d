"""Where a page lies, and whose it is: one that crossfoot made is replaced, everything else stays."""

from __future__ import annotations

import os

from crossfoot import durable
from crossfoot.findings.finding import Refused
from crossfoot.phrases import reason_of
from crossfoot.run_pages.findings import not_our_page, page_unwritable
from crossfoot.shell_words import quoted_path

PAGE, COMPARISON = "page.html", "report.html"
_MARK = "<!-- made by crossfoot report -->\n"


def refuse_other(path: str, again: str) -> None:
    """Refused (CF794) when there is something at this path that no page of ours is. again: the command up to
    the path of its page.
    """
    if os.path.isdir(path):
        inside = quoted_path(os.path.join(path, PAGE))
        raise Refused(
            not_our_page(path, "is a folder, not a page", f"name a file in it: {again} -o {inside}")
        )
    if os.path.lexists(path) and not _is_ours(path):
        help_ = f"write the page elsewhere: {again} -o {quoted_path(_beside(path))}"
        raise Refused(not_our_page(path, "is no page that crossfoot report made", help_))


def write_page(path: str, page: str, again: str) -> None:
    """Write a page of HTML whole, over an older one. again: the command up to the path of its page. Raises
    Refused (CF794, CF795).
    """
    refuse_other(path, again)
    try:
        durable.replace(path, page + _MARK)
    except OSError as error:
        elsewhere = quoted_path(os.path.basename(path))
        help_ = f"write it to another place: {again} -o {elsewhere}"
        raise Refused(page_unwritable(path, reason_of(error), help_)) from error


def _is_ours(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(-min(len(_MARK), os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read() == _MARK.encode()
    except OSError:
        return False


def _beside(path: str) -> str:
    """A name near to this one that is free."""
    stem, ending = os.path.splitext(path)
    number = 2
    while os.path.lexists(f"{stem}-{number}{ending}"):
        number += 1
    return f"{stem}-{number}{ending}"
