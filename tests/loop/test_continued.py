"""Stopped and continued is undisturbed, to the bit; a resume position that was not written is refused."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from crossfoot.checkpoints.manifest import read_manifest
from crossfoot.findings.finding import Refused
from crossfoot.runs.attempts import read_attempts
from crossfoot.training import step_hooks
from support import plain_torch
from support.loop_room import Room
from support.plain_torch import Tensors
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

Trains = Callable[..., Watched]
UNASKED = {"checkpoint": {"every_steps": None}, "validation": {"every_steps": None}}
"""No pause of the run's own."""


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    """Everything that a continued run must take up: moments, rates after a warm-up, dropout draws, samples
    that an earlier epoch has seen. It is validated without dropout.
    """
    validation = str(room.values["data"]["train"][0]).replace("questions", "validation")
    return room.config(
        data={"last_step": "carry", "validation": [validation]},
        lora={"r": 4, "alpha": 8, "dropout": 0.2, "target_modules": ["q_proj", "v_proj"]}
        | {"modules_to_save": ["embed_tokens", "lm_head"]},
        cluster={"num_nodes": 1, "gpus_per_node": 2},
        batch={"micro_batch_size": 3, "global_batch_size": 11},
        lr={"reference": 0.01, "warmup_steps": 1},
        optimizer={"name": "adamw", "betas": [0.9, 0.99], "eps": 1e-3, "weight_decay": 0.1},
        validation={"every_steps": 1},
        checkpoint={"every_steps": 1, "keep": 1, "best": False},
        train={"max_steps": 3},
    )


def timeless(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of the ledger without what differs between attempts."""
    differs = ("seconds", "attempt", "slowest_rank")
    return [{name: line[name] for name in line if not name.endswith(differs)} for line in lines]


def equal(mine: Sequence[Tensors], theirs: Sequence[Tensors]) -> None:
    """The same names and bits, one by one."""
    for one, other in zip(mine, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


def kept(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def test_stopped_and_continued_is_undisturbed_to_the_bit(
    room: Room, values: dict[str, Any], trains: Trains
) -> None:
    whole = trains(values, "whole")
    stopped = trains(values, stop_after=2)
    assert (whole.exit_code, stopped.exit_code) == (0, 0)
    ending = stopped.paper(1, "ending.json")
    assert (ending["reason"], ending["step"], ending["planned_steps"]) == ("stop_after", 2, 2)
    assert (len(stopped.ledger), kept(stopped.run_dir)) == (2, ["step-000002"])
    equal(stopped.after, whole.after[:2])

    going = trains(values, continues=True)
    assert (going.exit_code, kept(going.run_dir)) == (0, ["step-000003"])
    equal([going.start, *going.after], whole.after[1:])
    equal(list(going.kept.values()), list(whole.kept.values()))
    assert going.forwards == whole.forwards[2:]
    assert [line["attempt"] for line in going.ledger] == [1, 1, 2]
    assert timeless(going.ledger) == timeless(whole.ledger)
    assert whole.ledger[2]["first_seen_samples"] == 26 - 22
    (first, second) = read_attempts(str(going.run_dir))
    assert (first.first_step, first.from_checkpoint) == (0, None)
    assert (second.first_step, second.from_checkpoint) == (2, "step-000002")
    file, _, line = first.origins["lr.reference"].rpartition(":")
    assert "reference" in Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert first.versions["torch"] == torch.__version__ and "python" in first.versions
    most_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = ending["memory"]
    assert (memory["of"], memory["rank"]) == ("process", 0)
    assert most_kib / 4 < memory["peak_bytes"] / 1024 <= most_kib

    model = plain_torch.fresh_model(values)
    # B begins at zero: in the first step the dropout before A shows in the step of B alone.
    dry = next(plain_torch.train(model, values, room.samples(values))).after
    apart = plain_torch.apart(whole.after[0], dry, whole.start)
    assert [share > 0.01 for share in apart.values()] == ["lora_B" in name for name in apart]
    model.load_state_dict(whole.after[-1], strict=False)
    loss = plain_torch.mean_loss(model, room.samples(values, "validation"))
    for attempt, run in ((1, whole), (2, going)):
        assert run.paper(attempt, "ending.json")["validation_loss"] == pytest.approx(loss, rel=1e-6)


def test_a_signal_ends_the_run_after_a_step_and_it_goes_on_from_there(
    values: dict[str, Any], trains: Trains
) -> None:
    def signalled(run_dir: Path, updates: int) -> None:
        if updates == 2:
            signal.raise_signal(signal.SIGUSR1)

    values |= UNASKED
    stopped = trains(values, "run", signalled)
    ending = stopped.paper(1, "ending.json")
    # The wish goes round at once.
    assert (stopped.exit_code, ending["reason"], ending["step"]) == (75, "signal", 2)
    assert (len(stopped.after), len(stopped.ledger), kept(stopped.run_dir)) == (2, 2, ["step-000002"])

    assert not (stopped.run_dir / "adapter").exists(), "who is about to be killed writes the checkpoint alone"

    checkpoints = stopped.run_dir / "checkpoints"
    (checkpoints / "step-000002").rename(checkpoints / "step-000001")
    with pytest.raises(Refused, match="CF760") as caught:
        trains(values, continues=True)
    assert "its manifest says 2 steps" in str(caught.value.findings)
    (checkpoints / "step-000001").rename(checkpoints / "step-000002")

    going = trains(values, continues=True)
    assert (going.exit_code, len(going.after)) == (0, 1)
    assert (going.run_dir / "adapter").exists()
    equal([going.start], stopped.after[-1:])


def test_a_checkpoint_on_request_does_not_end_the_run(
    values: dict[str, Any], trains: Trains, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(run_dir: Path, updates: int) -> None:
        if updates == 1:
            (run_dir / "checkpoint-now").touch()

    monkeypatch.setattr(step_hooks, "LOOK_SECONDS", 0.0)
    seen = trains({**values, **UNASKED, "train": {"max_steps": 4}}, "run", asks)
    assert (seen.exit_code, len(seen.after)) == (0, 4)
    assert not (seen.run_dir / "checkpoint-now").exists()
    (step,) = kept(seen.run_dir)
    paused = [line["pause_seconds"] > 0.0 for line in seen.ledger]
    assert (step, paused) == ("step-000002", [False, False, True, False])
    going = read_manifest(seen.run_dir / "checkpoints" / step)
    assert (going.step, going.optimizer_step, going.attempt, going.validation_loss) == (2, 2, 1, None)
