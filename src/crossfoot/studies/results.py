"""What came of the runs of a study, as its table keeps it: facts that no machine, kill or clock changes, and
beside them, apart, what the runs cost here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

RESULTS_FORMAT = 1
RESULTS, COSTS = "results.json", "costs.json"
"""Their files in the folder of a study."""

State = Literal["done", "diverged", "unfinished"]
"""done: all steps. diverged: ended by a loss or gradient that is NaN or infinite. unfinished: it is not over,
or stopped on a fault.
"""


@dataclass(frozen=True)
class CurvePoint:
    """The weights after `step` optimizer steps. samples, trained_tokens: trained until then, over all epochs.
    validation_loss: nats a trained token, on all of data.validation. training_loss: of the steps since the
    point before, nats a trained token; NaN at step 0.
    """

    step: int
    samples: int
    trained_tokens: int
    validation_loss: float
    training_loss: float


@dataclass(frozen=True)
class StudyRun:
    """One run. name: of its folder. batch: samples per optimizer step. rate_factor: what the rate of the
    config's rule at this batch was multiplied with; peak_rate: what came of it. foots: its receipt does;
    False without one. same_samples: every step held the samples that the study's one order has there, by the
    digests of its ledger. points: by step, the first before any training.
    """

    name: str
    batch: int
    rate_factor: float
    peak_rate: float
    seed: int
    state: State
    foots: bool
    same_samples: bool
    points: tuple[CurvePoint, ...]

    def from_its_start(self) -> StudyRun:
        """The same, its steps and samples counted from its first point on: where it branched off."""
        if not self.points:
            return self
        first = self.points[0]
        points = (
            replace(point, step=point.step - first.step, samples=point.samples - first.samples)
            for point in self.points
        )
        return replace(self, points=tuple(points))


@dataclass(frozen=True)
class RunCost:
    """What a run cost here. seconds: until each of its points, of training alone. tokens_per_second: real
    tokens over all ranks. peak_bytes: the most memory a rank held, None where nobody measured.
    """

    seconds: tuple[float, ...]
    tokens_per_second: float
    peak_bytes: int | None = None


@dataclass(frozen=True)
class StudyResults:
    """All runs, by batch, factor and seed. own_batch: that of the config, which the study is about.
    budget_samples: each run trains so many, or up to a batch more. samples_sha256: of the order of samples
    that all of them share; samples_per_epoch, tokens_per_sample (trained, mean): of the data. branch: the run
    and step that all of them start from, None: each from the model. costs: by name of a run.
    """

    name: str
    own_batch: int
    budget_samples: int
    samples_per_epoch: int
    tokens_per_sample: float
    samples_sha256: str
    rule: Literal["none", "linear", "sqrt"]
    runs: tuple[StudyRun, ...]
    branch: str | None = None
    costs: Mapping[str, RunCost] = field(default_factory=dict)

    @property
    def foots(self) -> bool:
        """Whether every run does."""
        return bool(self.runs) and all(run.foots and run.same_samples for run in self.runs)
