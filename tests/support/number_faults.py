"""Numbers that are none, put into a run from outside; each is a context manager of the rank it runs on.

They strike rank 1 (in one process: rank 0) at step 2, in its first forward that holds a sample. In "never
happened" that step is not even tried: what follows must be the same to the bit.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from crossfoot.metering.update import Update
from crossfoot.training import loop
from crossfoot.training.engine import AccelerateEngine, DeepSpeedEngine
from crossfoot.training.loss import SummedLoss
from support.faults import RANK, STEP, Fault, _clock

FIRST_SCALE = 2.0**32
"""At which the gradients of a small model overflow in float16 for certain."""


def _loss_fault(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    """A fault in the loss as the model gives it: it is in the loss that is booked."""

    @contextlib.contextmanager
    def fault(rank: int) -> Iterator[None]:
        with _clock() as clock:
            real = SummedLoss.forward

            def forward(self, batch):
                loss = real(self, batch)
                is_here = rank == min(RANK, _last_rank()) and batch.segments and torch.is_grad_enabled()
                return change(loss) if is_here and clock.strikes() else loss

            with mock.patch.object(SummedLoss, "forward", forward):
                yield

    return fault


def _parameter_fault(change: Callable[[torch.Tensor], torch.Tensor]) -> Fault:
    """A fault deep in a backward: in the gradient of one trained parameter. Every loss is a number."""

    @contextlib.contextmanager
    def fault(rank: int) -> Iterator[None]:
        with _clock() as clock, contextlib.ExitStack() as stack:
            for engine in (DeepSpeedEngine, AccelerateEngine):

                def backward(self, loss, weight, last, real=engine.backward):
                    hook = None
                    if rank == min(RANK, _last_rank()) and float(loss.detach()) and clock.strikes():
                        trained = [p for p in self.module.parameters() if p.requires_grad]
                        hook = trained[len(trained) // 2].register_hook(change)
                    real(self, loss, weight, last)
                    if hook is not None:
                        hook.remove()

                stack.enter_context(mock.patch.object(engine, "backward", backward))
            yield

    return fault


@contextlib.contextmanager
def step_never_happened(rank: int) -> Iterator[None]:
    """Step 2 is not even tried."""
    real = loop.run_step

    def run_step(engine, index, planned, *rest, **more):
        if planned.step == STEP:
            return Update(lambda: math.nan, lambda: False, "not finite")
        return real(engine, index, planned, *rest, **more)

    with mock.patch.object(loop, "run_step", run_step):
        yield


def _last_rank() -> int:
    import torch.distributed as dist

    return dist.get_world_size() - 1 if dist.is_available() and dist.is_initialized() else 0


@contextlib.contextmanager
def float16_on_cpu(rank: int) -> Iterator[None]:
    """The libraries' own float16, loss scalers and all, from a scale on that overflows. DeepSpeed believes
    that there is none on this CPU, and is told that there is.
    """
    from deepspeed.accelerator import get_accelerator

    high = functools.partialmethod(torch.amp.GradScaler.__init__, init_scale=FIRST_SCALE)
    with (
        mock.patch.object(type(get_accelerator()), "is_fp16_supported", lambda self: True),
        mock.patch.object(torch.amp.GradScaler, "__init__", high),
    ):
        yield


@contextlib.contextmanager
def nan_in_float16(rank: int) -> Iterator[None]:
    """A loss that is NaN or infinite, in float16."""
    with float16_on_cpu(rank), NUMBER_FAULTS["loss is nan"](rank):
        yield


NUMBER_FAULTS: dict[str, Fault] = {
    "loss is nan": _loss_fault(lambda loss: loss * math.nan),
    "loss is inf": _loss_fault(lambda loss: loss + math.inf),  # its gradients stay numbers
    "gradient is nan": _parameter_fault(lambda gradient: gradient * math.nan),
    "norm is inf": _parameter_fault(lambda gradient: torch.full_like(gradient, 3e38)),
    "never happened": step_never_happened,
    "float16": float16_on_cpu,
    "loss is nan in float16": nan_in_float16,
}
