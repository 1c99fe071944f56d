"""What a plan's lock promises of every step, worked out once more from the lock's own numbers.

The loop trains from `arithmetic.schedule` and `arithmetic.rate`, and so did whoever wrote the lock. A mistake
in there would stand on both sides and foot. So nothing of it is called here: the same definitions, written a
second time. What content a sample has, and how long it is, comes from the index, which is held against the
data's files by another witness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from crossfoot.receipts.promised_heights import heights
from crossfoot.receipts.promised_slots import promised_slots, slots_of_steps

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

RATE_TOLERANCE = 1e-9
"""Of a promised rate."""
RATE_FLOOR = 1e-12
"""Of the peak: the last rates of a cosine are differences of numbers that are a million times larger."""
_BLOCK_SAMPLES = 1 << 20
_BAND_SAMPLES = 1 << 23


class Contents(Protocol):
    """What the promise needs to know of the data: arrays with one entry a sample, as in the data index."""

    @property
    def digests(self) -> npt.NDArray[np.uint64]:
        """64-bit digest of token ids and label mask."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens."""

    @property
    def trained_tokens(self) -> npt.NDArray[np.int32]:
        """Tokens with a label, after the causal shift."""


@dataclass(frozen=True)
class PromisedStep:
    """One step over all ranks. first_seen_samples: trained by no step before. The sha256 are the first 16 hex
    digits, as a ledger line has them; ranks_sha256: of samples, tokens and forwards of each rank.
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


@dataclass(frozen=True)
class Terms:
    """The numbers of a lock from which all follows. dp_degree, grad_accum_steps: as they really ran.
    dealt_ranks: ranks of the plan. work_per_token: None in the padded layout. micro_batch_tokens: None where
    a slot is limited by samples.
    """

    num_samples: int
    global_batch_size: int
    micro_batch_size: int
    grad_accum_steps: int
    dp_degree: int
    dealt_ranks: int
    work_per_token: int | None
    seed: int
    last_step: str
    epochs: int | None
    max_steps: int | None
    lr: Mapping[str, Any]
    micro_batch_tokens: int | None = None

    @property
    def slots_per_step(self) -> int:
        """Pairs of (rank, forward) in one step."""
        return self.dp_degree * self.grad_accum_steps

    def folded(self) -> Terms:
        """The same, all ranks in one process."""
        return replace(self, dp_degree=1, grad_accum_steps=self.slots_per_step)


def terms_of(lock: Mapping[str, Any]) -> Terms:
    """The terms in a lock document. Raises ValueError, saying which are missing or of a wrong type."""
    try:
        config, plan = lock["config"], lock["plan"]
        is_packed = config["data"].get("layout") == "packed"
        terms = Terms(
            num_samples=plan["samples_per_epoch"],
            global_batch_size=plan["global_batch_size"],
            micro_batch_size=plan["micro_batch_size"],
            grad_accum_steps=plan["grad_accum_steps"],
            dp_degree=plan["dp_degree"],
            dealt_ranks=plan["dp_degree"],
            work_per_token=plan["work_per_token"] if is_packed else None,
            seed=config["run"]["seed"],
            last_step=config["data"]["last_step"],
            epochs=config["train"]["epochs"],
            max_steps=config["train"]["max_steps"],
            lr=config["lr"],
            micro_batch_tokens=plan.get("micro_batch_tokens"),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"it does not say what it plans: {error}") from error
    counts = [terms.num_samples, terms.global_batch_size, terms.micro_batch_size]
    counts += [terms.grad_accum_steps, terms.dp_degree, terms.work_per_token or 1]
    counts.append(terms.micro_batch_tokens or 1)
    if any(type(count) is not int or count < 1 for count in counts) or type(terms.seed) is not int:
        raise ValueError("a number of its plan is not a positive integer")
    if (terms.epochs is None) == (terms.max_steps is None):
        raise ValueError("it has neither or both of epochs and max_steps")
    return terms


def total_steps(terms: Terms) -> int:
    """Optimizer steps of the whole run."""
    if terms.max_steps is not None:
        return terms.max_steps
    epochs, samples, batch = terms.epochs or 0, terms.num_samples, terms.global_batch_size
    if terms.last_step == "carry":
        return _rounded_up(epochs * samples, batch)
    whole, rest = divmod(samples, batch)
    return epochs * (whole + (rest > 0 and terms.last_step != "drop"))


def promised_rates(terms: Terms) -> tuple[Float64Array, float, int]:
    """(rate of every step, float64[total_steps]; the peak; warm-up steps)."""
    lr, batch, steps = terms.lr, terms.global_batch_size, total_steps(terms)
    share = batch / lr["reference_batch"] if lr["rule"] != "none" else 1.0
    peak = float(lr["reference"]) * (share**0.5 if lr["rule"] == "sqrt" else share)
    warm = 0
    if lr["warmup_steps"] is not None:
        warm = int(lr["warmup_steps"])
    elif lr["warmup_fraction"] is not None:
        exact = Decimal(repr(float(lr["warmup_fraction"]))) * steps
        warm = int(exact.to_integral_value(ROUND_CEILING))
    elif lr["warmup_samples"] is not None:
        warm = _rounded_up(int(lr["warmup_samples"]), batch)
    step = np.arange(steps, dtype=np.float64)
    left = lr["min_ratio"] + (1.0 - lr["min_ratio"]) * heights(lr, warm, steps)
    return peak * np.where(step < warm, (step + 1) / max(1, warm), left), peak, warm


def blocks(terms: Terms) -> Iterator[tuple[int, Int64Array]]:
    """The steps in order, as (first step, ids int64[n_steps, size]): rows of one size, in the epoch's
    order.
    """
    steps, batch, step, epoch = total_steps(terms), terms.global_batch_size, 0, 0
    rest = np.empty(0, dtype=np.int64)
    while step < steps:
        for part in _order(terms, epoch):
            stream = np.concatenate((rest, part))
            whole, _ = divmod(stream.size, batch)
            full, rest = stream[: whole * batch].reshape(-1, batch), stream[whole * batch :]
            full = full[: steps - step]
            at_once = max(1, round(_BLOCK_SAMPLES / batch))
            for start in range(0, len(full), at_once):
                rows = full[start : start + at_once]
                yield step, rows
                step += len(rows)
        epoch += 1
        is_over = epoch == terms.epochs
        takes_rest = terms.last_step == "short" or (terms.last_step == "carry" and is_over)
        if takes_rest and rest.size and step < steps:
            yield step, rest[np.newaxis, :]
            step += 1
        if terms.last_step != "carry":
            rest = rest[:0]


def _order(terms: Terms, epoch: int) -> Iterator[Int64Array]:
    """The samples in the order of an epoch, in parts: all whose words are in the first band of values, then
    in the next one. The words are drawn anew for every band, so that few are held at once.
    """
    samples, (bands, _) = terms.num_samples, divmod(terms.num_samples + _BAND_SAMPLES - 1, _BAND_SAMPLES)
    for band in range(bands):
        (low, _), (high, _) = divmod(band << 64, bands), divmod((band + 1) << 64, bands)
        generator = np.random.Philox(key=np.array([terms.seed, epoch], dtype=np.uint64))
        words, ids = [], []
        for start in range(0, samples, _BLOCK_SAMPLES):
            drawn = generator.random_raw(min(_BLOCK_SAMPLES, samples - start))
            inside = np.flatnonzero((drawn >= np.uint64(low)) & (drawn <= np.uint64(high - 1)))
            words.append(drawn[inside])
            ids.append(inside + start)
        yield np.concatenate(ids)[np.argsort(np.concatenate(words), kind="stable")]


def batches_sha256(terms: Terms) -> str:
    """Of the step sets, as a lock's `batches_sha256` is defined: size and ascending ids of each step."""
    digest = hashlib.sha256(f"crossfoot batches 1 {total_steps(terms)}\n".encode())
    for _, ids in blocks(terms):
        digest.update(np.insert(np.sort(ids, axis=1), 0, ids.shape[1], axis=1).astype("<i8").tobytes())
    return digest.hexdigest()


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
    for _, ids in blocks(terms):
        lengths = contents.lengths[ids]
        slots = promised_slots(terms, ids, lengths, terms.slots_per_step)
        places = np.lexsort((-lengths.astype(np.int64), slots), axis=1)
        placed = np.take_along_axis(ids, places, axis=1)
        digest.update(np.insert(placed, 0, ids.shape[1], axis=1).astype("<i8").tobytes())
        sizes[ids.shape[1]] = np.bincount(slots[0], minlength=terms.slots_per_step)
    for size in sorted(sizes):
        digest.update(np.insert(sizes[size], 0, size).astype("<i8").tobytes())
    return digest.hexdigest()


