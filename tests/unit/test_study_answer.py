"""What a study answers, of made-up results of which the answer is known, and how it is said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from crossfoot.arithmetic.critical_batch import Fit
from crossfoot.arithmetic.intervals import Interval
from crossfoot.studies.answer import Answer, Compared, answer, write_answer
from crossfoot.studies.answer_findings import answer_findings
from crossfoot.studies.batch_answer import BatchAnswer
from crossfoot.studies.page import study_page
from crossfoot.studies.results import StudyResults, StudyRun
from crossfoot.studies.words import interval_words, reasons, remarks, sentence
from support.made_study import made_study, steps_until

BEST = {16: 2.0, 32: 2.0, 64: 1.0, 100: 1.0, 128: 1.0, 256: 0.5}
"""Of the factors x0.5, x1 and x2 of a linear rule, where the best rate grows with the root of the batch."""
ALL = (16, 32, 64, 100, 128, 256, 512, 1024)


def _only_best(**more: object) -> StudyResults:
    """Runs whose rate is exactly the best."""
    made = [made_study(batches=[batch], factors=[math.sqrt(100 / batch)], **more) for batch in ALL[:6]]  # type: ignore[arg-type]
    return replace(made[0], runs=tuple(run for one in made for run in one.runs))


def _with(results: StudyResults, change: Callable[[StudyRun], StudyRun]) -> StudyResults:
    return replace(results, runs=tuple(map(change, results.runs)))


def _batch(found: Answer, number: int) -> BatchAnswer:
    one = found.batch(number)
    assert one is not None
    return one


def _codes(found: Answer) -> list[str]:
    return [finding.code for finding in answer_findings(found)]


def test_steps_until_the_target_and_the_critical_batch_are_those_of_the_model() -> None:
    found = answer(_only_best(noise=0.0, seeds=1))
    assert found.target is not None
    assert found.steps == pytest.approx({batch: steps_until(found.target, batch) for batch in BEST}, rel=0.01)
    fit = found.fit
    assert fit is not None and fit.critical_batch.value == pytest.approx(180, rel=0.03)
    assert fit.least_steps == pytest.approx(steps_until(found.target, 10**9), rel=0.03)
    assert found.within is not None and found.within.batch == pytest.approx(0.2 * 196 + 16, rel=0.05)
    assert found.place == "below"
    two, third = found.twice, found.smaller
    assert two is not None and (two.batch, two.is_measured) == (200, False)
    assert two.steps == pytest.approx((1 + 180 / 200) / (1 + 180 / 100), rel=0.01)
    assert two.samples == pytest.approx(2 * two.steps)
    assert third is not None and (third.batch, third.is_measured) == (32, True)
    assert third.steps == pytest.approx((1 + 180 / 32) / (1 + 180 / 100), rel=0.01)


def test_the_best_rate_of_each_batch_is_that_of_the_lowest_mean_loss() -> None:
    results = made_study(noise=0.02)
    found = answer(results)
    assert {one.batch: one.best.factor for one in found.batches} == BEST
    assert {one.batch: one.edge for one in found.batches if one.edge} == {
        16: "highest",
        32: "highest",
        256: "lowest",
    }
    one = _batch(found, 64)
    ends = [run.points[-1] for run in results.runs if run.batch == 64 and run.rate_factor == 2.0]
    assert [tried.factor for tried in one.tried] == [0.5, 1.0, 2.0] and one.best == one.tried[1]
    assert one.tried[2].loss.mean == pytest.approx(fmean(end.validation_loss for end in ends), abs=1e-3)
    assert one.alike == (2.0,) and _batch(found, 16).alike == ()
    assert found.nearest_rules == ("sqrt",)
    flat = answer(_with(results, lambda run: replace(run, peak_rate=1e-4)))
    assert flat.nearest_rules == ("none",)


def test_curves_are_means_over_the_seeds() -> None:
    results = made_study(noise=0.05)
    one = _batch(answer(results), 100)
    runs = [run for run in results.runs if run.batch == 100 and run.rate_factor == one.best.factor]
    for at, point in enumerate(one.curve):
        losses = [run.points[at].validation_loss for run in runs]
        assert point.loss.mean == pytest.approx(fmean(losses))
        assert point.loss.low <= min(losses) <= max(losses) <= point.loss.high
        assert point.seconds == pytest.approx(fmean(results.costs[run.name].seconds[at] for run in runs))
    assert (one.curve[-1].step, one.curve[-1].samples, one.seeds) == (200, 20_000, 3)
    gaps = [run.points[-1].validation_loss - run.points[-1].training_loss for run in runs]
    assert one.gap.mean == pytest.approx(fmean(gaps))
    assert one.peak_bytes == 2_100_000_000 and one.target.seconds is not None
    bare = _batch(answer(replace(results, costs={})), 100)
    assert bare.target.seconds is bare.peak_bytes is bare.tokens_per_second is bare.curve[0].seconds is None
    assert bare.target.steps == one.target.steps


def test_runs_that_branched_off_count_from_there() -> None:
    results = made_study()

    def later(run: StudyRun) -> StudyRun:
        points = [replace(one, step=one.step + 50, samples=one.samples + 3200) for one in run.points]
        return replace(run, points=tuple(points))

    costs = {
        name: replace(cost, seconds=tuple(at + 9 for at in cost.seconds))
        for name, cost in results.costs.items()
    }
    branched = replace(_with(results, later), costs=costs, branch="runs/demo@50")
    one, other = answer(results), answer(branched)
    assert other.steps == pytest.approx(one.steps) and other.target == one.target
    assert _batch(other, 64).target.seconds == pytest.approx(_batch(one, 64).target.seconds)
    assert "All begin with runs/demo@50." in study_page(branched, other)


def test_losses_are_compared_at_equal_samples_and_at_equal_steps() -> None:
    found = answer(made_study(noise=0.0))
    assert found.equal_samples is not None and found.equal_steps is not None
    assert _batch(found, 16).equal_steps is None  # its first validation is after step 104
    assert (found.equal_samples.count, found.equal_samples.batch) == (20_000, 16)
    assert (found.equal_steps.count, found.equal_steps.batch) == (79, 256)
    for one in found.batches:
        pace = math.exp(-(math.log(one.best.factor * math.sqrt(one.batch / 100)) ** 2) / 4)
        for loss, steps in ((one.equal_samples, 20_000 / one.batch), (one.equal_steps, 79)):
            if loss is None:
                continue
            assert steps_until(loss.mean, one.batch, pace) == pytest.approx(steps, rel=0.02)
    alike = answer(made_study(noise=0.3)).equal_samples
    assert alike is not None and alike.alike
    assert any("cannot be told from it" in one.en for one in reasons(answer(made_study(noise=0.3))))


def test_with_one_seed_there_are_no_intervals_and_it_is_said() -> None:
    found = answer(made_study(seeds=1))
    one = _batch(found, 100)
    assert one.target.steps is not None
    assert not any(map(math.isfinite, (one.equal_samples.high, one.gap.high, one.target.steps.high)))
    assert one.alike == () and found.equal_samples is not None and found.equal_samples.alike == ()
    assert "CF226" in _codes(found) and "CF226" not in _codes(answer(made_study()))
    assert sentence(found).en.startswith("With one seed, 100 is below")
    assert "±" not in study_page(made_study(seeds=1), found).split("<h2>")[-4]


def test_the_target_is_the_lowest_loss_that_all_batches_come_down_to() -> None:
    results = made_study()
    found = answer(results)
    runs = [run for run in results.runs if (run.batch, run.rate_factor) == (256, 0.5)]
    assert found.target == max(run.points[-1].validation_loss for run in runs)
    assert {one.target.how for one in found.batches} == {"reached"} and not found.target_is_given


def test_a_batch_that_hardly_trains_does_not_spoil_the_target() -> None:
    results = made_study(batches=(*ALL, 8192), noise=0.0)
    found = answer(results)
    assert {one.batch: one.target.how for one in found.batches} == dict.fromkeys(ALL, "reached") | {
        8192: "not reached"
    }
    worst = max(point.loss.mean for point in _batch(found, 8192).curve[-1:])
    spoilt = answer(results, worst)
    assert _batch(spoilt, 16).target.how == "at once" and spoilt.fit is None
    two = answer(made_study(batches=(64, 8192), noise=0.0))  # each spoils the other's: the lower one
    assert [one.target.how for one in two.batches] == ["reached", "not reached"]
    assert {"CF223"} < set(_codes(found)) and {"CF224", "CF228"} < set(_codes(spoilt))


def test_a_target_that_is_never_reached_has_no_number() -> None:
    results = made_study(seeds=2)
    for target, how in ((1.0, "not reached"), (9.0, "at once")):
        found = answer(results, target)
        assert {one.target.how for one in found.batches} == {how} and found.target_is_given
        assert all(
            one.target.steps is one.target.samples is one.target.seconds is None for one in found.batches
        )
        assert found.fit is found.within is found.place is found.twice is found.smaller is None
        assert sentence(found).en == (
            "The critical batch cannot be told (0 of 6 batches have steps until the target, and a fit needs "
            "3)."
        )
    said = [one.en for one in remarks(answer(results, 2.3))]
    assert "Not reached in 20,000 samples: a loss of 2.300, by a batch of 256." in said
    lucky = min(run.points[-1].validation_loss for run in results.runs if run.batch == 256)
    assert _batch(answer(results, lucky + 1e-9), 256).target.how == "not reached"  # one seed of two


def test_a_rate_that_diverges_is_not_used_and_bounds_the_grid() -> None:
    def diverges(run: StudyRun) -> StudyRun:
        return (
            replace(run, state="diverged") if (run.batch, run.rate_factor, run.seed) == (16, 2.0, 3) else run
        )

    results = _with(made_study(), diverges)
    found = answer(results)
    one = _batch(found, 16)
    assert (one.best.factor, one.edge, len(one.tried)) == (1.0, None, 2)
    assert found.diverged == ("b0016-x2-s3",)
    assert "Diverged, and not used: b0016-x2-s3." in [each.en for each in remarks(found)]
    none = answer(_with(results, lambda run: replace(run, state="diverged") if run.batch == 16 else run))
    assert none.without == {16: "diverged"} and none.batch(16) is None and none.fit is not None


def test_a_run_that_is_not_over_or_does_not_foot_leaves_its_batch_without_an_answer() -> None:
    def change(run: StudyRun) -> StudyRun:
        changes: dict[str, StudyRun] = {
            "b0032-x1-s1": replace(run, state="unfinished", foots=False, points=()),
            "b0064-x2-s2": replace(run, foots=False),
            "b0128-x2-s3": replace(run, same_samples=False),
        }
        return changes.get(run.name, run)

    results = _with(made_study(), change)
    found = answer(results)
    assert found.without == {32: "unfinished", 64: "does not foot", 128: "does not foot"}
    assert found.not_footing == ("b0064-x2-s2", "b0128-x2-s3")
    assert list(found.steps) == [16, 100, 256] and found.fit is not None
    page = study_page(results, found)
    first = page.index("The study does not foot")
    assert first < page.index("b0064-x2-s2") < page.index(sentence(found).en) < page.index("<figure")
    assert "No answer yet for a batch of 32: runs are unfinished." in [one.en for one in remarks(found)]


def test_without_a_run_that_is_over_there_is_no_answer() -> None:
    results = _with(made_study(), lambda run: replace(run, state="unfinished", points=()))
    found = answer(results)
    assert sentence(found).en == "No batch has an answer yet."
    assert "<figure" not in study_page(results, found)
    assert answer(replace(results, runs=())).batches == ()


def test_the_edges_of_the_grid_are_named() -> None:
    assert (
        "The best rate of batches of 16, 32 and 256 is the smallest or largest that was tried: a better one "
        "may lie beyond." in [one.en for one in remarks(answer(made_study()))]
    )
    every = answer(made_study(batches=(16, 32, 256)))
    assert any(one.en.startswith("The best rate of every batch is") for one in remarks(every))
    one_rate = answer(made_study(factors=(1.0,)))
    assert "CF225" not in _codes(one_rate) and one_rate.nearest_rules == ()
    assert "CF230" in _codes(one_rate) and "CF230" not in _codes(answer(made_study()))


def test_steps_that_bound_the_critical_batch_at_no_end_say_nothing_of_it() -> None:
    results = made_study(batches=(64, 100, 128), noise=0.3, seeds=2)
    found = answer(results)
    assert found.fit is not None and not found.fit.says_something
    assert found.place is found.twice is None and found.smaller is None
    assert sentence(found).en.endswith("(the steps until the target bound it at neither end).")
    assert "critical batch " not in study_page(results, found).split("<h2>")[1]


def test_the_sentence() -> None:
    fit = Fit(100, 18_000, Interval(180, 140, 250), {100: 1.0, 32: 1.0, 64: 1.0})
    twice, smaller = Compared(200, 0.54, 1.04, False), Compared(32, 2.9, 0.93, True)
    found = replace(answer(made_study()), fit=fit, place="below", twice=twice, smaller=smaller)
    assert sentence(found).en == (
        "100 is below the critical batch of 180 [140, 250]: 200 would need 4 % more samples and 46 % fewer "
        "steps; 32 needs 2.9x the steps."
    )
    assert sentence(found).zh == (
        "100 低于临界批大小 180 [140, 250]：200 需要多 4 % 的样本、少 46 % 的步数；32 需要 2.9 倍的步数。"
    )
    inside = replace(found, place="inside", twice=None, smaller=Compared(64, 1.2, 0.998, True))
    assert sentence(inside).en == (
        "100 cannot be told from the critical batch of 180 [140, 250]: 64 needs as many samples and 20 % "
        "more steps."
    )
    assert sentence(replace(found, place="above", twice=None, smaller=None)).en.startswith("100 is above the")
    assert interval_words(Interval(426.4, 17.2, math.inf)).en == "426 [17, no upper end]"
    assert interval_words(Interval(math.inf, 150, math.inf)).en == "150 or more"


def test_every_sentence_is_there_in_both_languages() -> None:
    results = made_study(batches=ALL, seeds=1)
    for found in (
        answer(results),
        answer(results, 2.6),
        answer(results, 9.0),
        answer(made_study(noise=0.3)),
        answer(made_study(factors=(1.0,))),
    ):
        for one in (sentence(found), *reasons(found), *remarks(found)):
            assert one.en.endswith(".") and one.zh.endswith("。") and one.en.isascii()
            numbers = {word.strip(".,;:()") for word in one.en.split()} & {"2.600", "20,000", "1,024", "200"}
            assert all(number in one.zh for number in numbers), one


def test_the_page_has_every_run_and_is_small() -> None:
    results = made_study("<b>", batches=ALL, factors=(0.25, 0.5, 1.0, 2.0, 4.0))
    page = study_page(results, answer(results))
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert all(page.count(f"<td>{run.name}</td>") == 1 for run in results.runs)
    assert page.index("critical batch of") < page.index("<figure")
    assert len(page.encode()) < 300_000


def test_the_answer_is_a_file_of_json(tmp_path: Path) -> None:
    found = answer(made_study(seeds=1))
    write_answer(str(tmp_path), found)
    document = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert document["format"] == 1 and document["target"] == found.target and document["place"] == "below"
    assert [one["batch"] for one in document["batches"]] == list(BEST)
    assert document["fit"]["critical_batch"]["value"] == pytest.approx(180, rel=0.1)
    assert document["batches"][0]["gap"]["high"] == "inf"
