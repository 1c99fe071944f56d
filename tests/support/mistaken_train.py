"""train.py, in which ranks wait seconds and not minutes; what a test cannot have on this machine is put
around it from outside: `python mistaken_train.py WORDS`. CROSSFOOT_TEST_MISTAKE names it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from unittest import mock

from crossfoot import cli, verb_exit
from crossfoot.planning import deepspeed_config
from crossfoot.rendezvous import meeting_point, rendezvous, shared_folder
from crossfoot.rendezvous.devices import Device
from crossfoot.training import build, rank_job, session


@contextlib.contextmanager
def one_gpu_for_all() -> Iterator[None]:
    """Every rank sees one GPU, the same."""
    device = Device("cuda", 1, 0, "uuid GPU-77", "H100")
    with mock.patch.object(rank_job, "look_at_device", lambda *_: device):
        yield


@contextlib.contextmanager
def no_deepspeed() -> Iterator[None]:
    """deepspeed.initialize gives the model back as it was."""
    import deepspeed

    def initialize(model: object, optimizer: object, config: object) -> tuple[object, ...]:
        return model, optimizer, None, None

    with mock.patch.object(deepspeed, "initialize", initialize):
        yield


@contextlib.contextmanager
def owned_numbers_left_out() -> Iterator[None]:
    """What is handed to DeepSpeed lacks the clipping, and has another accumulation."""

    def resolve(*given: object) -> dict[str, object]:
        resolved = deepspeed_config.resolve_deepspeed(*given)
        del resolved["gradient_clipping"], resolved["train_batch_size"]
        return {**resolved, "gradient_accumulation_steps": 3}

    with mock.patch.object(build, "resolve_deepspeed", resolve):
        yield


MISTAKES = {
    "one gpu": one_gpu_for_all,
    "no deepspeed": no_deepspeed,
    "numbers left out": owned_numbers_left_out,
    "": contextlib.nullcontext,
}

if __name__ == "__main__":
    meeting_point.PATIENCE_SECONDS = rendezvous.PATIENCE_SECONDS = float(
        os.environ.get("CROSSFOOT_TEST_PATIENCE", "60")
    )
    shared_folder.NONCE_WAIT_SECONDS = 1.0
    meeting_point.BLIND_SECONDS = rendezvous.BLIND_SECONDS = 1.0
    session.FOLLOW_SECONDS = verb_exit._SILENT_RANK_SECONDS = 0.5
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    with MISTAKES[os.environ.get("CROSSFOOT_TEST_MISTAKE", "")]():
        code = cli.main(["train", *words])
    sys.exit(code)
