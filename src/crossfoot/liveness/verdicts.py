"""The verdict on lost ranks as a file: whoever is first writes it, and all the others say and do the same,
those too that come late.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict

from crossfoot.documents import Malformed, read_object, value_of
from crossfoot.liveness.heartbeats import MOST_SECONDS
from crossfoot.liveness.judging import Verdict
from crossfoot.runs.attempts import MOST_RANKS
from crossfoot.runs.run_folder import verdict_path
from crossfoot.written.launch.host_names import is_host_name

FORMAT = 1


def read_verdict(run_dir: str | os.PathLike[str], attempt: int) -> Verdict | None:
    """The verdict of an attempt; None when there is none that can be read."""
    try:
        document = read_object(verdict_path(run_dir, attempt))
        verdict = value_of(Verdict, document) if document.get("format") == FORMAT else None
    except (OSError, Malformed):
        return None
    return verdict if verdict is not None and verdict.attempt == attempt and _is_possible(verdict) else None


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


def _is_possible(verdict: Verdict) -> bool:
    """Whether a rank can have judged so: there are such ranks, on machines that can be called so."""
    is_seen = all(
        0 <= seen.rank < MOST_RANKS
        and (not seen.host or is_host_name(seen.host))
        and min(seen.silent_seconds, seen.still_seconds) >= 0
        and max(seen.silent_seconds, seen.still_seconds) < MOST_SECONDS
        for seen in verdict.everyone
    )
    return is_seen and bool(verdict.lost or verdict.others) and 0 <= verdict.seconds < MOST_SECONDS
