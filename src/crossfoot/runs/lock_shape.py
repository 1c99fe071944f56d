"""What stands in plan.lock.json, as far as anything reads it: types, and numbers within sense.

The document itself is handed on as it is, and its keys are read where they are needed. Here only what is
there is looked at, so that nobody finds text where a number should be: locks of older versions lack keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from crossfoot import documents
from crossfoot.arithmetic.batch import GpusPerNode

MOST_STEPS = 100_000_000
MOST_SAMPLES = 1_000_000_000
MOST_SLOTS = 10_000_000
"""The plan of a lock is worked out anew; more than this would fill the memory of whoever looks at it."""


_LARGEST_RATIO = 1e30


def _refuse_beyond(least: float, most: float, **numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not least <= number <= most:
            raise ValueError(f"{name} is {number}, not {least} to {most}")


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What a lock's key `expects` promises for the whole run over all ranks. forwards: empty ones too."""

    total_steps: int
    samples: int
    distinct_samples: int
    real_tokens: int
    trained_tokens: int
    forwards: int

    def __post_init__(self) -> None:
        _refuse_beyond(0, MOST_STEPS, total_steps=self.total_steps)


@dataclass(frozen=True, kw_only=True)
class Expects(Sums):
    """The same, with the lock's name and sha256. name: the run's. sha: of the lock, hex."""

    name: str
    sha: str


@dataclass(frozen=True)
class _Run:
    seed: int = 0

    def __post_init__(self) -> None:
        _refuse_beyond(0, documents.LARGEST_INTEGER, seed=self.seed)


@dataclass(frozen=True)
class _Path:
    path: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


@dataclass(frozen=True)
class _Entry:
    path: str
    name: str | None = None
    weight: float = 1.0
    max_samples: int | None = None

    def __post_init__(self) -> None:
        _refuse_beyond(0, _LARGEST_RATIO, weight=self.weight)
        _refuse_beyond(1, documents.LARGEST_INTEGER, max_samples=self.max_samples)


@dataclass(frozen=True)
class _Data:
    train: tuple[str | _Entry, ...] = ()
    validation: tuple[str, ...] | int | float = ()
    task: str = ""
    template: str = ""
    max_seq_len: int = 1
    over_long: str = "truncate"
    last_step: Literal["short", "drop", "carry"] = "short"
    layout: Literal["packed", "padded"] = "padded"
    bad_samples: str = ""
    index_dir: str | None = None


@dataclass(frozen=True)
class _Lr:
    reference: float = 0.0
    reference_batch: int | None = None
    rule: Literal["none", "linear", "sqrt"] = "none"
    schedule: Literal["cosine", "cosine_with_restarts", "linear", "constant", "wsd"] = "cosine"
    min_ratio: float = 0.0
    cycles: int = 1
    decay_fraction: float = 0.0
    decay_shape: Literal["linear", "sqrt", "cosine"] = "linear"
    groups: Mapping[str, float] = field(default_factory=dict)
    warmup_steps: int | None = None
    warmup_fraction: float | None = None
    warmup_samples: int | None = None

    def __post_init__(self) -> None:
        if self.rule != "none" and self.reference_batch is None:
            raise ValueError(f"the rule {self.rule} needs a reference_batch")
        _refuse_beyond(1, documents.LARGEST_INTEGER, reference_batch=self.reference_batch)
        _refuse_beyond(0, documents.LARGEST_INTEGER, warmup_steps=self.warmup_steps)
        _refuse_beyond(0, documents.LARGEST_INTEGER, warmup_samples=self.warmup_samples)
        _refuse_beyond(0, 1, warmup_fraction=self.warmup_fraction, min_ratio=self.min_ratio)
        _refuse_beyond(0, 1, decay_fraction=self.decay_fraction)
        _refuse_beyond(1, MOST_STEPS, cycles=self.cycles)
        _refuse_beyond(0, _LARGEST_RATIO, **self.groups)


@dataclass(frozen=True)
class _Optimizer:
    name: str = ""
    betas: tuple[float, float] = (0.9, 0.999)
    beta2_reference_batch: int | None = None

    def __post_init__(self) -> None:
        _refuse_beyond(0, 1, beta=self.betas[1])
        _refuse_beyond(1, documents.LARGEST_INTEGER, reference_batch=self.beta2_reference_batch)


