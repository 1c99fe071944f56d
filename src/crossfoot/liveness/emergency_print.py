"""What a process says before it ends itself while its main thread hangs, perhaps with a lock in its hands."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from crossfoot.findings.finding import Finding
from crossfoot.findings.render import render


def within(seconds: float, work: Callable[[], None]) -> None:
    """Do something that may hang, for so long: another thread may hold what it needs."""
    thread = threading.Thread(target=_suppressed, args=(work,), daemon=True)
    thread.start()
    thread.join(seconds)


def _suppressed(work: Callable[[], None]) -> None:
    with suppress(Exception):
        work()


def emergency_print(finding: Finding) -> None:
    """To stdout, past Python's buffers: the main thread may hold them. What is in them comes after."""
    colour = os.isatty(1) and not os.environ.get("NO_COLOR")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = f"\n{render([finding], colour)}\n".encode(encoding, "backslashreplace")
    with suppress(OSError):
        while text:
            text = text[os.write(1, text) :]
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
