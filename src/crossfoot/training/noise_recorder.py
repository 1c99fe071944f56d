"""Some steps are looked at for the gradient noise scale: all ranks see their forwards, rank 0 notes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import nn

from crossfoot.arithmetic.noise_scale import weighted_mean
from crossfoot.arithmetic.rate_groups import GROUPS
from crossfoot.metering.noise_scale import NoiseMeter, RankSquares
from crossfoot.metering.update import Update
from crossfoot.phrases import said_by
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.runs.noise_scale import GroupSquares, NoiseLine, append_noise
from crossfoot.training.engine import Engine
from crossfoot.training.optimizer import parameter_kinds
from crossfoot.training.rank_job import RankJob


class NoiseRecorder:
    """One per rank. Steps that are not measured cost nothing: the hooks are there for those that are."""

    def __init__(
        self, work: RankJob, engine: Engine, model: nn.Module, ranks: Ranks, report: Callable[[str], None]
    ) -> None:
        self._every_steps = work.plan.run.config.train.noise_scale_every_steps
        self._run_dir, self._attempt = work.plan.run.run_dir, work.resume_point.attempt
        self._engine, self._ranks, self._report = engine, ranks, report
        kinds = parameter_kinds(model)
        trained = (one for one in model.parameters() if one.requires_grad)
        self._meter = NoiseMeter(engine.module, ((kinds[id(one)], one) for one in trained))
        self._is_noted = True

    def watching(self, step: int) -> AbstractContextManager[None]:
        """Around one try at a step: its forwards and backwards are seen, if the step is to be measured."""
        return self._meter.watching() if self._is_due(step) else nullcontext()

    def see_gradient(self, step: int) -> None:
        """All gradients of the step are there, and not clipped yet."""
        if self._is_due(step):
            self._meter.see_step(self._engine.gradient_parts())

    def note(self, step: int, update: Update) -> None:
        """What all ranks saw of the step, as a line of rank 0's. Waits for the GPU, and for the others."""
        if not self._is_due(step):
            return
        everyone = self._ranks.gather(self._meter.squares(update.loss_scale), RankSquares)
        if self._ranks.is_first:
            try:
                append_noise(self._run_dir, _line(step, self._attempt, update, everyone))
            except OSError as error:
                if self._is_noted:
                    self._report(f"the noise scale is not noted: {said_by(error)}")
                self._is_noted = False

    def _is_due(self, step: int) -> bool:
        return self._every_steps is not None and (step + 1) % self._every_steps == 0


def _line(step: int, attempt: int, update: Update, everyone: Sequence[RankSquares]) -> NoiseLine:
    forwards = [forward for rank in everyone for forward in rank.forwards]
    parts = [rank.step for rank in everyone if rank.step is not None]
    tokens = tuple(forward.tokens for forward in forwards)

    def of(kind: str) -> GroupSquares:
        small = weighted_mean(tokens, [forward.squares.get(kind, 0.0) for forward in forwards])
        is_shown = len(parts) == len(everyone)
        return GroupSquares(small, sum(part.get(kind, 0.0) for part in parts) if is_shown else None)

    seen = {kind for forward in forwards for kind in forward.squares}
    return NoiseLine(
        step=step,
        attempt=attempt,
        applied=update.was_applied(),
        samples=sum(forward.samples for forward in forwards),
        tokens=tokens,
        squares=tuple(sum(forward.squares.values()) for forward in forwards),
        big=update.grad_norm() ** 2,
        groups={kind: of(kind) for kind in GROUPS if kind in seen},
    )
