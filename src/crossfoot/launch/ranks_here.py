"""The ranks that a launcher has started on this machine, and signals to them past the launcher.

Launchers do not hand signals on as they come: deepspeed's command ends without its ranks at SIGTERM, the
part of it that starts them dies of SIGUSR1, and torchrun makes SIGTERM of Ctrl-C. A rank that gets a signal
by itself finishes its step, writes a checkpoint, and its launcher then ends with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

from crossfoot.doctor.asking import SSH
from crossfoot.liveness.heartbeats import Heartbeat, read_heartbeats
from crossfoot.processes import children, environ_of, has_handler, run_by_python, words_of
from crossfoot.shell_words import quoted

MARK_VARIABLE = "CROSSFOOT_LAUNCH"
"""A random word of each launch: all that it starts, here and elsewhere, has it in this variable."""
_SSH_SECONDS = 15.0


def rank_processes(pid: int) -> list[int]:
    """The ranks below a process: those that run crossfoot's training. What a rank has started is none."""
    by_parent = children()
    found: list[int] = []
    waiting = list(by_parent.get(pid, ()))
    while waiting:
        current = waiting.pop()
        if is_rank(words_of(current)):
            found.append(current.pid)
        else:
            waiting.extend(by_parent.get(current.pid, ()))
    return sorted(found)


def is_rank(words: Sequence[str]) -> bool:
    """Whether a process with these command line words is a rank: python with `-m crossfoot`, or with a
    train.py."""
    run = run_by_python(words) or []
    if run[:1] == ["-m"]:
        return run[1:2] == ["crossfoot"]
    return bool(run) and os.path.basename(run[0]) == "train.py"


def signal_ranks(pids: Iterable[int], number: int) -> bool:
    """Send a signal to ranks of this machine; whether one was there.

    A rank that does not look after signals yet is still importing: Ctrl-C would only show where. It ends in
    silence by SIGTERM.
    """
    was_there = False
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            is_heard = number == signal.SIGKILL or has_handler(pid, signal.SIGTERM)
            os.kill(pid, number if is_heard else signal.SIGTERM)
            was_there = True
    return was_there


def ranks_elsewhere(run_dir: str, before: Sequence[int]) -> dict[str, list[int]]:
    """The ranks of the attempts that are new since `before`, as they say themselves: host -> processes."""
    found: dict[str, list[int]] = defaultdict(list)
    for beat in living(run_dir, before):
        found[beat.host].append(beat.pid)
    return dict(found)


def living(run_dir: str, before: Sequence[int]) -> list[Heartbeat]:
    """The heartbeats of the newest attempt that is not among `before`, of ranks that have not ended."""
    beats = [beat for beat in read_heartbeats(run_dir) if beat.attempt not in before]
    newest = max((beat.attempt for beat in beats), default=0)
    return [beat for beat in beats if beat.attempt == newest and beat.phase != "ended"]


def is_started_by(pid: int, mark: str) -> bool:
    """Whether a process of this machine is a rank that this launch has started, whoever names it."""
    return environ_of(pid).get(MARK_VARIABLE) == mark and is_rank(words_of(pid))


def signal_over_ssh(ranks: dict[str, list[int]], name: str, mark: str) -> bool:
    """Send a signal (`USR1`) to processes of other machines; whether every machine had one that took it.

    The numbers come from a folder that others may write. Each process is looked at before it gets the signal:
    it must have been started with this launch's mark. Processes of other users do not show theirs.
    """
    asked = [
        subprocess.Popen(
            [*SSH, host, f"sh -c {quoted(_signal_script(pids, name, mark))}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for host, pids in ranks.items()
    ]
    taken = True
    for process in asked:
        try:
            taken &= process.wait(_SSH_SECONDS) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            taken = False
    return bool(asked) and taken


def _signal_script(pids: Sequence[int], name: str, mark: str) -> str:
    """For a shell on another machine. It ends with 0 when a process took the signal."""
    is_marked = f'tr "\\0" "\\n" < /proc/$pid/environ 2>/dev/null | grep -qx {MARK_VARIABLE}={mark}'
    numbers = " ".join(map(str, pids))
    loop = f'for pid in {numbers}; do {is_marked} && kill -s {name} "$pid" && taken=0; done'
    return f"taken=1; {loop}; exit $taken"
