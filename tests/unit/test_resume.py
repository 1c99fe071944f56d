"""What may change between two attempts, who may begin one, and what stands when it never began."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from crossfoot.arithmetic.batch import Thresholds
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.render import render
from crossfoot.ledger.book import LedgerBook, read_book
from crossfoot.planning.plan import run_rate
from crossfoot.receipts.receipt import receipt_of
from crossfoot.runs.attempts import Change, attempt_path, read_attempts
from crossfoot.runs.changing import ALLOWABLE, FREE, NEVER, changes, hold_against
from crossfoot.runs.ending import Ending, lock_sha256, write_ending
from crossfoot.runs.past import hold_plan, past_of, refuse_other_past
from crossfoot.runs.reader import read_run
from crossfoot.runs.resume import (
    lock_in_force,
    read_previous_attempts,
    record_attempt,
    refuse_finished,
)
from crossfoot.runs.run_folder import make_folder, refuse_used_folder, release_folder
from crossfoot.written.known_keys import sections
from crossfoot.written.run_file import RunFile, load_run
from crossfoot.written.shown import shown
from ledger_cases import Data, Job, an_attempt
from support.launching import small_config

EXPECTS = ("total_steps", "samples", "distinct_samples", "real_tokens", "trained_tokens", "forwards")
DATA = Data(list(range(12)), [10 + i for i in range(12)], [5] * 12)


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    return load_run(str(small_config(tmp_path, lora=lora)), [f"run.dir={tmp_path}/runs/one"])


@pytest.fixture
def lock(run: RunFile) -> dict[str, Any]:
    """What a lock holds of a plan, as far as two of them are compared."""
    return {
        "config": run.config.model_dump(mode="json"),
        "plan": {
            "global_batch_size": 8,
            "total_steps": 12,
            "batches_sha256": "b" * 64,
            "learning_rate": {"peak": 1e-4, "schedule": "cosine", "min_ratio": 0.0, "reference": 1e-4},
            "warmup_steps": 2,
            "world_size": 2,
        },
        "index": {"address": "a" * 16, "sources": [{"path": "data.jsonl", "sha256": "5" * 64}]},
        **{"name": "one", "sha256": "9" * 64, "expects": dict.fromkeys(EXPECTS, 12)},
    }


def with_hash(lock: dict[str, Any]) -> dict[str, Any]:
    return {**lock, "sha256": lock_sha256(lock)}


def other(lock: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The same lock with other values; their keys are joined with __."""
    made = copy.deepcopy(lock)
    for path, value in values.items():
        *where, name = path.split("__")
        section = made
        for key in where:
            section = section[key]
        section[name] = value
    return made


def refused(run: RunFile, lock: dict[str, Any], now: dict[str, Any], *allow: str) -> tuple[Finding, ...]:
    with pytest.raises(Refused) as caught:
        hold_against(run, (1, lock), now, allow)
    assert caught.value.exit_code == 1
    return caught.value.findings


def test_every_key_of_the_config_is_decided_on() -> None:
    keys = {f"{section}.{key}" for section, inside in sections().items() for key in inside}
    keys |= {section for section, inside in sections().items() if not inside}
    decided = {*NEVER, *ALLOWABLE, *FREE} - {"lora"}
    assert not {key for key in keys if not {key, key.partition(".")[0]} & decided}
    assert not (set(NEVER) & set(ALLOWABLE) or set(NEVER) & FREE or set(ALLOWABLE) & FREE)
    assert {key for key in decided if key not in keys and key not in sections()} <= {"checkpoint", "faults"}


def test_another_topology_and_all_that_is_free_may_change(run: RunFile, lock: dict[str, Any]) -> None:
    now = other(
        lock,
        config__cluster={"num_nodes": 4, "gpus_per_node": 8},
        config__deepspeed="ds_configs/zero3.json",
        config__batch={"micro_batch_size": 1, "grad_accum_steps": 7, "global_batch_size": None},
        config__model__attention="sdpa",
        config__model__gradient_checkpointing=True,
        config__tracking={"wandb": "online", "project": "x"},
        config__validation={"every_steps": 3},
        config__data__validation=["other.json"],
        config__run__dir="elsewhere",
        config__faults={"nonfinite": "skip"},
        config__checkpoint={"every_steps": 4},
        plan__world_size=32,
    )
    assert changes(lock, now) == () and hold_against(run, (1, lock), now) == ()


