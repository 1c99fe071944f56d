"""What the other trainer would really have trained: its own formula, and its own counting of an epoch.

Held in the tests against accelerate's sampler and the Trainer's own count of steps. Sources: transformers
4.35.0 and 4.57.1 (trainer.py), accelerate 1.15 (data_loader.py), LLaMA-Factory 0.9.5, axolotl 0.19.0
(utils/trainer.py, core/builders/base.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from crossfoot.arithmetic.batch import ceil_div


@dataclass(frozen=True)
class Batch:
    """A step of the other trainer. world: GPUs, all of them."""

    micro_batch_size: int
    grad_accum_steps: int
    world: int

    @property
    def per_forward(self) -> int:
        """Samples of one forward, over all GPUs."""
        return self.micro_batch_size * self.world

    @property
    def per_step(self) -> int:
        """Samples of one optimizer step: per device x accumulation x world."""
        return self.per_forward * self.grad_accum_steps


@dataclass(frozen=True)
class Epoch:
    """An epoch of `samples` there. is_dropping: dataloader_drop_last. floors_steps: of `Stack`."""

    batch: Batch
    samples: int
    is_dropping: bool = False
    floors_steps: bool = False

    @cached_property
    def forwards(self) -> int:
        """Forwards of each GPU."""
        if self.is_dropping:
            return self.samples // self.batch.per_forward
        return ceil_div(self.samples, self.batch.per_forward)

    @property
    def repeated(self) -> int:
        """Samples trained a second time, so that all GPUs have forwards of one size (accelerate's
        even_batches). One GPU has none.
        """
        if self.is_dropping or self.batch.world == 1:
            return 0
        return self.forwards * self.batch.per_forward - self.samples

    @property
    def dropped(self) -> int:
        """Samples that no forward has."""
        return self.samples - self.forwards * self.batch.per_forward if self.is_dropping else 0

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        whole, rest = divmod(self.forwards, self.batch.grad_accum_steps)
        return max(1, whole if self.floors_steps or not rest else whole + 1)

    @property
    def without_step(self) -> int:
        """Samples, repeated ones too, of the forwards behind the last whole step, which make none."""
        if not self.floors_steps or self.forwards < self.batch.grad_accum_steps:
            return 0
        forwards = self.forwards % self.batch.grad_accum_steps
        first = (self.forwards - forwards) * self.batch.per_forward
        return min(self.samples, self.forwards * self.batch.per_forward) - first if forwards else 0

    def total_steps(self, epochs: float) -> int:
        """Optimizer steps of a run."""
        return math.ceil(epochs * self.steps)


def axolotl_steps(samples: int, epochs: float, per_step: int) -> int:
    """The steps at which axolotl ends a run without packing: of all epochs in one sum."""
    return math.ceil(samples * epochs / per_step)
