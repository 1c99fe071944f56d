"""Asks machines what they have: this one, each host of a hostfile by ssh, each node of a SLURM job by srun.

The text of `gather.py` is sent along, so a node needs a python3 and nothing else. Whoever does not answer in
time is a node with a problem.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from typing import Any

from crossfoot.doctor import gather
from crossfoot.doctor.facts_shape import read_facts
from crossfoot.documents import MOST_BYTES, Malformed
from crossfoot.environment.forwarding import FORWARDED
from crossfoot.environment.slurm import hosts as hosts_of
from crossfoot.phrases import said_by
from crossfoot.shell_words import quoted
from crossfoot.written.launch.statement import Host

TORCH_SECONDS = 60.0
"""For torch and deepspeed to be imported and asked; a cold network disk takes half of it."""
_NODE_SECONDS = TORCH_SECONDS + 15.0
_END_SECONDS = 3.0
_AT_ONCE = 64
SSH = (
    *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", "--"),
)
"""Followed by a host, which is no option whatever it is, and a command. Nobody is asked for a password;
a host that is silent is given up.
"""


@dataclass(frozen=True)
class Node:
    """A machine that was asked. name: as the hostfile or SLURM calls it. facts: its answer (`gather.py`),
    empty without one; then problem says why. slots: GPUs that a hostfile promises. ahead_seconds: its clock
    is at least that much ahead of this machine's (behind: negative); 0 when nothing can be said.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    slots: int | None = None
    ahead_seconds: float = 0.0


@dataclass(frozen=True)
class Question:
    """What every machine is asked. paths: (path, use), use being read or write. meeting_point: host or
    address where ranks would meet, None when it is not known.
    """

    paths: tuple[tuple[str, str], ...] = ()
    meeting_point: str | None = None

    def to_json(self) -> str:
        """As it travels, with the questions about torch."""
        questions = files("crossfoot.doctor").joinpath("torch_questions.py").read_text(encoding="utf-8")
        request = {"paths": self.paths, "meeting_point": self.meeting_point, "seconds": TORCH_SECONDS}
        asked = {"folder": os.getcwd(), "python": sys.executable}
        return json.dumps({**request, **asked, "questions": questions})


def ask_here(question: Question) -> Node:
    """This machine."""
    return _ask_one(socket.gethostname(), [sys.executable, "-", question.to_json()])


def ask_over_ssh(hosts: Sequence[Host], question: Question, environ: Mapping[str, str]) -> tuple[Node, ...]:
    """Each host, in this folder and with the variables that `crossfoot launch` gives its ranks there. A key
    must do for the login: nobody is asked for a password.
    """
    script = quoted(_script(question, _forwarded(environ)))

    def ask(host: Host) -> Node:
        return _ask_one(host.name, [*SSH, host.name, f"sh -c {script}"], host.slots)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(ask, hosts))


def is_in_allocation(environ: Mapping[str, str]) -> bool:
    """Whether this is the shell of a job, and not one of several tasks that srun started."""
    is_task = "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PTY_PORT" not in environ
    return bool(environ.get("SLURM_JOB_ID") and environ.get("SLURM_JOB_NODELIST")) and not is_task


def ask_in_allocation(question: Question, environ: Mapping[str, str]) -> tuple[Node, ...]:
    """Each node of the job that this shell is in, by one step with a task a node."""
    names = list(hosts_of(environ["SLURM_JOB_NODELIST"]))
    count = str(len(names))
    command = ["srun", "--nodes", count, "--ntasks", count, "--ntasks-per-node=1", "--overlap", "--mpi=none"]
    command += ["--kill-on-bad-exit=0", "sh", "-c", _script(question, {})]
    answers, problem = _listen(command)
    found = {node.facts["slurm_node"]: node for node in answers}
    silent = Node("", problem=problem or "srun: no answer")
    return tuple(replace(found.get(name, silent), name=name) for name in names)


def _ask_one(name: str, command: Sequence[str], slots: int | None = None) -> Node:
    answers, problem = _listen(command)
    if not answers:
        return Node(name, problem=problem or "no answer", slots=slots)
    return Node(name, answers[0].facts, "", slots, answers[0].ahead_seconds)


def _script(question: Question, variables: Mapping[str, str]) -> str:
    """For a shell on a node: this folder, this python or whichever there is, and the request."""
    exports = "".join(f"export {name}={quoted(value)}; " for name, value in variables.items())
    python = quoted(sys.executable)
    return (
        f"cd {quoted(os.getcwd())} 2>/dev/null; {exports}p={python}; "
        f'command -v "$p" >/dev/null || p=python3; exec "$p" - {quoted(question.to_json())}'
    )


def _forwarded(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if name in ("PATH", *FORWARDED) or name.startswith(("PYTHON", "NCCL_"))
    }


class _Pieces:
    """The lines of `gather.py`, of several nodes among each other, put together."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, str]] = {}

    def joined(self, line: str) -> str | None:
        """The whole answer, once its last piece is there. Raises ValueError for a line of another form."""
        who, place, piece = line.split(" ", 2)
        total = int(place.partition("/")[2])
        mine = self._of.setdefault(who, {})
        mine[place] = piece
        if len(mine) < total:
            return None
        del self._of[who]
        return "".join(mine[f"{number}/{total}"] for number in range(1, total + 1))


def _listen(command: Sequence[str]) -> tuple[list[Node], str]:
    """Run a command that reads `gather.py` from its input. Every answer, and what it said last when it
    failed.
    """
    source = files("crossfoot.doctor").joinpath("gather.py").read_text(encoding="utf-8")
    answers: list[Node] = []
    pieces = _Pieces()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        sent = time.time()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            return [], f"{command[0]}: {said_by(error)}"
        with process, _at_most(process, _NODE_SECONDS) as is_late:
            with suppress(BrokenPipeError):
                process.stdin.write(source)  # type: ignore[union-attr]
                process.stdin.close()  # type: ignore[union-attr]
            for line in iter(partial(process.stdout.readline, MOST_BYTES), ""):  # type: ignore[union-attr]
                if line.startswith(gather.MARK):
                    try:
                        text = pieces.joined(line[len(gather.MARK) :].rstrip("\n"))
                        if text is None:
                            continue
                        facts = read_facts(text)
                    except (Malformed, ValueError, KeyError) as error:
                        return answers, f"its answer cannot be read: {error}"
                    answers.append(Node(facts["host"], facts, "", None, _ahead(facts, sent, time.time())))
        errors.seek(0)
        said = [line.strip() for line in errors.read().splitlines() if line.strip()]
    if is_late():
        return answers, f"no answer within {_NODE_SECONDS:.0f} s"
    if not said or not process.returncode:
        return answers, ""
    return answers, next((line for line in said if "error: " in line), said[-1])  # srun says the cause first


@contextmanager
def _at_most(process: subprocess.Popen[str], seconds: float) -> Iterator[Callable[[], bool]]:
    """End a process when its time is over, first gently; the value says whether that was done."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late.is_set
    finally:
        timer.cancel()


def _ahead(facts: Mapping[str, Any], sent: float, arrived: float) -> float:
    """How far a clock is ahead, at least. The node took its first time after `sent` and its last one before
    `arrived`, so the truth lies between the two differences.
    """
    low, high = facts["ended"] - arrived, facts["began"] - sent
    return float(low if low > 0 else min(high, 0.0))