@pytest.mark.parametrize("key", sorted(ALLOWABLE))
def test_what_moves_the_weights_otherwise_must_be_allowed(
    run: RunFile, lock: dict[str, Any], key: str
) -> None:
    section, name = key.split(".")
    before = lock["config"][section][name]
    now = other(lock, **{f"config__{section}__{name}": "changed", "plan__learning_rate__peak": 3e-4})
    now["plan"]["total_steps"] = 13
    (finding,) = refused(run, lock, now)
    assert finding.code == "CF743" and finding.title.startswith(f'{key} is "changed", and the run was')
    assert finding.label.startswith("attempt 1 had ") and f"--allow {key} " in finding.helps[1]
    assert before is None or shown(before, whole=True) in finding.label
    assert finding.place == run.place(*key.split("."))
    assert hold_against(run, (1, lock), now, [key]) == (Change(key, before, "changed"),)
    another = "model.dtype" if section == "lr" else "lr.rule"
    assert [f.code for f in refused(run, lock, now, another)] == ["CF743"]


NEW_SOURCE = [{"path": "data.jsonl", "sha256": "6" * 64}]


@pytest.mark.parametrize(
    ("key", "now"),
    [
        ("run.seed", {"config__run__seed": 77}),
        ("data.last_step", {"config__data__last_step": "drop"}),
        ("data.max_seq_len", {"config__data__max_seq_len": 99, "index__address": "c"}),
        ("data.task", {"config__data__task": "pretrain", "index__address": "c"}),
        ("tokenizer.path", {"config__tokenizer": {"path": "other"}, "index__address": "c"}),
        ("tokenizer.path", {"index__address": "c"}),
        ("data.train", {"index__address": "c", "index__sources": NEW_SOURCE}),
        ("batch.global_batch_size", {"plan__global_batch_size": 16, "plan__batches_sha256": "c"}),
        ("data.validation", {"config__data__validation": 0.1, "plan__held_out_samples": 5}),
        ("data.over_long", {"config__data__over_long": "split", "index__address": "c"}),
        ("lora", {"config__lora": None}),
        ("lora.r", {"config__lora__r": 8}),
        ("lora.alpha", {"config__lora__alpha": 9.5}),
        ("lora.init", {"config__lora__init": "pissa"}),
        ("lora.trainable_token_indices", {"config__lora__trainable_token_indices": [5]}),
        ("lora.target_modules", {"config__lora__target_modules": ["q_proj"]}),
        ("lora.modules_to_save", {"config__lora__modules_to_save": ["lm_head"]}),
        ("optimizer.name", {"config__optimizer__name": "sgd"}),
    ],
)
def test_what_makes_it_another_run_cannot_be_allowed(
    run: RunFile, lock: dict[str, Any], key: str, now: dict[str, Any]
) -> None:
    (finding,) = refused(run, lock, other(lock, **now))
    assert finding.code == "CF745" and finding.title.startswith(f"{key} is ")
    assert finding.notes == (NEVER[key],)
    assert not any("--allow" in words for words in finding.helps)
    told = refused(run, lock, other(lock, **now), key)
    assert sorted(f.code for f in told) == ["CF744", "CF745"]


def test_all_differences_are_told_at_once_in_the_order_of_the_config(
    run: RunFile, lock: dict[str, Any]
) -> None:
    now = other(
        lock,
        config__lora__r=8,
        config__run__seed=77,
        config__lr__reference=2e-4,
        plan__learning_rate__peak=2e-4,
        config__model__dtype="float16",
        config__optimizer__betas=[0.9, 0.95],
    )
    findings = refused(run, lock, now, "lr.refrence", "run.seed")
    assert [(f.code, f.title.split(" ")[0]) for f in findings] == [
        ("CF744", "--allow"),
        ("CF744", "--allow"),
        ("CF745", "run.seed"),
        ("CF743", "model.dtype"),
        ("CF743", "lr.reference"),
        ("CF743", "optimizer.betas"),
        ("CF745", "lora.r"),
    ]
    assert findings[0].helps == ("the nearest is lr.reference",)
    assert "error[CF743]: lr.reference is 0.0002, and the run was" in render(findings, colour=False)


