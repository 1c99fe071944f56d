"""One rank of a small program that trains nothing: a loop of collectives over gloo, with a rank monitor
beside it. RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as from a launcher.

    watched_rank.py RUN_DIR TIMEOUT_SECONDS [fault=WHAT:RANK] [steps=N] [host=NAME] [attempt=N]

fault, at step FAULT_STEP: `hangs` in its main thread; `fails` on its own; `ends` in order, too early;
`breaks`: is told that a connection broke. host: its name, and a machine of its own, whose processes nobody
else sees.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from unittest import mock

import torch
import torch.distributed as dist

from crossfoot.findings.render import render
from crossfoot.liveness import rank_monitor as rank_monitor_module
from crossfoot.liveness.rank_monitor import RankMonitor

FAULT_STEP = 3


def main() -> int:
    run_dir, seconds, *rest = (word for word in sys.argv[1:] if not word.startswith("-"))
    words, timeout_seconds = dict(word.split("=", 1) for word in rest), float(seconds)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    fault, _, whose = words.get("fault", "none:-1").partition(":")
    attempt, host = int(words.get("attempt", "1")), words.get("host")
    if host is not None:
        mock.patch.object(rank_monitor_module, "this_machine", lambda: host).start()
    with RankMonitor(run_dir, attempt, rank, world_size, timeout_seconds, host=host) as rank_monitor:
        rank_monitor.phase("loading")
        dist.init_process_group("gloo", timeout=timedelta(minutes=10))
        rank_monitor.phase("training", step=0)
        try:
            for step in range(int(words.get("steps", 1_000_000))):
                rank_monitor.tick(step)
                if step == FAULT_STEP and rank == int(whose):
                    if fault == "hangs":
                        stand_still()
                    if fault == "ends":
                        return 0
                    if fault == "breaks":
                        raise RuntimeError("[gloo/transport] Connection reset")
                    if fault == "fails":
                        raise MemoryError("out of memory: 80 GiB wanted")
                time.sleep(0.02)
                dist.all_reduce(torch.ones(1))
                rank_monitor.tick()
        except MemoryError as error:
            rank_monitor.failed(str(error))
            print(f"rank {rank} fails", flush=True)
            os._exit(1)
        except RuntimeError as error:
            finding = rank_monitor.who_is_lost(str(error).splitlines()[0])
            if rank_monitor.speaks:
                print(render([finding]), flush=True)
            os._exit(1)
        rank_monitor.phase("closing")
        dist.barrier()
        dist.destroy_process_group()
    return 0


def stand_still() -> None:
    """What a main thread that hangs is in."""
    time.sleep(3_600)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # gloo's threads would hold an interpreter that ends too early
