"""`crossfoot report`: of a study its page; of runs theirs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from crossfoot.findings.finding import Refused
from crossfoot.output import say
from crossfoot.reports.text import english
from crossfoot.run_pages.findings import study_and_runs
from crossfoot.run_pages.page_file import PAGE, refuse_other, write_page
from crossfoot.run_pages.verb import folders_named, report_runs
from crossfoot.shell_words import joined, quoted_path
from crossfoot.studies.answer import answer
from crossfoot.studies.page import study_page
from crossfoot.studies.results_file import read_results
from crossfoot.studies.study_folder import STUDY
from crossfoot.studies.words import reasons, sentence


def report(named: Sequence[str], out: str | None) -> int:
    """The verb; returns its exit code. named: folders of runs, or one of a study. out: where the page goes;
    None: the usual place. Raises Refused.
    """
    folders = folders_named(named)
    study = next((folder for folder in folders if is_study(folder)), None)
    if study is None:
        return report_runs(folders, out)
    if len(folders) > 1:
        raise Refused(study_and_runs(study, len(folders) - 1, joined(["crossfoot", "report", study])))
    report_study(study, out)
    return 0


def report_study(folder: str, out: str | None = None) -> None:
    """Write the page of a study, and say what it answers. Raises Refused."""
    again = f"crossfoot report {quoted_path(folder)}"
    path = out or os.path.join(folder, PAGE)
    refuse_other(path, again)
    results = read_results(folder)
    found = answer(results)
    write_page(path, study_page(results, found), again)
    for words in (sentence(found), *reasons(found)):
        say(english(words))
    say(f"page: {path}")


def is_study(folder: str) -> bool:
    """Whether a study was begun here."""
    return os.path.isfile(os.path.join(folder, STUDY))