@pytest.mark.parametrize("word", ["lr.speed", "lr", "reference", "", "data", "cluster.gpus"])
def test_an_unknown_word_after_allow_is_refused(run: RunFile, lock: dict[str, Any], word: str) -> None:
    (finding,) = refused(run, lock, lock, word)
    assert finding.code == "CF744"
    known = ["batch.micro_batch_size", "deepspeed", "cluster.num_nodes", "lr.reference"]
    assert hold_against(run, (1, lock), lock, known) == ()


@pytest.mark.parametrize(
    "now",
    [
        {"config__data__train": ["/scratch/data.jsonl"]},
        {"config__tokenizer": {"path": "/scratch/tokenizer"}},
        {"config__lr__warmup_fraction": 0.1, "config__lr__warmup_steps": None},
        {"config__lr__rule": "linear", "config__lr__reference_batch": 8},
        {"config__train": {"epochs": None, "max_steps": 12}},
        {"config__lora__target_modules": ["v_proj", "q_proj"]},
        {"config__batch__global_batch_size": None},
    ],
)
def test_the_same_thing_in_other_words_is_no_change(
    run: RunFile, lock: dict[str, Any], now: dict[str, Any]
) -> None:
    assert hold_against(run, (1, lock), other(lock, **now)) == ()


def test_other_groups_are_another_rate(run: RunFile, lock: dict[str, Any]) -> None:
    def with_groups(**ratios: float) -> dict[str, Any]:
        peaks = {group: ratio * 1e-4 for group, ratio in ratios.items()}
        return other(lock, config__lr__groups=ratios, plan__learning_rate__group_peaks=peaks)

    for before, now in (({}, {"lora_B": 16.0}), ({"lora_B": 16.0}, {"lora_B": 8.0}), ({"lora_B": 16.0}, {})):
        with pytest.raises(Refused, match="CF743") as caught:
            hold_against(run, (1, with_groups(**before)), with_groups(**now))
        assert caught.value.findings[0].helps[1].startswith("or change it on purpose: --allow lr.groups ")
        change = Change("lr.groups", before, now)
        assert hold_against(run, (1, with_groups(**before)), with_groups(**now), ["lr.groups"]) == (change,)


def test_keys_that_the_older_lock_did_not_know_are_no_change(run: RunFile, lock: dict[str, Any]) -> None:
    old = copy.deepcopy(lock)
    del old["config"]["lora"]["dropout"], old["config"]["tracking"]
    assert hold_against(run, (1, old), lock) == ()


def test_steps_that_hold_other_samples_for_no_written_reason(run: RunFile, lock: dict[str, Any]) -> None:
    (finding,) = refused(run, lock, other(lock, plan__batches_sha256="c" * 64))
    assert finding.code == "CF745" and finding.title.startswith("batches_sha256 is ")
    now = other(lock, plan__batches_sha256="c", config__model__dtype="float16")
    assert [f.code for f in refused(run, lock, now, "model.dtype")] == ["CF745"]


def a_job(run: RunFile) -> Job:
    pairs = [(0, sample) for sample in range(12)]
    config = {"config": run.config.model_dump(mode="json"), "plan": {}, "index": {}}
    return Job(Path(run.run_dir), DATA, [pairs[i : i + 2] for i in range(0, 12, 2)], lock_changes=config)


def test_there_must_be_a_run_to_continue(run: RunFile) -> None:
    with pytest.raises(Refused) as caught:
        read_previous_attempts(run)
    (finding,) = caught.value.findings
    assert finding.code == "CF747" and "holds no run" in finding.title


