"""many_runs.py, and every rank leaves what it sees of its trained model where that is saved:
RUN_DIR/seen-rank0.npz with the logits for TOKENS and the rest of `sight`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from crossfoot.training import closing
from support import many_runs

TOKENS = torch.randint(4, 260, (3, 17), generator=torch.Generator().manual_seed(5))


def answer(model: torch.nn.Module) -> np.ndarray:
    """The logits for TOKENS, without dropout."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=TOKENS).logits.float().numpy()
    model.train(was_training)
    return logits


def sight(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Before the save. empty: trained parameters of which this rank holds no whole value; offloaded: what
    DeepSpeed has moved to the CPU, by its own words.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    offloaded = set()
    for parameter in trained.values():
        partitioned = getattr(parameter, "_z3_optimizer", None)
        mapping = getattr(parameter, "_hp_mapping", None)
        if getattr(partitioned, "offload_optimizer", False) or getattr(mapping, "use_offload", False):
            offloaded.add("optimizer")
        if getattr(partitioned, "offload_param", False):
            offloaded.add("param")
    return {
        "empty": np.array(sorted(name for name, parameter in trained.items() if not parameter.numel())),
        "offloaded": np.array(sorted(offloaded)),
    }


def main(jobs: str) -> int:
    """All jobs."""
    real = closing.save_adapter

    def save_adapter(model: torch.nn.Module, folder: str, **words: Any) -> None:
        before = sight(model)
        real(model, folder, **words)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        np.savez(Path(folder).parent / f"seen-rank{rank}.npz", logits=answer(model), **before)

    with mock.patch.object(closing, "save_adapter", save_adapter):
        return many_runs.main(jobs)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    sys.exit(main(words[0]))
