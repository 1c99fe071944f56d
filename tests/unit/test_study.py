"""The design of a study, what it is asked, its folder, its order of samples, and how its runs are started."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crossfoot.arithmetic.schedule import Schedule
from crossfoot.findings.finding import Refused
from crossfoot.launch.job import LaunchOptions
from crossfoot.launch.slurm_says import QueueState
from crossfoot.studies import arrays, running
from crossfoot.studies.arrays import ArrayRunner
from crossfoot.studies.asking import batches_of, factors_of
from crossfoot.studies.batch_answer import losses_after
from crossfoot.studies.design import Asked, RunDesign, Subject, design, designed, run_name, warmup_samples
from crossfoot.studies.design import factors_of as factors_by_results
from crossfoot.studies.machine import Machine, visible_gpus
from crossfoot.studies.order import SampleOrder, order_of, samples_sha256
from crossfoot.studies.results import CurvePoint, RunCost, State, StudyResults, StudyRun
from crossfoot.studies.results_file import read_results, write_results
from crossfoot.studies.running import Runner, Start, tail_of
from crossfoot.studies.study_folder import refuse_other, study_folder

X1, X2, X4 = Fraction(1), Fraction(2), Fraction(4)
ASKED = Asked((16, 100), (X1, X2), (42, 43), budget_samples=1_000, validations=12)
SUBJECT = Subject("demo", 30, 2, 4, 3e-3, warmup_samples=90, index_dir="runs/.index")


def code_of(refused: pytest.ExceptionInfo[Refused]) -> tuple[str, ...]:
    return tuple(finding.code for finding in refused.value.findings)


# ---- what is asked


def test_batches_and_rates_are_read_in_any_order() -> None:
    assert batches_of("64, 16,32") == (16, 32, 64)
    assert factors_of("x2,0.5,x1") == (Fraction(1, 2), X1, X2)


@pytest.mark.parametrize("text", ["16", "16,16", "16,0", "16,-4", "16,x", "16,,32", "1.5,2", ""])
def test_what_is_no_set_of_batches(text: str) -> None:
    with pytest.raises(Refused) as refused:
        batches_of(text)
    assert set(code_of(refused)) == {"CF823"}


@pytest.mark.parametrize("text", ["x0", "x-1", "twice", "x1,x1", "x1/0", "1/2", "", "xnan", "xinf"])
def test_what_are_no_factors(text: str) -> None:
    with pytest.raises(Refused) as refused:
        factors_of(text)
    assert set(code_of(refused)) == {"CF824"}


# ---- the design


def words_of(batch: int, subject: Subject = SUBJECT, factor: Fraction = X1) -> dict[str, str]:
    run = design(ASKED, subject, "runs/demo-study", batch, factor, 42)
    return dict(word.split("=", 1) for word in run.words)


def test_a_run_has_its_batch_its_rate_its_seed_and_the_budget() -> None:
    run = design(ASKED, SUBJECT, "runs/demo-study", 16, Fraction(1, 2), 43)
    assert (run.name, run.steps, run.samples) == ("b0016-x0.5-s43", 63, 1_008)
    words = words_of(16, factor=Fraction(1, 2))
    assert words["run.dir"] == "runs/demo-study/b0016-x0.5-s42"
    assert words["lr.reference"] == "0.0015" and words["lr.warmup_samples"] == "90"
    assert words["train.max_steps"] == "63" and words["train.epochs"] == "null"
    assert words["data.last_step"] == "carry" and words["batch.grad_accum_steps"] == "null"


def test_a_micro_batch_is_no_larger_than_what_a_rank_has() -> None:
    assert words_of(100)["batch.micro_batch_size"] == "4"
    small = design(ASKED, SUBJECT, "f", 5, X1, 42).words
    assert "batch.micro_batch_size=3" in small
    fixed = Subject("demo", 30, 2, 4, 3e-3, 0, "i", loose_batches=(5,))
    assert "batch.micro_batch_size=4" in design(ASKED, fixed, "f", 5, X1, 42).words
    by_tokens = Subject("demo", 30, 2, None, 3e-3, 0, "i")
    assert not any("micro_batch" in word for word in design(ASKED, by_tokens, "f", 5, X1, 42).words)


@pytest.mark.parametrize("batch", [1, 7, 16, 100, 256, 999])
def test_validations_come_after_about_as_many_samples(batch: int) -> None:
    words = words_of(batch)
    every = words["validation.every_steps"]
    if every != "null":
        assert abs(int(every) * batch - 1_000 / 12) <= max(batch, 1_000 / 24)
    else:
        assert math.ceil(1_000 / batch) == 1 or batch > 500


def test_the_warm_up_is_turned_into_samples_once() -> None:
    assert warmup_samples(3, None, None, batch=30, budget_samples=1_000) == 90
    assert warmup_samples(None, 0.07, None, batch=30, budget_samples=1_000) == 70
    assert warmup_samples(None, 0.0701, None, batch=30, budget_samples=1_000) == 71
    assert warmup_samples(None, None, 55, batch=30, budget_samples=1_000) == 55
    assert warmup_samples(None, None, None, batch=30, budget_samples=1_000) == 0


def test_the_runs_stand_by_batch_factor_and_seed() -> None:
    names = [run.name for run in designed(ASKED, SUBJECT, "f", {})]
    assert names == [run_name(b, f, s) for b in (16, 100) for f in (X1, X2) for s in (42, 43)]
    assert len(set(names)) == 8


# ---- the grid


def losses(batch: int, by_factor: Mapping[Fraction, Sequence[float | None]]) -> dict[str, float | None]:
    return {
        run_name(batch, factor, seed): loss
        for factor, found in by_factor.items()
        for seed, loss in zip(ASKED.seeds, found, strict=True)
    }


def test_the_grid_goes_on_beyond_the_best_at_its_edge() -> None:
    known = losses(16, {X1: (2.0, 2.2), X2: (1.9, 2.1)})
    assert factors_by_results(ASKED, 16, known) == (X1, X2, X4)
    assert factors_by_results(ASKED, 100, known) == (X1, X2), "of another batch nothing is known"
    known |= losses(16, {X4: (2.5, 2.5)})
    assert factors_by_results(ASKED, 16, known) == (X1, X2, X4), "the best is inside"


def test_it_goes_on_downwards_too_and_three_times_at_most() -> None:
    known: dict[str, float | None] = {}
    for exponent in range(-9, 2):
        known |= losses(16, {Fraction(2) ** exponent: (exponent, exponent)})
    found = factors_by_results(ASKED, 16, known)
    assert found == (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2), X1, X2)


def test_it_waits_until_all_runs_of_the_batch_are_over() -> None:
    known = losses(16, {X1: (2.0, 2.2), X2: (1.9, 2.1)})
    del known[run_name(16, X1, 43)]
    assert factors_by_results(ASKED, 16, known) == (X1, X2)


@pytest.mark.parametrize("lost", [None, math.nan, math.inf])
def test_a_rate_that_diverged_with_any_seed_is_not_the_best(lost: float | None) -> None:
    known = losses(16, {X1: (2.0, 2.2), X2: (1.0, lost)})
    assert factors_by_results(ASKED, 16, known) == (Fraction(1, 2), X1, X2)


def test_one_factor_has_no_edge() -> None:
    asked = Asked((16, 32), (X1,), (42,), 1_000, 12)
    assert factors_by_results(asked, 16, {run_name(16, X1, 42): 1.0}) == (X1,)


def test_rates_are_compared_where_the_answer_compares_them() -> None:
    """After the budget, not at the end of the batch that it ends in; of a branch, from the checkpoint on."""

    def run(factor: Fraction, *losses: float, first: int = 0, state: State = "done") -> StudyRun:
        points = [CurvePoint(first + at, 32 * (first + at), 0, loss, 0.0) for at, loss in enumerate(losses)]
        name = run_name(32, factor, 42)
        return StudyRun(name, 32, float(factor), 1.0, 42, state, True, True, tuple(points))

    asked = Asked((32,), (X1, X2), (42,), 48, 12)
    for first in (0, 10):
        known = losses_after([run(X1, 9.0, 1.0, 3.0, first=first), run(X2, 9.0, 2.5, 2.0, first=first)], 48)
        assert known[run_name(32, X1, 42)] == pytest.approx(1 + 2 * math.log2(1.5))
        assert factors_by_results(asked, 32, known) == (Fraction(1, 2), X1, X2)
    lost = [run(X1, 9.0, state="diverged"), run(X2, 9.0, state="unfinished")]
    assert losses_after(lost, 48) == {run_name(32, X1, 42): None}


# ---- the folder


DOCUMENT = {"format": 1, "batches": [16, 32], "budget_samples": 100, "config": {"lr": {"reference": 0.1}}}


def test_the_same_question_goes_on_and_another_is_refused_with_both_values(tmp_path: Path) -> None:
    folder = str(tmp_path / "study")
    with study_folder(folder, DOCUMENT):
        pass
    refuse_other(folder, DOCUMENT)
    other = {**DOCUMENT, "budget_samples": 200, "config": {"lr": {"reference": 0.2}}}
    with pytest.raises(Refused) as refused, study_folder(folder, other):
        pass
    (finding,) = refused.value.findings
    assert finding.code == "CF826"
    assert "budget_samples was 100, and is 200" in finding.title
    assert "lr.reference was 0.1, and is 0.2" in finding.title
    assert json.loads(Path(folder, "study.json").read_text()) == DOCUMENT


def test_more_batches_rates_and_seeds_may_be_asked_and_none_be_left_out(tmp_path: Path) -> None:
    folder = str(tmp_path / "study")
    asked = {**DOCUMENT, "rates": ["x1"], "seeds": [42]}
    with study_folder(folder, asked):
        pass
    more = {**asked, "batches": [8, 16, 32], "rates": ["x0.5", "x1"], "seeds": [42, 43]}
    refuse_other(folder, more)
    assert json.loads(Path(folder, "study.json").read_text()) == asked, "a plan changes nothing"
    with study_folder(folder, more):
        pass
    assert json.loads(Path(folder, "study.json").read_text()) == more
    with pytest.raises(Refused) as refused:
        refuse_other(folder, asked)
    (finding,) = refused.value.findings
    assert "batches had 8 too, rates had x0.5 too and seeds had 43 too" in finding.title


def test_an_array_that_a_larger_study_meets_is_waited_for_and_others_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known, new = (Start(design(ASKED, SUBJECT, "f", batch, X1, 42), f"f/{batch}", ()) for batch in (16, 100))
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "array.sbatch").write_text("folders=(\n  f/16\n)\n")
    states = iter([QueueState("RUNNING", ""), QueueState("RUNNING", ""), None, None])
    monkeypatch.setattr(arrays, "submitted_job", lambda _: "7")
    monkeypatch.setattr(arrays, "_state", lambda _: next(states))
    monkeypatch.setattr(arrays, "LOOK_SECONDS", 0)
    ended: list[str] = []

    def runner(**options: Any) -> ArrayRunner:
        def is_over(start: Start, *_: float) -> None:
            ended.append(start.run_dir)

        return ArrayRunner("c.yaml", str(tmp_path), LaunchOptions("slurm", **options), None, (), is_over)

    runner().train([known, new])
    assert ended == ["f/16"], "nothing is said of a run that was not in the array"
    states = iter([QueueState("RUNNING", "")])
    detached = runner(detach=True)
    detached.train([known, new])
    assert detached.detached and "submits 1 run more" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(Refused) as refused:
        refuse_other(str(tmp_path), DOCUMENT)
    assert "thesis.txt" in refused.value.findings[0].title


def test_two_commands_are_not_at_work_in_one_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "study")
    with study_folder(folder, DOCUMENT):
        with pytest.raises(Refused) as refused, study_folder(folder, DOCUMENT):
            pass
        assert "another command is at work" in refused.value.findings[0].title


# ---- results


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    points = (CurvePoint(0, 0, 0, 3.0, math.nan), CurvePoint(5, 80, 900, math.inf, 2.5))
    run = StudyRun("b0016-x1-s42", 16, 1.0, 1e-3, 42, "diverged", True, True, points)
    cost = RunCost((0.0, 1.5), 1_234.5)
    results = StudyResults("demo", 30, 100, 417, 140.5, "ab" * 32, "sqrt", (run,), costs={run.name: cost})
    write_results(str(tmp_path), results)
    found = read_results(str(tmp_path))
    assert math.isnan(found.runs[0].points[0].training_loss)
    assert str(found) == str(results)
    assert "costs" not in json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "costs.json").unlink()
    assert read_results(str(tmp_path)).costs == {}


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', '{"format": 1, "name": 3}'])
def test_results_that_cannot_be_read_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(Refused) as refused:
        read_results(str(tmp_path))
    assert code_of(refused) == ("CF577",) and refused.value.exit_code == 2


# ---- the order of samples


SAMPLES = 50
DIGESTS = np.random.default_rng(1).integers(0, 2**63, SAMPLES, dtype=np.uint64)


def lock() -> dict[str, Any]:
    plan = {"samples_per_epoch": SAMPLES, "global_batch_size": 30, "micro_batch_size": 2}
    plan |= {"grad_accum_steps": 15, "dp_degree": 1, "work_per_token": None}
    train = {"epochs": 1, "max_steps": None}
    data = {"last_step": "short", "layout": "padded"}
    return {"plan": plan, "config": {"run": {"seed": 3}, "train": train, "data": data, "lr": {}}}


def lines_of(batch: int, seed: int, steps: int) -> Iterator[Any]:
    """As the loop's own schedule has them, which the audit does not call."""
    schedule = Schedule(SAMPLES, batch, seed, "carry", max_steps=steps)
    for step in range(steps):
        held = np.sort(DIGESTS[schedule.samples(step)]).astype("<u8").tobytes()
        yield SimpleNamespace(step=step, samples_sha256=hashlib.sha256(held).hexdigest()[:16])


