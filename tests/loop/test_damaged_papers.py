"""Every paper of a real run damaged in every way, and every verb that reads it: findings, no traceback."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfoot.checkpoints.manifest import Damaged
from crossfoot.checkpoints.store import checkpoint_in
from crossfoot.cli import main
from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Refused
from crossfoot.findings.render import render
from crossfoot.launch.outcome import outcome_of
from crossfoot.launch.submit import submitted_job
from crossfoot.liveness.heartbeats import Heartbeat, write_heartbeat
from crossfoot.liveness.judging import Judge
from crossfoot.liveness.verdicts import write_verdict
from crossfoot.runs.attempts import read_attempts
from crossfoot.runs.changing import hold_against
from crossfoot.runs.ending import read_ending, read_lock
from crossfoot.runs.resume import choose_checkpoint, lock_in_force, read_previous_attempts, refuse_finished
from crossfoot.training.rank_job import TrainOptions
from crossfoot.training.session import run as train
from crossfoot.written.run_file import load_run
from support.damaged_papers import ODD_FILES, ODD_VALUES, put_instead, sealed, ways, with_value, written
from support.launching import folded_config

STEPS = 6
PAPERS = (
    *("plan.lock.json", "attempt-001/plan.lock.json", "attempt-002/plan.lock.json"),
    *("attempt-001/attempt.json", "attempt-002/attempt.json", "attempt-002/ending.json"),
    *("checkpoints/step-000002/manifest.json", "checkpoints/step-000004/manifest.json"),
    *("heartbeat/rank-00001.json", "heartbeat/verdict-attempt-002.json", "launch/submitted.json"),
    *("ledger.jsonl", "index"),
)
FUZZ = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two attempts, stopped before its end, with heartbeats and a verdict."""
    folder = tmp_path_factory.mktemp("papers")
    folded_config(folder, train={"max_steps": STEPS}, checkpoint={"every_steps": 2, "keep": 3})
    words = (f"run.dir={folder / 'run'}",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        for options in (TrainOptions(stop_after=2), TrainOptions(stop_after=4, continues=True)):
            assert train(str(folder / "config.yaml"), words, read_world({}), options) == 0
    run = folder / "run"
    for name in ("heartbeat", "launch"):
        (run / name).mkdir(exist_ok=True)
    for rank in (0, 1):
        beat = Heartbeat(2, rank, "node1", 4_000_000 + rank, "training", 4, 9, time.time(), 1.0)
        write_heartbeat(run, beat)
    judge = Judge(2, 0, 2, 10.0, 1.0)
    judge.look(0.0, [])
    write_verdict(run, judge.verdict("silent", [1], 3.0))
    (run / "launch" / "submitted.json").write_text('{"job_id": "12", "script": "x"}')
    return folder


@contextmanager
def damaged(room: Path, paper: str, damage: Callable[[Path], object]) -> Iterator[Path]:
    """A copy of the run with one paper damaged; the index beside it is mended afterwards."""
    copy = room / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(room / "run", copy)
    path = copy / paper if paper != "index" else next(room.rglob("header.json"))
    whole = path.read_bytes()
    try:
        damage(path)
        yield copy
    finally:
        if paper == "index":
            path.write_bytes(whole)


def every_verb(room: Path, run_dir: Path) -> list[object]:
    """What reads the papers of a run, as a user would ask for it; exit codes."""
    run = load_run(str(room / "config.yaml"), [f"run.dir={run_dir}"])

    def resume() -> None:
        before = read_previous_attempts(run)
        checkpoint, findings = choose_checkpoint(run, before)
        render(findings)
        in_force = lock_in_force(run, before, 0 if checkpoint is None else checkpoint.step)
        if in_force is not None:
            hold_against(run, in_force, read_lock(str(room / "run" / "plan.lock.json")))
        refuse_finished(run, before, 0 if checkpoint is None else checkpoint.step, STEPS)

    codes: list[object] = []
    words = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with redirect_stdout(words), redirect_stderr(words):
        for verb in (["receipt", str(run_dir)], ["receipt", str(run_dir), "--json"]):
            codes.append(main(verb))
        codes.append(main(["watch", str(run_dir), "--once", "--plain"]))
        try:
            resume()
        except Refused as refused:
            render(refused.findings)
        outcome = outcome_of(str(run_dir), [1], 1)
        render(outcome.findings)
        submitted_job(str(run_dir))
        words.flush()
    return [*codes, outcome.exit_code]


def documents(room: Path, paper: str) -> tuple[list[bytes], Any]:
    """The lines of a paper, and the document that is to be damaged: of the ledger its second line."""
    path = room / "run" / paper if paper != "index" else next(room.rglob("header.json"))
    lines = path.read_bytes().splitlines(keepends=True)
    return lines, json.loads(lines[1] if paper == "ledger.jsonl" else b"".join(lines))


@FUZZ
@given(data=st.data())
def test_one_value_of_a_paper_is_another(room: Path, data: st.DataObject) -> None:
    paper = data.draw(st.sampled_from(PAPERS))
    lines, document = documents(room, paper)
    way = data.draw(st.sampled_from(list(ways(document))))
    value = data.draw(st.sampled_from(ODD_VALUES))
    changed = with_value(document, way, value)
    if data.draw(st.booleans()):
        changed = sealed(changed, is_header=paper == "index")
    raw = written(changed)
    if paper == "ledger.jsonl":
        raw = b"".join([lines[0], raw, *lines[2:]])
    with damaged(room, paper, lambda path: path.write_bytes(raw)) as run_dir:
        assert set(every_verb(room, run_dir)) <= {0, 1, 2, 3}


@FUZZ
@given(paper=st.sampled_from(PAPERS), content=st.sampled_from(ODD_FILES))
def test_a_paper_is_another_file(room: Path, paper: str, content: bytes) -> None:
    with damaged(room, paper, lambda path: path.write_bytes(content)) as run_dir:
        assert set(every_verb(room, run_dir)) <= {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_a_paper_is_no_file(room: Path, kind: str) -> None:
    for paper in PAPERS[:-1]:
        with damaged(room, paper, lambda path: put_instead(path, kind)) as run_dir:
            assert set(every_verb(room, run_dir)) <= {0, 1, 2, 3}, paper


@pytest.mark.parametrize(
    ("paper", "way", "value", "note"),
    [
        ("plan.lock.json", ("config", "run", "seed"), "7", "config.run.seed is '7', not a whole number"),
        ("plan.lock.json", ("expects", "samples"), 10**30, "samples is 1000"),
        ("plan.lock.json", ("config", "lr", "rule"), "linear", "config.lr cannot be: the rule linear needs"),
        ("plan.lock.json", ("plan", "total_steps"), 10**12, "plan cannot be: total_steps is 1000000000000"),
        ("attempt-002/attempt.json", ("from_checkpoint",), "../../x", "the name of no checkpoint"),
        ("attempt-002/attempt.json", ("world_size",), 10**12, "world_size is 1000000000000"),
        ("attempt-002/ending.json", ("step",), None, "step is None, not a whole number"),
    ],
)
def test_the_finding_names_the_paper_and_its_key(
    room: Path, paper: str, way: tuple[str, ...], value: object, note: str
) -> None:
    _, document = documents(room, paper)
    raw = written(sealed(with_value(document, way, value)))
    readers: dict[str, Callable[[str], object]] = {
        "plan.lock.json": read_lock,
        "attempt.json": lambda path: read_attempts(str(Path(path).parents[1])),
        "ending.json": read_ending,
    }
    bad = damaged(room, paper, lambda path: path.write_bytes(raw))
    with bad as run_dir, pytest.raises(Refused) as refused:
        readers[Path(paper).name](str(run_dir / paper))
    (finding,) = refused.value.findings
    assert finding.place is not None and finding.place.file.endswith(paper)
    assert note in " ".join(finding.notes)


def test_a_checkpoint_that_is_a_pipe_is_damaged(room: Path) -> None:
    name = "checkpoints/step-000004/manifest.json"
    bad = damaged(room, name, lambda path: put_instead(path, "pipe"))
    with bad as run_dir, pytest.raises(Damaged, match="not a regular file"):
        checkpoint_in(run_dir, "step-000004")
