"""The engine seam: what the loop needs of DeepSpeed or accelerate, and nothing else. Two makers."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from crossfoot.arithmetic.rate_groups import BASE_RATE
from crossfoot.checkpoints.manifest import LossScale
from crossfoot.findings.finding import Refused
from crossfoot.metering.host_copy import HostCopy
from crossfoot.metering.meter import RATE_GROUP
from crossfoot.metering.update import Update, UpdateGuard, weighted
from crossfoot.models.parameters import is_partitioned
from crossfoot.training.batches import Batch
from crossfoot.training.deepspeed_optimizer import communication, own_fragment, sharding
from crossfoot.training.findings import engine_absent, float16_unsupported

ACCELERATE_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""model.dtype in accelerate's words."""


class Engine(ABC):
    """One rank's engine: the seam. Two makers below fill it.

    kind: its name. dp_degree: ranks whose gradients are averaged. device: of this rank. module: what was
    wrapped; its hooks see what the engine hands on. optimizer: the torch optimizer that really updates
    weights, below every wrapper. holds: an update that was left out for a number that is none keeps all later
    ones out too, until the run has come to its stop.
    """

    kind: str
    holds: bool = False
    dp_degree: int
    device: torch.device
    module: nn.Module
    optimizer: torch.optim.Optimizer
    _callable: nn.Module

    def forward(self, batch: Batch) -> torch.Tensor:
        """Summed loss of one forward, on this rank."""
        # By name: ZeRO 3 looks into what is handed by place, and warns of a type that it does not know.
        loss: torch.Tensor = self._callable(batch=batch.to(self.device))
        return loss

    @abstractmethod
    def backward(self, loss: torch.Tensor, weight: float, last: bool) -> None:
        """Add this forward's gradients; `last`: the step's last forward, gradients are reduced now.

        loss: as `forward` returned it. weight: what a summed loss is multiplied with so that after the
        engine's own averaging over `dp_degree` ranks every trained token of the step counts the same.
        """

    @abstractmethod
    def step(self) -> Update:
        """Clip and update, on all ranks alike. An update whose gradient norm is NaN or infinite is left out:
        weights and optimizer state stay bitwise as they were, and no gradient is left over.
        """

    def gradient_parts(self) -> Iterable[tuple[nn.Parameter, torch.Tensor]] | None:
        """Between the last backward and `step`: what this rank holds of the step's gradient, times the loss
        scale, as (parameter, a part of its gradient). The parts of all ranks are the gradient, once. None
        where the engine does not show it. No collective.
        """
        return None

    def set_rate(self, rate: float, only: str | None = None) -> None:
        """The learning rate of the next update, of all parameters. only: of those in this group."""
        for group in self.optimizer.param_groups:
            if only in (None, group.get(RATE_GROUP, "")):
                group["lr"] = rate

    def loss_scale(self) -> LossScale | None:
        """Where the loss scale of float16 stands; None where there is none, or a fixed one. No collective."""
        return None

    def set_loss_scale(self, told: LossScale) -> None:  # noqa: B027  (nothing to do where there is none)
        """Go on with the loss scale of a checkpoint."""

    def evaluating(self, on: bool) -> None:
        """Switch dropout off or on."""
        self._callable.train(not on)

    @abstractmethod
    def read_back(self) -> dict[str, Any]:
        """What the engine itself believes after its initialisation, for comparison with the plan."""


