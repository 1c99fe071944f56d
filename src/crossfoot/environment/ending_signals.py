"""The signals that end a process, which schedulers, launchers and people send: each is a wish to stop."""

from __future__ import annotations

import signal

_NAMES = (
    "SIGINT",  # Ctrl-C
    "SIGQUIT",  # Ctrl-backslash, and what some container runtimes send
    "SIGTERM",  # kill, schedulers, launchers
    "SIGHUP",  # the terminal or the ssh session is gone
    "SIGUSR1",  # SLURM's and SGE's warning, where it is asked for
    "SIGUSR2",  # submitit's, LSF's and SGE's warning
    "SIGXCPU",  # the soft limit of CPU time
    "SIGPWR",  # power is failing
)
TIMERS = ("SIGALRM", "SIGVTALRM", "SIGPROF")
"""Set before this program was started they end it; a profiler that is in here handles them itself."""
ENDING = tuple(number for number in signal.Signals if number.name in (*_NAMES, *TIMERS))
"""Every signal that ends a process unless it is handled, and that somebody sends on purpose."""
