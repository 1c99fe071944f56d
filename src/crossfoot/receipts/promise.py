"""What a plan's lock promises of every step, worked out once more from the lock's own numbers.

The loop trains from `arithmetic.schedule` and `arithmetic.rate`, and so did whoever wrote the lock. A mistake
in there would stand on both sides and foot. So nothing of it is called here: the same definitions, written a
second time. What content a sample has, and how long it is, comes from the index, which is held against the
data's files by another witness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

import numpy as np
import numpy.typing as npt

from crossfoot.receipts.promised_heights import heights
from crossfoot.receipts.promised_sets import (
    Contents,
    Int64Array,
    Terms,
    batches_sha256,
    in_words,
    parts,
    total_steps,
)
from crossfoot.receipts.promised_slots import promised_slots, slots_of_steps

Float64Array = npt.NDArray[np.float64]

RATE_TOLERANCE = 1e-9
"""Of a promised rate."""
RATE_FLOOR = 1e-12
"""Of the peak: the last rates of a cosine are differences of numbers that are a million times larger."""


@dataclass(frozen=True)
class PromisedStep:
    """One step over all ranks. first_seen_samples: trained by no step before. The sha256 are the first 16 hex
    digits, as a ledger line has them; ranks_sha256: of samples, tokens and forwards of each rank. sources:
    samples and trained tokens of each, where they are told apart.
    """

    step: int
    samples: int
    first_seen_samples: int
    real_tokens: int
    trained_tokens: int
    forwards: int
    ranks: int
    samples_sha256: str
    slots_sha256: str
    ranks_sha256: str
    sources: tuple[tuple[int, int], ...] = ()


def promised_rates(terms: Terms) -> tuple[Float64Array, float, int]:
    """(rate of every step, float64[total_steps]; the highest peak; warm-up steps)."""
    lr, steps = terms.lr, total_steps(terms)
    before = _samples_before(terms, steps)
    peaks = np.full(steps, float(lr["reference"]))
    if lr["rule"] != "none" and terms.target_trained_tokens is None:
        pairs = np.array(terms.batch_from_samples or ((0, terms.global_batch_size),), dtype=np.float64)
        holding = pairs[np.searchsorted(pairs[:, 0], before[:steps], side="right") - 1, 1]
        share = holding / lr["reference_batch"]
        peaks *= np.sqrt(share) if lr["rule"] == "sqrt" else share
    warm = 0
    if lr["warmup_steps"] is not None:
        warm = int(lr["warmup_steps"])
    elif lr["warmup_fraction"] is not None:
        exact = Decimal(repr(float(lr["warmup_fraction"]))) * steps
        warm = int(exact.to_integral_value(ROUND_CEILING))
    elif lr["warmup_samples"] is not None:
        known = terms.are_steps_known
        warm = int((before < int(lr["warmup_samples"])).sum()) if known else terms.said[1]
    step = np.arange(steps, dtype=np.float64)
    left = lr["min_ratio"] + (1.0 - lr["min_ratio"]) * heights(lr, warm, steps)
    return peaks * np.where(step < warm, (step + 1) / max(1, warm), left), float(peaks.max(initial=0.0)), warm


def _samples_before(terms: Terms, steps: int) -> Int64Array:
    """Samples of the steps before each step, and of all of them: int64[steps + 1]. Of full steps where the
    batch never changes, and where the sizes are not known.
    """
    if terms.changes and terms.are_steps_known:
        return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(terms.sizes)))
    return np.arange(steps + 1, dtype=np.int64) * terms.global_batch_size


def layout_sha256(terms: Terms, contents: Contents) -> str:
    """Of the slots, as `plan.layout_sha256` of a lock is defined. Packed: what they follow from. Padded: size
    and ids of each step in the order of its slots, then for each size of a step the samples of every slot.
    """
    if terms.work_per_token is not None:
        numbers = [terms.dp_degree, terms.grad_accum_steps, terms.micro_batch_size]
        numbers += [terms.work_per_token, terms.dealt_ranks]
        limit = "" if terms.micro_batch_tokens is None else f"tokens {terms.micro_batch_tokens} "
        head = f"{limit}crossfoot layout packed 1 {' '.join(map(str, numbers))} {batches_sha256(terms)}\n"
        return hashlib.sha256(head.encode() + contents.lengths.astype("<i4").tobytes()).hexdigest()
    head = f"crossfoot layout padded 1 {terms.dp_degree} {terms.grad_accum_steps} {total_steps(terms)}\n"
    digest, sizes = hashlib.sha256(head.encode()), {}
    for part in parts(terms):
        arranged = []
        for _, ids in part.rows():
            lengths = contents.lengths[ids]
            slots = promised_slots(terms, ids, lengths, terms.slots_per_step)
            places = np.lexsort((-lengths.astype(np.int64), slots), axis=1)
            arranged.append(np.take_along_axis(ids, places, axis=1))
            sizes[ids.shape[1]] = np.bincount(slots[0], minlength=terms.slots_per_step)
        digest.update(in_words(part, arranged))
    for size in sorted(sizes):
        digest.update(np.insert(sizes[size], 0, size).astype("<i8").tobytes())
    return digest.hexdigest()


def promised_sums(terms: Terms, contents: Contents) -> dict[str, int]:
    """Over all steps and ranks, by the names that a lock's `expects` has."""
    seen = np.zeros(terms.data_samples, dtype=np.bool_)
    samples = real_tokens = trained_tokens = forwards = 0
    for part in parts(terms):
        seen[part.ids] = True
        samples += part.ids.size
        forwards += sum(int(slots_of_steps(terms, contents.lengths[ids]).sum()) for _, ids in part.rows())
        real_tokens += int(contents.lengths[part.ids].sum(dtype=np.int64))
        trained_tokens += int(contents.trained_tokens[part.ids].sum(dtype=np.int64))
    return {
        "samples": samples,
        "distinct_samples": int(np.count_nonzero(seen)),
        "real_tokens": real_tokens,
        "trained_tokens": trained_tokens,
        "forwards": forwards,
    }


