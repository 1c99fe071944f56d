"""What one rank saw itself do in one optimizer step, and its form as a row of 64-bit integers for the
all-gather.

A witness holds content and counts, never the plan: `reconcile` compares the two. Floats travel as their bit
patterns, so a value that arrives is the value that was measured.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from crossfoot.arithmetic.rate_groups import GROUPS

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

WITNESS_FORMAT = 0x43465705  # "CFW", version 5
_FORWARD, _SEGMENT = 6, 4  # int64 words
_GROUPS = 16
_HEADER = _GROUPS + len(GROUPS)
_MASK = (1 << 64) - 1
_APPLIED = 1
COLUMNS = {"rank": 1, "step": 2, "flags": 3, "stop": 4, "lr": 5, "loss_sum": 6, "grad_norm": 7, "seconds": 8}
COLUMNS |= {"forwards": 9, "retries": 15}
"""Where numbers of a rank's head stand in its row."""


@dataclass(frozen=True)
class SegmentWitness:
    """One sample as the model was given it.

    token_digest, digest: unsigned 64-bit, of the token ids, and of the token ids with the label mask.
    real_tokens: tokens that are not padding. trained_tokens: labels that are not -100, after the causal
    shift.
    """

    token_digest: int
    digest: int
    real_tokens: int
    trained_tokens: int


@dataclass(frozen=True)
class ForwardWitness:
    """One forward whose backward ran on this rank.

    forward: its number within the step, from 0. token_slots: tokens computed, padding in. token_weight: what
    the summed loss of its tokens was multiplied with. segments: empty for an empty slot. loss_sum: over its
    trained tokens, undivided. misplaced: samples of a packed row whose positions do not begin at 0, or which
    attention does not keep apart from their neighbours.
    """

    forward: int
    token_slots: int
    token_weight: float
    segments: tuple[SegmentWitness, ...]
    loss_sum: float = 0.0
    misplaced: int = 0

    @property
    def real_tokens(self) -> int:
        """Tokens that are not padding, of all segments."""
        return sum(segment.real_tokens for segment in self.segments)

    @property
    def trained_tokens(self) -> int:
        """Trained tokens of all segments."""
        return sum(segment.trained_tokens for segment in self.segments)


@dataclass(frozen=True)
class Lost:
    """What happened but found no room in the packed row: counted, not listed. All 0 in an honest run."""

    forwards: int = 0
    segments: int = 0
    real_tokens: int = 0
    trained_tokens: int = 0
    token_slots: int = 0

    def __bool__(self) -> bool:
        return self != Lost()


@dataclass(frozen=True)
class StepWitness:
    """One rank's account of one optimizer step; only forwards whose backward ran are in it.

    lr: as it stood in the optimizer when it stepped (NaN when it did not). group_lrs: the same of parameters
    that have a rate of their own, by the names of GROUPS. applied: the weights were
    updated. loss_sum: sum over this rank's trained tokens, undivided. grad_norm: before clipping, of the
    whole model. seconds: this rank's wall-clock. nonfinite: loss or norm is inf or NaN. stop: whether this
    rank asks to end the run, 0 for none. overflow: the loss scaler met a gradient too large for float16
    and left the update out. retries: how often the step was tried before, at a higher loss scale, and
    thrown away: only counted.
    """

    rank: int
    step: int
    forwards: tuple[ForwardWitness, ...]
    lr: float
    applied: bool
    loss_sum: float
    grad_norm: float
    seconds: float
    nonfinite: bool
    stop: int
    lost: Lost = Lost()
    overflow: bool = False
    retries: int = 0
    group_lrs: Mapping[str, float] = field(default_factory=dict)


def packed_width(grad_accum_steps: int, micro_batch_size: int) -> int:
    """Words that hold a rank's step of `grad_accum_steps` forwards with up to `micro_batch_size` samples
    each.

    There is room for two forwards and a micro batch of samples (at least 8) more than planned, so that a
    sample trained twice is named and not only counted.
    """
    forwards = grad_accum_steps + 2
    segments = grad_accum_steps * micro_batch_size + max(8, micro_batch_size)
    return _HEADER + forwards * _FORWARD + segments * _SEGMENT