def test_what_is_left_to_do_of_a_run_whose_steps_are_done(run: RunFile) -> None:
    """first: where the newest checkpoint stands. Every way on is open, and what is whole is not trained
    again.
    """

    def code(first: int, steps: int = 6, **repeated: bool) -> str:
        try:
            refuse_finished(run, read_previous_attempts(run), first, steps, **repeated)
        except Refused as refused:
            (finding,) = refused.findings
            return f"{finding.code} {refused.exit_code}"
        return "goes on"

    job, folder = a_job(run), Path(run.run_dir)
    job.run(4, ending=Ending("stop_after", 4, 0, 4))
    assert code(4) == code(0) == code(4, 4) == code(4, is_repeated=True) == "goes on"
    assert code(4, 3) == "CF747 1"
    job.run(6, first_step=4, ending=Ending("finished", 6, 0, 6, saved_path="adapter"))
    assert code(6) == code(4) == code(6, is_repeated=True) == "goes on", "the adapter is not there"
    assert code(0) == code(0, is_repeated=True) == "CF747 1", "nothing holds the weights"
    saved_adapter(folder / "adapter")
    assert code(6, is_repeated=True) == "goes on", "the receipt is not there"
    (folder / "receipt.json").touch()
    assert code(6, is_repeated=True) == code(0, is_repeated=True) == "CF755 0"
    assert (code(6), code(4), code(0)) == ("goes on", "CF747 1", "CF747 1")
    assert code(4, 7) == code(4, 7, is_repeated=True) == "goes on", "it was made longer"
    weights = folder / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert code(6, is_repeated=True) == "goes on", "the adapter is cut"
    write_ending(attempt_path(run.run_dir, 2, "ending.json"), Ending("finished", 6, 1, 6))
    assert code(6) == code(0) == "goes on", "its result could not be saved"


def saved_adapter(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    save_file({"a": np.zeros(3, dtype=np.float32)}, folder / "adapter_model.safetensors")


def test_papers_that_the_end_needs_are_looked_at_before_the_start(run: RunFile) -> None:
    job, folder = a_job(run), Path(run.run_dir)
    job.run(2)
    job.run(4, first_step=2)

    def codes() -> list[str]:
        with pytest.raises(Refused) as caught:
            read_previous_attempts(run)
        assert caught.value.exit_code == 2
        return [finding.code for finding in caught.value.findings]

    for name, code in (
        ("attempt-001/attempt.json", "CF742"),
        ("attempt-002/attempt.json", "CF742"),
        ("attempt-002/plan.lock.json", "CF706"),
    ):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).unlink()
        assert codes() == [code], name
        (folder / name).write_text("{", encoding="utf-8")
        assert codes() == [code], name
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "attempt-001/ending.json").write_text("", encoding="utf-8")
    assert codes() == ["CF707"]
    (folder / "attempt-001/ending.json").unlink()
    shutil.rmtree(folder / "attempt-001")
    assert codes() == ["CF742"]


@pytest.mark.parametrize(("name", "code"), [("ledger.jsonl", "CF704"), ("plan.lock.json", "CF706")])
def test_a_file_that_no_run_wrote_is_not_gone_on_with(run: RunFile, name: str, code: str) -> None:
    """Under the names that make a folder a run's: it would be cut back, or written over."""
    theirs = Path(run.run_dir, name)
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine\n", encoding="utf-8")
    with pytest.raises(Refused, match=code):
        read_previous_attempts(run)


def test_an_only_attempt_without_its_record_is_not_continued(run: RunFile) -> None:
    a_job(run).run(2)
    Path(run.run_dir, "attempt-001/attempt.json").unlink()
    with pytest.raises(Refused, match="CF742"):
        read_previous_attempts(run)


def test_the_runs_own_lock_is_written_again_from_its_first_attempts(run: RunFile) -> None:
    job, folder = a_job(run), Path(run.run_dir)
    job.run(2)
    lock = folder / "plan.lock.json"
    text = lock.read_text(encoding="utf-8")
    lock.unlink()
    assert read_run(run.run_dir).lock == json.loads(text), "a receipt can be made all the same"
    assert read_previous_attempts(run).attempt == 2
    make_folder(run, 2)
    record_attempt(run, an_attempt(2, 0), {**job.lock(1, 1)})
    assert lock.read_text(encoding="utf-8") == text


