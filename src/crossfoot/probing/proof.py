"""The proof itself, from a model in an engine to a verdict. All ranks call these functions together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from crossfoot.arithmetic.layout import Layout, PackedLayout
from crossfoot.ledger.reconcile import PlannedStep
from crossfoot.models.parameters import is_partitioned, shape_of, whole
from crossfoot.models.start_values import start_values
from crossfoot.probing.compare import Comparison, Sums, label_of
from crossfoot.probing.diagnose import Step, known_factor, name_mistake, step_of
from crossfoot.probing.reference import Reference
from crossfoot.probing.samples import ProofBatch, samples_of
from crossfoot.probing.verdict import Verdict, verdict_of

RATE = 1024.0
"""SGD's rate in the compared step. What is compared is the change of the parameters divided by it. At rate 1
the change is so small beside the parameters that float32 rounds it by more than 1e-5; a power of two is
multiplied and divided exactly."""
SPREAD_OF_B = 0.02
"""Standard deviation of the random values that fresh LoRA matrices B get: at 0, A has no gradient."""

TakeStep = Callable[[PlannedStep], object]

CROSSING = "attention crosses samples: in a packed row each sample sees those before it"
RUN_ON = ", and positions run on from sample to sample"


@dataclass(frozen=True)
class Subject:
    """What is proved, on this rank.

    model: what was trained (not its wrapper). take_step: takes one optimizer step of the engine.
    make_reference: makes the reference model; called on the first rank alone. is_first: this is that rank.
    layout: of what runs (folded: one rank). grad_accum_steps, dp_degree: of the plan. bound: of the relative
    error. roundoff: of the engine's precision, where its effect is to be measured.
    """

    model: nn.Module
    take_step: TakeStep
    make_reference: Callable[[], Reference]
    is_first: bool
    layout: Layout
    grad_accum_steps: int
    dp_degree: int
    bound: float
    roundoff: float | None = None


def prove_gradient(subject: Subject, batch: ProofBatch) -> Verdict | None:
    """Take the two steps, compare the second; the verdict on the first rank, None on the others."""
    trained = _trained_names(subject.model)
    start = {names[0]: _master(parameter, subject.is_first) for names, parameter in trained}
    reference = None
    if subject.is_first:
        reference = subject.make_reference()
    _copy_into(reference, subject.model, start)
    if reference is not None:
        reference.gradient(batch.index, samples_of(batch.step))
    subject.take_step(batch.before)
    subject.take_step(batch.step)
    comparison = Comparison(subject.bound)
    for names, parameter in trained:
        after = _master(parameter, subject.is_first)
        if reference is None or after is None:
            continue
        before = start.pop(names[0])
        if before is None:
            continue
        got = (before.double() - after.double()) / batch.step.lr
        comparison.add(names, got.numpy(), _gradient(reference, names[0]).numpy())
    if reference is None:
        return None
    if subject.roundoff is not None:
        comparison.floors.update(_floors(reference, batch, [names for names, _ in trained], subject.roundoff))
    step = step_of(
        batch.index, batch.before, batch.step, subject.layout, subject.grad_accum_steps, subject.dp_degree
    )
    return _judge(batch, reference, comparison, step)


def _judge(batch: ProofBatch, reference: Reference, comparison: Comparison, step: Step) -> Verdict:
    """The verdict; where it is NOT PROVEN, the mistake is looked for, and only then."""
    bound, total = comparison.loosest, comparison.total
    cause: str | None = None
    notes: tuple[str, ...] = ()
    if total.error_beside_factor <= bound and abs(total.factor - 1) > bound:
        cause = known_factor(total.factor, step, bound)
        notes = (f"{total.factor:.6g} times the reference: {cause or 'no known factor'}",)
    elif not total.relative_error <= bound and 0 < total.got_squared < math.inf:
        positions = {entries.name: entries.positions for entries in comparison.sketch}
        gradients = reference.sketches(batch.index, step.samples, positions)
        cause, notes = name_mistake(step, comparison, gradients, bound)
        if cause is None and isinstance(step.layout, PackedLayout):
            for restart in (True, False):
                error = _crossing_error(batch, reference, comparison, restart)
                if cause is None and error <= bound:
                    cause = f"{CROSSING}{'' if restart else RUN_ON}"
                    notes = (f"{cause}: fits with a relative error of {error:.1e}",)
    return verdict_of(comparison, cause, notes)


def _crossing_error(batch: ProofBatch, reference: Reference, comparison: Comparison, restart: bool) -> float:
    """How far what was got is, relatively, from the gradient of attention that crosses samples."""
    positions = {entries.name: entries.positions for entries in comparison.sketch}
    rows = [ids for forwards in batch.step.slots for ids in forwards]
    expected = reference.crossing_sketch(batch.index, rows, positions, restart=restart)
    expected /= batch.step.trained_tokens
    got = np.concatenate([entries.got for entries in comparison.sketch])
    size = float(np.linalg.norm(expected))
    return float(np.linalg.norm(got - expected)) / size if size else math.inf


def _floors(
    reference: Reference, batch: ProofBatch, trained: list[list[str]], roundoff: float
) -> dict[str, float]:
    """How far the reference gradient moves, relatively, when every weight is moved by the roundoff: by group,
    "" in total. The reference's weights stay moved.
    """
    before = {names[0]: _gradient(reference, names[0]) for names in trained}
    reference.move_weights(roundoff)
    reference.gradient(batch.index, samples_of(batch.step))
    sums: dict[str, Sums] = {"": Sums()}
    for names in trained:
        moved, still = _gradient(reference, names[0]).double().numpy(), before.pop(names[0]).double().numpy()
        for group in ("", label_of(names)):
            sums.setdefault(group, Sums()).add(moved.ravel(), still.ravel())
    return {group: found.relative_error for group, found in sums.items() if found.reference_squared}


def _gradient(reference: Reference, name: str) -> torch.Tensor:
    """A parameter's gradient on the CPU; zeros where none arrived."""
    parameter = reference.parameters[name]
    return torch.zeros(parameter.shape) if parameter.grad is None else parameter.grad.cpu().clone()


