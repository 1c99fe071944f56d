"""A python that imports torch, transformers, peft, accelerate and deepspeed once, and forks for every program
that a test starts: what a start costs is then the run and not the imports (6 s of a processor each).

A program is as alone as any other: a process in a session of its own, with its own variables, folder,
arguments, streams and `__main__`, and its interpreter ends as every interpreter does. What differs: its
command line in /proc is this file's, and modules are there that it may not ask for; a test that looks at
either starts it cold. What a library reads while it is imported is the server's: `IMPORT_TIME` names those
variables, and a program that wants others is started cold as well.

As a program, `warm.py SOCKET` listens there until its standard input closes. A request is one message,
{words, environ, folder}, with two descriptors: standard output and error. The answers are the process number
and, when it has ended, its exit status, negative for the signal that ended it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

IMPORT_TIME = ("PYTHON", "LD_", "OMP_", "MKL_", "DS_", "CUDA_", "HF_", "TRANSFORMERS_", "TORCH")
"""How the names of variables begin that a library reads while it is imported."""
_MODULES = (
    *("torch.distributed", "transformers", "peft", "accelerate", "deepspeed", "numpy.ma"),
    *("crossfoot.cli", "crossfoot.training.session", "crossfoot.training.build"),
    *("crossfoot.training.closing", "crossfoot.probing.session", "crossfoot.launch.dry_run"),
)
_HUSHED = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""What crossfoot.training.session sets before it imports."""
_READY = "ready"
_LONGEST_MESSAGE = 1 << 17
_LOOK_SECONDS = 0.02
_END_SECONDS = 60.0


class Program:
    """A program that was started warm. pid: its process, the first of a session of its own."""

    def __init__(self, words: Sequence[str], pid: int, answers: socket.socket) -> None:
        self.words, self.pid = words, pid
        self._answers = answers
        self._code: int | None = None

    def wait(self, timeout: float) -> int:
        """Its exit status. subprocess.TimeoutExpired after so many seconds."""
        if self._code is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired([*self.words], timeout)
            with self._answers:
                self._code = int(json.loads(self._answers.recv(_LONGEST_MESSAGE)))
        return self._code

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None


Running: TypeAlias = "Program | subprocess.Popen[bytes]"


def begin(
    words: Sequence[str], environ: Mapping[str, str], folder: Path, stdout: int, stderr: int
) -> Running:
    """Start `python WORDS`, a script or a module, in a folder, with these descriptors and variables."""
    if _read_at_import(environ) != _read_at_import(_server().environ):
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    request = {"words": words, "environ": dict(environ), "folder": str(folder)}
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(_server().address)
    socket.send_fds(connection, [json.dumps(request).encode()], [stdout, stderr])
    return Program(words, int(json.loads(connection.recv(_LONGEST_MESSAGE))), connection)


def end(program: Running) -> None:
    """Nothing is left of its session."""
    if program.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait(_END_SECONDS)


def wait_as_one(programs: Sequence[Running], timeout: float) -> int:
    """Wait for all; the first exit status that is not 0 ends the others. subprocess.TimeoutExpired after so
    many seconds, when nothing is left of them.
    """
    deadline = time.monotonic() + timeout
    codes: list[int | None] = [None]
    try:
        while None in codes and not any(codes):
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("ranks", timeout)
            time.sleep(_LOOK_SECONDS)
            codes = [program.poll() for program in programs]
    finally:
        for program in programs:
            end(program)
    return next((code for code in codes if code), 0)


@dataclass(frozen=True)
class _Server:
    address: str
    environ: Mapping[str, str]


_LOCK = threading.Lock()


def _server() -> _Server:
    """The one server of this process; it ends with it."""
    with _LOCK:
        return _begin()


@lru_cache(maxsize=1)
def _begin() -> _Server:
    from support.launching import environment

    environ = environment()
    folder = tempfile.TemporaryDirectory(prefix="crossfoot-warm-")
    address = str(Path(folder.name, "socket"))
    process = subprocess.Popen(
        [sys.executable, __file__, address],
        env=environ | _HUSHED,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    atexit.register(folder.cleanup)
    atexit.register(process.stdin.close)
    assert any(line.strip() == _READY for line in process.stdout), "the warm python did not come up"
    return _Server(address, environ)


def _read_at_import(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(IMPORT_TIME)}


def _serve(address: str) -> None:
    """Import, then fork for every request until standard input closes."""
    for module in _MODULES:
        importlib.import_module(module)
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"an import started {len(threads) - 1} threads: a fork would lose them"
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(64)
        print(_READY, flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who looks after a program is not waited for
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _look_after(connection)
                return
            connection.close()


def _look_after(connection: socket.socket) -> None:
    """In a process between: start the program, say its number and how it ended. Returns in the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, *_ = socket.recv_fds(connection, _LONGEST_MESSAGE, 2)
    request = json.loads(message)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(request["words"], request["environ"], request["folder"], streams)
        return
    for stream in streams:
        os.close(stream)
    connection.send(json.dumps(pid).encode())
    _, status = os.waitpid(pid, 0)
    try:
        connection.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
    finally:
        os._exit(0)


def _become(words: list[str], environ: Mapping[str, str], folder: str, streams: Sequence[int]) -> None:
    """Be the program."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], folder
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    sys.argv, sys.path[0] = words, str(Path(words[0]).parent.absolute())
    main = types.ModuleType("__main__")
    main.__file__ = words[0]
    sys.modules["__main__"] = main
    exec(compile(Path(words[0]).read_bytes(), words[0], "exec"), main.__dict__)


if __name__ == "__main__":
    sys.path.pop(0)  # tests/support is no place to import from
    sys.path.insert(0, "")
    _serve(sys.argv[1])
