"""Small data sets, plans and obedient ranks for the ledger's tests. Digests are made from content, as in
the index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crossfoot.ledger.reconcile import PlannedStep, Reconciler
from crossfoot.ledger.witness import ForwardWitness, SegmentWitness, StepWitness


def digest_of(*content: object) -> int:
    """An unsigned 64-bit digest of any content."""
    return int.from_bytes(hashlib.blake2b(repr(content).encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Data:
    """Samples as (content, length, trained tokens); equal content means equal digests."""

    contents: Sequence[int]
    lengths: Sequence[int]
    trained: Sequence[int]

    def segment(self, sample: int) -> SegmentWitness:
        content, length, trained = self.contents[sample], self.lengths[sample], self.trained[sample]
        return SegmentWitness(
            digest_of(content, length), digest_of(content, length, trained), length, trained
        )

    def reconciler(self, dp_degree: int) -> Reconciler:
        segments = [self.segment(sample) for sample in range(len(self.contents))]
        return Reconciler(
            np.array([s.digest for s in segments], dtype=np.uint64),
            np.array([s.token_digest for s in segments], dtype=np.uint64),
            np.array(self.lengths, dtype=np.int32),
            np.array(self.trained, dtype=np.int32),
            dp_degree=dp_degree,
            num_samples=len(segments),
            origin=lambda sample: f"data.json:{sample + 1}",
        )

    def plan(
        self, step: int, slots: Sequence[Sequence[Sequence[int]]], lr: float = 2e-5, epoch: int = 0
    ) -> PlannedStep:
        trained_tokens = sum(self.trained[i] for forwards in slots for ids in forwards for i in ids)
        arrays = [[np.array(ids, dtype=np.int64) for ids in forwards] for forwards in slots]
        return PlannedStep(step, epoch, lr, trained_tokens, arrays)

    def obey(self, planned: PlannedStep) -> list[StepWitness]:
        """What ranks say that do exactly what is planned."""
        weight = len(planned.slots) / planned.trained_tokens if planned.trained_tokens else 0.0
        witnesses = []
        for rank, slots in enumerate(planned.slots):
            forwards = []
            for number, ids in enumerate(slots):
                segments = tuple(self.segment(int(i)) for i in ids)
                longest = max((segment.real_tokens for segment in segments), default=2)
                slots_computed = longest * max(len(segments), 1)
                forwards.append(ForwardWitness(number, slots_computed, weight if segments else 0.0, segments))
            loss_sum = 2.0 * sum(forward.trained_tokens for forward in forwards)
            witnesses.append(
                StepWitness(
                    rank, planned.step, tuple(forwards), planned.lr, True, loss_sum, 1.5, 0.25, False, 0
                )
            )
        return witnesses


def six_samples() -> Data:
    """Samples 2 and 5 have equal content; all lengths differ otherwise."""
    return Data([0, 1, 2, 3, 4, 2], [10, 11, 12, 13, 14, 12], [5, 6, 7, 8, 9, 7])


def with_segments(
    witness: StepWitness,
    forward: int,
    change: Callable[[tuple[SegmentWitness, ...]], tuple[SegmentWitness, ...]],
) -> StepWitness:
    """The same account, but one forward was given other segments."""
    forwards = [
        replace(f, segments=change(f.segments)) if f.forward == forward else f for f in witness.forwards
    ]
    return replace(witness, forwards=tuple(forwards))


def without_forward(witness: StepWitness, forward: int) -> StepWitness:
    """The same account, but the backward of one forward never ran."""
    return replace(witness, forwards=tuple(f for f in witness.forwards if f.forward != forward))