def of_batch(batch: int, first_step: int = 0, first_sample: int = 0) -> RunDesign:
    return RunDesign("run", batch, Fraction(1), 7, 140 // batch, (), first_step, first_sample)


def order(seed: int = 7) -> SampleOrder:
    index: Any = SimpleNamespace(
        digests=DIGESTS, lengths=np.ones(SAMPLES, dtype=np.int32), trained_tokens=None
    )
    return order_of(lock(), index, seed, samples=140)


@pytest.mark.parametrize("batch", [1, 7, 20, 60, 70])
def test_every_batch_follows_the_one_order_over_epochs(batch: int) -> None:
    lines = list(lines_of(batch, seed=7, steps=140 // batch))
    assert order().is_followed(lines, of_batch(batch))
    assert not order(seed=8).is_followed(lines, of_batch(batch))


def test_a_branch_follows_the_order_behind_the_samples_before_it() -> None:
    """Two steps of 4 before it, and 7 samples a step from there on."""
    held = [order().digests[first : first + 7] for first in (8, 15)]
    lines: list[Any] = [
        SimpleNamespace(step=2 + at, samples_sha256=hashlib.sha256(np.sort(one).tobytes()).hexdigest()[:16])
        for at, one in enumerate(held)
    ]
    assert order().is_followed(lines, of_batch(7, 2, 8))
    assert not order().is_followed(lines, of_batch(7, 2, 7))


def test_one_step_with_other_samples_is_seen() -> None:
    lines = list(lines_of(7, seed=7, steps=20))
    lines[11], lines[12] = (
        SimpleNamespace(step=11, samples_sha256=lines[12].samples_sha256),
        SimpleNamespace(step=12, samples_sha256=lines[11].samples_sha256),
    )
    assert not order().is_followed(lines, of_batch(7))


def test_the_sha_of_a_study_is_that_of_its_budget_and_its_seeds() -> None:
    one, other = order(7), order(8)
    whole = hashlib.sha256(one.digests[:100].astype("<u8").tobytes()).hexdigest()
    assert samples_sha256([one], 0, 100) == whole
    others = (([one], 0, 99), ([one], 1, 100), ([one, other], 0, 100))
    assert len({whole, *(samples_sha256(*args) for args in others)}) == 4


# ---- runs side by side


class Made:
    """A process that ends when it has been looked at so often."""

    def __init__(self, looks: int) -> None:
        self.pid, self.looks, self.told = 0, looks, list[int]()

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks > 0 and not self.told else self.wait()

    def wait(self) -> int:
        return 75 if self.told else 0

    def send_signal(self, number: int) -> None:
        self.told.append(number)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Made]]:
    """(its GPUs, the process) of each that was started."""
    begun: list[tuple[str, Made]] = []

    def spawn(command: Sequence[str], environ: Mapping[str, str], log: str) -> Made:
        process = Made(looks=2 + len(begun))
        begun.append((environ.get("CUDA_VISIBLE_DEVICES", ""), process))
        return process

    monkeypatch.setattr(running, "spawn", spawn)
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.0)
    return begun


