"""The room that all tests of the loop share, and a way to train in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossfoot.training.rank_job import TrainOptions
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