def pack(witness: StepWitness, width: int) -> Int64Array:
    """The witness as int64[width], zero-filled: its head, its forwards, then their segments one behind the
    other. What finds no room is counted in `lost` and left out.

    Raises ValueError when `width` does not even hold the head.
    """
    if width < _HEADER:
        raise ValueError(f"a witness needs at least {_HEADER} words, not {width}")
    forwards: list[int] = []
    segments: list[int] = []
    lost = [witness.lost.forwards, witness.lost.segments, witness.lost.real_tokens]
    lost += [witness.lost.trained_tokens, witness.lost.token_slots]
    for forward in witness.forwards:
        room = width - _HEADER - len(forwards) - len(segments) - _FORWARD
        if room < 0:
            _lose(lost, forward.segments)
            lost[0] += 1
            lost[4] += forward.token_slots
            continue
        fits, _ = divmod(room, _SEGMENT)
        kept, cut = forward.segments[:fits], forward.segments[fits:]
        forwards += [forward.forward, forward.token_slots, _bits(forward.token_weight)]
        forwards += [_bits(forward.loss_sum), forward.misplaced, len(kept)]
        for segment in kept:
            segments += [_signed(segment.token_digest), _signed(segment.digest)]
            segments += [segment.real_tokens, segment.trained_tokens]
        _lose(lost, cut)
    stored, _ = divmod(len(forwards), _FORWARD)
    flags = int(witness.applied) | int(witness.nonfinite) << 1 | int(witness.overflow) << 2
    head = [WITNESS_FORMAT, witness.rank, witness.step, flags, witness.stop, _bits(witness.lr)]
    head += [_bits(witness.loss_sum), _bits(witness.grad_norm), _bits(witness.seconds), stored, *lost]
    head.append(witness.retries)
    head += [_bits(witness.group_lrs.get(group, math.nan)) for group in GROUPS]
    words = [*head, *forwards, *segments]
    row = np.zeros(width, dtype=np.int64)
    row[: len(words)] = words
    return row


def unpack(array: npt.ArrayLike) -> StepWitness:
    """The witness in a packed row. Raises ValueError when the row was not made by `pack`."""
    words: list[int] = np.asarray(array, dtype=np.int64).tolist()
    if len(words) < _HEADER or words[0] != WITNESS_FORMAT:
        raise ValueError("these words are not a packed witness")
    at = _HEADER + words[9] * _FORWARD  # of the segments
    if not _HEADER <= at <= len(words):
        raise ValueError("a packed witness ends before its last forward")
    forwards = []
    for start in range(_HEADER, at, _FORWARD):
        number, token_slots, weight, loss_sum, misplaced, count = words[start : start + _FORWARD]
        end = at + count * _SEGMENT
        if not at <= end <= len(words):
            raise ValueError("a packed witness ends before its last segment")
        segments = []
        for place in range(at, end, _SEGMENT):
            token_digest, digest, real_tokens, trained_tokens = words[place : place + _SEGMENT]
            segments.append(SegmentWitness(token_digest & _MASK, digest & _MASK, real_tokens, trained_tokens))
        at = end
        forwards.append(
            ForwardWitness(number, token_slots, _float(weight), tuple(segments), _float(loss_sum), misplaced)
        )
    return StepWitness(
        rank=words[1],
        step=words[2],
        forwards=tuple(forwards),
        lr=_float(words[5]),
        applied=bool(words[3] & 1),
        loss_sum=_float(words[6]),
        grad_norm=_float(words[7]),
        seconds=_float(words[8]),
        nonfinite=bool(words[3] & 2),
        stop=words[4],
        lost=Lost(*words[10:15]),
        overflow=bool(words[3] & 4),
        retries=words[15],
        group_lrs=_group_rates(words[_GROUPS:_HEADER]),
    )


