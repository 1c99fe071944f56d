"""One process runs crossfoot's own loop, start to receipt, and every update is looked at from outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import crossfoot.training.build as building
from crossfoot.environment.world import read_world
from crossfoot.training.rank_job import TrainOptions
from crossfoot.training.session import run
from support import accelerate_state
from support.launching import ledger
from support.plain_torch import Tensors, trained_of

HOUR_SECONDS = 3600.0
"""So long ago the meter is told that it began: loading a model is no part of the first step."""


@dataclass
class Watched:
    """What one attempt did. start: trained tensors before its first step; after: of each update. forwards:
    of each update, the rows given to the model, without their padding. judging: forwards without gradients.
    kept: what the optimizer keeps at the end, by parameter.
    """

    config: Path
    run_dir: Path
    exit_code: int = -1
    start: Tensors = field(default_factory=dict)
    after: list[Tensors] = field(default_factory=list)
    forwards: list[list[list[tuple[int, ...]]]] = field(default_factory=list)
    judging: int = 0
    kept: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The lines of all attempts at the run."""
        return ledger(self.run_dir)

    def paper(self, attempt: int, name: str) -> dict[str, Any]:
        """A document of an attempt."""
        path = self.run_dir / f"attempt-{attempt:03d}" / name
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return document


def train(
    config: Path,
    run_dir: Path,
    options: TrainOptions,
    after_update: Callable[[Path, int], None] | None = None,
) -> Watched:
    """Run an attempt, as `crossfoot train` does with these orders, on the CPU. after_update: called with the
    run folder and the number of updates that this attempt has made.
    """
    seen = Watched(config, run_dir)
    accelerate_state.forget()
    real = building.build

    def build(*words: Any) -> Any:
        built = real(*words)
        _watch(seen, built, after_update)
        return built

    with mock.patch.object(building, "build", build):
        seen.exit_code = run(str(config), (), read_world({}), options)
    return seen


def _watch(seen: Watched, built: Any, after_update: Callable[[Path, int], None] | None) -> None:
    engine, model = built.training.engine, built.model
    seen.start = trained_of(model)
    built.training.meter._now.started -= HOUR_SECONDS
    open_step: list[list[tuple[int, ...]]] = []

    def before_forward(module: Any, words: Any, named: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            rows = named["batch"].input_ids
            spans = named["batch"].segments or [(0, 0, rows.shape[1])]
            open_step.append([tuple(rows[row, start:end].tolist()) for row, start, end in spans])
        else:
            seen.judging += 1

    def after_step(optimizer: Any, words: Any, named: Any) -> None:
        seen.after.append(trained_of(model))
        seen.forwards.append(list(open_step))
        open_step.clear()
        names = {parameter: name for name, parameter in model.named_parameters()}
        seen.kept = {
            names[parameter]: {name: value.detach().clone() for name, value in state.items()}
            for parameter, state in optimizer.state.items()
        }
        if after_update is not None:
            after_update(seen.run_dir, len(seen.after))

    engine.module.register_forward_pre_hook(before_forward, with_kwargs=True)
    engine.optimizer.register_step_post_hook(after_step)
