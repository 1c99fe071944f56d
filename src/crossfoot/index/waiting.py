"""One process builds, the others wait: the builder's pulse, what the others make of it, and what a dead
builder left.

No process group exists yet, so all of it goes through files beside the index.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from crossfoot import durable
from crossfoot.documents import Malformed, read_object, value_of
from crossfoot.processes import state_of, this_machine

PULSE_SECONDS = 5.0
PATIENCE_SECONDS = 120.0
STALE_SECONDS = 600.0
"""A temporary folder of another machine whose pulse stopped this long ago is a dead builder's."""
TEMPORARY = ".building-"
ALIVE = "alive"
PULSE = ".pulse"


def pulse_path(index_dir: str, address: str) -> str:
    """The file in which the builder of an index shows that it is alive."""
    return os.path.join(index_dir, f".{address}{PULSE}")


@dataclass(frozen=True)
class _Sign:
    """What the builder last said. state: building or refused. beat: grows with every sign."""

    state: str
    nonce: str
    beat: int
    host: str
    pid: int


class Pulse:
    """A thread that renews the builder's sign of life every few seconds while an index is built.

    Leaving it by an exception leaves the word "refused", so that the others stop waiting at once.
    """

    def __init__(self, index_dir: str, address: str, folder: str) -> None:
        self._path = pulse_path(index_dir, address)
        self._alive = Path(folder, ALIVE)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="index pulse", daemon=True)
        self._nonce = os.urandom(8).hex()
        self._beats = 0

    def __enter__(self) -> Pulse:
        self._beat("building")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if kind:
                self._beat("refused")
            else:
                os.unlink(self._path)

    def _run(self) -> None:
        while not self._done.wait(PULSE_SECONDS):
            with contextlib.suppress(OSError):  # a full disk is met, and said, by the writer
                self._beat("building")

    def _beat(self, state: str) -> None:
        self._beats += 1
        sign = _Sign(state, self._nonce, self._beats, platform.node(), os.getpid())
        durable.replace(self._path, json.dumps(asdict(sign)), is_synced=False)
        if self._alive.parent.is_dir():
            self._alive.touch()


def wait_while_building(
    index_dir: str, address: str, is_there: Callable[[], bool], patience_seconds: float
) -> str | None:
    """Wait until the index is there: None. Else why it will not come, in words.

    Every change of the pulse renews the patience, measured by this process's own clock, so that clocks of
    nodes need not agree. "refused" counts only if it appeared while waiting: an older one is another
    attempt's.
    """
    first = last = _read_pulse(index_dir, address)
    deadline = time.monotonic() + patience_seconds
    pause = 0.05
    while not is_there():
        now = _read_pulse(index_dir, address)
        if now != last:
            last, deadline = now, time.monotonic() + patience_seconds
        builder = f"process {now.pid} on {now.host}" if now else ""
        if now is not None and now.state == "refused" and now != first:
            return f"{builder} gave up; its output says why"
        if time.monotonic() > deadline:
            heard = f"no sign from {builder}" if now else f"no builder has begun {address}"
            return f"{heard} for {patience_seconds:.0f} seconds"
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)
    return None


def _read_pulse(index_dir: str, address: str) -> _Sign | None:
    try:
        return value_of(_Sign, read_object(pulse_path(index_dir, address)))
    except (OSError, Malformed):
        return None


def _machine() -> str:
    """This machine and its process numbers' space, in a few letters: a pid means something only inside it."""
    return sha256(f"{platform.node()} {this_machine()}".encode()).hexdigest()[:10]


def make_building_folder(index_dir: str) -> str:
    """A fresh temporary folder that names its owner; first those that dead builders left are removed."""
    os.makedirs(index_dir, exist_ok=True)
    folder = tempfile.mkdtemp(dir=index_dir, prefix=f"{TEMPORARY}{_machine()}-{os.getpid()}-")
    os.chmod(folder, 0o755)
    Path(folder, ALIVE).touch()
    _remove_dead(index_dir, folder)
    return folder


def _remove_dead(index_dir: str, own: str) -> None:
    """Remove temporary folders whose owner is gone: its process (same machine), or its pulse (another one);
    and pulses that nobody waits for any more.

    Ages are differences between times of the same file system, so that no node's clock counts.
    """
    now = Path(own, ALIVE).stat().st_mtime
    for name in os.listdir(index_dir):
        folder = os.path.join(index_dir, name)
        if name.startswith(".") and name.endswith(PULSE):
            with contextlib.suppress(OSError):
                if now - os.stat(folder).st_mtime > PATIENCE_SECONDS:
                    os.unlink(folder)
        if not name.startswith(TEMPORARY) or folder == own:
            continue
        machine, pid = (*name.removeprefix(TEMPORARY).split("-"), "", "")[:2]
        if machine == _machine() and pid.isdigit():
            dead = state_of(int(pid)) == "gone"
        else:
            try:
                dead = now - os.stat(os.path.join(folder, ALIVE)).st_mtime > STALE_SECONDS
            except OSError:
                dead = now - os.stat(folder).st_mtime > STALE_SECONDS if os.path.isdir(folder) else False
        if dead:
            shutil.rmtree(folder, ignore_errors=True)
