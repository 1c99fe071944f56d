"""The dry run's page, and a run held against its dry run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossfoot.findings.finding import Finding, Refused
from crossfoot.launch.dry_run import make_room, report
from crossfoot.ledger.witness import StepWitness
from crossfoot.runs.dry_run import MARK, compare_with_dry_run, dry_dir_of
from crossfoot.runs.ending import Ending
from crossfoot.runs.reader import read_run
from crossfoot.written.overriding import setting
from crossfoot.written.run_file import load_run
from ledger_cases import Job, sealed, six_samples
from support.launching import small_config

STEPS = [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4), (0, 5)]]


@pytest.fixture
def papers(tmp_path: Path) -> dict[str, Any]:
    """What two locks are compared by."""
    config = load_run(str(small_config(tmp_path))).config.model_dump(mode="json")
    for section in ("lr", "train"):
        config[section] |= sealed({"total_steps": len(STEPS)})["config"][section]
    plan = {"dp_degree": 2, "grad_accum_steps": 1}
    return {"config": config, "plan": plan, "index": {"address": "a" * 16, "sources": []}}


class Runs:
    """A run and its dry run, side by side."""

    def __init__(self, folder: Path, papers: dict[str, Any]) -> None:
        self.real = Job(folder / "run", six_samples(), STEPS, lock_changes=papers)
        self.dry = replace(
            self.real, folder=folder / "run-dryrun", lock_changes=json.loads(json.dumps(papers))
        )

    def train(self, losses: dict[int, float] | None = None, dry_steps: int = 2) -> None:
        """Both, the run with other losses in these steps."""

        def change(step: int, told: list[StepWitness]) -> list[StepWitness]:
            factor = (losses or {}).get(step, 1.0)
            return [replace(one, loss_sum=one.loss_sum * factor) for one in told]

        make_room(str(self.real.folder), dry_steps)
        self.dry.run(dry_steps, topology=(1, 4), ending=Ending("stop_after", dry_steps, 0, dry_steps))
        self.real.run(3, change=change, ending=Ending("finished", 3, 0, 3))

    def compared(self) -> str | Finding | None:
        return compare_with_dry_run(read_run(str(self.real.folder)))


@pytest.fixture
def runs(tmp_path: Path, papers: dict[str, Any]) -> Runs:
    return Runs(tmp_path, papers)


def test_equal_steps_agree(runs: Runs) -> None:
    runs.train()
    assert runs.compared() == "the first 2 steps agree with the dry run exactly"


def test_rounding_is_said_with_its_size(runs: Runs) -> None:
    runs.train({1: 1 + 2e-7})
    assert runs.compared() == "the first 2 steps agree with the dry run to 2e-07"


def test_one_step_is_one(runs: Runs) -> None:
    runs.train({1: 2.0}, dry_steps=1)
    assert runs.compared() == "the first step agrees with the dry run exactly"


@pytest.mark.parametrize("factor", [1 + 3e-5, float("nan"), float("inf"), 0.5])
def test_another_loss_is_a_warning_with_both_values(runs: Runs, factor: float) -> None:
    runs.train({1: factor})
    found = runs.compared()
    assert isinstance(found, Finding)
    assert (found.code, found.severity) == ("CF490", "warning")
    entry = json.loads(runs.real.ledger.read_text().splitlines()[1])
    assert f"step 3 had loss {float(entry['loss']):.7g} here and 2 in the dry run" == found.title


def test_bfloat16_rounds_more(runs: Runs) -> None:
    for lock in (runs.real.lock_changes, runs.dry.lock_changes):
        lock["config"]["model"]["dtype"] = "bfloat16"
    runs.train({1: 1 + 1e-3})
    assert runs.compared() == "the first 2 steps agree with the dry run to 1e-03"


def test_dropout_is_judged_where_its_draws_are_the_same(runs: Runs) -> None:
    for lock in (runs.real.lock_changes, runs.dry.lock_changes):
        lock["config"]["lora"]["dropout"] = 0.1
    runs.train({1: 1.5})
    assert isinstance(runs.compared(), Finding)


def test_dropout_in_other_slots_is_not_judged(runs: Runs) -> None:
    for lock in (runs.real.lock_changes, runs.dry.lock_changes):
        lock["config"]["lora"]["dropout"] = 0.1
    runs.real.lock_changes["plan"]["grad_accum_steps"] = 3
    runs.train({1: 1.5})
    differ = "the first 2 steps and the dry run differ by 3e-01: dropout draws other numbers in "
    assert runs.compared() == f"{differ}6 slots a step than in 2"


def test_a_dry_run_of_another_plan_is_named_and_not_compared(runs: Runs) -> None:
    runs.dry.lock_changes["config"]["optimizer"]["weight_decay"] = 0.5
    runs.train({1: 1.5})
    said = "not held against the dry run: optimizer.weight_decay was 0.5 there and is 0.0"
    assert runs.compared() == said


def test_topology_and_folder_may_differ(runs: Runs) -> None:
    runs.dry.lock_changes["config"]["run"]["dir"] = "runs/other"
    runs.dry.lock_changes["config"]["cluster"]["num_nodes"] = 5
    runs.train()
    assert runs.compared() == "the first 2 steps agree with the dry run exactly"


def test_other_batches_no_dry_run_and_a_damaged_one_say_nothing(runs: Runs) -> None:
    runs.dry.lock_changes["plan"]["batches_sha256"] = "c" * 64
    runs.train({1: 1.5})
    assert runs.compared() is None
    (runs.dry.folder / "plan.lock.json").write_text("{")
    assert runs.compared() is None
    shutil.rmtree(runs.dry.folder)
    assert runs.compared() is None


def test_a_folder_of_that_name_without_the_mark_is_no_dry_run(runs: Runs) -> None:
    runs.train({1: 1.5})
    (runs.dry.folder / MARK).unlink()
    assert runs.compared() is None
    with pytest.raises(Refused) as refused:
        make_room(str(runs.real.folder), 3)
    assert refused.value.findings[0].code == "CF491"


def test_a_dry_run_that_was_continued_is_left_alone(runs: Runs) -> None:
    runs.train()
    runs.dry.run(3, first_step=2, topology=(1, 4), ending=Ending("finished", 3, 0, 3))
    with pytest.raises(Refused) as refused:
        make_room(str(runs.real.folder), 3)
    assert refused.value.findings[0].code == "CF491"
    assert len(runs.dry.ledger.read_text().splitlines()) == 3


def test_a_new_dry_run_takes_the_place_of_an_old_one(runs: Runs) -> None:
    runs.train()
    folder = make_room(str(runs.real.folder), 5)
    assert folder == str(runs.dry.folder)
    assert [path.name for path in Path(folder).iterdir()] == [MARK]
    assert len(list(runs.real.folder.iterdir())) > 1


def test_the_page_shows_losses_receipt_and_what_the_cluster_needs(runs: Runs) -> None:
    runs.train(dry_steps=3)
    page = report(str(runs.dry.folder)).splitlines()  # steps from 1, as training counts them aloud
    assert page[0] == "dry run of job: 3 steps of 3, 2 ranks folded into this process"
    assert page[2].split() == ["1/3", "2", "1.5", "1e-05", "0.25"]
    assert "receipt: foots, 6 samples trained" in page
    assert "a step takes 0.25 s here; on 2 ranks like this one 0.125 s, 0.375 s for all 3 steps" in page
    assert "an estimate: it assumes ranks as fast as this process" in "\n".join(page)


def test_the_folder_of_the_dry_run_is_beside_the_run() -> None:
    assert dry_dir_of("runs/small") == "runs/small-dryrun"
    assert setting("run.dir", "runs/small") == "run.dir=runs/small"
    assert setting("run.dir", "123") == 'run.dir="123"'


@pytest.mark.parametrize(
    "name", ["notes.txt", "heartbeat/ecg.csv", "attempt-001/weights.bin", "launch/my.py"]
)
def test_what_somebody_else_has_put_there_is_not_cleared_away(runs: Runs, name: str) -> None:
    runs.train()
    theirs = runs.dry.folder / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("mine", encoding="utf-8")
    with pytest.raises(Refused, match="CF491") as refused:
        make_room(str(runs.real.folder), 3)
    assert name in refused.value.findings[0].title
    theirs.unlink()
    wandb = runs.dry.folder / "wandb"
    (wandb / "run-20260101_101010-abcd1234").mkdir(parents=True)
    (wandb / "latest-run").symlink_to("run-20260101_101010-abcd1234")
    make_room(str(runs.real.folder), 3)
    assert [path.name for path in runs.dry.folder.iterdir()] == [MARK]


def test_a_dry_run_does_not_begin_in_a_strangers_folder_or_behind_a_link(tmp_path: Path) -> None:
    """Nothing is marked as a dry run's that the next one would clear away."""
    folder, elsewhere = tmp_path / "run-dryrun", tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(Refused, match="CF491"):
            make_room(str(tmp_path / "run"), 3)
        assert len(list(folder.iterdir())) == 1
        folder.rename(elsewhere) if not elsewhere.exists() else None
        folder.is_symlink() or folder.symlink_to(elsewhere)