def optimizer_facts(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer will do, by the names of the config: read back from its parameter groups."""
    groups = optimizer.param_groups
    facts: dict[str, Any] = {"optimizer.name": type(optimizer).__name__.lower()}
    facts["rates"] = sorted({group.get(RATE_GROUP) or BASE_RATE for group in groups})
    facts["optimizer.weight_decay"] = max(group["weight_decay"] for group in groups)
    for name in ("betas", "eps"):
        facts[f"optimizer.{name}"] = next((group[name] for group in groups if name in group), None)
    return facts


def _import_muon_uncompiled() -> None:
    """deepspeed.initialize imports DeepSpeed's own Muon optimizer, whatever ours is, and that hands its
    functions to torch.compile, which imports the whole compiler: a second of a processor on every rank, and
    more where files come slowly. Nothing here uses Muon: it is imported with the compiler switched off.
    """
    switch = "TORCHDYNAMO_DISABLE"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    except ImportError:
        pass  # another version of DeepSpeed keeps it elsewhere; then it is slow, and right
    finally:
        del os.environ[switch]
        if before is not None:
            os.environ[switch] = before


def refuse_float16() -> None:
    """Refused where DeepSpeed does not train in float16. Called before weights are loaded."""
    from deepspeed.accelerator import get_accelerator

    if not get_accelerator().is_fp16_supported():
        raise Refused(float16_unsupported())


def _name_of(thing: object) -> str:
    return f"{type(thing).__module__.partition('.')[0]}.{type(thing).__qualname__}"


def _norm_of_gradients(parameters: list[nn.Parameter]) -> torch.Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _loss_scale(optimizer: Any) -> float:
    """What DeepSpeed multiplies the next loss with: 1 unless in float16."""
    scaler = getattr(optimizer, "loss_scaler", None)
    return 1.0 if scaler is None else float(scaler.loss_scale)


def _dynamic_scaler(optimizer: Any) -> Any:
    """DeepSpeed's scaler, where it chooses the loss scale itself; else None."""
    scaler = getattr(optimizer, "loss_scaler", None)
    return scaler if scaler is not None and scaler.dynamic else None


def _can_fall(optimizer: Any, scale: float) -> bool:
    """Whether DeepSpeed goes below this loss scale, at once or after a second overflow (hysteresis)."""
    scaler = _dynamic_scaler(optimizer)
    return scaler is not None and bool(scale > scaler.min_scale)


def _look_at_every_norm(optimizer: Any) -> None:
    """Put right two settings of DeepSpeed's that let a bad gradient pass, or end the process for it.

    `bf16.check_grad_overflow: false` makes stage 2 apply updates that are NaN or infinite. At its lowest loss
    scale an overflow is an exception, without a word on the step: `Update.can_retry` says it instead.
    """
    if hasattr(optimizer, "check_grad_overflow"):
        optimizer.check_grad_overflow = True
    if hasattr(getattr(optimizer, "loss_scaler", None), "raise_error_at_min_scale"):
        optimizer.loss_scaler.raise_error_at_min_scale = False


def _forget_gradients(optimizer: Any) -> None:
    """After an update that was left out. With offload_optimizer on ZeRO 1 and 2, DeepSpeed 0.19.8 adds the
    gradients of bfloat16 and float16 up in a buffer that it drops after an applied update alone: they would
    be in every later step.
    """
    if getattr(optimizer, "cpu_offload", False):
        optimizer.averaged_gradients = dict.fromkeys(optimizer.averaged_gradients)


class DeepSpeedEngine(Engine):
    """DeepSpeed used directly, for ZeRO 0-3. It owns clipping; batch numbers and precision are written into
    `config`.
    """

    kind = "deepspeed"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> None:
        import deepspeed

        _import_muon_uncompiled()
        # Stage 1 in bfloat16 prints what memory it takes, in the middle of what was asked for as JSON.
        with contextlib.redirect_stdout(io.StringIO()):
            self._engine, _, _, scheduler = deepspeed.initialize(
                model=model, optimizer=optimizer, config=config
            )
        if type(self._engine) is not deepspeed.DeepSpeedEngine:
            raise Refused(engine_absent(_name_of(self._engine), "deepspeed.DeepSpeedEngine"))
        self._callable = self._engine
        self._scheduler = scheduler
        self.module = model
        self.optimizer = optimizer
        self.dp_degree = self._engine.dp_world_size
        self.device = self._engine.device
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._stage = self._engine.zero_optimization_stage()
        self._guard = None
        if self._engine.optimizer is optimizer:  # stage 0 in float32: DeepSpeed looks at nothing
            self._guard = UpdateGuard(optimizer, self._trained)
        _look_at_every_norm(self._engine.optimizer)

    def loss_scale(self) -> LossScale | None:
        """DeepSpeed's dynamic scaler grows the scale by what has passed since the last overflow."""
        scaler = _dynamic_scaler(self._engine.optimizer)
        if scaler is None:
            return None
        steps = scaler.cur_iter - scaler.last_overflow_iter - 1
        return LossScale(float(scaler.cur_scale), steps, scaler.cur_hysteresis)

    def set_loss_scale(self, told: LossScale) -> None:
        """Its own counters, from the last overflow on. A scale that the file fixes stays."""
        scaler = _dynamic_scaler(self._engine.optimizer)
        if scaler is not None:
            scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = told.scale, told.steps, -1
            scaler.cur_hysteresis = min(told.overflows_left or scaler.delayed_shift, scaler.delayed_shift)

    def backward(self, loss: torch.Tensor, weight: float, last: bool) -> None:
        """Gradients are averaged over ranks by DeepSpeed, at the boundary (or at every backward in ZeRO-2 and
        3).
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(weighted(loss, weight), scale_wrt_gas=False)
        if not last:
            self._engine.step()

    def gradient_parts(self) -> Iterable[tuple[nn.Parameter, torch.Tensor]] | None:
        """Stage 0: all of it on the first rank. The others: on each rank its own."""
        if self._guard is not None:
            trained = self._trained if self._engine.global_rank == 0 else []
            return [(one, one.grad) for one in trained if one.grad is not None]
        if not all(hasattr(one, "_hp_mapping") or is_partitioned(one) for one in self._trained):
            return None
        parts = ((one, own_fragment(one)) for one in self._trained)
        return [(one, part) for one, part in parts if part is not None]

    def step(self) -> Update:
        """Clip and update at the boundary. In stage 0 and float32 DeepSpeed throws its norm away, and applies
        whatever it is: so the norm is taken here, and judged. Everywhere else DeepSpeed decides, by a norm
        that is the same on all ranks, and has its answer when `step` returns.
        """
        if self._guard is not None:
            update = self._guard.judge(_norm_of_gradients(self._trained), self.holds)
            self._engine.step()
            return update
        optimizer = self._engine.optimizer
        scale = _loss_scale(optimizer)
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        if self._stage == 3 and not optimizer.overflow:
            # of a scale that has grown in this step DeepSpeed 0.19.8 takes the new one to divide the norm by
            norm = norm * (_loss_scale(optimizer) / scale)
        told = HostCopy(norm).number if torch.is_tensor(norm) else lambda: math.nan if norm is None else norm
        if not optimizer.overflow:
            return Update(told, loss_scale=scale)
        _forget_gradients(optimizer)
        why = "overflow" if self._engine.fp16_enabled() else "not finite"
        return Update(told, lambda: False, why, scale, can_retry=_can_fall(optimizer, scale))

    def read_back(self) -> dict[str, Any]:
        """What DeepSpeed believes after initialisation."""
        engine = self._engine
        return {
            "train_batch_size": engine.train_batch_size(),
            "train_micro_batch_size_per_gpu": engine.train_micro_batch_size_per_gpu(),
            "gradient_accumulation_steps": engine.gradient_accumulation_steps(),
            "gradient_clipping": float(engine.gradient_clipping()),
            "zero_optimization.stage": self._stage,
            "bf16.enabled": bool(engine.bfloat16_enabled()),
            "fp16.enabled": bool(engine.fp16_enabled()),
            "lr_scheduler": type(self._scheduler).__name__ if self._scheduler is not None else None,
            "data_parallel_degree": self.dp_degree,
            "rank": engine.global_rank,
            "world_size": engine.world_size,
            "optimizer sharding": sharding(engine.optimizer),
            **communication(engine),
            **optimizer_facts(engine.basic_optimizer),
        }


class AccelerateEngine(Engine):
    """accelerate on exactly one process: the dry run, and the single-GPU run. The ranks of the plan are
    folded.
    """

    kind = "accelerate"
    dp_degree = 1

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, dtype: str, max_grad_norm: float
    ) -> None:
        from accelerate import Accelerator
        from accelerate.utils import GradientAccumulationPlugin

        # Everything is said outright: what is left out, accelerate takes from its launcher's variables.
        self._accelerator = Accelerator(
            mixed_precision=ACCELERATE_PRECISION[dtype],
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_backend="no",
        )
        if dtype == "float16" and self._accelerator.scaler is None:
            # accelerate 1.15 silently has neither autocast nor scaler for float16 on a CPU; torch has both.
            self._accelerator.native_amp = True
            self._accelerator.scaler = torch.amp.GradScaler(self._accelerator.device.type)
        self.module = model
        self._callable, self._wrapped = self._accelerator.prepare(model, optimizer)
        if isinstance(self._callable, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise Refused(engine_absent(_name_of(self._callable), "the model itself, in one process"))
        self.optimizer = optimizer
        self.device = self._accelerator.device
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._max_grad_norm = max_grad_norm
        self._guard = UpdateGuard(optimizer, self._trained)

    def backward(self, loss: torch.Tensor, weight: float, last: bool) -> None:
        """Gradients add up in place; there is nobody to reduce with."""
        self._accelerator.backward(weighted(loss, weight))

    def gradient_parts(self) -> Iterable[tuple[nn.Parameter, torch.Tensor]]:
        """All of it."""
        return [(one, one.grad) for one in self._trained if one.grad is not None]

    def step(self) -> Update:
        """Clip, update, clear. In float16 the update waits for the norm: the loss scale depends on it."""
        scaler = self._accelerator.scaler
        scale = 1.0 if scaler is None else scaler.get_scale()
        norm = self._accelerator.clip_grad_norm_(self._trained, self._max_grad_norm or math.inf)
        if scaler is None:
            update = self._guard.judge(norm, self.holds)
            self._wrapped.step()
        else:
            update = self._scaled_step(scaler, scale, float(norm))
        self._wrapped.zero_grad()
        return update

    def _scaled_step(self, scaler: Any, scale: float, norm: float) -> Update:
        """Update, or lower the loss scale.

        accelerate's own `step_was_skipped` is not asked: a fused optimizer looks at torch's flag itself, and
        then accelerate 1.15 believes that every step was applied.
        """
        if math.isfinite(norm):
            self._wrapped.step()
            return Update(lambda: norm, loss_scale=scale)
        scaler.update()
        if scaler.get_scale() >= scale:  # every gradient is a number, only their norm is none
            scaler.update(scale * scaler.get_backoff_factor())
        return Update(lambda: norm, lambda: False, "overflow", scale, can_retry=scaler.get_scale() > 0)

    def loss_scale(self) -> LossScale | None:
        """torch's scaler counts the steps since the last overflow itself."""
        scaler = self._accelerator.scaler
        if scaler is None:
            return None
        return LossScale(scaler.get_scale(), scaler.state_dict()["_growth_tracker"])

    def set_loss_scale(self, told: LossScale) -> None:
        """The scale, and how far it is on its way to the next growth."""
        scaler = self._accelerator.scaler
        if scaler is not None:
            steps = told.steps % scaler.get_growth_interval()
            scaler.load_state_dict({**scaler.state_dict(), "scale": told.scale, "_growth_tracker": steps})

    def read_back(self) -> dict[str, Any]:
        """What accelerate believes: an environment variable of its launcher overrules its own arguments."""
        return {
            "processes": self._accelerator.num_processes,
            "gradient_accumulation_steps": self._accelerator.gradient_accumulation_steps,
            "mixed_precision": self._accelerator.mixed_precision,
            "distributed_type": str(self._accelerator.distributed_type.value),
            "compiled": self._callable is not self.module,
            **optimizer_facts(self._wrapped.optimizer),
        }