def fill_lora_b(model: nn.Module, seed: int) -> int:
    """Give every LoRA matrix B random values, the same on every rank and ZeRO stage; returns how many there
    are. All ranks call it, before the engine is made. None where `lora.init` gave them values.
    """
    if start_values(model):
        return 0
    generator = torch.Generator().manual_seed(seed)
    filled = 0
    for name, parameter in model.named_parameters():
        if ".lora_B." not in name or not parameter.requires_grad:
            continue
        values = torch.randn(shape_of(parameter), generator=generator) * SPREAD_OF_B
        filled += 1
        if is_partitioned(parameter):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if torch.distributed.get_rank() == 0:
                    parameter.data.copy_(values)
        else:
            parameter.data.copy_(values)
    return filled


def _trained_names(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    """Every trained parameter with all its names, its own first; a shared tensor is there once."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [
        (names[id(parameter)], parameter)
        for _, parameter in model.named_parameters()
        if parameter.requires_grad
    ]


def _master(parameter: nn.Parameter, keep: bool) -> torch.Tensor | None:
    """The float32 value that the optimizer updates, whole, on the CPU; None where it is not kept.

    DeepSpeed holds a master apart under ZeRO 1-3, in parts: gathering it is a collective of all ranks.
    """
    value = None
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        value = safe_get_full_fp32_param(parameter)
    if not keep:
        return None
    return (parameter if value is None else value).detach().float().cpu().clone()


def _copy_into(reference: Reference | None, model: nn.Module, start: dict[str, torch.Tensor | None]) -> None:
    """The reference starts from what the engine holds: the masters of what is trained, the rest as it is."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            value = start[name]
            if reference is not None and value is not None:
                reference.parameters[name].data.copy_(value)
            continue
        with whole([parameter]):
            if reference is not None:
                reference.parameters[name].data.copy_(parameter.detach())