def promised_steps(terms: Terms, contents: Contents, first: int, end: int) -> Iterator[PromisedStep]:
    """Steps [first, end) of the run, in order. What comes before is looked at for first_seen_samples only."""
    seen = np.zeros(terms.data_samples, dtype=np.bool_)
    for part in parts(terms):
        if part.step >= end:
            return
        _, *begins = np.cumsum([0, *part.sizes[:-1]]).tolist()
        steps = np.split(part.ids, begins)
        # else only where epochs meet, in the first step of a part, may a step hold a sample twice
        repeating = len(steps) if terms.repeats else 1
        steps[:repeating] = map(np.unique, steps[:repeating])
        fresh = np.array([np.count_nonzero(~seen[ids]) for ids in _marking(seen, steps)])
        if part.step + len(part.sizes) <= first:
            continue
        found: dict[int, PromisedStep] = {}
        for places, ids in part.rows():
            of_size = _alike(terms, contents, part.step + places, ids, fresh[places])
            found.update((step.step, step) for step in of_size)
        for step in range(max(first, part.step), min(end, part.step + len(part.sizes))):
            yield found[step]


def _alike(
    terms: Terms, contents: Contents, steps: Int64Array, ids: Int64Array, fresh: Int64Array
) -> Iterator[PromisedStep]:
    """Steps of one size. ids: [n_steps, size]. fresh: samples of each that no step before it has trained."""
    lengths, trained = contents.lengths[ids], contents.trained_tokens[ids]
    digests = contents.digests[ids]
    by_digest = np.argsort(digests, axis=1)
    digests = np.take_along_axis(digests, by_digest, axis=1)
    sets = _hashes(digests)
    counts = slots_of_steps(terms, lengths)
    of_sources = _of_sources(terms, contents, ids, trained)
    slots, ranks = [""] * len(ids), [""] * len(ids)
    for count in np.unique(counts).tolist():
        rows = np.flatnonzero(counts == count)
        dealt = promised_slots(terms, ids[rows], lengths[rows], count)
        of_digests = np.take_along_axis(dealt, by_digest[rows], axis=1)
        of_slots = _hashes(_slot_rows(terms, digests[rows], of_digests, count))
        of_ranks = _hashes(_rank_rows(terms, dealt, lengths[rows], trained[rows], count))
        for row, in_slots, in_ranks in zip(rows.tolist(), of_slots, of_ranks, strict=True):
            slots[row], ranks[row] = in_slots, in_ranks
    for row, step in enumerate(steps.tolist()):
        yield PromisedStep(
            step=step,
            samples=ids.shape[1],
            first_seen_samples=int(fresh[row]),
            real_tokens=int(lengths[row].sum(dtype=np.int64)),
            trained_tokens=int(trained[row].sum(dtype=np.int64)),
            forwards=int(counts[row]),
            ranks=terms.dp_degree,
            samples_sha256=sets[row],
            slots_sha256=slots[row],
            ranks_sha256=ranks[row],
            sources=tuple(map(tuple, of_sources[row].tolist())),
        )


