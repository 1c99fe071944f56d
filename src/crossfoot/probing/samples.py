"""What a proof trains: made-up samples of uneven lengths and masks, and where they sit. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.batch import ceil_div
from crossfoot.arithmetic.dealing import enough_room
from crossfoot.arithmetic.layout import Layout, PackedLayout
from crossfoot.data.samples import TokenizerFacts
from crossfoot.index.store import FORMAT_VERSION, DataIndex, IndexHeader, Source, segment_digests
from crossfoot.ledger.reconcile import PlannedStep

SHORTEST_TOKENS = 3
"""Tokens of the shortest one. Of two, the first predicts the second and attends to nothing but itself:
queries and keys have no gradient."""
LONGEST_TOKENS = 48
"""Tokens of the longest made-up sample: the arithmetic that is proved does not know lengths."""


@dataclass(frozen=True)
class ProofBatch:
    """The samples of a proof, and its two steps; the same on every rank.

    before: a step at rate 0, of half as many samples, which are fewer forwards where the layout has no empty
    ones. It changes nothing, unless its gradients are still there in the step after it. step: the one that is
    compared, with an empty slot and uneven ones where the layout has room for them.
    """

    index: DataIndex
    before: PlannedStep
    step: PlannedStep

    @property
    def empty_slots(self) -> int:
        """Slots without a sample in the compared step, over all ranks."""
        return sum(len(ids) == 0 for forwards in self.step.slots for ids in forwards)


def proof_batch(
    layout: Layout, *, vocabulary: int, longest: int, seed: int, rate: float, shortest: int = SHORTEST_TOKENS
) -> ProofBatch:
    """Samples and steps for a layout. vocabulary: token ids are below it. longest: tokens, at most.

    The compared step holds one sample less than the capacity, if slots hold several, and one slot is emptied
    after the layout has placed them: the layout itself spreads samples so evenly that it leaves a slot empty
    only where no slot holds two. The empty slot is never the last one: a dropped tail must cost something.
    """
    slots = layout.slots_per_step
    size = slots * layout.micro_batch_size - (layout.micro_batch_size > 1)
    count = size + ceil_div(size, 2)
    index = made_up_index(count, vocabulary=vocabulary, longest=longest, seed=seed, shortest=shortest)
    if isinstance(layout, PackedLayout) and layout.micro_batch_tokens is not None:
        # made-up samples are short: with so many tokens they fill the slots
        lengths = np.sort(index.lengths[:size].astype(np.int64))[np.newaxis, ::-1]
        enough = max(int(enough_room(lengths, slots)[0]), int(index.lengths.max()))
        layout = replace(layout, micro_batch_tokens=enough)
    step = _planned(index, layout, np.arange(size, dtype=np.int64), step=1, rate=rate)
    before = _planned(index, layout, np.arange(size, count, dtype=np.int64), step=0, rate=0.0)
    if slots > 1:
        # A half, rounded down: runs go forward by forward over the ranks, as in Layout.slots.
        middle, _rest = divmod(slots - 1, 2)
        step = _without_slot(index, step, *reversed(divmod(middle, layout.dp_degree)))
    return ProofBatch(index, before, step)


def samples_of(planned: PlannedStep) -> NDArray[np.int64]:
    """The ids of a planned step, which is not made without them."""
    if planned.samples is None:
        raise ValueError(f"step index {planned.step} does not say which samples it has")
    return planned.samples


def made_up_index(count: int, *, vocabulary: int, longest: int, seed: int, shortest: int) -> DataIndex:
    """An index in memory of `count` samples of random tokens: `shortest` to `longest` of them, 1 to all
    trained.

    Masks are of four kinds in turn: an answer behind a prompt, everything, single tokens here and there, and
    the last token alone. So equal weights of samples, of forwards or of ranks are far from equal weights of
    tokens.
    """
    draw = np.random.Generator(np.random.Philox(key=np.array([seed, 0x0F00F], dtype=np.uint64)))
    longest = max(2, min(longest, LONGEST_TOKENS))
    lengths = draw.integers(min(shortest, longest), longest, size=count, endpoint=True).astype(np.int32)
    masks = [_mask(draw, int(length), kind=number % 4) for number, length in enumerate(lengths)]
    samples = [draw.integers(0, vocabulary, size=int(length)).astype(np.int32) for length in lengths]
    digests = [segment_digests(ids, mask) for ids, mask in zip(samples, masks, strict=True)]
    trained_tokens = np.array([mask[1:].sum() for mask in masks], dtype=np.int32)
    return DataIndex(
        address="0" * 16,
        folder="",
        header=_header(count, int(lengths.sum()), int(trained_tokens.sum()), longest, vocabulary),
        files=("made up",),
        offsets=np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
        tokens=np.concatenate(samples),
        trained=np.concatenate(masks).astype(np.uint8),
        lengths=lengths,
        trained_tokens=trained_tokens,
        token_digests=np.array([digest for digest, _ in digests], dtype=np.uint64),
        digests=np.array([digest for _, digest in digests], dtype=np.uint64),
        lost_tokens=np.zeros(count, dtype=np.int32),
        file_ids=np.zeros(count, dtype=np.int32),
        numbers=np.arange(1, count + 1, dtype=np.int64),
    )


def _mask(draw: np.random.Generator, length: int, kind: int) -> NDArray[np.bool_]:
    """Which tokens have a label as written; at least one behind the first, which is never a target."""
    mask = np.zeros(length, dtype=np.bool_)
    if kind == 0:
        mask[int(draw.integers(1, length)) :] = True
    elif kind == 1:
        mask[:] = True
    elif kind == 2:
        mask[:] = draw.random(length) < 0.3
    mask[-1] = True
    return mask


def _header(count: int, real_tokens: int, trained_tokens: int, longest: int, vocabulary: int) -> IndexHeader:
    return IndexHeader(
        format_version=FORMAT_VERSION,
        address="0" * 16,
        task="sft",
        template=None,
        columns={},
        max_seq_len=longest,
        bad_samples="stop",
        special_text="text",
        sources=(Source("made up", 0, "", count, "line"),),
        tokenizer=TokenizerFacts("made up", "", vocabulary, 0, (), "none"),
        reader="none",
        num_samples=count,
        real_tokens=real_tokens,
        trained_tokens=trained_tokens,
        truncated_samples=0,
        lost_tokens=0,
        duplicate_samples=0,
        empty_samples=0,
        rejected_records=0,
        left_out_tokens=0,
    )


def _planned(index: DataIndex, layout: Layout, ids: NDArray[np.int64], step: int, rate: float) -> PlannedStep:
    return PlannedStep(
        step=step,
        epoch=0,
        lr=rate,
        trained_tokens=int(index.trained_tokens[ids].sum(dtype=np.int64)),
        slots=layout.slots(ids, index.lengths[ids]),
        samples=ids,
        sample_epochs=np.zeros_like(ids),
    )


def _without_slot(index: DataIndex, planned: PlannedStep, rank: int, forward: int) -> PlannedStep:
    """The same step without the samples of one slot."""
    gone = planned.slots[rank][forward]
    slots = [list(forwards) for forwards in planned.slots]
    slots[rank][forward] = gone[:0]
    samples = samples_of(planned)
    samples = samples[~np.isin(samples, gone)]
    return replace(
        planned,
        slots=slots,
        samples=samples,
        sample_epochs=np.zeros_like(samples),
        trained_tokens=int(index.trained_tokens[samples].sum(dtype=np.int64)),
    )
