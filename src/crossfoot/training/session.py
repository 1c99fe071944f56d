"""One rank's run, from the command line to the exit code: assign, agree, build, train, close."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence

from crossfoot.starting.world import World
from crossfoot.training.assignment import announce, assign


def run(path: str, overrides: Sequence[str], world: World, stop_after: int | None = None) -> int:
    """The main job on one rank; returns the exit code of the contract, the same on every rank.

    Raises Refused for a user's mistake. torch is imported only when everything that can be refused has been.
    """
    work = assign(path, overrides, world, stop_after)
    announce(work)
    hush_libraries()
    from crossfoot.training.build import build
    from crossfoot.training.closing import close
    from crossfoot.training.loop import train_steps
    from crossfoot.training.ranks import agree, join
    from crossfoot.training.stopping import StopRequest

    ranks = join(world, work.engine_kind, os.environ)
    agree(ranks, world, work.lock["sha256"], work.plan.run.run_dir)
    with StopRequest() as stop:
        built = build(work, ranks, stop)
        steps_done, reason = train_steps(built.training, 0, work.steps)
        exit_code = close(work, built, steps_done, reason)
    ranks.leave()
    return exit_code


def hush_libraries() -> None:
    """The libraries' own logs begin at errors: what matters of them is read back and compared instead."""
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("DeepSpeed", "accelerate", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
