"""The terms of a lock, and the samples of every step that follow from them, worked out for the receipt.

Nothing of `arithmetic.schedule` or `arithmetic.cutting` is called: the same definitions, written a second
time.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from crossfoot.receipts.promised_mixture import PromisedSource, promised_sources, taken

Int64Array = npt.NDArray[np.int64]

_BLOCK_SAMPLES = 1 << 20
_BAND_SAMPLES = 1 << 23


class Contents(Protocol):
    """What the promise needs to know of the data: arrays with one entry a sample, as in the data index."""

    @property
    def digests(self) -> npt.NDArray[np.uint64]:
        """64-bit digest of token ids and label mask."""

    @property
    def file_ids(self) -> npt.NDArray[np.int32]:
        """The file that it comes from."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens."""

    @property
    def trained_tokens(self) -> npt.NDArray[np.int32]:
        """Tokens with a label, after the causal shift."""


@dataclass(frozen=True)
class Terms:
    """The numbers of a lock from which all follows. dp_degree, grad_accum_steps: as they really ran.
    dealt_ranks: ranks of the plan. work_per_token: None in the padded layout. micro_batch_tokens: None where
    a slot is limited by samples. global_batch_size: the largest of batch_from_samples, (from, batch) where
    the batch changes. trained_tokens: of each sample, where a step ends by target_trained_tokens; None when
    the data index is not at hand, and said, the steps and the warm-up steps that the lock says, has to do.
    num_samples: of an epoch. sources: where they are told apart.
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
    batch_from_samples: tuple[tuple[int, int], ...] = ()
    target_trained_tokens: int | None = None
    trained_tokens: npt.NDArray[np.int32] | None = field(default=None, repr=False, compare=False)
    said: tuple[int, int] = field(default=(0, 0), compare=False)
    sources: tuple[PromisedSource, ...] = ()

    @property
    def data_samples(self) -> int:
        """Samples of the data index."""
        return sum(source.samples for source in self.sources) or self.num_samples

    @property
    def repeats(self) -> bool:
        """Whether an epoch may hold a sample more than once."""
        return any(source.per_epoch != source.used for source in self.sources)

    @property
    def slots_per_step(self) -> int:
        """Pairs of (rank, forward) in one step."""
        return self.dp_degree * self.grad_accum_steps

    @property
    def changes(self) -> bool:
        """Whether steps have many sizes, beside the rest of an epoch."""
        return bool(self.batch_from_samples) or self.target_trained_tokens is not None

    @property
    def are_steps_known(self) -> bool:
        """False without the data index that the sizes of steps follow from."""
        return self.target_trained_tokens is None or self.trained_tokens is not None

    @cached_property
    def sizes(self) -> Int64Array:
        """Samples of every step, int64[total_steps]."""
        return np.concatenate([part.sizes for part in parts(self)])

    def folded(self) -> Terms:
        """The same, all ranks in one process."""
        return replace(self, dp_degree=1, grad_accum_steps=self.slots_per_step)


def terms_of(lock: Mapping[str, Any], contents: Contents | None = None) -> Terms:
    """The terms in a lock document; contents: of its data index. Raises ValueError, saying which are missing
    or of a wrong type.
    """
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
            batch_from_samples=tuple((first, batch) for first, batch in plan.get("batch_from_samples") or ()),
            target_trained_tokens=plan.get("target_trained_tokens"),
            said=(plan.get("total_steps", 0), plan.get("warmup_steps", 0)),
            sources=promised_sources(lock),
        )
        if contents is not None and len(contents.lengths) == terms.data_samples:
            terms = replace(terms, trained_tokens=contents.trained_tokens)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it does not say what it plans: {error}") from error
    counts = [terms.num_samples, terms.global_batch_size, terms.micro_batch_size]
    counts += [terms.grad_accum_steps, terms.dp_degree, terms.work_per_token or 1]
    counts += [terms.micro_batch_tokens or 1, terms.target_trained_tokens or 1]
    counts += [batch for _, batch in terms.batch_from_samples]
    if any(type(count) is not int or count < 1 for count in counts) or type(terms.seed) is not int:
        raise ValueError("a number of its plan is not a positive integer")
    if (terms.epochs is None) == (terms.max_steps is None):
        raise ValueError("it has neither or both of epochs and max_steps")
    return terms


def total_steps(terms: Terms) -> int:
    """Optimizer steps of the whole run."""
    if terms.max_steps is not None:
        return terms.max_steps
    if not terms.are_steps_known:
        return terms.said[0]
    if terms.changes:
        return len(terms.sizes)
    epochs, samples, batch = terms.epochs or 0, terms.num_samples, terms.global_batch_size
    if terms.last_step == "carry":
        return rounded_up(epochs * samples, batch)
    whole, rest = divmod(samples, batch)
    return epochs * (whole + (rest > 0 and terms.last_step != "drop"))


class Part(NamedTuple):
    """Some steps in a row: the first one, the size of each, and the samples of all in the epoch's order."""

    step: int
    sizes: Int64Array
    ids: Int64Array

    def rows(self) -> Iterator[tuple[Int64Array, Int64Array]]:
        """(places of steps in this part, their ids int64[n_steps, size]) for each size."""
        begins = np.concatenate(([0], np.cumsum(self.sizes)[:-1]))
        for size in set(self.sizes.tolist()):
            places = np.nonzero(self.sizes == size)[0]
            yield places, np.stack([self.ids[at : at + size] for at in begins[places].tolist()])


