"""CF306 and CF307: the optimizer and scheduler blocks of the DeepSpeed file against the run's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from crossfoot.checks.deepspeed.handed_over import why_left_out
from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.rules_data import MANY_EPOCHS
from crossfoot.checks.rules_rate import HIGHEST_ADAM_RATE
from crossfoot.checks.whole_numbers import finite_number
from crossfoot.findings.finding import Finding
from crossfoot.phrases import listed
from crossfoot.written.shown import shown

ROUNDED = 1e-5
"""Numbers copied from a plan are rounded to six digits."""

LARGEST = 1e300

_ADAMW = ("adam", "adamw", "fusedadam", "cpuadam", "deepspeedcpuadam", "adamw_torch", "adamw_hf")
"""Other names of one update: DeepSpeed's Adam is AdamW, unless adam_w_mode is false."""
_SHAPES: Mapping[str, str] = MappingProxyType(
    {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
)
_MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        "lr": "the peak rate of this run",
        "warmup_max_lr": "the peak rate of this run",
        "warmup_num_steps": "the warm-up of this run in steps",
        "total_num_steps": "the number of steps of this run",
    }
)
Numbers = float | tuple[float, ...]


@dataclass(frozen=True)
class _Difference:
    """A parameter of the block that is not the run's. key: where the run config has it."""

    name: str
    theirs: Numbers
    ours: Numbers
    key: str

    @property
    def meaning(self) -> str:
        return _MEANINGS.get(self.name, self.key)


@rule("CF306", "error", "warning", "note")
def optimizer_block(facts: Facts) -> Iterator[Finding]:
    """CF306: the DeepSpeed file has an `optimizer` block.

    crossfoot owns the optimizer: it hands DeepSpeed its own, and the block is left out. A block that says the
    same, says "auto" or says nothing is a note. A number that is not the run's is an error, because somebody
    believes in a number that does not train: `lr` is held against the peak rate of the run, which a rule may
    make of lr.reference. Another optimizer is a warning; its numbers mean something else, and are not
    compared. To DeepSpeed "Adam" is AdamW, unless `adam_w_mode` is false. (lies B12, J2, J7)
    """
    optimizer = facts.run.config.optimizer
    other = _other_optimizer(facts)
    ours: dict[str, tuple[str, Numbers | None]] = {
        "lr": ("lr.reference", _peak(facts)),
        "max_grad_norm": ("optimizer.max_grad_norm", optimizer.max_grad_norm),
    }
    if optimizer.name == "adamw":
        ours["betas"] = ("optimizer.betas", tuple(optimizer.betas))
        ours["eps"] = ("optimizer.eps", optimizer.eps)
        ours["weight_decay"] = ("optimizer.weight_decay", optimizer.weight_decay)
    yield from _judged(facts, "CF306", "optimizer", ours if not other else {}, other)


def _other_optimizer(facts: Facts) -> str:
    """What makes the block's optimizer another one than the run's; "" when nothing does."""
    optimizer, kind = facts.run.config.optimizer, _get(facts, "optimizer", "type")
    if not isinstance(kind, str) or kind == "auto":
        return ""
    params = _params(facts, "optimizer")
    family = "adamw" if kind.lower() in _ADAMW else kind.lower()
    if family != optimizer.name:
        return f"optimizer.type is {kind}, and this run trains with {optimizer.name}"
    decay = _number(params.get("weight_decay", optimizer.weight_decay))
    if kind.lower() == "adam" and params.get("adam_w_mode") is False and decay:
        return "optimizer.params.adam_w_mode is false, and this run trains with AdamW"
    unlike = ("amsgrad", "maximize") if family == "adamw" else ("momentum", "nesterov", "weight_decay")
    for name in unlike:
        if _number(params.get(name)) or params.get(name) is True:
            return f"optimizer.params.{name} is {shown(params[name])}, and this run trains without it"
    return ""


