"""What a study leaves at its end: a line for each run, the answer in a sentence, and as a page."""

from __future__ import annotations

import os
from collections.abc import Iterator

from crossfoot import durable
from crossfoot.findings.render import render
from crossfoot.studies.answer import answer, write_answer
from crossfoot.studies.answer_findings import answer_findings
from crossfoot.studies.page import study_page
from crossfoot.studies.results import StudyResults
from crossfoot.studies.words import answer_lines

PAGE = "page.html"


def outcome_page(results: StudyResults, folder: str, target_loss: float | None) -> str:
    """Write the answer and its page into the folder of the study; returns what is said of them. Raises
    OSError.
    """
    found = answer(results, target_loss)
    write_answer(folder, found)
    durable.replace(os.path.join(folder, PAGE), study_page(results, found))
    lacks = render(list(answer_findings(found)))
    foots = "yes" if results.foots else "no"
    return "\n".join(
        [
            *_lines(results),
            "",
            *answer_lines(found),
            *([lacks] if lacks else []),
            f"{os.path.join(folder, PAGE)}: the page; results.json and the runs beside it; foots: {foots}",
        ]
    )


def _lines(results: StudyResults) -> Iterator[str]:
    yield f"  {'run':<20}{'batch':>7}{'peak rate':>12}{'validation loss':>17}   {'state':<12}foots"
    for run in results.runs:
        loss = f"{run.points[-1].validation_loss:.4f}" if run.points else ""
        foots = "yes" if run.foots and run.same_samples else "no"
        yield f"  {run.name:<20}{run.batch:>7,}{run.peak_rate:>12.4g}{loss:>17}   {run.state:<12}{foots}"
