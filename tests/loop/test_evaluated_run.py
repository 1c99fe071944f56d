"""A run is evaluated while it trains, and scores what `crossfoot evaluate` gives of its checkpoints later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crossfoot.cli import main
from crossfoot.runs.evaluations import read_evaluations
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of two subjects, with a worked example each."""
    lines = [
        {
            "subject": "ab"[number % 2],
            "question": f"{'which ' * (number % 4)}{number}?",
            "choices": [str(number), "水", "one or two"],
            "answer": number % 3,
            **({"split": "dev"} if number < 2 else {}),
        }
        for number in range(12)
    ]
    file = tmp_path_factory.mktemp("asked") / "questions.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return str(file)


@pytest.fixture
def evaluated(room: Room, questions: str) -> Callable[..., dict[str, Any]]:
    """Values of a run of two steps that is evaluated after each."""

    def values(**sections: Any) -> dict[str, Any]:
        asked = {"tasks": [questions], "every_steps": 1}
        return room.validated(
            **{
                "evaluation": asked,
                "lr": {"reference": 0.3},
                "train": {"max_steps": 2},
                "data": {},
                **sections,
            }
        )

    return values


def scores(run_dir: Path, step: int) -> bytes:
    return (run_dir / "evaluations" / f"step-{step:06d}" / "scores.jsonl").read_bytes()


def by_the_verb(run: Watched, questions: str, step: int, *words: str) -> bytes:
    out = run.run_dir.parent / f"verb-{step}"
    torch.set_float32_matmul_precision("highest")  # as a process of its own has it
    named = ["--tasks", questions, "--step", str(step), "--out", str(out), *words]
    assert main(["evaluate", str(run.run_dir), *named]) == 0
    return (out / "scores.jsonl").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_are_those_of_the_checkpoint(
    evaluated: Callable[..., dict[str, Any]],
    trains: Callable[..., Watched],
    questions: str,
    dtype: str,
) -> None:
    run = trains(evaluated(model={"dtype": dtype, "gradient_checkpointing": True, "matmul": "medium"}))
    assert run.exit_code == 0, run
    for step in (1, 2):
        assert scores(run.run_dir, step) == by_the_verb(run, questions, step)
    assert scores(run.run_dir, 1) != scores(run.run_dir, 2)
    noted = read_evaluations(str(run.run_dir))
    assert [one.step for one in noted] == [1, 2] and noted[0].tasks[0].items == 10