def _of_sources(
    terms: Terms, contents: Contents, ids: Int64Array, trained: npt.NDArray[np.int32]
) -> Int64Array:
    """int64[n_steps, sources, 2]: samples and trained tokens, by the files that the samples come from."""
    count = len(terms.sources)
    if not count:
        return np.empty((len(ids), 0, 2), dtype=np.int64)
    ends = np.cumsum([source.files for source in terms.sources])
    places = np.searchsorted(ends, contents.file_ids[ids], side="right")
    return np.stack([_sums(places, count, what) for what in (np.ones_like(places), trained)], axis=2)


def _marking(seen: npt.NDArray[np.bool_], rows: Iterable[Int64Array]) -> Iterator[Int64Array]:
    """Each row of ids; it is marked as seen when the next one is asked for."""
    for row in rows:
        yield row
        seen[row] = True


def _slot_rows(
    terms: Terms, digests: npt.NDArray[np.uint64], slots: Int64Array, count: int
) -> npt.NDArray[np.uint64]:
    """Each step as words: for slot after slot its forward, its rank, how many samples it holds, and their
    digests in ascending order. Slot s of `count` is of rank s modulo dp_degree. digests: ascending in each
    step.
    """
    places = np.argsort(slots.astype(np.min_scalar_type(count)), axis=1, kind="stable")
    placed = np.take_along_axis(digests, places, axis=1)
    held = _sums(slots, count, np.ones_like(slots))
    heads = np.cumsum(held + 3, axis=1) - held - 3
    rows = np.empty((len(digests), digests.shape[1] + 3 * count), dtype=np.uint64)
    steps = np.arange(len(digests))[:, np.newaxis]
    forward, rank = np.divmod(np.arange(count, dtype=np.uint64), np.uint64(terms.dp_degree))
    rows[steps, heads], rows[steps, heads + 1], rows[steps, heads + 2] = forward, rank, held
    behind = np.arange(digests.shape[1]) + 3 * (np.take_along_axis(slots, places, axis=1) + 1)
    np.put_along_axis(rows, behind, placed, axis=1)
    return rows


def _rank_rows(
    terms: Terms,
    slots: Int64Array,
    lengths: npt.NDArray[np.int32],
    trained: npt.NDArray[np.int32],
    count: int,
) -> Int64Array:
    """Each step as words: the ranks, then the samples of each, its tokens, its trained tokens, its
    forwards. count: slots of a step.
    """
    ranks = terms.dp_degree
    each, _ = divmod(count, ranks)
    of_rank = slots % ranks
    columns = [np.broadcast_to(np.arange(ranks), (len(slots), ranks))]
    columns += [_sums(of_rank, ranks, what) for what in (np.ones_like(slots), lengths, trained)]
    return np.concatenate([*columns, np.full((len(slots), ranks), each)], axis=1)


def _sums(places: Int64Array, count: int, what: npt.NDArray[np.integer]) -> Int64Array:
    """int64[n_steps, count]: the sum of `what` in each of `count` places, step by step."""
    keys = places + count * np.arange(len(places))[:, np.newaxis]
    # float64 holds these sums exactly: they are far below 2^53
    sums = np.bincount(keys.ravel(), what.ravel(), len(places) * count)
    return sums.astype(np.int64).reshape(-1, count)


def _hashes(rows: npt.NDArray[np.uint64] | Int64Array) -> list[str]:
    """The first 16 hex digits of the sha256 over each row's little-endian 64-bit words."""
    words = np.ascontiguousarray(rows).view(np.uint64).astype("<u8", copy=False)
    return [hashlib.sha256(row).hexdigest()[:16] for row in words]