@rule("CF307", "error", "warning", "note")
def scheduler_block(facts: Facts) -> Iterator[Finding]:
    """CF307: the DeepSpeed file has a `scheduler` block.

    crossfoot sets the learning rate of every step, and the block is left out. A block that says the same,
    says "auto" or says nothing is a note. A number that is not the run's is an error, because somebody
    believes in a number that does not train. Another shape is a warning: WarmupLR is `lr.schedule: constant`,
    WarmupDecayLR `linear` and WarmupCosineLR `cosine`; DeepSpeed's warm-up is logarithmic unless
    `warmup_type` says linear. (lies B5, B13, J2)
    """
    rate = facts.rate
    kind = _get(facts, "scheduler", "type")
    is_named = isinstance(kind, str) and kind != "auto"
    ours: dict[str, tuple[str, Numbers | None]] = {
        "warmup_max_lr": ("lr.reference", _peak(facts)),
        "warmup_num_steps": ("lr.warmup_steps", rate.warmup_steps if rate else None),
        "total_num_steps": ("train.max_steps", rate.total_steps if rate else None),
    }
    if facts.run.config.lr.schedule == "cosine":
        ours["cos_min_ratio"] = ("lr.min_ratio", facts.run.config.lr.min_ratio)
    if not is_named:
        yield from _judged(facts, "CF307", "scheduler", ours)
    elif kind not in _SHAPES:
        other = f"scheduler.type is {kind}, and lr.schedule is {facts.run.config.lr.schedule}"
        yield from _judged(facts, "CF307", "scheduler", {}, other)
    else:
        other = _other_shape(facts, kind) or _other_warmup(_params(facts, "scheduler"))
        yield from _judged(facts, "CF307", "scheduler", ours, other, _remedy(facts, kind))


def _other_shape(facts: Facts, kind: str) -> str:
    ours = facts.run.config.lr.schedule
    if _SHAPES[kind] == ours:
        return ""
    return f"scheduler.type is {kind}, which is {_SHAPES[kind]} after the warm-up, and lr.schedule is {ours}"


def _remedy(facts: Facts, kind: str) -> str | None:
    is_other = bool(_other_shape(facts, kind))
    is_flat = _SHAPES[kind] == "constant" and facts.run.config.lr.min_ratio  # CF030
    if not is_other or is_flat or _other_warmup(_params(facts, "scheduler")):
        return None
    return f"lr.schedule to {_SHAPES[kind]}"


def _other_warmup(params: Mapping[str, Any]) -> str:
    if _number(params.get("warmup_min_lr")):
        return (
            f"scheduler.params.warmup_min_lr is {shown(params['warmup_min_lr'])}, "
            "and the warm-up of this run begins at 0"
        )
    if params.get("warmup_type") == "log" and _number(params.get("warmup_num_steps", 0)):
        return 'scheduler.params.warmup_type is "log", and the warm-up of this run is linear'
    return ""


def _judged(
    facts: Facts,
    code: str,
    block: str,
    ours: Mapping[str, tuple[str, Numbers | None]],
    other: str = "",
    remedy: str | None = None,
) -> Iterator[Finding]:
    """The finding about a block. ours: the numbers to compare it with. other: what makes it another one;
    remedy: the change of the run config with which it is not.
    """
    deepspeed, understood = facts.deepspeed, facts.understood
    if deepspeed is None or understood is None or block not in deepspeed.values:
        return
    left_out = f"it is not handed over: {why_left_out(understood.values, facts.run.config, (block,))}"
    differences = list(_differences(_params(facts, block), ours))
    at = (block, "params", differences[0].name) if differences else (block,)
    if not differences:
        yield Finding(
            code,
            other or f"nothing in the {block} block differs from this run",
            severity="warning" if other else "note",
            place=deepspeed.place(*at, part="key"),
            notes=(left_out,),
            helps=(f"remove the {block} block", *([f"or set {remedy}"] if remedy else [])) if other else (),
        )
        return
    first, *rest = differences
    title = f"{block}.params.{first.name} says {_label(first)}"
    if rest:
        title = f"{len(differences)} numbers of the {block} block are not those of this run"
    places = [(deepspeed.place(block, "params", one.name), _label(one)) for one in rest]
    places += [
        (facts.run.place(one.key), f"{one.meaning}: {_short(one.ours)}")
        for one in differences
        if facts.run.is_written(one.key)
    ]
    changes = _changes(facts, differences)
    if other and changes:
        changes = [*changes, remedy] if remedy else []
    yield Finding(
        code,
        title,
        place=deepspeed.place(*at),
        label=_label(first) if rest else "",
        others=tuple(places),
        notes=(left_out, *([other] if other else [])),
        helps=(
            f'write "auto" there, or remove the {block} block: the run config decides',
            *([f"or set {listed(changes)}, to train as the block says"] if changes else []),
        ),
    )


def _label(one: _Difference) -> str:
    return f"{_short(one.theirs)}, but {one.meaning} is {_short(one.ours)}"


def _short(value: Numbers) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else f"[{', '.join(map(_short, value))}]"


def _get(facts: Facts, *keys: str) -> Any:
    return facts.deepspeed.get(*keys) if facts.deepspeed is not None else None


def _params(facts: Facts, block: str) -> Mapping[str, Any]:
    params = _get(facts, block, "params")
    return params if isinstance(params, dict) else {}


