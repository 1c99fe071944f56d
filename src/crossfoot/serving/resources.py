"""What a server takes of its machine: CPU and memory of its processes, and of the GPUs."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress

import psutil

from crossfoot.processes import state_of

_GPU_SECONDS = 5.0
_ASK_GPUS = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]


class ServerProcesses:
    """The process that listens on a port of this machine, with all that it has started. words: its command,
    "" where none can be seen: of another user, on another machine.
    """

    def __init__(self, port: int) -> None:
        self._listener = _listener(port)
        self._seen: dict[int, psutil.Process] = {}
        self.words = ""
        if self._listener is not None:
            with suppress(psutil.Error):
                self.words = " ".join(self._listener.cmdline()[-6:])
            self.look()

    @property
    def have_ended(self) -> bool:
        """What was listening has been seen, and is gone."""
        return self._listener is not None and state_of(self._listener) == "gone"

    def look(self) -> tuple[float, int] | None:
        """(cores in use since the last look, resident bytes); None when it is not seen, or gone."""
        if self._listener is None or not self._listener.is_running():
            return None
        cores, held = 0.0, 0
        with suppress(psutil.Error):
            for process in (self._listener, *self._listener.children(recursive=True)):
                known = self._seen.setdefault(process.pid, process)
                with suppress(psutil.Error):
                    cores += known.cpu_percent() / 100
                    held += known.memory_info().rss
        return (cores, held) if held else None


def _listener(port: int) -> psutil.Process | None:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
                    return process
    return None


def gpus_now() -> tuple[float, int] | None:
    """(percent of use, bytes held) of the GPU that holds most; None without nvidia-smi."""
    if shutil.which(_ASK_GPUS[0]) is None:
        return None
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        said = subprocess.run(_ASK_GPUS, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True)
        rows = [tuple(map(float, line.split(","))) for line in said.stdout.splitlines()]
        use, held = max(rows, key=lambda row: row[1])
        return use, int(held) << 20
    return None
