"""Many runs in one set of ranks, to pay for the imports once: `deepspeed --num_gpus W many_runs.py
JOBS.json`.

JOBS.json is a list of {name, config, overrides, fault}. Every run is crossfoot's own session, joined once:
only the process group is kept between runs. A fault is put around model, engine, collator or optimizer from
here.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

from crossfoot.starting.world import read_world
from crossfoot.training import ranks as ranks_module
from crossfoot.training.session import run
from support.faults import FAULTS


def main(jobs_path: str) -> int:
    """Run all jobs; write each exit code beside its run folder, on rank 0."""
    jobs = json.loads(Path(jobs_path).read_text(encoding="utf-8"))
    world = read_world(os.environ)
    join, leave = ranks_module.join, ranks_module.Ranks.leave
    joined = lru_cache(maxsize=None)(lambda engine_kind: join(world, engine_kind, os.environ))
    ranks_module.join = lambda world, engine_kind, environ: joined(engine_kind)
    ranks_module.Ranks.leave = lambda self: self.gather(None) and None
    codes = {}
    for job in jobs:
        with ExitStack() as stack:
            if job.get("fault"):
                stack.enter_context(FAULTS[job["fault"]](world.rank))
            codes[job["name"]] = run(job["config"], job["overrides"], world, job.get("stop_after"))
        gc.collect()
    if world.rank == 0:
        Path(jobs_path).with_suffix(".codes.json").write_text(json.dumps(codes), encoding="utf-8")
    leave(joined("deepspeed"))
    return 0


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    sys.exit(main(words[0]))
