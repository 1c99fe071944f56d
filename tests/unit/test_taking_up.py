"""From which checkpoint and step a run is taken up, and when it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoint_cases import save
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.findings.finding import Refused
from crossfoot.planning.plan import run_rate
from crossfoot.runs.attempts import Change
from crossfoot.runs.ending import Ending
from crossfoot.runs.restarts import is_started_again
from crossfoot.runs.resume import Resumed, ResumePoint, read_previous_attempts, resume_run
from crossfoot.training.rank_job import TrainOptions
from crossfoot.written.run_file import RunFile, load_run
from ledger_cases import Data, Job
from support.launching import small_config

DATA = Data(list(range(12)), [10 + i for i in range(12)], [5] * 12)
DIGESTS = np.array([DATA.segment(sample).digest for sample in range(12)], dtype=np.uint64)
STEPS = 6


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    train = {"max_steps": STEPS}
    return load_run(str(small_config(tmp_path, train=train)), [f"run.dir={tmp_path}/runs/one"])


@pytest.fixture
def job(run: RunFile) -> Job:
    """Six steps of two samples."""
    schedule = schedule_of()
    pairs = [[(0, int(sample)) for sample in schedule.samples(step)] for step in range(STEPS)]
    papers = {"config": run.config.model_dump(mode="json"), "plan": {}, "index": {}}
    return Job(Path(run.run_dir), DATA, pairs, lock_changes=papers)


def schedule_of(seed: int = 3) -> Schedule:
    return Schedule(num_samples=12, global_batch_size=2, seed=seed, last_step="short", max_steps=STEPS)


def taken_up(
    run: RunFile,
    job: Job,
    *allow: str,
    steps: int = STEPS,
    seed: int = 3,
    reference: float | None = None,
) -> Resumed:
    """With the plan of before, or another seed or rate."""
    lock = job.lock(2, 2)
    if reference is not None:
        lock["config"] = {**lock["config"], "lr": {**lock["config"]["lr"], "reference": reference}}
        lock["plan"] = {**lock["plan"], "learning_rate": {"peak": reference}}
    schedule, rate = schedule_of(seed), run_rate(run, schedule_of(seed))
    return resume_run(run, read_previous_attempts(run), lock, schedule, rate, DIGESTS, allow, steps)


def saved(job: Job, *steps: int, plan: str | None = None) -> None:
    """Checkpoints of the first attempt, or of another plan."""
    lock = job.lock(2, 2)
    for step in steps:
        save(job.folder, step, plan=(plan or lock["sha256"], lock["plan"]["batches_sha256"]))


def begins(job: Job, attempt: int, step: int) -> ResumePoint:
    """From the checkpoint of this step."""
    return ResumePoint(attempt, step, f"step-{step:06d}", 1, job.lock(2, 2)["sha256"])


def codes_of(error: pytest.ExceptionInfo[Refused]) -> list[str]:
    return [finding.code for finding in error.value.findings]


def spoil(run: RunFile, step: int) -> None:
    """Another byte, at the same length."""
    file = Path(run.run_dir) / "checkpoints" / f"step-{step:06d}" / "tensors-00000-of-00002.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def outcome(continued: Resumed) -> tuple[ResumePoint, list[str]]:
    return continued.resume_point, [finding.code for finding in continued.findings]


def test_the_newest_checkpoint_that_the_ledger_vouches_for(run: RunFile, job: Job) -> None:
    job.run(4)
    saved(job, 2, 4)
    assert outcome(taken_up(run, job)) == (begins(job, 2, 4), [])
    assert taken_up(run, job).allowed == ()


def test_one_ahead_of_the_ledger_is_passed_over(run: RunFile, job: Job) -> None:
    job.run(3)
    saved(job, 2, 3, 4)
    assert outcome(taken_up(run, job)) == (begins(job, 2, 3), ["CF746"])


def test_one_whose_steps_were_lost_since_is_passed_over(run: RunFile, job: Job) -> None:
    job.run(4)
    saved(job, 2, 4)
    job.run(3, first_step=2)
    assert outcome(taken_up(run, job)) == (begins(job, 3, 2), ["CF746"])


def test_without_a_checkpoint_it_begins_again_and_says_what_that_costs(run: RunFile, job: Job) -> None:
    job.run(3)
    assert outcome(taken_up(run, job)) == (ResumePoint(2, 0, None), ["CF768"])


def test_a_run_killed_before_its_first_step_has_nothing_to_lose(run: RunFile, job: Job) -> None:
    job.run(0)
    assert outcome(taken_up(run, job)) == (ResumePoint(2, 0, None), [])


def test_when_the_ledger_vouches_for_no_checkpoint_it_begins_again(run: RunFile, job: Job) -> None:
    job.run(1)
    saved(job, 2)
    assert outcome(taken_up(run, job)) == (ResumePoint(2, 0, None), ["CF746"])


def test_a_damaged_one_is_passed_over(run: RunFile, job: Job) -> None:
    job.run(4)
    saved(job, 2, 4)
    spoil(run, 4)
    assert outcome(taken_up(run, job)) == (begins(job, 2, 2), ["CF761"])


def test_the_bytes_of_an_older_one_are_read_too(run: RunFile, job: Job) -> None:
    job.run(3)
    saved(job, 1, 2, 4)
    spoil(run, 2)
    continued = taken_up(run, job)
    assert outcome(continued) == (begins(job, 2, 1), ["CF746", "CF761"])
    assert str(continued.findings[1].place).endswith("checkpoints/step-000002")
    spoil(run, 1)
    assert outcome(taken_up(run, job)) == (ResumePoint(2, 0, None), ["CF746", "CF761", "CF761"])


def test_when_all_are_damaged_nobody_begins_again_unasked(run: RunFile, job: Job) -> None:
    job.run(4)
    saved(job, 2, 4)
    for step in (2, 4):
        spoil(run, step)
    with pytest.raises(Refused) as caught:
        taken_up(run, job)
    assert codes_of(caught) == ["CF760", "CF761", "CF761"]


def test_one_of_another_run_is_passed_over_and_said_once(run: RunFile, job: Job) -> None:
    job.run(3)
    saved(job, 1)
    saved(job, 2, 5, plan="f" * 64)
    assert outcome(taken_up(run, job)) == (begins(job, 2, 1), ["CF761", "CF761"])
    saved(job, 4)
    assert outcome(taken_up(run, job)) == (begins(job, 2, 1), ["CF761", "CF746", "CF761"])


def test_there_must_be_a_step_to_do(run: RunFile, job: Job) -> None:
    job.run(4)
    saved(job, 4)
    assert taken_up(run, job, steps=5).resume_point.first_step == 4
    assert taken_up(run, job, steps=4).resume_point.first_step == 4, "killed at its end, which is to be done"
    with pytest.raises(Refused, match="4 steps done, 3 asked for") as caught:
        taken_up(run, job, steps=3)
    assert codes_of(caught) == ["CF747"]


def test_a_finished_run_is_not_taken_up(run: RunFile, job: Job) -> None:
    job.run(6, ending=Ending("finished", 6, 0, 6))
    (job.folder / "receipt.json").touch()
    saved(job, 4)
    with pytest.raises(Refused, match="all 6 steps are trained"):
        taken_up(run, job)


def test_another_rate_must_be_allowed(run: RunFile, job: Job) -> None:
    job.run(3)
    saved(job, 2)
    with pytest.raises(Refused) as caught:
        taken_up(run, job, reference=2e-3)
    assert codes_of(caught) == ["CF743"]
    continued = taken_up(run, job, "lr.reference", reference=2e-3)
    assert continued.allowed == (Change("lr.reference", 1e-3, 2e-3),)
    assert outcome(continued) == (begins(job, 2, 2), [])


def test_the_steps_that_are_done_must_be_those_of_the_plan(run: RunFile, job: Job) -> None:
    job.run(3)
    saved(job, 2)
    with pytest.raises(Refused) as caught:
        taken_up(run, job, seed=4)
    assert codes_of(caught) == ["CF745"]


def test_a_folder_that_never_started_holds_nothing_to_compare(run: RunFile, job: Job) -> None:
    """An attempt was claimed and killed before it wrote how it starts."""
    (job.folder / "attempt-001").mkdir(parents=True)
    continued = taken_up(run, job, reference=2e-3)
    assert outcome(continued) == (ResumePoint(2, 0, None), [])
    assert continued.previous_attempts == read_previous_attempts(run)


@pytest.mark.parametrize(
    ("restarts", "job_id", "is_same"),
    [
        ("1", "7", True),
        ("12", "7", True),
        ("0", "7", False),
        ("", "7", False),
        ("x", "7", False),
        ("1", "8", False),
        ("1", None, False),
    ],
)
def test_slurm_starts_the_same_job_again(
    run: RunFile, job: Job, restarts: str, job_id: str | None, is_same: bool
) -> None:
    environ = {"SLURM_RESTART_COUNT": restarts, **({} if job_id is None else {"SLURM_JOB_ID": job_id})}
    assert not is_started_again(run, environ), "there is no run yet"
    job.run(1, job_id="6")
    job.run(2, first_step=1, job_id="7", from_checkpoint="step-000001")
    assert is_started_again(run, environ) == is_same


@pytest.mark.parametrize(
    ("restarts", "noted", "is_same"),
    [("1", "a", True), ("3", None, True), ("0", "a", False), ("", "a", False), ("1", "b", False)],
)
def test_torchrun_starts_its_ranks_again(
    run: RunFile, job: Job, restarts: str, noted: str | None, is_same: bool
) -> None:
    environ = {"TORCHELASTIC_RESTART_COUNT": restarts, "TORCHELASTIC_RUN_ID": "a"}
    assert not is_started_again(run, environ), "there is no run yet"
    job.run(1, elastic_id=noted)
    assert is_started_again(run, environ) == is_same


def test_a_command_that_begins_or_goes_on(run: RunFile, job: Job) -> None:
    auto = TrainOptions(is_repeated=True)
    assert not auto.on(run, {}).continues
    job.run(1)
    assert auto.on(run, {}).continues
    again = TrainOptions().on(run, {"TORCHELASTIC_RESTART_COUNT": "1"})
    assert again.continues and again.is_repeated
    assert not TrainOptions().on(run, {}).continues


def test_a_job_that_was_killed_before_it_started_is_the_same(run: RunFile, job: Job) -> None:
    (job.folder / "attempt-001").mkdir(parents=True)
    assert is_started_again(run, {"SLURM_RESTART_COUNT": "1", "SLURM_JOB_ID": "7"})
    assert not is_started_again(run, {"SLURM_JOB_ID": "7"})
