"""`transformers serve` as a process of ours: started, waited for, and never left behind."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

from crossfoot.findings.finding import Refused
from crossfoot.liveness.signals import restored, taken
from crossfoot.output import tell
from crossfoot.phrases import clock, reason_of
from crossfoot.serving.findings import not_started, port_taken, server_ended
from crossfoot.serving.model_folder import Served

LOOK_SECONDS = 0.2
GRACE_SECONDS = 10.0
"""A server that was asked to end may take so long to finish its answers."""
_ANSWER_SECONDS = 5.0
_TELL_SECONDS = 30.0
_MOST_PORTS = 1000
_LOWEST_FREE_PORT = 1024
_HIGHEST_PORT = 65535
_START = """
import signal, sys
from crossfoot.processes import end_with
end_with(int(sys.argv.pop(1)), signal.SIGTERM)
from transformers.cli.transformers import main
sys.argv[0] = "transformers"
main()
"""


def refuse_port(host: str, port: int) -> None:
    """Refused (CF830) where nothing can listen."""
    why = _listening_fails(host, port)
    if why is not None:
        near = range(max(port + 1, _LOWEST_FREE_PORT), min(port + _MOST_PORTS, _HIGHEST_PORT + 1))
        free = next((each for each in near if _listening_fails(host, each) is None), None)
        raise Refused(port_taken(host, port, why, free))


def _listening_fails(host: str, port: int) -> str | None:
    if port > _HIGHEST_PORT:
        return f"the highest port is {_HIGHEST_PORT}"
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen()
    except OSError as error:
        return reason_of(error)
    return None


def url_of(host: str, port: int) -> str:
    """Where a server on this machine is asked that listens on an address; all addresses have this one too."""
    asked = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{asked}]:{port}" if ":" in asked else f"http://{asked}:{port}"


class TransformersServer:
    """While it is open, the server runs, and the signals that end a process end it. The model is known to it
    under its name alone; its /v1/models lists that one.
    """

    def __init__(self, served: Served, host: str, port: int, options: Sequence[str] = ()) -> None:
        self.url = url_of(host, port)
        self.words = ["transformers", "serve", served.name, "--host", host, "--port", str(port), *options]
        self._served = served
        self._is_asked_to_end = False

    def wait_until_it_answers(self) -> bool:
        """False when it was asked to end before. Raises Refused when it ends by itself."""
        begun = told = time.monotonic()
        while not self._is_asked_to_end:
            if (code := self._child.poll()) is not None:
                raise Refused(not_started(self.words, code))
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=_ANSWER_SECONDS):
                return True
            time.sleep(LOOK_SECONDS)
            if (now := time.monotonic()) - told > _TELL_SECONDS:
                told = now
                tell(f"still loading, after {clock(now - begun)} ...")
        return False

    def wait_until_it_is_to_end(self) -> None:
        """Raises Refused when it ends by itself."""
        while not self._is_asked_to_end:
            with suppress(subprocess.TimeoutExpired):
                code = self._child.wait(LOOK_SECONDS)
                if not self._is_asked_to_end:
                    raise Refused(server_ended(code))

    def __enter__(self) -> TransformersServer:
        self._before = taken(self._ask_to_end)
        self._room = tempfile.TemporaryDirectory(prefix="crossfoot-serve-")
        home = Path(self._room.name)
        (home / self._served.name).symlink_to(self._served.folder.resolve())
        own = {
            "HF_HUB_CACHE": str(_hub_cache(home, self._served)),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._child = subprocess.Popen(
            [sys.executable, "-c", _START, str(os.getpid()), *self.words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            cwd=home,  # so that the folder is found by its name alone
            env={**os.environ, **own},
            start_new_session=True,  # Ctrl-C in the terminal comes here only, and from here to the server
        )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._child.terminate()
            try:
                self._child.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        finally:
            self._room.cleanup()
            restored(self._before)

    def _ask_to_end(self, number: int, frame: FrameType | None) -> None:
        self._is_asked_to_end = True


def _hub_cache(home: Path, served: Served) -> Path:
    """A hub cache that holds the served model alone: /v1/models lists what lies in the cache, and fails where
    there is none.
    """
    cache = home / "hub"
    revision = hashlib.sha1(str(served.folder).encode(), usedforsecurity=False).hexdigest()
    model = cache / f"models--{served.name}"
    (model / "snapshots").mkdir(parents=True)
    (model / "snapshots" / revision).symlink_to(served.folder.resolve())
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision, encoding="ascii")
    return cache
