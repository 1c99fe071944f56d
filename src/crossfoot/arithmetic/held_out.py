"""Which samples of the training data are held out for validation: a function of what they hold, and of
nothing else. With another seed, on another topology, in another order of the files it is the same contents.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

import numpy as np
from numpy.typing import NDArray

from crossfoot.arithmetic.epoch_order import Ids
from crossfoot.arithmetic.impossible import Impossible, alternatives
from crossfoot.arithmetic.splitmix import finalised
from crossfoot.phrases import counted

_KEY = 0x63726F7373666F74
"""Not a run's seed: runs that differ in their seeds are judged on the same samples."""


class NothingLeft(Impossible):
    """As many contents would be held out as there are."""


@dataclass(frozen=True)
class HeldOut:
    """Ids in the data index, ascending: what is trained on, and one sample of each content held out."""

    training: Ids
    validation: Ids
    num_samples: int

    @property
    def duplicates(self) -> int:
        """Samples that say what one held out says, and so are not trained on either."""
        return self.num_samples - len(self.training) - len(self.validation)

    @property
    def words(self) -> str:
        """`of 10,000 samples; 7 duplicates leave training with them`, to follow their number."""
        words = f"of {counted(self.num_samples, 'sample')}"
        if not self.duplicates:
            return words
        verb = "leaves" if self.duplicates == 1 else "leave"
        return f"{words}; {counted(self.duplicates, 'duplicate')} {verb} training with them"


def hold_out(digests: NDArray[np.uint64], part: int | float) -> HeldOut:
    """Hold out so many contents, or this share of them, rounded up. digests: of what each sample holds.

    The contents are put in the order of a keyed hash, and the first ones are held out: where the data grows,
    most of them stay. Raises NothingLeft.
    """
    contents, first = np.unique(digests, return_index=True)
    chosen = np.argsort(finalised(contents ^ np.uint64(_KEY)))[: part_of(len(contents), part)]
    is_held_out = np.isin(digests, contents[chosen])
    return HeldOut(
        training=np.flatnonzero(~is_held_out).astype(np.int64),
        validation=np.sort(first[chosen]).astype(np.int64),
        num_samples=len(digests),
    )


def part_of(contents: int, part: int | float) -> int:
    """How many of so many contents are held out. Raises NothingLeft where none would be left."""
    share = Decimal(repr(part)) * contents
    count = part if isinstance(part, int) else int(share.to_integral_value(ROUND_CEILING))
    if count >= contents:
        raise NothingLeft(
            f"data.validation holds out {count:,} of {counted(contents, 'different sample')}, "
            "and leaves none to train on",
            ("data.validation",),
            helps=alternatives(
                ([f"hold out at most {contents - 1:,}"] if contents > 1 else []) + ["give more data"]
            ),
        )
    return count