def test_looking_back_at_two_attempts(run: RunFile) -> None:
    job = a_job(run)
    job.run(3, torn_bytes=30)
    previous_attempts = read_previous_attempts(run)
    assert (previous_attempts.attempt, previous_attempts.ending, len(previous_attempts.lines)) == (2, None, 3)
    assert previous_attempts.lines.torn is not None
    job.run(4, first_step=2, ending=Ending("signal", 4, 75, 6))
    previous_attempts = read_previous_attempts(run)
    assert (previous_attempts.attempt, len(previous_attempts.attempts), len(previous_attempts.lines)) == (
        3,
        2,
        5,
    )
    assert previous_attempts.ending is not None and previous_attempts.ending.reason == "signal"
    Path(run.run_dir, "ledger.jsonl").unlink()  # killed before its first step
    assert list(read_previous_attempts(run).lines) == []


def test_a_plan_is_held_against_what_the_kept_steps_were_trained_with(run: RunFile) -> None:
    job = a_job(run)
    topologies = {1: (2, 2), 2: (1, 1), 3: (3, 1)}
    for number, (first_step, end) in enumerate(((0, 2), (2, 4), (4, 5)), start=1):
        job.run(end, first_step=first_step, topology=topologies[number])
    for first_step, number in ((0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)):
        expected = (number, job.lock(*topologies[number]))
        assert lock_in_force(run, read_previous_attempts(run), first_step) == expected


def test_the_last_step_done_must_be_a_step_of_the_new_plan(run: RunFile, lock: dict[str, Any]) -> None:
    def of(**length: int) -> Schedule:
        return Schedule(num_samples=11, global_batch_size=4, seed=3, last_step="carry", **length)

    schedule = of(epochs=1)
    pairs = [[(0, int(sample)) for sample in schedule.samples(step)] for step in range(3)]
    Job(Path(run.run_dir), DATA, pairs).run(3)
    digests = np.array([DATA.segment(sample).digest for sample in range(12)], dtype=np.uint64)
    previous_attempts = read_previous_attempts(run)

    def held(first_step: int, now: Schedule) -> None:
        refuse_other_past(run, past_of(1, lock, previous_attempts.counted, first_step), now, digests)

    for first_step in range(4):
        held(first_step, schedule)
    held(2, of(epochs=2))
    with pytest.raises(Refused) as caught:  # step 2 held the 3 samples that were left
        held(3, of(epochs=2))
    (finding,) = caught.value.findings
    assert finding.code == "CF745" and "step 3 4 samples, and it was trained with 3" in finding.title
    with pytest.raises(Refused, match="makes a run of 2 steps, and 3 steps are done"):
        held(3, of(max_steps=2))


@pytest.mark.parametrize(
    ("first_step", "batch", "behind"),
    [
        (2, ((0, 4), (8, 2)), None),
        (2, ((0, 4), (7, 2)), None),  # no step begins between sample 4 and 8
        (2, ((0, 4), (9, 2)), None),
        (2, ((0, 4), (4, 2)), "[[0, 4], [8, 2]]"),
        (1, ((0, 4), (4, 2)), None),
        (2, ((0, 2), (8, 4)), ""),
        (3, ((0, 4), (8, 3)), None),  # the same samples, otherwise written: the data ends there
        (2, ((0, 3), (3, 5), (9, 6)), "[[0, 4], [8, 5], [9, 6]]"),
        (0, ((0, 2),), ""),
    ],
)
def test_the_batch_may_be_another_behind_what_is_trained(
    run: RunFile, lock: dict[str, Any], first_step: int, batch: Thresholds, behind: str | None
) -> None:
    def of(pairs: Thresholds) -> Schedule:
        most = max(size for _, size in pairs)
        given: dict[str, Any] = {"num_samples": 11, "seed": 3, "last_step": "carry", "epochs": 1}
        return Schedule(global_batch_size=most, batch_from_samples=pairs[1:] and pairs, **given)

    before, schedule = of(((0, 4),)), of(batch)
    pairs = [[(0, int(sample)) for sample in before.samples(step)] for step in range(3)]
    Job(Path(run.run_dir), DATA, pairs).run(3)
    lock = other(lock, plan__global_batch_size=4, config__lr__schedule="constant")
    now = other(lock, plan__batch_from_samples=batch, plan__batches_sha256="c")
    digests = np.array([DATA.segment(sample).digest for sample in range(12)], dtype=np.uint64)
    lines = [replace(line, planned_lr=1e-3) for line in read_previous_attempts(run).counted]
    past = past_of(1, lock, lines, first_step)
    rate = replace(run_rate(run, schedule), warmup_steps=0, schedule="constant")
    if behind is None:
        (change,) = hold_plan(run, past, now, schedule, rate, digests, ())
        assert (change.key, change.before, change.now) == ("batch.global_batch_size", 4, batch)
        jumps = replace(rate, warmup_steps=2)
        with pytest.raises(Refused, match="CF119"):
            hold_plan(run, past, now, schedule, jumps, digests, ())
        assert hold_plan(run, past, now, schedule, jumps, digests, ("lr.warmup_steps",)) == (change,)
        return
    with pytest.raises(Refused, match="CF745") as caught:
        hold_plan(run, past, now, schedule, rate, digests, ())
    (finding,) = caught.value.findings
    told = [words for words in finding.helps if "behind the 8 samples" in words]
    assert [f"batch.global_batch_size={behind}" in words for words in told] == [True] * bool(behind)


