"""A run trained by the HF Trainer and peft, as a plain script does it: padded rows, accumulation, its own
schedule. It is handed the samples, their order and the initial weights, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments

Row = dict[str, list[int]]


class _InOrder(Sampler[int]):
    """The samples of each epoch, in the order that is given for it."""

    def __init__(self, epochs: Sequence[Sequence[int]]) -> None:
        self._epochs, self._next = epochs, 0

    def __iter__(self) -> Iterator[int]:
        order = self._epochs[self._next]
        self._next += 1
        return iter(order)

    def __len__(self) -> int:
        return len(self._epochs[0])


class _Told(Trainer):  # type: ignore[misc]  # transformers is taken as Any
    """Notes the loss of every forward and the rate of every step."""

    def __init__(self, epochs: Sequence[Sequence[int]], **words: Any) -> None:
        super().__init__(**words)
        self._order = _InOrder(epochs)
        self.steps: list[tuple[float, float]] = []
        self._loss = 0.0

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order

    def training_step(self, *words: Any, **more: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*words, **more)
        self._loss += float(loss)
        return loss

    def create_optimizer(self, *words: Any, **more: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(*words, **more)
        optimizer.register_step_pre_hook(self._stepped)
        return optimizer

    def _stepped(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.steps.append((self._loss, optimizer.param_groups[0]["lr"]))
        self._loss = 0.0


def row_of(ids: Sequence[int], is_trained: Sequence[bool]) -> Row:
    """A sample as the Trainer is handed it."""
    labels = [number if counts else -100 for number, counts in zip(ids, is_trained, strict=True)]
    return {"input_ids": list(ids), "labels": labels}


def trained(
    model: Any, rows: Sequence[Row], epochs: Sequence[Sequence[int]], folder: Path, **arguments: Any
) -> list[tuple[float, float]]:
    """(loss, rate) of every step. epochs: places of rows, in order. arguments: of TrainingArguments."""
    told = {"output_dir": str(folder), "use_cpu": True, "save_strategy": "no", "report_to": "none"}
    told |= {"disable_tqdm": True, "logging_strategy": "no", "remove_unused_columns": False}
    trainer = _Told(
        epochs,
        model=model,
        args=TrainingArguments(**told, **arguments),
        train_dataset=rows,
        data_collator=_padded,
    )
    trainer.train()
    return trainer.steps


def _padded(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)

    def column(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows])

    ids, labels = column("input_ids", 0), column("labels", -100)
    ones = [[1] * len(row["input_ids"]) for row in rows]
    mask = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ones])
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}
