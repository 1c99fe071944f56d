"""Many runs in one set of ranks, to pay for the imports once: `deepspeed --num_gpus W many_runs.py
JOBS.json`, or plain `python many_runs.py JOBS.json` for one process.

JOBS.json is a list of {name, config, overrides, stop_after, continues, fault, environ}. Every run is
crossfoot's own session, joined once: only the process group is kept between runs. A fault is put around
model, engine, collator or optimizer from here; environ is set for that run alone. What rank 0 said goes to
NAME.said beside JOBS.json as well.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import TextIO
from unittest import mock

from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Refused
from crossfoot.rendezvous import ranks as ranks_module
from crossfoot.training.rank_job import TrainOptions
from crossfoot.training.session import run
from support import accelerate_state
from support.faults import FAULTS
from support.number_faults import NUMBER_FAULTS


class _Tee:
    """A stream that writes into a file too."""

    def __init__(self, stream: TextIO, file: TextIO) -> None:
        self._stream, self._file = stream, file

    def write(self, text: str) -> int:
        """Into both."""
        self._file.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Both."""
        self._file.flush()
        self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _surroundings(job: dict[str, object], said: Path, rank: int) -> Iterator[None]:
    """One run's own: its fault, its environment variables, what it says."""
    with ExitStack() as stack:
        if job.get("fault"):
            stack.enter_context({**FAULTS, **NUMBER_FAULTS}[job["fault"]](rank))
        stack.enter_context(mock.patch.dict(os.environ, job.get("environ") or {}))
        if rank == 0:
            file = stack.enter_context(said.open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(_Tee(sys.stdout, file)))
            stack.enter_context(contextlib.redirect_stderr(_Tee(sys.stderr, file)))
        yield


def _forget() -> None:
    """What libraries keep for the life of a process: accelerate's state, and models in cycles."""
    accelerate_state.forget()
    gc.collect()


def main(jobs_path: str) -> int:
    """Run all jobs; write each exit code beside its run folder, on rank 0."""
    jobs = json.loads(Path(jobs_path).read_text(encoding="utf-8"))
    world = read_world(os.environ)
    join, leave = ranks_module.join, ranks_module.Ranks.leave
    joined = lru_cache(maxsize=None)(lambda engine_kind: join(world, engine_kind, os.environ))
    ranks_module.join = lambda world, engine_kind, *rest, **more: joined(engine_kind)
    ranks_module.Ranks.leave = lambda self: self.gather(None, type(None)) and None
    codes = {}
    for job in jobs:
        options = TrainOptions(stop_after=job.get("stop_after"), continues=job.get("continues", False))
        with _surroundings(job, Path(jobs_path).with_name(f"{job['name']}.said"), world.rank):
            try:
                codes[job["name"]] = run(job["config"], job["overrides"], world, options)
            except Refused as refused:
                if world.world_size > 1:  # the other ranks may not have been refused, and would wait
                    raise
                codes[job["name"]] = refused.exit_code
                print(*(finding.title for finding in refused.findings), sep="\n")
        _forget()
    if world.rank == 0:
        Path(jobs_path).with_suffix(".codes.json").write_text(json.dumps(codes), encoding="utf-8")
    if world.launcher != "plain":
        leave(joined("deepspeed"))
    return 0


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    sys.exit(main(words[0]))
