"""What can be wrong with where a page is to be written."""

from __future__ import annotations

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs


@rule_docs("CF794", name="no-page-of-ours")
def not_our_page(path: str, what: str, help_: str) -> Finding:
    """CF794: a page is to be written where something else is.

    `crossfoot report` replaces the pages that it has made, which end with a mark of its own. Any other file
    is somebody else's, a folder is no page, and both are left as they are.
    """
    return Finding("CF794", f"{path} {what}", notes=("nothing was touched",), helps=(help_,))


@rule_docs("CF795", name="page-unwritable")
def page_unwritable(path: str, reason: str, help_: str) -> Finding:
    """CF795: the system does not let a page be written.

    The disk is full, the folder may not be written, or there is none of this name. With -o the page goes
    anywhere else; a run is only read.
    """
    return Finding("CF795", f"the page {path} cannot be written: {reason}", helps=(help_,))


@rule_docs("CF796", name="study-and-run")
def study_and_runs(study: str, others: int, help_: str) -> Finding:
    """CF796: a study was named together with other folders.

    A study has a page of its own, about all of its runs. Runs are shown side by side, those of a study too.
    """
    rest = "another folder" if others == 1 else f"{others:,} other folders"
    return Finding("CF796", f"{study} is a study, and {rest} was named beside it", helps=(help_,))