def promised_sums(terms: Terms, contents: Contents) -> dict[str, int]:
    """Over all steps and ranks, by the names that a lock's `expects` has."""
    seen = np.zeros(terms.num_samples, dtype=np.bool_)
    samples = real_tokens = trained_tokens = forwards = 0
    for _, ids in blocks(terms):
        seen[ids] = True
        samples += ids.size
        lengths = contents.lengths[ids]
        forwards += int(slots_of_steps(terms, lengths).sum())
        real_tokens += int(lengths.sum(dtype=np.int64))
        trained_tokens += int(contents.trained_tokens[ids].sum(dtype=np.int64))
    return {
        "samples": samples,
        "distinct_samples": int(np.count_nonzero(seen)),
        "real_tokens": real_tokens,
        "trained_tokens": trained_tokens,
        "forwards": forwards,
    }


def promised_steps(terms: Terms, contents: Contents, first: int, end: int) -> Iterator[PromisedStep]:
    """Steps [first, end) of the run, in order. What comes before is looked at for first_seen_samples only."""
    seen = np.zeros(terms.num_samples, dtype=np.bool_)
    for step, ids in blocks(terms):
        if step >= end:
            return
        # only where epochs meet, in the first row of a block, may a step hold a sample twice
        fresh = [int(np.count_nonzero(~seen[row])) for row in _marking(seen, (np.unique(ids[0]), *ids[1:]))]
        if step + len(ids) <= first:
            continue
        lengths, trained = contents.lengths[ids], contents.trained_tokens[ids]
        digests = contents.digests[ids]
        by_digest = np.argsort(digests, axis=1)
        digests = np.take_along_axis(digests, by_digest, axis=1)
        sets = _hashes(digests)
        counts = slots_of_steps(terms, lengths)
        slots, ranks = [""] * len(ids), [""] * len(ids)
        for count in np.unique(counts).tolist():
            rows = np.flatnonzero(counts == count)
            dealt = promised_slots(terms, ids[rows], lengths[rows], count)
            of_digests = np.take_along_axis(dealt, by_digest[rows], axis=1)
            of_slots = _hashes(_slot_rows(terms, digests[rows], of_digests, count))
            of_ranks = _hashes(_rank_rows(terms, dealt, lengths[rows], trained[rows], count))
            for row, in_slots, in_ranks in zip(rows.tolist(), of_slots, of_ranks, strict=True):
                slots[row], ranks[row] = in_slots, in_ranks
        real_sums = lengths.sum(axis=1, dtype=np.int64).tolist()
        trained_sums = trained.sum(axis=1, dtype=np.int64).tolist()
        for row in range(len(ids)):
            if first <= step + row < end:
                yield PromisedStep(
                    step=step + row,
                    samples=ids.shape[1],
                    first_seen_samples=fresh[row],
                    real_tokens=real_sums[row],
                    trained_tokens=trained_sums[row],
                    forwards=int(counts[row]),
                    ranks=terms.dp_degree,
                    samples_sha256=sets[row],
                    slots_sha256=slots[row],
                    ranks_sha256=ranks[row],
                )


def _rounded_up(count: int, size: int) -> int:
    whole, rest = divmod(count, size)
    return whole + (rest > 0)


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