def _peak(facts: Facts) -> float | None:
    """The rate after the warm-up; None while it is not known."""
    lr = facts.run.config.lr
    if facts.rate is not None:
        return facts.rate.peak
    return lr.reference if lr.rule == "none" else None


def _differences(
    params: Mapping[str, Any], ours: Mapping[str, tuple[str, Numbers | None]]
) -> Iterator[_Difference]:
    for name, (key, mine) in ours.items():
        theirs = _numbers(params.get(name))
        if theirs is None or mine is None or isinstance(theirs, tuple) != isinstance(mine, tuple):
            continue
        if not _is_same(theirs, mine):
            yield _Difference(name, theirs, mine, key)


def _is_same(one: Numbers, other: Numbers) -> bool:
    if isinstance(one, tuple) or isinstance(other, tuple):
        return (
            isinstance(one, tuple)
            and isinstance(other, tuple)
            and len(one) == len(other)
            and all(map(_is_same, one, other))
        )
    return math.isclose(one, other, rel_tol=ROUNDED)


def _numbers(value: Any) -> Numbers | None:
    """A number, or a list of them, however it is written; None for "auto" and all else."""
    if not isinstance(value, list):
        return _number(value)
    numbers = [_number(one) for one in value]
    return tuple(one for one in numbers if one is not None) if None not in numbers else None


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    number = finite_number(value)
    return None if number is None or abs(number) > LARGEST else number


# ---- what the run config would have to say


def _changes(facts: Facts, differences: list[_Difference]) -> list[str]:
    """For each difference `KEY to VALUE`; nothing when one of them would lead to another finding."""
    wanted = {one.name: one.theirs for one in differences}
    changes = [_change(facts, one, wanted) for one in differences]
    return [change for change in changes if change is not None] if None not in changes else []


def _change(facts: Facts, one: _Difference, wanted: Mapping[str, Numbers]) -> str | None:
    if isinstance(one.theirs, tuple):
        is_pair = len(one.theirs) == 2 and all(0 <= beta < 1 for beta in one.theirs)
        return f"{one.key} to {_short(one.theirs)}" if is_pair else None
    special = {"lr.reference": _reference, "lr.warmup_steps": _warmup, "train.max_steps": _length}
    if one.key in special:
        return special[one.key](facts, one.theirs, wanted)
    clipping = _number(_get(facts, "gradient_clipping"))
    is_fit = {
        "lr.min_ratio": 0 <= one.theirs < 1,
        "optimizer.eps": one.theirs > 0,
        "optimizer.weight_decay": one.theirs >= 0,
        "optimizer.max_grad_norm": one.theirs >= 0 and clipping in (None, one.theirs),
    }
    return f"{one.key} to {one.theirs:g}" if is_fit[one.key] else None


def _reference(facts: Facts, peak: float, wanted: Mapping[str, Numbers]) -> str | None:
    plan = facts.rate
    if not 0 < peak <= HIGHEST_ADAM_RATE:  # CF210
        return None
    if plan is None or plan.rule == "none":
        return f"lr.reference to {peak:g}"
    return f"lr.reference to {peak * plan.reference / plan.peak:.6g} (of which lr.rule makes {peak:g})"


def _warmup(facts: Facts, steps: float, wanted: Mapping[str, Numbers]) -> str | None:
    lr, plan = facts.run.config.lr, facts.rate
    if not _fits(steps, wanted.get("total_num_steps", plan.total_steps if plan else 0)):
        return None
    beside = [f"lr.{key}" for key in ("warmup_fraction", "warmup_samples") if getattr(lr, key) is not None]
    return " in the place of ".join([f"lr.warmup_steps to {int(steps)}", *beside])


def _length(facts: Facts, steps: float, wanted: Mapping[str, Numbers]) -> str | None:
    config, plan = facts.run.config, facts.rate
    warmup = wanted.get("warmup_num_steps", plan.warmup_steps if plan else 0)
    if config.lr.warmup_fraction is not None and "warmup_num_steps" not in wanted:
        warmup = int(config.lr.warmup_fraction * steps)
    schedule = facts.schedule
    is_long = schedule is not None and steps > MANY_EPOCHS * schedule.steps_per_epoch  # CF519
    if is_long or not _fits(warmup, steps):
        return None
    beside = ["train.epochs"] if config.train.epochs else []
    return " in the place of ".join([f"train.max_steps to {int(steps)}", *beside])


def _fits(warmup: Numbers, total: Numbers) -> bool:
    """Whether both are whole numbers of steps, and half of the run is left behind the warm-up (CF207)."""
    if isinstance(warmup, tuple) or isinstance(total, tuple) or warmup % 1 or total % 1:
        return False
    return 0 <= warmup <= total >= 1 and (warmup < 2 or 2 * warmup <= total)
