"""docs/batch-100.md says what the results beside it say."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from crossfoot.studies.answer import answer
from crossfoot.studies.results_file import read_results
from crossfoot.studies.words import sentence
from support.launching import ROOT

FOLDER = ROOT / "docs" / "batch-100"
SECTIONS = (ROOT / "docs" / "batch-100.md").read_text(encoding="utf-8").split("\n## ")


@pytest.mark.parametrize(("name", "runs"), [("rates", 20), ("seeds", 24)])
def test_the_page_and_its_table_are_those_of_the_results(name: str, runs: int) -> None:
    results = read_results(str(FOLDER / name))
    found = answer(results)
    (text,) = (section for section in SECTIONS if f"(batch-100/{name}/page.html)" in section)
    quoted = " ".join(line.removeprefix("> ") for line in text.splitlines() if line.startswith("> "))
    assert quoted == sentence(found).en
    assert sentence(found).en in (FOLDER / name / "page.html").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| (\d+) \| ([\d,]+) \| ([\d.]+)", text, re.MULTILINE)
    said = {
        int(batch): (float(rate), int(steps), samples, loss) for batch, rate, steps, samples, loss in rows
    }
    assert said.keys() == {one.batch for one in found.batches}
    for one in found.batches:
        assert one.target.steps is not None and one.target.samples is not None
        rate, steps, samples, loss = said[one.batch]
        assert rate == float(f"{one.best.rate:.3g}") and steps == round(one.target.steps.mean)
        assert samples == f"{one.target.samples.mean:,.0f}"
        assert loss == f"{one.equal_samples.mean:.3f}"
    assert results.foots and len(results.runs) == runs


def test_what_is_said_of_the_critical_batch_without_256() -> None:
    results = read_results(str(FOLDER / "seeds"))
    runs = tuple(run for run in results.runs if run.batch != 256)
    fit = answer(replace(results, runs=runs), 3.243).fit
    assert fit is not None
    value, low, high = fit.critical_batch.value, fit.critical_batch.low, fit.critical_batch.high
    assert f"for 3.243 is {value:.0f} [{low:.0f}, {high:.0f}]" in " ".join("".join(SECTIONS).split())
    seconds = [[round(run.points[at].validation_loss, 1) for at in (1, 2)] for run in results.runs[-4:]]
    assert all(first == 3.6 and 4.1 <= second <= 4.3 for first, second in seconds)
