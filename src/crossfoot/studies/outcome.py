"""What a study leaves at its end: a line for each run, the answer in a sentence, and as a page."""

from __future__ import annotations

import os
from collections.abc import Iterator

from crossfoot.findings.render import render
from crossfoot.run_pages.page_file import PAGE, write_page
from crossfoot.shell_words import quoted_path
from crossfoot.studies.answer import answer, write_answer
from crossfoot.studies.answer_findings import answer_findings
from crossfoot.studies.page import study_page
from crossfoot.studies.results import StudyResults
from crossfoot.studies.words import answer_lines


def outcome_page(results: StudyResults, folder: str, target_loss: float | None) -> str:
    """Write the answer and its page into the folder of the study; returns what is said of them. Raises
    Refused and OSError.
    """
    foots = "yes" if results.foots else "no"
    return "\n".join(
        [
            *_lines(results),
            "",
            *leave_answer(results, folder, target_loss),
            f"{folder}: results.json, and a folder for each run; foots: {foots}",
        ]
    )


def leave_answer(
    results: StudyResults, folder: str, target_loss: float | None, out: str | None = None
) -> list[str]:
    """Write the page; returns what is said of the answer. folder: of the study. out: where the page goes;
    None: into the folder, and answer.json with it. Raises Refused and OSError.
    """
    found, path = answer(results, target_loss), out or os.path.join(folder, PAGE)
    write_page(path, study_page(results, found), f"crossfoot report {quoted_path(folder)}")
    if out is None:
        write_answer(folder, found)
    lacks = render(list(answer_findings(found)))
    return [*answer_lines(found), *([lacks] if lacks else []), f"page: {path}"]


def _lines(results: StudyResults) -> Iterator[str]:
    yield f"  {'run':<20}{'batch':>7}{'peak rate':>12}{'validation loss':>17}   {'state':<12}foots"
    for run in results.runs:
        loss = f"{run.points[-1].validation_loss:.4f}" if run.points else ""
        foots = "yes" if run.foots and run.same_samples else "no"
        yield f"  {run.name:<20}{run.batch:>7,}{run.peak_rate:>12.4g}{loss:>17}   {run.state:<12}{foots}"
