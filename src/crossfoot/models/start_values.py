"""Adapters that begin as a part of the weight they stand beside, which is taken out of the base: PiSSA and
OLoRA, as peft has them.

What was taken out must be known to the last bit as long as the run lives: the base is W - s B A, and no
library promises the same decomposition on another machine, or on another number of threads. So rank 0
decomposes, all ranks take its matrices, every checkpoint holds them, and the base is worked out from them
without any rounding that depends on an order of additions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import cast

import torch
import torch.distributed as dist
from peft import PeftModel
from peft.tuners.lora.layer import Linear
from torch import nn

from crossfoot.checkpoints.store import Checkpoint
from crossfoot.findings.finding import Refused
from crossfoot.models.parameters import shape_of, whole_to_change
from crossfoot.models.stored import StoredTensors
from crossfoot.phrases import counted
from crossfoot.written.lora_section import LoraSection
from crossfoot.written.model_findings import rank_beyond

START = "start"
"""What a checkpoint calls the value that a matrix began with, beside what the optimizer keeps."""
_ADAPTER = "default"
_SUM_BITS = 52
"""Of a float64: sums of fewer bits than this are exact in any order."""

Tensors = dict[str, torch.Tensor]


def take_from_base(
    model: PeftModel, lora: LoraSection, dtype: torch.dtype, stored: Mapping[str, torch.Tensor] | None
) -> str:
    """Let the adapters of linear layers begin as `lora.init` says, and the base be what is left; returns that
    as a line to report. All ranks call it together, and get the same bits.

    dtype: of the model, to which the matrices are rounded: an engine that trains in float32 and one that
    trains in it begin alike. stored: `stored_start` of the checkpoint that a run goes on from; without it
    rank 0 decomposes the weights. Raises Refused: a weight with a side that is shorter than the rank.
    """
    layers = list(_layers(model))
    sides = {name.rsplit(".", 1)[-1]: min(shape_of(one.get_base_layer().weight)) for name, one in layers}
    if short := {name: side for name, side in sides.items() if side < lora.r}:
        raise Refused(rank_beyond(lora.r, list(short), min(short.values())))
    start: Tensors = {}
    for name, layer in layers:
        matrices = (layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight)
        names = [f"{name}.lora_{side}.{_ADAPTER}.weight" for side in "AB"]
        base = layer.get_base_layer().weight
        with whole_to_change([base]), torch.no_grad():
            weight = base.T if layer.fan_in_fan_out else base
            if stored is not None:
                a, b = (stored[one] for one in names)
            else:
                a, b = (_from_first(one) for one in _begun(weight, matrices, lora, dtype))
            weight.copy_(_rest(weight, a, b, lora.scale))
        for parameter, value, one in zip(matrices, (a, b), names, strict=True):
            parameter.data = value.to(parameter.device, copy=True)
            start[one] = value
    model._crossfoot_start = start
    taken = f"{counted(len(layers), 'linear layer')} of the base, which keep the rest"
    return f"{lora.init}: the adapters begin with a part of {taken}"


def start_values(model: nn.Module) -> Tensors:
    """What the trained matrices were before the first step, float32, on the CPU, by name; empty where the
    base does not depend on it.
    """
    return cast(Tensors, getattr(model, "_crossfoot_start", {}))


def stored_start(checkpoint: Checkpoint) -> Tensors:
    """The same out of a checkpoint. Raises OSError, MemoryError, SafetensorError or RuntimeError."""
    ending = f".{START}"
    with StoredTensors(checkpoint) as stored:
        values = {
            name.removesuffix(ending): stored.read(name)
            for name in checkpoint.manifest.tensors
            if name.endswith(ending)
        }
    return {name: value for name, value in values.items() if value is not None}


def on_plain_base(model: PeftModel, tensors: Tensors) -> tuple[Tensors, dict[str, object]]:
    """(tensors to save, what adapter_config.json says of them) of the same model as an adapter of twice the
    rank on the base as it was: W + s (B A - B0 A0), peft's own way to convert one.

    An adapter that did not begin with a part of its weight is filled up with zeros.
    """
    start = start_values(model)
    saved: Tensors = {}
    for name, value in tensors.items():
        side = next((one for one in "AB" if f".lora_{one}." in name or f".lora_embedding_{one}." in name), "")
        if side:
            other = start.get(name, torch.zeros_like(value)).to(value.dtype)
            value = torch.cat((value, other), 0) if side == "A" else torch.cat((value, -other), 1)
        saved[name] = value
    config = model.peft_config[_ADAPTER]
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    rank = 2 * config.r
    says = {"r": rank, "lora_alpha": scale * rank, "use_rslora": False, "init_lora_weights": True}
    return saved, says


def _layers(model: PeftModel) -> Iterator[tuple[str, Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            yield name, module


def _begun(
    weight: torch.Tensor, matrices: tuple[torch.Tensor, torch.Tensor], lora: LoraSection, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices A and B of a weight [outputs, inputs], float32, on the CPU; of rank 0 alone."""
    if dist.is_initialized() and dist.get_rank() != 0:
        a, b = (torch.zeros(shape_of(one)) for one in matrices)
        return a, b
    values = weight.detach().float()
    if not bool(values.isfinite().all()):  # the first step says so, and by name
        values = torch.zeros_like(values)
    if torch.cuda.is_available():
        values = values.cuda()  # a full SVD takes long on a CPU
    if lora.init == "olora":
        b, a = torch.linalg.qr(values)
        a, b = a[: lora.r], b[:, : lora.r]
    else:
        if lora.init == "pissa":
            u, s, v = torch.linalg.svd(values, full_matrices=False)
            v = v.T
        else:
            u, s, v = torch.svd_lowrank(values, lora.r, niter=int(lora.init.rpartition("_")[2]))
        roots = (s[: lora.r] / lora.scale).sqrt()
        a, b = roots[:, None] * v[:, : lora.r].T, u[:, : lora.r] * roots
    return _on_grid(a.cpu().to(dtype), lora.r), _on_grid(b.cpu().to(dtype), lora.r)


def _on_grid(values: torch.Tensor, rank: int) -> torch.Tensor:
    """Rounded to multiples of a power of two so that sums of `rank` products of two such numbers are exact.
    Of rank 64 that keeps 23 bits of the largest number. Contiguous, as what is read from a checkpoint is: a
    product's rounding depends on it.
    """
    bits = (_SUM_BITS - math.ceil(math.log2(rank))) // 2
    _, exponent = math.frexp(float(values.abs().max()))
    step = math.ldexp(1.0, exponent - bits)
    return ((values.double() / step).round() * step).float().contiguous()


def _rest(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """W - scale B A in the weight's dtype: the product is exact, the rest is rounded element by element."""
    device = weight.device
    taken = (b.to(device).double() @ a.to(device).double()).mul_(scale)
    return (weight.double() - taken).to(weight.dtype)


def _from_first(values: torch.Tensor) -> torch.Tensor:
    """Rank 0's values, on all ranks."""
    if not dist.is_initialized():
        return values
    there = values.contiguous().to("cuda" if "nccl" in str(dist.get_backend()) else "cpu")
    dist.broadcast(there, 0)
    return there.cpu()