@dataclass(frozen=True)
class _Lora:
    r: int = 1
    dropout: float = 0.0
    target_modules: tuple[str, ...] | str = ()
    modules_to_save: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Train:
    epochs: int | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        _refuse_beyond(1, MOST_STEPS, epochs=self.epochs, max_steps=self.max_steps)


@dataclass(frozen=True)
class _Faults:
    nonfinite: str = ""
    overflow: str = ""


@dataclass(frozen=True)
class _Config:
    run: _Run = _Run()
    model: _Path = _Path()
    tokenizer: _Path | None = None
    data: _Data = _Data()
    lr: _Lr = _Lr()
    lora: _Lora | None = None
    train: _Train = _Train()
    optimizer: _Optimizer = _Optimizer()
    batch: Mapping[str, Any] = field(default_factory=dict)
    faults: _Faults = _Faults()


@dataclass(frozen=True)
class _Peak:
    peak: float = 0.0
    group_peaks: Mapping[str, float] = field(default_factory=dict)
    peaks: tuple[tuple[int, float], ...] | None = None


@dataclass(frozen=True)
class _PlannedSource:
    name: str
    files: int
    samples: int
    used_samples: int
    samples_per_epoch: int

    def __post_init__(self) -> None:
        _refuse_beyond(1, MOST_SAMPLES, files=self.files, samples=self.samples)
        _refuse_beyond(1, MOST_SAMPLES, used_samples=self.used_samples)
        _refuse_beyond(1, MOST_SAMPLES, samples_per_epoch=self.samples_per_epoch)


@dataclass(frozen=True)
class _Plan:
    micro_batch_size: int = 1
    grad_accum_steps: int = 1
    global_batch_size: int = 1
    batch_from_samples: tuple[tuple[int, int], ...] | None = None
    target_trained_tokens: int | None = None
    dp_degree: int = 1
    world_size: int = 1
    num_nodes: int = 1
    gpus_per_node: GpusPerNode = 1
    samples_per_epoch: int = 1
    sources: tuple[_PlannedSource, ...] | None = None
    held_out_samples: int | None = None
    held_out_duplicates: int | None = None
    total_steps: int = 1
    warmup_steps: int = 0
    learning_rate: _Peak = _Peak()
    beta2: float | None = None
    batches_sha256: str | None = None
    layout_sha256: str | None = None
    work_per_token: int | None = None
    micro_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        _refuse_beyond(1, MOST_SAMPLES, samples_per_epoch=self.samples_per_epoch)
        _refuse_beyond(0, MOST_STEPS, total_steps=self.total_steps)
        for name in ("held_out_samples", "held_out_duplicates"):
            _refuse_beyond(0, MOST_SAMPLES, **{name: getattr(self, name)})
        for name in ("micro_batch_size", "grad_accum_steps", "global_batch_size", "dp_degree"):
            _refuse_beyond(1, MOST_SAMPLES, **{name: getattr(self, name)})
        for name in ("work_per_token", "micro_batch_tokens", "target_trained_tokens"):
            _refuse_beyond(1, MOST_SAMPLES, **{name: getattr(self, name)})
        pairs = self.batch_from_samples or ((0, 1),)
        firsts = [first for first, _ in pairs]
        if firsts[0] != 0 or any(later <= first for first, later in pairwise(firsts)):
            raise ValueError(f"batch_from_samples begins at {firsts}, which does not rise from 0")
        for _, batch in pairs:
            _refuse_beyond(1, MOST_SAMPLES, batch_from_samples=batch)
        _refuse_beyond(1, MOST_SLOTS, slots=self.dp_degree * self.grad_accum_steps)


@dataclass(frozen=True)
class _Source:
    path: str
    sha256: str


@dataclass(frozen=True)
class _Index:
    address: str = ""
    arrays_sha256: str | None = None
    sources: tuple[_Source, ...] = ()


@dataclass(frozen=True)
class _Lock:
    name: str
    sha256: str
    expects: Sums
    config: _Config = _Config()
    plan: _Plan = _Plan()
    index: _Index = _Index()


def refuse_misshapen(lock: Mapping[str, Any]) -> None:
    """Raises Malformed, naming the key, for a lock in which something is not of its type."""
    documents.value_of(_Lock, lock)
