"""Updates that are left out: without asking the device, under a loss scale, and tried again."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from crossfoot.ledger.skipping import Policies
from crossfoot.liveness.stopping import Stop
from crossfoot.metering.meter import Meter
from crossfoot.metering.update import Update, UpdateGuard, weighted
from crossfoot.training import loop
from crossfoot.training.batches import Batch
from crossfoot.training.engine import AccelerateEngine, _can_fall, _look_at_every_norm
from crossfoot.training.loop import TRIES_AT_MOST, learn_step, train_steps
from support import accelerate_state


def optimizer_of(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    return torch.optim.SGD(model.parameters(), lr=0.1)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    return str(copy.deepcopy((model.state_dict(), optimizer.state_dict())))


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38])  # a norm of 3e38 in each element is infinite
def test_weights_and_state_stay_to_the_bit(kind: str, holds: bool, bad: float) -> None:
    model = nn.Linear(4, 4)
    optimizer = optimizer_of(kind, model)
    guard = UpdateGuard(optimizer, list(model.parameters()))
    seen = []
    for step in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1.0 + step)
        if step == 2:
            model.bias.grad.fill_(bad)
        before = everything(model, optimizer)
        norm = nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
        update = guard.judge(norm, holds)
        optimizer.step()
        assert (before == everything(model, optimizer)) != update.was_applied()
        assert math.isfinite(update.grad_norm()) == (step != 2)
        seen.append(update.was_applied())
    assert seen == [True, True, False, not holds, not holds]


def test_the_guard_asks_the_device_nothing() -> None:
    """What `judge` does is queued: not one value of a tensor is read before somebody calls for it."""
    model = nn.Linear(2, 2)
    guard = UpdateGuard(optimizer_of("adamw", model), list(model.parameters()))
    with (
        mock.patch.object(torch.Tensor, "item", side_effect=AssertionError("waits")),
        mock.patch.object(torch.Tensor, "__bool__", side_effect=AssertionError("waits")),
        mock.patch.object(torch.Tensor, "__float__", side_effect=AssertionError("waits")),
    ):
        guard.judge(torch.tensor(math.nan), holds=True)
        guard.judge(torch.tensor(1.0), holds=True)


def test_an_optimizer_that_cannot_be_guarded_is_not_taken() -> None:
    model = nn.Linear(2, 2)
    for optimizer in (
        torch.optim.AdamW(model.parameters(), fused=False),
        torch.optim.SGD(model.parameters(), momentum=0.9),
    ):
        with pytest.raises(ValueError, match="neither fused nor plain SGD"):
            UpdateGuard(optimizer, list(model.parameters()))


def test_a_loss_that_is_no_number_has_no_gradient_that_is_one() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    loss = (logits * torch.tensor([1.0, 2.0, 3.0])).sum()
    (gradient,) = torch.autograd.grad(weighted(loss, 0.3), logits, retain_graph=True)
    assert gradient.tolist() == torch.autograd.grad(loss * 0.3, logits, retain_graph=True)[0].tolist()
    (plain,) = torch.autograd.grad((loss + math.inf) * 0.3, logits, retain_graph=True)
    assert plain.isfinite().all(), "an infinite loss with gradients that look like any other"
    (gradient,) = torch.autograd.grad(weighted(loss + math.inf, 0.3), logits)
    assert gradient.isnan().all()


class FakeScaler:
    """DeepSpeed's dynamic loss scaler as far as it is asked."""

    dynamic, cur_scale, min_scale, raise_error_at_min_scale = True, 4.0, 2.0, True

    @property
    def loss_scale(self) -> float:
        return self.cur_scale


