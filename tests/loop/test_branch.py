"""Runs that branch off one checkpoint and go on with another batch: they are those that were planned so from
the start; and what no branch can be.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossfoot.branching.point import find_branch_point
from crossfoot.cli import main
from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Refused
from crossfoot.receipts.receipt import receipt_of
from crossfoot.receipts.receipt_page import render_receipt
from crossfoot.runs import resume
from crossfoot.runs.ending import lock_sha256
from crossfoot.training.rank_job import TrainOptions
from crossfoot.training.session import run
from crossfoot.watching.lines import Teller
from crossfoot.watching.watcher import Watcher
from support.launching import folded_config, ledger

UP, DOWN = "batch.global_batch_size=[[0, 4], [12, 8]]", "batch.global_batch_size=[[0, 8], [24, 3]]"
SAME = ("step", "real_samples", "samples_sha256", "first_seen_samples", "lr", "epoch", "loss", "grad_norm")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config for two ranks, and two runs of it with checkpoints after 3 and 6 steps."""
    folder = tmp_path_factory.mktemp("branch")
    folded_config(
        folder,
        train={"max_steps": 6},
        lr={"reference": 1e-3, "reference_batch": 4, "rule": "sqrt", "schedule": "constant"},
        checkpoint={"every_steps": 3, "keep": 5},
    )
    config = json.loads((folder / "config.yaml").read_text())
    config["batch"]["grad_accum_steps"] = None
    (folder / "config.yaml").write_text(json.dumps(config, indent=1))
    for batch in (4, 8):
        assert train(folder, f"long{batch}", f"batch.global_batch_size={batch}") == 0
    return folder


def train(folder: Path, name: str, *words: str, **options: Any) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        words = (f"run.dir={folder / name}", *words)
        return run(str(folder / "config.yaml"), words, read_world({}), TrainOptions(**options))


def branch(folder: Path, point: str, name: str, *words: str) -> int:
    words = (str(folder / "config.yaml"), *words, f"run.dir={folder / name}")
    return main(["branch", f"{folder}/{point}", *words])


