"""TensorBoard and Weights & Biases show what the ledger and the validations say: live, and afterwards."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossfoot.cli import main
from crossfoot.runs.validations import read_validations
from support.loop_room import Room
from support.steering import until
from support.wandb_file import wandb_rows
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

Scalars = dict[str, dict[int, float]]


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    return room.validated(
        validation={"every_steps": 2},
        checkpoint={"every_steps": 2, "keep": 3},
        tracking={"tensorboard": True},
        train={"max_steps": 4},
    )


def scalars(folder: Path) -> tuple[Scalars, str]:
    """(tag -> step -> number, all texts) of a folder's only event file: records of length, its checksum, an
    event, its checksum.
    """
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    content, at, found, texts = file.read_bytes(), 0, {}, ""
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        at += 12 + length + 4
        for value in event.summary.value:
            if value.HasField("tensor"):
                texts += str(value.tensor.string_val)
            else:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found, texts


def test_both_show_the_ledger(
    values: dict[str, Any], trains: Callable[..., Watched], capsys: pytest.CaptureFixture[str]
) -> None:
    trains(values, stop_after=2)
    run = trains(values, continues=True)
    folder, validations = run.run_dir, read_validations(str(run.run_dir))
    assert main(["mirror", str(folder)]) == 0
    assert "4 steps and 2 validations mirrored" in capsys.readouterr().out
    losses = {line["step"] + 1: pytest.approx(line["loss"], rel=1e-6) for line in run.ledger}
    judged = {one.step: pytest.approx(one.next_token_accuracy, rel=1e-6) for one in validations}
    assert sorted(judged) == [2, 4]
    seen: dict[str, Any] = {}
    for name, steps in (("attempt-001", (1, 2)), ("attempt-002", (3, 4)), ("counted", (1, 2, 3, 4))):
        seen, texts = scalars(folder / "tensorboard" / name)
        assert seen["ledger/loss"] == {step: losses[step] for step in steps}
        assert seen["validation/next_token_accuracy"] == {
            step: number for step, number in judged.items() if step in steps
        }
        assert "foots: yes" in texts
    numbers = {key for key, value in run.ledger[0].items() if isinstance(value, (int, float))}
    assert {tag.partition("/")[2] for tag in seen if tag.startswith("ledger/")} == numbers
    assert main(["mirror", str(folder)]) == 1
    assert "CF788" in capsys.readouterr().out

    assert main(["mirror", str(folder), "--to", "wandb", "--offline"]) == 0
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    until(lambda: "foots" in wandb_rows(file)[1])  # wandb's own process writes, on a busy machine later
    rows, summary = wandb_rows(file)
    assert [row["loss"] for row in rows] == [line["loss"] for line in run.ledger]
    assert rows[1]["validation/loss"] == validations[0].loss and summary["foots"] is True
