"""Ranks share the items of an evaluation while they train; one process then scores their checkpoint alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.launching import plain, small_config, warm_ranks

pytestmark = pytest.mark.distributed


def questions(folder: Path) -> str:
    lines = [
        {
            "subject": "ab"[number % 2],
            "question": f"{'which ' * (number % 4)}{number}?",
            "choices": [str(number), "水", "one or two"],
            "answer": number % 3,
            **({"split": "dev"} if number < 4 else {}),
        }
        for number in range(24)
    ]
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    "model",
    [
        {"dtype": "float32"},
        pytest.param({"dtype": "bfloat16", "gradient_checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=lambda model: model["dtype"],
)
def test_two_ranks_score_what_their_checkpoint_scores(tmp_path: Path, model: dict[str, Any]) -> None:
    task = questions(tmp_path)
    config = small_config(
        tmp_path,
        model=model,
        train={"max_steps": 2},
        lr={"reference": 0.1},
        checkpoint={"every_steps": 1, "keep": 2},
        evaluation={"tasks": [task], "every_steps": 1},
    )
    trained = warm_ranks(2, "-m", "crossfoot", "train", config)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert trained.stderr.count("questions ") == 2, trained.stderr
    run_dir = tmp_path / "run"
    for step in (1, 2):
        own = run_dir / "evaluations" / f"step-{step:06d}"
        assert len(list(own.glob("items*.jsonl"))) == 2
        named = ("--step", str(step), "--tasks", task, "--out", tmp_path / f"{step}")
        done = plain("-m", "crossfoot", "evaluate", run_dir, *named)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (own / "scores.jsonl").read_bytes() == (tmp_path / f"{step}" / "scores.jsonl").read_bytes()