def lines_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [{key: line[key] for key in SAME} for line in ledger(folder / name)]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_branch_is_the_run_that_was_planned_so_from_the_start(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its layout is that of the run it comes from, so every bit of it is equal."""
    before = tree(room / "long8")
    (room / ".down.branching-0abc" / "checkpoints").mkdir(parents=True)  # of a call that was killed
    assert branch(room, "long8@3", "down", DOWN, "train.max_steps=7") == 0
    said = capsys.readouterr().out
    assert f"branched off small after 3 steps, 24 samples ({room}/long8)\n" in said
    assert f"train it: crossfoot train {room}/config.yaml '{DOWN}' train.max_steps=7 --continue" in said
    made = tree(room / "down")
    assert not list(room.glob(".down.*"))
    assert branch(room, "long8@3", "down", DOWN, "train.max_steps=7") == 0  # made already
    assert tree(room / "down") == made and tree(room / "long8") == before
    assert receipt_of(str(room / "down")).foots_so_far

    assert train(room, "down", DOWN, "train.max_steps=7", continues=True) == 0
    assert train(room, "calm", DOWN, "train.max_steps=7") == 0
    assert lines_of(room, "down") == lines_of(room, "calm")
    assert [line["real_samples"] for line in ledger(room / "down")] == [8, 8, 8, 3, 3, 3, 3]
    receipt = receipt_of(str(room / "down"))
    assert receipt.foots and receipt.branch is not None and receipt.branch.step == 3
    page = render_receipt(receipt)
    assert "branched off small after 3 steps, 24 samples" in page
    assert "changed on purpose in attempt 2: batch.global_batch_size 8 -> [[0, 8], [24, 3]]" in page
    told = Teller().tell(Watcher(str(room / "down")).look())
    assert any(line.startswith("branched off small after 3 steps") for line in told)
    assert tree(room / "long8") == before


def test_a_larger_batch_from_here_on_in_the_same_folder_and_in_a_branch_on_other_ranks(room: Path) -> None:
    assert train(room, "one", "batch.global_batch_size=4", stop_after=3) == 0
    with pytest.raises(Refused, match="CF745") as caught:
        train(room, "one", "batch.global_batch_size=8", continues=True)
    assert caught.value.findings[0].helps[1] == (
        f"or change it behind the 12 samples that are trained: '{UP}'"
    )
    assert train(room, "one", UP, continues=True) == 0
    assert [line["real_samples"] for line in ledger(room / "one")] == [4, 4, 4, 8, 8, 8]

    assert branch(room, "long4@3", "up", UP) == 0
    assert train(room, "up", UP, continues=True, stop_after=4) == 0
    assert train(room, "up", UP, "cluster.gpus_per_node=3", continues=True) == 0
    ours, theirs = lines_of(room, "up"), lines_of(room, "one")
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("loss", "grad_norm"):  # other layouts round otherwise
            assert mine.pop(key) == pytest.approx(other.pop(key), rel=1e-5)
    assert ours == theirs
    assert receipt_of(str(room / "one")).foots and receipt_of(str(room / "up")).foots


@pytest.mark.parametrize("told", ["batch.global_batch_size=8", "batch.global_batch_size=[[0, 4], [13, 8]]"])
def test_samples_that_do_not_follow_the_checkpoint_do_not_foot(
    room: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """A plan with another past that goes on behind it; and a lock that says what was not trained."""
    name = "astray" if "[" in told else "other-past"
    assert branch(room, "long4@3", name, UP) == 0
    if "[" in told:
        assert train(room, name, UP, continues=True) == 0
        lock = room / name / "attempt-002" / "plan.lock.json"
        document = json.loads(lock.read_text())
        document["plan"]["batch_from_samples"] = [[0, 4], [13, 8]]
        lock.write_text(json.dumps(document | {"sha256": lock_sha256(document)}))
    else:
        monkeypatch.setattr(resume, "hold_plan", lambda *words: ())
        train(room, name, told, continues=True)
    receipt = receipt_of(str(room / name))
    kinds = {cause.kind for cause in receipt.causes}
    assert not receipt.foots and "samples not promised" in kinds
    behind = any("the plan of attempt 2, which goes on behind it" in one.message for one in receipt.causes)
    assert behind == ("[" not in told)


def flip(source: Path) -> None:
    (file,) = (source / "checkpoints" / "step-000003").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-9] ^= 16
    file.write_bytes(content)


def forge(source: Path) -> None:
    path = source / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["lr"] *= 2
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def shorten(source: Path) -> None:
    path = source / "ledger.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))


@pytest.mark.parametrize(
    ("harm", "point", "words", "code", "said"),
    [
        (None, "@4", (UP,), "CF756", "name one that is there: "),
        (None, "", (UP,), "CF120", "name the run and its steps: "),
        (None, "x@3", (UP,), "CF040", "the nearest name: "),
        (flip, "@3", (UP,), "CF756", "step-000003: "),
        (forge, "@3", (UP,), "CF120", "the lock promises the rate 0.001, the optimizer was given 0.002"),
        (shorten, "@3", (UP,), "CF120", "knows 2 of the 3 steps"),
        (None, "@3", (UP, "run.seed=8"), "CF745", "run.seed is 8"),
        (None, "@3", (UP, "data.last_step=drop"), "CF745", "data.last_step"),
        (None, "@3", (UP, "lora.r=2"), "CF745", "lora.r is 2"),
        (None, "@3", (UP, "lr.reference=2e-3"), "CF743", "--allow lr.reference"),
        (None, "@3", ("batch.global_batch_size=8",), "CF745", f"'{UP}'"),
        (None, "@3", ("batch.global_batch_size=[[0, 4], [8, 8]]",), "CF745", "behind the 12 samples"),
        (None, "@3", (UP, "lr.warmup_steps=null", "lr.warmup_fraction=1.0"), "CF743", "lr.warmup_steps"),
    ],
)
def test_what_cannot_be_branched_off_is_said_and_nothing_is_made(
    room: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None] | None,
    point: str,
    words: tuple[str, ...],
    code: str,
    said: str,
) -> None:
    source = shutil.copytree(room / "long4", tmp_path / "source")
    if harm is not None:
        harm(source)
    config = ("branch", f"{source}{point}", str(room / "config.yaml"), *words, f"run.dir={tmp_path}/new")
    assert main(config) in (1, 2)
    told = capsys.readouterr().out
    assert f"error[{code}]" in told and said in told
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_rates_that_end_with_the_run_are_those_of_its_length(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    falls = ("lr.warmup_steps=1", "lr.schedule=cosine", "train.epochs=1", "train.max_steps=null")
    assert train(room, "falls", *falls, "batch.global_batch_size=4", stop_after=3) == 0
    assert branch(room, "falls@3", "fallen", *falls, UP) == 1
    told = capsys.readouterr().out
    assert "error[CF119]: step 3 was trained at the rate" in told
    assert "lr.schedule cosine follows the length of the run: 7 steps now, 10 before" in told
    assert "keep the length of the run: train.max_steps=10 train.epochs=null\n" in told
    kept = (*falls[:2], "train.max_steps=10", "train.epochs=null")
    assert branch(room, "falls@3", "fallen", *kept, UP) == 0
    assert branch(room, "falls@3", "jumps", *falls, UP, "--allow", "train.epochs") == 0
    with pytest.raises(Refused, match="CF119") as caught:
        train(room, "falls", *falls, UP, continues=True)
    keep = "train.max_steps=10 train.epochs=null --allow train.epochs --allow train.max_steps"
    assert caught.value.findings[0].helps[0] == f"keep the length of the run: {keep}"
    higher = ("lr.reference=2e-3", "--allow", "lr.reference", UP)
    assert branch(room, "falls@3", "higher", *falls, *higher) == 1
    assert "error[CF119]" in capsys.readouterr().out
    assert branch(room, "falls@3", "higher", *kept, *higher) == 0
    assert train(room, "higher", *kept, "lr.reference=2e-3", UP, continues=True, stop_after=4) == 0
    assert receipt_of(str(room / "higher")).foots


def test_a_record_that_cannot_be_read_is_said(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert branch(room, "long4@6", "torn", "batch.global_batch_size=4", "train.max_steps=8") == 0
    (room / "torn" / "branch.json").write_text('{"format": 1, "step": "six"}')
    capsys.readouterr()
    assert main(["receipt", str(room / "torn")]) == 2
    assert "error[CF742]: the record of a branch cannot be read" in capsys.readouterr().out
    with pytest.raises(Refused, match="CF742"):
        train(room, "torn", "batch.global_batch_size=4", "train.max_steps=8", continues=True)


def test_a_point_says_how_another_batch_follows(room: Path) -> None:
    point = find_branch_point(f"{room / 'long4'}@3")
    assert (point.step, point.samples, point.attempt) == (3, 12, 1)
    assert point.override(8) == UP and point.override(4) == "batch.global_batch_size=4"
