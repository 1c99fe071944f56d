"""What an epoch holds of each source, worked out for the receipt from a lock's own words. Nothing of
`arithmetic.mixture` is called: the same definitions, written a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

_ROUNDS, _LEAST_HALF = 8, 3
_MULTIPLIERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


@dataclass(frozen=True)
class PromisedSource:
    """One entry of data.train. first: id of its first sample. samples: that the index has of it. used: of
    them, from the first on. per_epoch: what an epoch takes. files: of the index, behind those of the source
    before.
    """

    name: str
    first: int
    samples: int
    used: int
    per_epoch: int
    files: int


def promised_sources(lock: Mapping[str, Any]) -> tuple[PromisedSource, ...]:
    """The sources of a lock that tells them apart; else none. Weights and limits are the config's. Raises
    KeyError, TypeError, ValueError for a lock that does not say them.
    """
    said = lock["plan"].get("sources") or ()
    entries = lock["config"]["data"]["train"] if said else ()
    found: list[PromisedSource] = []
    first = 0
    for one, entry in zip(said, entries, strict=True):
        keys = entry if isinstance(entry, Mapping) else {}
        samples = int(one["samples"])
        used = min(samples, keys.get("max_samples") or samples)
        exact = Decimal(str(keys.get("weight", 1))) * used
        per_epoch = int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
        if not per_epoch > 0 or not used > 0:
            raise ValueError(f"an epoch takes {per_epoch} samples of {one['name']}")
        found.append(PromisedSource(str(one["name"]), first, samples, used, per_epoch, int(one["files"])))
        first += samples
    return tuple(found)


def taken(sources: Sequence[PromisedSource], seed: int, epoch: int, numbers: Int64Array) -> Int64Array:
    """The ids of these numbers of an epoch: source by source, and in each pass by pass."""
    ids = np.empty_like(numbers)
    before = 0
    for place, source in enumerate(sources):
        own = np.flatnonzero((numbers >= before) & (numbers < before + source.per_epoch))
        stream = numbers[own] - before + epoch * source.per_epoch
        passes, within = np.divmod(stream, source.used)
        if divmod(source.per_epoch, source.used)[1]:
            for passing in set(passes.tolist()):
                here = np.flatnonzero(passes == passing)
                within[here] = _in_pass(seed, place, passing, source.used, within[here])
        ids[own] = source.first + within
        before += source.per_epoch
    return ids


def _in_pass(seed: int, source: int, passing: int, used: int, places: Int64Array) -> Int64Array:
    """Where these places of one pass lead: a Feistel network over 2 x half bits, again until below `used`."""
    half = _LEAST_HALF
    while 1 << (2 * half) < used:
        half += 1
    generator = np.random.Philox(
        key=np.array([seed, passing], dtype=np.uint64),
        counter=np.array([0, 0, 0, source + 1], dtype=np.uint64),
    )
    keys = generator.random_raw(_ROUNDS)
    now = places.astype(np.uint64)
    outside = np.ones(len(now), dtype=np.bool_)
    while outside.any():
        now[outside] = _once(now[outside], keys, np.uint64(half))
        outside = now >= np.uint64(used)
    return now.astype(np.int64)


def _once(values: npt.NDArray[np.uint64], keys: Any, half: np.uint64) -> npt.NDArray[np.uint64]:
    low = np.uint64((1 << int(half)) - 1)
    for key in keys:
        upper, lower = values >> half, values & low
        word = lower ^ key
        for shift, multiplier in _MULTIPLIERS:
            word = (word ^ (word >> np.uint64(shift))) * np.uint64(multiplier)
        word ^= word >> np.uint64(31)
        values = (lower << half) | (upper ^ (word & low))
    return values