def starts(folder: Path, count: int) -> list[Start]:
    runs = [design(ASKED, SUBJECT, str(folder), 16, X1, seed) for seed in range(count)]
    return [Start(run, str(folder / run.name), run.words) for run in runs]


def test_no_more_runs_than_asked_for_share_the_machine(made: list[tuple[str, Made]], tmp_path: Path) -> None:
    over: list[str] = []
    machine = Machine(ranks=2, at_once=2, gpus=("0", "1", "2", "3"))
    runner = Runner("demo.yaml", machine, lambda start, code, seconds: over.append(start.run.name))
    runner.train(starts(tmp_path, 5))
    assert sorted(over) == sorted(start.run.name for start in starts(tmp_path, 5))
    assert {gpus for gpus, _ in made} == {"0,1", "2,3"}
    assert runner.stopped is None


def test_a_signal_is_handed_on_and_begins_nothing_more(
    made: list[tuple[str, Made]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    runner = Runner("demo.yaml", Machine(1, 3), lambda start, code, seconds: codes.append(code))

    def living(run_dir: str) -> bool:
        """Two are at work when it is looked whether the third may begin."""
        if len(made) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return len(made) == 2

    monkeypatch.setattr(running, "living", living)
    runner.train(starts(tmp_path, 9))
    assert runner.stopped == signal.SIGTERM
    assert len(made) == 2 and codes[-1] == 75
    assert made[1][1].told == [signal.SIGTERM]


def test_cores_are_shared_where_nobody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossfoot.studies import machine

    monkeypatch.setattr(machine, "usable_cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Machine(ranks=2, at_once=3).environ(0)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Machine(ranks=2, at_once=3).environ(0)["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("environ", "gpus"),
    [
        ({}, ("0", "1")),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ("1",)),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}, ("GPU-a", "GPU-b")),
        ({"DS_ACCELERATOR": "cpu"}, ()),
    ],
)
def test_which_gpus_runs_may_use(environ: dict[str, str], gpus: tuple[str, ...]) -> None:
    assert visible_gpus(environ, ["0", "1"]) == gpus


def test_what_a_failing_run_said_is_shown_from_its_finding_on(tmp_path: Path) -> None:
    log = tmp_path / "study.log"
    log.write_text("\n".join([*map(str, range(100)), "error[CF999]: no", " --> x"]) + "\n")
    assert tail_of(str(log)) == "error[CF999]: no\n --> x"
    log.write_text("\n".join(map(str, range(100))))
    assert tail_of(str(log)).splitlines()[-1] == "99"
    assert tail_of(str(tmp_path / "none")) == ""
