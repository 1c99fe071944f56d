"""`crossfoot report`: of a study its page; of runs theirs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from crossfoot.findings.finding import Refused
from crossfoot.findings.formats import show
from crossfoot.output import say
from crossfoot.run_pages.findings import study_and_runs
from crossfoot.run_pages.page_file import PAGE, refuse_other, write_page
from crossfoot.run_pages.verb import folders_named, report_runs
from crossfoot.shell_words import joined, quoted_path
from crossfoot.studies.answer import answer, write_answer
from crossfoot.studies.answer_findings import answer_findings
from crossfoot.studies.page import study_page
from crossfoot.studies.results_file import read_results
from crossfoot.studies.study_folder import STUDY
from crossfoot.studies.words import answer_lines


def report(named: Sequence[str], out: str | None, target: float | None = None) -> int:
    """The verb; returns its exit code. named: folders of runs, or one of a study. out: where the page goes;
    None: the usual place. target: of a study, the loss until which steps are counted. Raises Refused.
    """
    folders = folders_named(named)
    study = next((folder for folder in folders if is_study(folder)), None)
    if study is None:
        return report_runs(folders, out)
    if len(folders) > 1:
        raise Refused(study_and_runs(study, len(folders) - 1, joined(["crossfoot", "report", study])))
    report_study(study, out, target)
    return 0


def report_study(folder: str, out: str | None = None, target: float | None = None) -> None:
    """Write the page of a study, in its own folder answer.json too, and say what it answers. Raises Refused,
    and OSError.
    """
    again = f"crossfoot report {quoted_path(folder)}"
    path = out or os.path.join(folder, PAGE)
    refuse_other(path, again)
    results = read_results(folder)
    found = answer(results, target)
    write_page(path, study_page(results, found), again)
    if out is None:
        write_answer(folder, found)
    say("\n".join(answer_lines(found)))
    show(list(answer_findings(found)))
    say(f"page: {path}")


def is_study(folder: str) -> bool:
    """Whether a study was begun here."""
    return os.path.isfile(os.path.join(folder, STUDY))
