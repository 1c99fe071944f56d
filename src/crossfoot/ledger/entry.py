"""One line of the ledger: what a step was planned to be, what it was, and why the two differ.

A line is strict JSON (RFC 8259) without spaces. Floats are written with the fewest digits that read back to
the same bits; those that JSON has no word for are the strings "nan", "inf" and "-inf", so a reader never
meets a bare NaN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from crossfoot.documents import Malformed, parse, plain, value_of
from crossfoot.ledger.rank_counts import PerRank, per_rank_of_rows

LEDGER_FORMAT = 5
_FORMATS = (3, 4, LEDGER_FORMAT)
NO_STEP = -1
MOST_CAUSES_OF_A_KIND = 8

Value = int | float | str | None

SKIPS: Mapping[str, str] = {"not finite": "faults.nonfinite", "overflow": "faults.overflow"}
"""Why a step's update may be left out on purpose -> the key of the config that says so."""

CAUSE_KINDS: Mapping[str, tuple[str, str]] = {
    "missing sample": (
        "CF710",
        "a planned sample was not trained: its slot was dropped or its backward never ran",
    ),
    "missing forward": (
        "CF711",
        "a planned forward was never differentiated, though no sample is missing for it",
    ),
    "extra forward": (
        "CF712",
        "a rank differentiated a forward that the plan does not have, or one forward twice",
    ),
    "trained twice": ("CF713", "a sample was trained more often in one step than the step planned"),
    "already trained": ("CF714", "a sample was trained again within one epoch's order"),
    "not planned": ("CF715", "a sample of the data was trained in a step that did not plan it"),
    "other slot": ("CF716", "a sample was trained on another rank or in another forward than planned"),
    "label mask differs": (
        "CF717",
        "a sample's tokens are its own, but other tokens than planned were targets",
    ),
    "tokens altered": ("CF718", "content was trained that is in no sample of the data"),
    "rate differs": ("CF719", "the optimizer stepped at another learning rate than planned"),
    "token weight differs": (
        "CF720",
        "a token's loss was not divided by the trained tokens of the whole step",
    ),
    "ranks disagree": ("CF721", "ranks stepped at different learning rates"),
    "update not applied": ("CF722", "the optimizer did not update the weights in this step"),
    "not finite": ("CF723", "the loss or the gradient norm is infinite or not a number"),
    "count differs": ("CF724", "a sample is the planned one, but its tokens were counted differently"),
    "missing witness": ("CF725", "a rank sent no record of a step"),
    "wrong witness": ("CF726", "a rank's record is of another step, of an unknown rank, or came twice"),
    "witness cut": ("CF727", "a rank did more than its record of the step has room for"),
    "lock contradicts itself": ("CF728", "a lock's sums or hashes are not those of its own numbers"),
    "checkpoint of another run": ("CF729", "an attempt began from a checkpoint that another plan wrote"),
    "step missing": ("CF730", "the ledger has no line for a step"),
    "step twice": ("CF731", "the ledger has two lines for one step"),
    "step out of order": ("CF732", "a step's line stands after that of a later step"),
    "step not planned": ("CF733", "the ledger has a line for a step beyond the plan"),
    "does not add up": ("CF734", "a ledger line contradicts itself: its ranks do not add up to its totals"),
    "unexplained difference": ("CF735", "planned and real differ in a ledger line that names no cause"),
    "index differs": (
        "CF736",
        "the data index is not as it was written, not the promised one, or not what its files say",
    ),
    "rate not promised": ("CF737", "the loop was told another learning rate than the lock promises"),
    "samples not promised": ("CF738", "the loop was told other samples than the lock promises"),
    "layout not promised": ("CF739", "samples sat in other slots than the lock promises"),
    "counts not promised": ("CF787", "a rank counted other samples or tokens than the lock promises"),
    "not placed by itself": (
        "CF777",
        "a sample of a packed row had positions that do not begin at 0, or was not kept apart",
    ),
    "nothing trained": ("CF780", "a step, or the whole run, trained nothing"),
}
"""kind -> (code, what it means)."""


@dataclass(frozen=True)
class Cause:
    """Why a step does not foot. rank None: all ranks, or none in particular; forward None: the whole step.
    step NO_STEP: the run as a whole, its data or a lock.

    kind: a key of CAUSE_KINDS. message: plain words. sample: its id in the data index; origin: its
    "file:line". planned and real: the two values that differ, as far as they are numbers or words.
    """

    step: int
    rank: int | None
    forward: int | None
    kind: str
    message: str
    sample: int | None = None
    origin: str | None = None
    planned: Value = None
    real: Value = None

    def __post_init__(self) -> None:
        if self.kind not in CAUSE_KINDS:
            raise ValueError(f"{self.kind!r} is not a kind of cause")

    @property
    def code(self) -> str:
        """The finding's code, for `crossfoot explain`."""
        return CAUSE_KINDS[self.kind][0]

    def to_json(self) -> dict[str, Any]:
        """The cause as a JSON object, its code with it."""
        return {"code": self.code, **{name: strict(value) for name, value in asdict(self).items()}}


@dataclass(frozen=True)
class NotFinite:
    """What was NaN or infinite in a step.

    what: "loss", of one forward (forward None: of a rank's step), summed over its trained tokens; or
    "gradient norm", of the whole model over all ranks (rank None). samples: ids of those in the forward,
    origins: their "file:line". Of a gradient norm there are none: it is of all samples together.
    """

    what: str
    value: float
    rank: int | None
    forward: int | None
    samples: tuple[int, ...] = ()
    origins: tuple[str, ...] = ()

    def __str__(self) -> str:
        """In plain words."""
        if self.rank is None:
            return f"the {self.what} is {self.value!r}, and every loss is a number"
        where = f"rank {self.rank}" if self.forward is None else f"forward {self.forward} of rank {self.rank}"
        ids = ", ".join(str(sample) for sample in self.samples)
        which = f" ({'sample' if len(self.samples) == 1 else 'samples'} {ids})" if ids else ""
        return f"the {self.what} of {where} is {self.value!r}{which}"


