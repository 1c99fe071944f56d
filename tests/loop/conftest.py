"""The room that all tests of the loop share, and ways to train and to evaluate in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from crossfoot.cli import main
from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer
from crossfoot.models.tiny_model import write_tiny_model
from crossfoot.training.rank_job import TrainOptions
from support.evaluating import Evaluated, Evaluates
from support.loop_room import Room, furnish
from support.watched_run import Watched, train


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return furnish(tmp_path_factory.mktemp("loop"))


@pytest.fixture
def trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Watched]:
    """trains(values, ...): an attempt at the run of these values, in the folder `name`, with these orders."""
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_JOB_ID"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def attempt(
        values: dict[str, Any],
        name: str = "run",
        after_update: Callable[[Path, int], None] | None = None,
        **orders: Any,
    ) -> Watched:
        run_dir = tmp_path / name
        path = tmp_path / f"{name}.yaml"
        named = {**values, "run": {**values["run"], "dir": str(run_dir)}}
        path.write_text(json.dumps(named, indent=1), encoding="utf-8")
        return train(path, run_dir, TrainOptions(**orders), after_update)

    return attempt


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in tiny model, whose tokens are bytes."""
    folder = write_tiny_tokenizer(str(tmp_path_factory.mktemp("evaluated")))
    return str(write_tiny_model(folder))


@pytest.fixture
def evaluates(
    model: str, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Evaluates]:
    threads = torch.get_num_threads()
    made: list[None] = []

    def run(*words: str, of: str = model, on: str = task, out: str = "") -> Evaluated:
        made.append(None)
        folder = tmp_path / (out or f"out{len(made)}")
        code = main(["evaluate", of, "--tasks", on, "--out", str(folder), *words])
        file = folder / "scores.jsonl"
        scores = file.read_bytes() if file.exists() else b""
        told = capsys.readouterr()
        lines = [json.loads(line) for line in scores.splitlines()]
        return Evaluated(folder, code, scores, told.out + told.err, lines)

    yield run
    torch.set_num_threads(threads)