@dataclass(frozen=True, eq=False)
class WitnessRows:
    """The packed rows of all ranks, int64[ranks, width], looked at by column: no object is made.

    Raises ValueError when a row was not made by `pack`.
    """

    rows: Int64Array

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape[1] < _HEADER or (self.rows[:, 0] != WITNESS_FORMAT).any():
            raise ValueError("these rows are not packed witnesses")

    def witnesses(self) -> list[StepWitness]:
        """Each row as an object."""
        return [unpack(row) for row in self.rows]

    def column(self, name: str) -> Int64Array:
        """A whole number of each rank's head, int64[ranks]: a key of COLUMNS."""
        return self.rows[:, COLUMNS[name]]

    def floats(self, name: str) -> Float64Array:
        """A float of each rank's head, float64[ranks]."""
        return np.ascontiguousarray(self.rows[:, COLUMNS[name]]).view(np.float64)

    def group_rates(self) -> dict[str, float] | None:
        """The rates of the groups, the same on all ranks; None where ranks differ."""
        own = self.rows[:, _GROUPS:_HEADER]
        return _group_rates(own[0].tolist()) if (own == own[0]).all() else None

    @property
    def stop(self) -> int:
        """What the most urgent rank asks for."""
        return int(self.rows[:, COLUMNS["stop"]].max())

    @property
    def has_bad_step(self) -> bool:
        """Whether a rank met a loss or a norm that is no number, or an overflow."""
        return bool((self.rows[:, COLUMNS["flags"]] & ~_APPLIED).any())

    @property
    def are_all_applied(self) -> bool:
        """Whether every rank updated the weights, and none has anything to say against it."""
        return bool((self.rows[:, COLUMNS["flags"]] == _APPLIED).all())

    @property
    def has_lost(self) -> bool:
        """Whether anything found no room in a row."""
        return bool(self.rows[:, 10:15].any())

    def forwards(self) -> Int64Array | None:
        """int64[ranks, forwards, 6]: number, token slots, bits of the token weight and of the loss's sum,
        misplaced samples, segments. None where ranks differ in how many they have."""
        if not len(self.rows):
            return None
        stored = int(self.rows[0, COLUMNS["forwards"]])
        end = _HEADER + stored * _FORWARD
        if (self.rows[:, COLUMNS["forwards"]] != stored).any() or not _HEADER <= end <= self.rows.shape[1]:
            return None
        return self.rows[:, _HEADER:end].reshape(len(self.rows), stored, _FORWARD)

    def segments(self, counts: Int64Array) -> Int64Array | None:
        """int64[segments of all ranks, 4]: token digest, digest, real tokens, trained tokens. counts: of each
        rank, all of whose rows have equally many forwards. None where a row is too short.
        """
        begin = _HEADER + int(self.rows[0, COLUMNS["forwards"]]) * _FORWARD
        most = int(counts.max(initial=0))
        if counts.min(initial=0) < 0 or begin + most * _SEGMENT > self.rows.shape[1]:
            return None
        listed = self.rows[:, begin : begin + most * _SEGMENT].reshape(len(self.rows), most, _SEGMENT)
        held: Int64Array = listed[np.arange(most) < counts[:, np.newaxis]]
        return held


def _lose(lost: list[int], segments: tuple[SegmentWitness, ...]) -> None:
    """Add segments that found no room to the counts [forwards, segments, real, trained, slots]."""
    lost[1] += len(segments)
    lost[2] += sum(segment.real_tokens for segment in segments)
    lost[3] += sum(segment.trained_tokens for segment in segments)


def _group_rates(words: list[int]) -> dict[str, float]:
    """Of the groups that there are."""
    rates = {group: _float(bits) for group, bits in zip(GROUPS, words, strict=True)}
    return {group: rate for group, rate in rates.items() if not math.isnan(rate)}


def _bits(value: float) -> int:
    """A float's 64 bits as a signed integer."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _float(bits: int) -> float:
    """The float of these 64 bits."""
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])


def _signed(digest: int) -> int:
    """An unsigned 64-bit number as the signed one of the same bits."""
    return digest - (1 << 64) if digest >> 63 else digest