def test_deepspeeds_settings_that_let_a_bad_gradient_pass() -> None:
    optimizer = SimpleNamespace(check_grad_overflow=False, loss_scaler=FakeScaler())
    _look_at_every_norm(optimizer)
    assert optimizer.check_grad_overflow is True and not optimizer.loss_scaler.raise_error_at_min_scale
    _look_at_every_norm(SimpleNamespace())
    assert (_can_fall(optimizer, 4.0), _can_fall(optimizer, 2.0)) == (True, False)
    optimizer.loss_scaler.dynamic = False
    assert not _can_fall(optimizer, 4.0) and not _can_fall(SimpleNamespace(), 4.0)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> tuple[AccelerateEngine, Any]:
    """accelerate in float16 with torch's own scaler, where accelerate itself has none (a CPU)."""
    import accelerate

    real = accelerate.Accelerator.__init__

    def init(self: Any, **arguments: Any) -> None:
        real(self, **arguments)
        self.scaler, self.native_amp = torch.amp.GradScaler("cpu", init_scale=2.0**10), True

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(accelerate.Accelerator, "__init__", init)
    accelerate_state.forget()
    model = nn.Linear(2, 1)
    engine = AccelerateEngine(model, optimizer_of("adamw", model), "float16", 1.0)
    engine.set_rate(0.1)
    return engine, model


