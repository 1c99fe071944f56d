"""How a run ended, written beside the ledger when it does: the ledger alone cannot tell a stop on purpose
from a kill.

Also the lock's promise that a receipt is held against, and the two small ways to read and write such files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from crossfoot import durable
from crossfoot.digests import sha256_of_document
from crossfoot.documents import Malformed, plain, read_object, value_of
from crossfoot.findings.finding import Place, Refused
from crossfoot.ledger.findings import Unreadable, document_unwritable, ending_unreadable, lock_unreadable
from crossfoot.phrases import said_by
from crossfoot.runs.lock_shape import Expects, refuse_misshapen

Paper = TypeVar("Paper")

ENDING_FORMAT = 1
REASONS = ("finished", "stop_after", "patience", "signal", "orphaned", "interrupt", "fault")
AS_WISHED = ("finished", "stop_after", "patience")
"""Reasons of a run that did what it was asked for, and hands over what it trained."""
CUT_SHORT = {
    "signal": "was stopped by a signal",
    "orphaned": "lost its launcher, and stopped",
    "interrupt": "was interrupted",
    "fault": "stopped on a fault",
}
"""Of a run or an attempt that was to do more, by the reason."""


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that a rank of an attempt held at a time. rank: which one. of: what torch had allocated
    on its GPU, or what of its process was in memory. device: the name of that GPU, "" without.
    """

    peak_bytes: int
    rank: int
    of: Literal["GPU", "process"]
    device: str = ""


@dataclass(frozen=True)
class Ending:
    """The end of a run's last attempt.

    reason: one of REASONS. step: optimizer steps done, over all attempts. exit_code: the run's.
    planned_steps: how many it was asked for: N with --stop-after N, else the plan's total. validation_loss:
    mean over the trained tokens of the validation data, None when there are none. saved_path: where the
    trained weights were saved, as it is shown. weights_are_finite: every trained weight was a number at the
    end, as far as anybody looked. memory: of the rank that held most, None where nobody measured.
    """

    reason: str
    step: int
    exit_code: int
    planned_steps: int
    validation_loss: float | None = None
    saved_path: str | None = None
    weights_are_finite: bool = True
    memory: PeakMemory | None = None

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"{self.reason!r} is no reason for an ending: {', '.join(REASONS)}")
        if not 0 <= self.exit_code <= 255:
            raise ValueError(f"exit_code is {self.exit_code}, not 0 to 255")


def expects_of(lock: Mapping[str, Any], path: str = "plan.lock.json") -> Expects:
    """The promise in a lock document. Raises Refused (CF706, unreadable) naming what is missing or of a
    wrong type.
    """
    promise = lock.get("expects")
    if not isinstance(promise, Mapping):
        raise _unreadable(lock_unreadable, "the plan's lock has no `expects`", path)
    found = {**promise, "name": lock.get("name"), "sha": lock.get("sha256")}
    with _as_finding(lock_unreadable, "the plan's lock", path):
        return value_of(Expects, found)


def read_lock(path: str) -> Mapping[str, Any]:
    """The lock document, its types looked at, its hash computed. Raises Refused (CF706, unreadable)."""
    lock = read_document(path, lock_unreadable, "the plan's lock")
    expects_of(lock, path)
    with _as_finding(lock_unreadable, "the plan's lock", path):
        refuse_misshapen(lock)
    if (own := lock_sha256(lock)) != lock["sha256"]:
        note = f"it says sha256 {lock['sha256'][:7]}, and what stands in it has {own[:7]}"
        raise _unreadable(lock_unreadable, "the plan's lock is not what was written", path, note)
    return lock


def lock_sha256(lock: Mapping[str, Any]) -> str:
    """sha256 of a lock without its own `sha256`, as canonical JSON."""
    return sha256_of_document({key: value for key, value in lock.items() if key != "sha256"})


def write_ending(path: str, ending: Ending) -> None:
    """Write `ending.json` atomically. Raises Refused when the disk does not take it."""
    write_document(path, {"format": ENDING_FORMAT, **asdict(ending)})


def read_ending(path: str) -> Ending | None:
    """The ending, or None when the run has not written one (it is still running, or was killed).

    Raises Refused (CF707, unreadable) when there is one that cannot be read.
    """
    if not os.path.exists(path):
        return None
    return read_paper(path, Ending, ENDING_FORMAT, ending_unreadable, "the run's ending")


def read_paper(path: str, kind: type[Paper], format: int, unreadable: Unreadable, what: str) -> Paper:
    """A paper of a run, by its dataclass. Raises Refused with `unreadable`'s finding, naming the key."""
    document = read_document(path, unreadable, what)
    with _as_finding(unreadable, what, path):
        if document.get("format") != format:
            raise Malformed(f"its format is {document.get('format')!r}, this reads {format}")
        return value_of(kind, document)


def read_document(path: str, unreadable: Unreadable, what: str) -> dict[str, Any]:
    """A JSON object from a file. Raises Refused with `unreadable`'s finding, in the words "`what` ..."."""
    try:
        return read_object(path)
    except FileNotFoundError as error:
        raise _unreadable(unreadable, f"{what} is not here", path) from error
    except OSError as error:
        note = f"the system says: {said_by(error)}"
        raise _unreadable(unreadable, f"{what} cannot be read", path, note) from error
    except Malformed as error:
        place = Place(path, error.line, error.column)
        raise Refused(unreadable(error.said_of(what), place, ())) from error


@contextmanager
def _as_finding(unreadable: Unreadable, what: str, path: str) -> Iterator[None]:
    """What is Malformed is Refused."""
    try:
        yield
    except Malformed as error:
        raise _unreadable(unreadable, f"{what} cannot be read", path, str(error)) from error


def write_document(path: str, document: Mapping[str, Any]) -> None:
    """Write strict JSON atomically: whole under its name, or not at all. Raises Refused (CF708)."""
    text = json.dumps(plain(document), indent=1, allow_nan=False) + "\n"
    try:
        durable.replace(path, text)
    except OSError as error:
        name = os.path.basename(path)
        raise Refused(document_unwritable(path, name, said_by(error))) from error


def _unreadable(unreadable: Unreadable, title: str, path: str, *notes: str) -> Refused:
    return Refused(unreadable(title, Place(path), notes))
