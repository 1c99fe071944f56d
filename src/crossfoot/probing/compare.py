"""Two gradients side by side, tensor by tensor: norms per group of parameters, and a sketch of both for the
diagnosis. Pure numpy; float64 sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

BOUNDS = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest |difference| / |reference| of a proof, by `model.dtype`. Measured on small models of 20
architectures, DeepSpeed ZeRO 0-3 and accelerate, 1 to 3 ranks: 4e-7 to 3e-6 in float32, 7e-3
to 2.1e-2 in bfloat16."""
ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-12}
"""Largest relative error of rounding one number."""
TIMES_FLOOR, WIDEST_BOUND = 16.0, 0.25
"""Real weights of many layers enlarge rounding. With `--full` it is measured by how far the reference moves
when its weights are moved by the roundoff; a group's bound is 16 times that, where that is more (30 layers
of real weights: errors of up to 3 times that). It is never more than 0.25: a factor of 4/3 could hide."""
SKETCHED = 1024
"""Entries of every tensor that the diagnosis looks at."""
NOT_NAMES = frozenset(
    ("model", "base_model", "default", "modules_to_save", "base_layer", "weight", "bias", "token_adapter")
)


def group_of(name: str) -> str:
    """The group a parameter belongs to: the last word of its name, without layer number; for an adapter the
    module too.

    `base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight` is in q_proj.lora_A. A weight and
    its bias are one group: some biases have no gradient but rounding (k_proj's, without rotary positions).
    """
    words = [word for word in name.split(".") if word not in NOT_NAMES and not word.isdigit()]
    is_adapter = len(words) > 1 and words[-1].startswith(("lora_", "trainable_tokens_"))
    return ".".join(words[-2:] if is_adapter else words[-1:]) or name


def label_of(names: Iterable[str]) -> str:
    """The groups of all names of one tensor, each once."""
    return ", ".join(dict.fromkeys(map(group_of, names)))


@dataclass
class Sums:
    """Inner products of a set of parameters: enough for norms, the relative error and the best factor."""

    tensors: int = 0
    got_squared: float = 0.0
    reference_squared: float = 0.0
    difference_squared: float = 0.0
    inner: float = 0.0

    def add(self, got: Vector, reference: Vector) -> None:
        """Count one tensor in."""
        self.tensors += 1
        self.got_squared += float(got @ got)
        self.reference_squared += float(reference @ reference)
        self.inner += float(got @ reference)
        difference = got - reference
        self.difference_squared += float(difference @ difference)

    @property
    def reference(self) -> float:
        """|reference|."""
        return math.sqrt(self.reference_squared)

    @property
    def relative_error(self) -> float:
        """|difference| / |reference|; infinite where the reference is zero, nan where something is not
        finite.
        """
        if self.reference_squared == 0:
            return math.inf
        return math.sqrt(self.difference_squared) / self.reference

    @property
    def factor(self) -> float:
        """The factor that makes the reference most like what was got: <got, reference> / <reference,
        reference>.
        """
        return self.inner / self.reference_squared if self.reference_squared else math.nan

    @property
    def error_beside_factor(self) -> float:
        """What is left of the relative error when the reference is scaled by `factor`."""
        if not self.reference_squared or not self.inner:
            return math.inf
        left = self.got_squared - self.inner**2 / self.reference_squared
        return math.sqrt(max(left, 0.0)) / (abs(self.factor) * self.reference)


@dataclass(frozen=True)
class Entries:
    """Some entries of one tensor, flat: their positions, and what was got there."""

    name: str
    positions: NDArray[np.int64]
    got: Vector


@dataclass
class Comparison:
    """What the engine did, against the reference: by group, in total, and at sketched entries."""

    bound: float
    groups: dict[str, Sums] = field(default_factory=dict)
    total: Sums = field(default_factory=Sums)
    sketch: list[Entries] = field(default_factory=list)
    floors: dict[str, float] = field(default_factory=dict)
    """Relative errors that rounding alone makes, by group, "" in total, where they were measured."""

    def add(self, names: Iterable[str], got: NDArray[Any], reference: NDArray[Any]) -> None:
        """Compare one tensor. names: all it is known by, its own first (tied tables have two)."""
        own, *others = names
        label = label_of((own, *others))
        flat_got, flat_reference = got.ravel().astype(np.float64), reference.ravel().astype(np.float64)
        self.groups.setdefault(label, Sums()).add(flat_got, flat_reference)
        self.total.add(flat_got, flat_reference)
        positions = np.flatnonzero((flat_got != 0) | (flat_reference != 0))
        if positions.size > SKETCHED:
            draw = np.random.Generator(np.random.Philox(key=len(self.sketch)))
            positions = np.sort(draw.choice(positions, SKETCHED, replace=False))
        self.sketch.append(Entries(own, positions, flat_got[positions]))

    def bound_of(self, group: str) -> float:
        """The bound of a group, "" of the total."""
        return min(max(self.bound, TIMES_FLOOR * self.floors.get(group, 0.0)), WIDEST_BOUND)

    @property
    def loosest(self) -> float:
        """The largest bound of any group."""
        return max(map(self.bound_of, ("", *self.groups)))

    def unproven(self) -> list[str]:
        """Groups that are not shown to agree: too far apart, not finite, or without a reference."""
        return [name for name, sums in self.groups.items() if not sums.relative_error <= self.bound_of(name)]

    @property
    def is_proven(self) -> bool:
        """Every group and the total within their bounds."""
        return bool(self.groups) and not self.unproven() and self.total.relative_error <= self.bound_of("")