def parts(terms: Terms) -> Iterator[Part]:
    """All steps, in order."""
    cutter, epoch = _Cutter(terms), 0
    rest = np.empty(0, dtype=np.int64)
    while not cutter.is_done and epoch != terms.epochs:
        for ids in _order(terms, epoch):
            stream = np.concatenate((rest, ids))
            step, sizes = cutter.steps, cutter.full(stream)
            ends = np.cumsum(sizes)
            rest = stream[int(ends[-1]) if sizes.size else 0 :]
            at = 0
            while at < len(sizes):
                begin = int(ends[at - 1]) if at else 0
                behind = max(at + 1, int(np.searchsorted(ends, begin + _BLOCK_SAMPLES, side="right")))
                yield Part(step + at, sizes[at:behind], stream[begin : int(ends[behind - 1])])
                at = behind
        epoch += 1
        takes_rest = terms.last_step == "short" or (terms.last_step == "carry" and epoch == terms.epochs)
        if takes_rest and rest.size and not cutter.is_done:
            yield Part(cutter.steps, cutter.note([rest.size]), rest)
        if terms.last_step != "carry":
            rest = rest[:0]


class _Cutter:
    """Cuts a stream of samples into full steps. steps, trained: steps and samples that are cut off so far."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.steps = self.trained = 0

    @property
    def is_done(self) -> bool:
        """Whether the run has all steps that it asks for."""
        return self.steps == self._terms.max_steps

    def full(self, stream: Int64Array) -> Int64Array:
        """Sizes of the full steps that the stream begins with."""
        terms = self._terms
        if terms.target_trained_tokens is not None and terms.trained_tokens is not None:
            sums = np.cumsum(terms.trained_tokens[stream], dtype=np.int64)
            return self.note(_up_to_target(sums, terms.target_trained_tokens))
        found, left = [np.empty(0, dtype=np.int64)], len(stream)
        pairs = terms.batch_from_samples or ((0, terms.global_batch_size),)
        while left and not self.is_done:
            holding = [batch for begin, batch in pairs if begin <= self.trained][-1]
            changes = [begin for begin, _ in pairs if begin > self.trained]
            count, _ = divmod(left, holding)
            if changes:
                count = min(count, rounded_up(min(changes) - self.trained, holding))
            if not count:
                break
            found.append(self.note([holding] * count))
            left -= int(found[-1].sum())
        return np.concatenate(found)

    def note(self, sizes: list[int]) -> Int64Array:
        """These steps are cut off; no more than the run asks for."""
        noted = np.array(sizes, dtype=np.int64)
        if self._terms.max_steps is not None:
            noted = noted[: self._terms.max_steps - self.steps]
        self.steps += len(noted)
        self.trained += int(noted.sum())
        return noted


def _up_to_target(sums: Int64Array, target: int) -> list[int]:
    """Sizes of steps, each of as few samples as reach the target. sums: of trained tokens, to each sample."""
    sizes, done = [], 0
    while done < len(sums):
        before = int(sums[done - 1]) if done else 0
        reached = bisect_left(sums, before + target, lo=done, hi=min(len(sums), done + target))
        if reached == len(sums) or sums[reached] < before + target:
            break
        sizes.append(reached + 1 - done)
        done = reached + 1
    return sizes


def _order(terms: Terms, epoch: int) -> Iterator[Int64Array]:
    """The samples in the order of an epoch, in parts: all numbers of it whose words are in the first band of
    values, then in the next one. The words are drawn anew for every band, so that few are held at once. A
    number is a sample's id, or, with sources, what an epoch takes of them.
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
        numbers = np.concatenate(ids)[np.argsort(np.concatenate(words), kind="stable")]
        yield taken(terms.sources, terms.seed, epoch, numbers) if terms.sources else numbers


def batches_sha256(terms: Terms) -> str:
    """Of the step sets, as a lock's `batches_sha256` is defined: size and ascending ids of each step."""
    digest = hashlib.sha256(f"crossfoot batches 1 {total_steps(terms)}\n".encode())
    for part in parts(terms):
        digest.update(in_words(part, [np.sort(ids, axis=1) for _, ids in part.rows()]))
    return digest.hexdigest()


def in_words(part: Part, arranged: list[Int64Array]) -> bytes:
    """Each step of a part as its size and its samples, little-endian int64; arranged: for each of `part.rows`
    the samples as they are to stand.
    """
    words: list[bytes] = [b""] * len(part.sizes)
    for (places, _), ids in zip(part.rows(), arranged, strict=True):
        rows = np.insert(ids, 0, ids.shape[1], axis=1).astype("<i8")
        if len(places) == len(words):
            return rows.tobytes()
        for place, row in zip(places.tolist(), rows, strict=True):
            words[place] = row.tobytes()
    return b"".join(words)


def rounded_up(count: int, size: int) -> int:
    """How many of `size` hold `count`."""
    whole, rest = divmod(count, size)
    return whole + (rest > 0)