def test_a_lock_that_holds_no_config_cannot_be_compared(run: RunFile) -> None:
    job = a_job(run)
    job.lock_changes = {"config": None}
    job.run(3)
    with pytest.raises(Refused, match="CF706"):
        lock_in_force(run, read_previous_attempts(run), 2)


def test_of_two_processes_one_begins_the_attempt(run: RunFile) -> None:
    a_job(run).run(3)
    make_folder(run, read_previous_attempts(run).attempt)
    with pytest.raises(Refused) as caught:
        make_folder(run, 2)
    assert caught.value.findings[0].code == "CF748"
    assert read_previous_attempts(run).attempt == 3


def test_a_used_folder_is_to_be_continued(run: RunFile) -> None:
    make_folder(run, 1)
    with pytest.raises(Refused) as caught:
        refuse_used_folder(run)
    (finding,) = caught.value.findings
    assert finding.code == "CF011" and f"--continue {run.run_dir}" in finding.helps[0]


def test_the_first_attempt_that_starts_writes_the_lock_of_the_run(run: RunFile, lock: dict[str, Any]) -> None:
    make_folder(run)  # killed before it started
    assert lock_in_force(run, read_previous_attempts(run), 0) is None
    make_folder(run, 2)
    record_attempt(run, an_attempt(2, 0), with_hash(lock))
    make_folder(run, 3)
    record_attempt(run, an_attempt(3, 0), with_hash(other(lock, plan__total_steps=99)))
    for path, steps in ((Path(run.run_dir), 12), (Path(attempt_path(run.run_dir, 3)), 99)):
        assert json.loads((path / "plan.lock.json").read_text())["plan"]["total_steps"] == steps
    assert [attempt.attempt for attempt in read_attempts(run.run_dir)] == [2, 3]
    in_force = lock_in_force(run, read_previous_attempts(run), 0)
    assert in_force is not None and in_force[0] == 2


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_later_attempt_without_a_step_leaves_the_run_as_it_was(run: RunFile) -> None:
    job = a_job(run)
    job.run(3, ending=Ending("signal", 3, 75, 6))
    before, receipt = snapshot(job.folder), receipt_of(run.run_dir)
    make_folder(run, 2)
    record_attempt(run, an_attempt(2, 2), job.lock(1, 1))
    for name in ("config.yaml", "deepspeed.json", "ending.json", "ledger-cut.jsonl"):
        Path(attempt_path(run.run_dir, 2, name)).write_text("x")
    LedgerBook(str(job.ledger)).close()
    release_folder(run, 2)
    assert snapshot(job.folder) == before and receipt_of(run.run_dir) == receipt
    assert not Path(attempt_path(run.run_dir, 2)).exists()


def test_an_attempt_with_a_line_stays(run: RunFile) -> None:
    job = a_job(run)
    job.run(3)
    release_folder(run)
    job.run(4, first_step=3)
    before = snapshot(job.folder)
    release_folder(run, 2)
    release_folder(run, 1)  # it was not killed after all, and fails now
    assert snapshot(job.folder) == before and len(read_book(str(job.ledger))) == 4