@dataclass(frozen=True, slots=True)
class StepEntry:
    """One optimizer step over all ranks, as one attempt made it. planned_: from the plan. The others were
    measured.

    attempt: its number, from 1. epoch: of the step's first sample, as planned. lr: of the lowest rank whose
    rate is not the planned one, else of all. group_lrs: of parameters with a rate of their own; the line has
    the key where there are any. real_samples: segments differentiated, known or not.
    distinct_samples: different samples of the data among them; repeated_samples: those already trained in the
    same epoch's order; first_seen_samples: those never trained before in the run. forwards: over all ranks.
    loss: sum over all ranks / planned trained tokens (NaN when there are none). grad_norm: of the lowest
    rank. applied: on every rank. skipped: why the update was left out on purpose, a key of SKIPS: the samples
    were seen and not learned from; None when no policy left it out. retries: tries at the step that were
    thrown away for a lower loss scale; nothing else of them is counted. not_finite: the first
    MOST_CAUSES_OF_A_KIND, whatever the policy is. seconds: of the slowest rank, which is slowest_rank;
    median_seconds, fastest_seconds: of the others; None in a line of format 3 or 4. pause_seconds: before it,
    all ranks stood still so long for checkpoints; what the last one of an attempt cost stands in its manifest
    only.
    samples_sha256: first 16 hex digits of the sha256 over the sorted little-endian 64-bit digests.
    slots_sha256: the same over forward, rank, samples and their sorted digests of every slot, forward by
    forward, as they were met; None in a line of format 3.
    wrong_rate_ranks, wrong_weight_forwards: how many differ from the plan. causes: at most
    MOST_CAUSES_OF_A_KIND of each kind; cause_count: all of them. per_rank: columns, and of many ranks that
    did what was planned their digest alone. sources: samples and trained tokens of each source of the data,
    by what was found in the batches; the line has the key where the plan tells them apart.
    """

    step: int
    attempt: int
    epoch: int
    lr: float
    planned_lr: float
    planned_samples: int
    real_samples: int
    distinct_samples: int
    repeated_samples: int
    planned_first_seen_samples: int
    first_seen_samples: int
    planned_real_tokens: int
    real_tokens: int
    planned_trained_tokens: int
    trained_tokens: int
    token_slots: int
    planned_forwards: int
    real_forwards: int
    loss: float
    grad_norm: float
    applied: bool
    skipped: str | None
    retries: int
    seconds: float
    median_seconds: float | None
    fastest_seconds: float | None
    slowest_rank: int | None
    pause_seconds: float
    planned_samples_sha256: str
    samples_sha256: str
    slots_sha256: str | None
    wrong_rate_ranks: int
    wrong_weight_forwards: int
    cause_count: int
    not_finite: tuple[NotFinite, ...]
    causes: tuple[Cause, ...]
    per_rank: PerRank
    group_lrs: Mapping[str, float] = field(default_factory=dict)
    planned_group_lrs: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.attempt < 1:
            raise ValueError(f"attempt is {self.attempt}, and attempts are counted from 1")
        if self.skipped is not None and self.skipped not in SKIPS:
            raise ValueError(f"skipped is {self.skipped!r}, and may be {' or '.join(SKIPS)}")

    def to_json(self) -> dict[str, Any]:
        """The entry as a strict JSON object, headed by its format's version."""
        document: dict[str, Any] = {"format": LEDGER_FORMAT}
        for one in fields(self):
            document[one.name] = strict(getattr(self, one.name))
        document["not_finite"] = [
            {name: strict(value) for name, value in asdict(seen).items()} for seen in self.not_finite
        ]
        document["causes"] = [cause.to_json() for cause in self.causes]
        document["per_rank"] = plain(self.per_rank)
        for name in ("group_lrs", "planned_group_lrs", "sources"):
            if not getattr(self, name):
                del document[name]
            else:
                document[name] = plain(getattr(self, name))
        return document

    def to_line(self) -> str:
        """The entry as one compact JSON line, newline included."""
        document = json.dumps(self.to_json(), separators=(",", ":"), allow_nan=False)
        return document + "\n"


def entry_of(line: str | bytes) -> StepEntry:
    """The entry in one ledger line. Raises Malformed, saying what is wrong with it."""
    document = parse(line)
    if not isinstance(document, dict):
        raise Malformed("the line is not a JSON object")
    if document.get("format") not in _FORMATS:
        raise Malformed(f"the line's format is {document.get('format')!r}, this reads {LEDGER_FORMAT}")
    if document["format"] != LEDGER_FORMAT:
        _bring_up_to_date(document)
    return value_of(StepEntry, document)


def _bring_up_to_date(document: dict[str, Any]) -> None:
    """What a line of format 3 or 4 says, in the words of format 5. Raises Malformed."""
    newer = {"slots_sha256": None, "median_seconds": None, "fastest_seconds": None, "slowest_rank": None}
    for name, value in newer.items():
        document.setdefault(name, value)
    if isinstance(rows := document.get("per_rank"), list):
        try:
            document["per_rank"] = per_rank_of_rows(rows)
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise Malformed("per_rank is no list of what each rank did") from error


def strict(value: Any) -> Any:
    """A value that JSON can say: floats that it has no word for become "nan", "inf" or "-inf"."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