def stepped(engine: AccelerateEngine, model: nn.Module, gradient: float) -> Update:
    """A step whose scaled gradients are this number."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    engine._accelerator.scaler.scale(torch.zeros(1))  # the scaler begins with its first loss
    return engine.step()


def test_torchs_scaler_falls_and_the_weights_stay(scaled: tuple[AccelerateEngine, Any]) -> None:
    engine, model = scaled
    before = everything(model, engine.optimizer)
    lost = stepped(engine, model, math.inf)
    assert (lost.left_out, lost.was_applied(), lost.loss_scale, lost.can_retry) == (
        "overflow",
        False,
        1024,
        True,
    )
    assert everything(model, engine.optimizer) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert engine._wrapped.step_was_skipped is False, "accelerate does not know"
    applied = stepped(engine, model, 512.0)
    assert (applied.left_out, applied.was_applied(), applied.loss_scale) == (None, True, 512)
    assert applied.grad_norm() == pytest.approx(math.sqrt(3))
    assert everything(model, engine.optimizer) != before


def test_a_norm_that_overflows_lowers_the_scale_too(scaled: tuple[AccelerateEngine, Any]) -> None:
    engine, model = scaled
    lost = stepped(engine, model, 3e38)  # unscaled 3e35 each: numbers, but not their squares
    assert lost.left_out == "overflow" and engine._accelerator.scaler.get_scale() == 512


class Play:
    """A training whose tries end as told; what was seen of it."""

    def __init__(
        self, *tries: Update, policies: Policies | None = None, losses: tuple[bool, ...] = (True, True)
    ) -> None:
        self.tries, self.losses, self.forgotten, self.asked = list(tries), losses, 0, 0
        self.meter = SimpleNamespace(losses_are_finite=lambda: losses[0], forget_try=self._forget)
        self.ranks = SimpleNamespace(rank=0, gather=self._gather)
        self.engine = self.index = self.dropout_seed = self.packed = None
        self.rank_monitor = SimpleNamespace(tick=lambda *step: None)
        self.step_recorder = SimpleNamespace(begin=lambda: None)
        self.policies = policies or Policies()
        self.watched = 0
        self.noise = SimpleNamespace(
            watching=self._watch, see_gradient=lambda step: None, note=lambda *step: None
        )

    def _watch(self, step: int) -> AbstractContextManager[None]:
        self.watched += 1
        return nullcontext()

    def _forget(self) -> None:
        self.forgotten += 1

    def _gather(self, mine: bool, kind: type) -> list[bool]:
        self.asked += 1
        return [mine, *self.losses[1:]]

    def learn(self) -> Update:
        with mock.patch.object(loop, "run_step", lambda *words: self.tries.pop(0)):
            return learn_step(self, SimpleNamespace(step=0))  # type: ignore[arg-type]


APPLIED = Update(lambda: 1.0)
OVERFLOW = Update(lambda: math.inf, lambda: False, "overflow", 4.0, can_retry=True)
LAST = Update(lambda: math.inf, lambda: False, "overflow", 1.0)
NOT_FINITE = Update(lambda: math.nan, lambda: False, "not finite")


def test_it_is_tried_until_it_is_applied() -> None:
    play = Play(OVERFLOW, OVERFLOW, APPLIED, OVERFLOW)
    assert play.learn() is APPLIED
    assert (play.forgotten, play.asked, len(play.tries)) == (2, 2, 1)
    assert play.watched == 3, "what a try that is thrown away saw is forgotten"


def test_nobody_asks_where_nothing_overflowed() -> None:
    for update in (APPLIED, NOT_FINITE):
        play = Play(update)
        assert play.learn() is update and (play.asked, play.forgotten) == (0, 0)


def test_it_is_not_tried_again_in_vain() -> None:
    for play, left_out in (
        (Play(OVERFLOW, APPLIED, policies=Policies(overflow="skip")), "overflow"),
        (Play(LAST, APPLIED), "overflow"),
        (Play(OVERFLOW, APPLIED, losses=(True, False)), "not finite"),
        (Play(OVERFLOW, APPLIED, losses=(False, True)), "not finite"),
        (Play(OVERFLOW, APPLIED, policies=Policies("skip", "skip"), losses=(True, False)), "not finite"),
    ):
        assert play.learn().left_out == left_out and play.forgotten == 0 and len(play.tries) == 1


def test_at_most_so_often() -> None:
    play = Play(*[OVERFLOW] * 100)
    assert play.learn() is OVERFLOW
    assert (play.forgotten, len(play.tries)) == (TRIES_AT_MOST - 1, 100 - TRIES_AT_MOST)


def test_a_try_that_was_thrown_away_is_only_counted() -> None:
    embedding = nn.Embedding(8, 2)

    class Model(nn.Module):
        def forward(self, batch: Batch) -> torch.Tensor:
            return embedding(batch.input_ids).sum()

    model = Model()
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.5)
    meter = Meter(model, embedding, optimizer, rank=0)

    def forward(scale: float) -> None:
        ids = torch.tensor([[1, 2, 3]])
        loss = model(batch=Batch(ids, ids, torch.arange(2), ((0, 0, 3),)))
        (loss * 0.25 * scale).backward()

    forward(8.0)
    assert meter.losses_are_finite()
    meter.forget_try()
    forward(4.0)
    optimizer.step()
    told = meter.witness(meter.end_step(0, Update(lambda: 2.0, loss_scale=4.0)))
    assert (told.retries, len(told.forwards), told.forwards[0].forward) == (1, 1, 0)
    assert (told.forwards[0].token_weight, told.applied, told.lr, told.overflow) == (0.25, True, 0.5, False)
    forward(1.0)
    optimizer.step()
    late = meter.witness(meter.end_step(1, Update(lambda: math.nan, lambda: False)))
    assert (late.retries, late.applied, late.nonfinite) == (0, False, True)


@pytest.mark.parametrize(
    ("policies", "update", "steps"),
    [
        (Policies("stop"), NOT_FINITE, 2),
        (Policies("skip"), NOT_FINITE, 5),
        (Policies("stop", "retry"), LAST, 2),
        (Policies("stop", "skip"), LAST, 5),
    ],
)
def test_the_loop_ends_at_once_where_it_is_known_at_once(
    policies: Policies, update: Update, steps: int
) -> None:
    play = Play(*[update if step == 1 else APPLIED for step in range(5)], policies=policies)
    paused = []
    play.engine = SimpleNamespace()
    play.planner = SimpleNamespace(step=lambda step: SimpleNamespace(step=step, slots=[[]]))
    play.meter.restart_clock = lambda: None
    play.meter.end_step = lambda step, became: became
    agreed = iter((Stop.NO, Stop.NOT_FINITE))  # after the first step, and at the end
    play.step_recorder = SimpleNamespace(
        settle=lambda closed, planned: Stop.NO, drain=lambda: next(agreed), begin=lambda: None
    )
    play.step_hooks = SimpleNamespace(after=lambda done, stop: paused.append(done) or stop)
    with mock.patch.object(loop, "run_step", lambda *words: play.tries.pop(0)):
        done, stop = train_steps(play, 0, 5)  # type: ignore[arg-type]
    assert (done, stop) == (steps, Stop.NOT_FINITE)
    assert play.engine.holds == (policies.nonfinite == "stop")
    assert paused == list(range(1, steps + (steps == 5))), (
        "nothing is saved after the step that stops the run"
    )
