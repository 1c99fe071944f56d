"""What breaks in the middle of a run, put around crossfoot from outside: `python breakage.py BREAKAGE WORDS`
is train.py with the breakage around it.

Each is a context manager of the rank it runs on. They strike in step 2 (the third).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from unittest import mock

from crossfoot.cli import main

STEP = 2


@contextlib.contextmanager
def _around_forward(change: Callable[[object], object]) -> Iterator[None]:
    """`change` is given the loss of every forward of step 2 and gives back what the loop sees."""
    from crossfoot.training.engine import AccelerateEngine, DeepSpeedEngine

    steps = [-1]
    with contextlib.ExitStack() as stack:
        for engine in (DeepSpeedEngine, AccelerateEngine):

            def set_rate(self, rate, real=engine.set_rate):
                steps[0] += 1
                real(self, rate)

            def forward(self, batch, real=engine.forward):
                loss = real(self, batch)
                return change(loss) if steps[0] == STEP else loss

            stack.enter_context(mock.patch.object(engine, "set_rate", set_rate))
            stack.enter_context(mock.patch.object(engine, "forward", forward))
        yield


def nan_loss(rank: int) -> contextlib.AbstractContextManager[None]:
    """The loss is not a number, on rank 0."""
    return _around_forward(lambda loss: loss * float("nan") if rank == 0 else loss)


def error_on_rank_1(rank: int) -> contextlib.AbstractContextManager[None]:
    """An exception that nobody expects, on one rank, while the other goes on into the step."""

    def change(loss: object) -> object:
        if rank == 1:
            raise ZeroDivisionError("nobody expected this")
        return loss

    return _around_forward(change)


@contextlib.contextmanager
def disk_full_at_last_step(rank: int) -> Iterator[None]:
    """The ledger takes every line but the last one, which is written when the loop has ended."""
    import errno

    from crossfoot.ledger.book import LedgerBook
    from crossfoot.ledger.entry import StepEntry

    real = LedgerBook.append

    def append(self: LedgerBook, entry: StepEntry) -> None:
        if entry.step == STEP:
            raise self._refusal(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "take a line")
        real(self, entry)

    with mock.patch.object(LedgerBook, "append", append):
        yield


BREAKAGES = {
    "nan": nan_loss,
    "error": error_on_rank_1,
    "full": disk_full_at_last_step,
}

if __name__ == "__main__":
    name, *words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    with BREAKAGES[name](int(os.environ.get("RANK", "0"))):
        code = main(["train", *words])
    sys.exit(code)
