"""The verdict on lost ranks as a file: whoever is first writes it, and all the others say and do the same,
those too that come late.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any, get_args

from crossfoot.liveness.judging import Kind, LastSeen, Verdict
from crossfoot.runs.run_folder import verdict_path

FORMAT = 1


def read_verdict(run_dir: str | os.PathLike[str], attempt: int) -> Verdict | None:
    """The verdict of an attempt; None when there is none that can be read."""
    try:
        document = json.loads(verdict_path(run_dir, attempt).read_bytes())
    except (OSError, ValueError):
        return None
    return _verdict(document, attempt)


def write_verdict(run_dir: str | os.PathLike[str], verdict: Verdict) -> Verdict:
    """Write a verdict unless there is one; returns the one that counts. Without a disk that takes it, it is
    this rank's alone.
    """
    path = verdict_path(run_dir, verdict.attempt)
    partial = path.with_name(f".{path.name}.{verdict.by}.partial")
    document = {"format": FORMAT, **asdict(verdict)}
    with suppress(OSError):
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        try:
            os.link(partial, path)  # unlike a rename it fails when somebody was faster
        except FileExistsError:
            pass
        except OSError:
            if not path.exists():  # a file system without links
                os.replace(partial, path)
    with suppress(OSError):
        partial.unlink()
    return read_verdict(run_dir, verdict.attempt) or verdict


def _verdict(document: Any, attempt: int) -> Verdict | None:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return None
    try:
        lost, others = ([_last_seen_of(one) for one in document[name]] for name in ("lost", "others"))
        kind, by = document["kind"], document["by"]
        seconds, said = float(document["seconds"]), str(document["said"])
    except (KeyError, TypeError, ValueError):
        return None
    is_good = kind in get_args(Kind) and type(by) is int and document.get("attempt") == attempt
    return Verdict(attempt, kind, by, tuple(lost), tuple(others), seconds, said) if is_good else None


def _last_seen_of(document: Any) -> LastSeen:
    """Raises KeyError, TypeError or ValueError for what is not one."""
    values = {field.name: document[field.name] for field in fields(LastSeen)}
    for name in ("rank", "pid", "step", "progress"):
        values[name] = int(values[name])
    return LastSeen(**values)
