"""How a run ended, written beside the ledger when it does: the ledger alone cannot tell a stop on purpose
from a kill.

Also the lock's promise that a receipt is held against, and the two small ways to read and write such files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from crossfoot import durable
from crossfoot.digests import sha256_of_document
from crossfoot.findings.finding import Place, Refused
from crossfoot.ledger.entry import strict
from crossfoot.ledger.findings import Unreadable, document_unwritable, ending_unreadable, lock_unreadable
from crossfoot.phrases import said_by

ENDING_FORMAT = 1
REASONS = ("finished", "stop_after", "signal", "orphaned", "interrupt", "fault")
CUT_SHORT = {
    "signal": "was stopped by a signal",
    "orphaned": "lost its launcher, and stopped",
    "interrupt": "was interrupted",
    "fault": "stopped on a fault",
}
"""Of a run or an attempt that was to do more, by the reason."""


@dataclass(frozen=True)
class Ending:
    """The end of a run's last attempt.

    reason: one of REASONS. step: optimizer steps done, over all attempts. exit_code: the run's.
    planned_steps: how many it was asked for: N with --stop-after N, else the plan's total. validation_loss:
    mean over the trained tokens of the validation data, None when there are none. adapter_path: where the
    trained weights were saved, as it is shown. weights_are_finite: every trained weight was a number at the
    end, as far as anybody looked.
    """

    reason: str
    step: int
    exit_code: int
    planned_steps: int
    validation_loss: float | None = None
    adapter_path: str | None = None
    weights_are_finite: bool = True

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"{self.reason!r} is no reason for an ending: {', '.join(REASONS)}")


@dataclass(frozen=True)
class Expects:
    """What the lock promises for the whole run over all ranks: its key `expects`, with its name and sha256.

    name: the run's. sha: of the lock, hex. forwards: empty ones included.
    """

    name: str
    sha: str
    total_steps: int
    samples: int
    distinct_samples: int
    real_tokens: int
    trained_tokens: int
    forwards: int


def expects_of(lock: Mapping[str, Any], path: str = "plan.lock.json") -> Expects:
    """The promise in a lock document. Raises Refused (CF706, unreadable) naming what is missing or of a
    wrong type.
    """
    promise = lock.get("expects")
    if not isinstance(promise, Mapping):
        raise _unreadable(lock_unreadable, "the plan's lock has no `expects`", path)
    found = {**promise, "name": lock.get("name"), "sha": lock.get("sha256")}
    wrong = []
    for name in Expects.__dataclass_fields__:
        wanted = str if name in ("name", "sha") else int
        if type(found.get(name)) is not wanted:
            wrong.append(f"{name} is {found.get(name)!r}, not {'text' if wanted is str else 'an integer'}")
    if wrong:
        raise _unreadable(lock_unreadable, "the plan's lock cannot be read", path, *wrong)
    return Expects(**{name: found[name] for name in Expects.__dataclass_fields__})


def read_lock(path: str) -> Mapping[str, Any]:
    """The lock document, its promise looked at, its hash computed. Raises Refused (CF706, unreadable)."""
    lock = read_document(path, lock_unreadable, "the plan's lock")
    expects_of(lock, path)
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
    document = read_document(path, ending_unreadable, "the run's ending")
    if document.get("format") != ENDING_FORMAT:
        note = f"its format is {document.get('format')!r}, this reads {ENDING_FORMAT}"
        raise _unreadable(ending_unreadable, "the run's ending cannot be read", path, note)
    try:
        document.setdefault("weights_are_finite", True)  # an older version did not look
        ending = Ending(**{name: document[name] for name in Ending.__dataclass_fields__})
    except (KeyError, ValueError) as error:
        raise _unreadable(ending_unreadable, "the run's ending cannot be read", path, str(error)) from error
    loss: Any = document["validation_loss"]
    numbers = (ending.step, ending.exit_code, ending.planned_steps)
    is_loss_good = loss is None or type(loss) in (int, float) or loss in ("nan", "inf", "-inf")
    if any(type(number) is not int for number in numbers) or not is_loss_good:
        note = "step, exit_code and planned_steps are integers, validation_loss is a number or null"
        raise _unreadable(ending_unreadable, "the run's ending cannot be read", path, note)
    return replace(ending, validation_loss=None if loss is None else float(loss))


def read_document(path: str, unreadable: Unreadable, what: str) -> dict[str, Any]:
    """A JSON object from a file. Raises Refused with `unreadable`'s finding, in the words "`what` ..."."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except FileNotFoundError as error:
        raise _unreadable(unreadable, f"{what} is not here", path) from error
    except OSError as error:
        note = f"the system says: {said_by(error)}"
        raise _unreadable(unreadable, f"{what} cannot be read", path, note) from error
    except json.JSONDecodeError as error:
        place = Place(path, error.lineno, error.colno)
        raise Refused(unreadable(f"{what} is not JSON: {error.msg}", place, ())) from error
    except UnicodeDecodeError as error:
        raise _unreadable(unreadable, f"{what} is not UTF-8 text", path) from error
    if not isinstance(document, dict):
        raise _unreadable(unreadable, f"{what} is not a JSON object", path)
    return document


def write_document(path: str, document: Mapping[str, Any]) -> None:
    """Write strict JSON atomically: whole under its name, or not at all. Raises Refused (CF708)."""
    text = json.dumps(_strict(document), indent=1, allow_nan=False) + "\n"
    try:
        durable.replace(path, text)
    except OSError as error:
        name = os.path.basename(path)
        raise Refused(document_unwritable(path, name, said_by(error))) from error


def _strict(value: Any) -> Any:
    """A document that JSON can say: NaN and infinities become "nan", "inf" and "-inf", as in the ledger."""
    if isinstance(value, Mapping):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return strict(value)


def _unreadable(unreadable: Unreadable, title: str, path: str, *notes: str) -> Refused:
    return Refused(unreadable(title, Place(path), notes))
