"""Why a run's papers (ledger, lock, ending, receipt) cannot be read or written: one function, one code, one
manual page.
"""

from __future__ import annotations

from collections.abc import Callable

from crossfoot.finding import Finding, Place
from crossfoot.manual import page

Unreadable = Callable[[str, Place, tuple[str, ...]], Finding]
"""Makes a finding of (title, place, notes)."""


@page("CF701")
def disk_full(path: str, deed: str, notes: tuple[str, ...]) -> Finding:
    """CF701: the disk, or the user's quota on it, is full, and the ledger cannot take the next line.

    The run ends, because a step without its line is a step that nobody can vouch for. The lines before it are
    whole; what was written of the new one is cut off again. The notes say up to which step the ledger is
    written, and up to which it would survive a power cut.
    """
    title = f"the disk is full: the ledger cannot {deed}"
    helps = ("free space there (or raise the quota), then train into another run folder",)
    return Finding("CF701", title, place=Place(path), notes=notes, helps=helps)


@page("CF702")
def ledger_unwritable(path: str, deed: str, notes: tuple[str, ...]) -> Finding:
    """CF702: the ledger cannot be opened or written, for another reason than a full disk.

    No right to write there, a folder that went away, storage that fails: the first note has the system's own
    words. Lines that are in the ledger stay; the notes say which.
    """
    return Finding("CF702", f"the ledger cannot {deed}", place=Place(path), notes=notes)


@page("CF703")
def ledger_missing(path: str, is_absent: bool, reason: str) -> Finding:
    """CF703: a run folder has no ledger.jsonl, or it may not be read.

    The ledger is begun with the first step: a run that was refused before it has none, and there is nothing
    to hold against the plan. Name the run folder itself, the one with plan.lock.json in it, not an attempt
    below it.
    """
    return Finding(
        "CF703",
        "there is no ledger here" if is_absent else "the ledger cannot be read",
        place=Place(path),
        notes=(f"the system says: {reason}",),
        unreadable=True,
    )


@page("CF704")
def line_damaged(path: str, number: int, reason: str) -> Finding:
    """CF704: a line of the ledger is not what was written.

    Every line is one JSON object of a known format. A crash can only leave the last one unfinished, and that
    one is left out with a note (CF705); damage elsewhere came from an editor, a copy that broke off or
    storage that lost data. No receipt is made over it. Take the file from where it was written; what the
    damaged step trained cannot be known from here.
    """
    return Finding(
        "CF704",
        f"line {number} of the ledger is damaged",
        place=Place(path, number),
        notes=(f"line {number}: {reason}", "only a crash's unfinished last line can be left out"),
        unreadable=True,
    )


@page("CF705")
def last_line_torn(path: str, number: int, size_bytes: int) -> Finding:
    """CF705: the run was cut off while it wrote the ledger's last line; that line is left out.

    A note, no error: the lines before it are whole. The step of that line was trained, or nearly so, but
    nothing of it was saved, and the receipt does not count it.
    """
    title = f"the ledger's last line is unfinished and was left out ({size_bytes:,} bytes)"
    notes = ("the run was cut off while it wrote that line; the lines before it are whole",)
    return Finding("CF705", title, severity="note", place=Place(path, number), notes=notes)


@page("CF706")
def lock_unreadable(title: str, place: Place, notes: tuple[str, ...]) -> Finding:
    """CF706: plan.lock.json, the promise that a receipt is held against, is absent or cannot be read.

    Name the run folder itself: crossfoot receipt runs/NAME. A lock is written before the first step and never
    changed; one that was edited by hand is no promise any more, so take the file from where it was written.
    """
    return Finding("CF706", title, place=place, notes=notes, unreadable=True)


@page("CF707")
def ending_unreadable(title: str, place: Place, notes: tuple[str, ...]) -> Finding:
    """CF707: ending.json, which says how the run ended, is there and cannot be read.

    A run that was killed has none, and its receipt says so. A damaged one is not taken for none: with
    `--stop-after N` it decides how many steps the run is held against. Take the file from where it was
    written.
    """
    return Finding("CF707", title, place=place, notes=notes, unreadable=True)


@page("CF708")
def paper_unwritable(path: str, name: str, reason: str) -> Finding:
    """CF708: ending.json or receipt.json cannot be written.

    The disk is full, or the run folder may not be written. The ledger is written line by line during the run
    and stands: with room on the disk, crossfoot receipt RUN_DIR shows the receipt again.
    """
    notes = (f"the system says: {reason}", "what stood there before is untouched")
    return Finding("CF708", f"{name} cannot be written", place=Place(path), notes=notes)
