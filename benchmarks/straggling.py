"""How much of the ranks' time is real work when they wait for each other: arithmetic on lengths, no training.

    python benchmarks/straggling.py [CONFIG [path=value ...]]      the lengths are those of CONFIG's index

A forward takes as long as the tokens that it computes. On ZeRO-2 and 3 ranks meet at every forward, on ZeRO-0
and 1 once a step. Writes benchmarks/data/straggling.json and prints it as a table.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import numpy as np

from crossfoot.arithmetic.layout import (
    LLAMA_2_7B_WORK_PER_TOKEN,
    Layout,
    PackedLayout,
    PaddedLayout,
    slot_shape,
)
from crossfoot.planning.prepare import plan_written
from measuring import save

RANKS, ACCUMULATIONS, MICRO, STEPS, SEED = (8, 16, 64), (1, 4), 4, 100, 0


def share(layout: Layout, packed: bool, steps: np.ndarray) -> dict[str, float]:
    """Real tokens over those that could be computed in the time taken. packed: whether the samples of a slot
    stand in one row. steps: lengths[steps, samples].
    """
    real = by_forward = by_step = 0
    for lengths in steps:
        slots = layout.slots(np.arange(lengths.size), lengths)
        shapes = [[slot_shape(lengths[slot].tolist(), packed=packed) for slot in row] for row in slots]
        tokens = np.prod(shapes, axis=2)
        real += int(lengths.sum())
        by_forward += int(tokens.max(axis=0).sum()) * layout.dp_degree
        by_step += int(tokens.sum(axis=1).max()) * layout.dp_degree
    return {"meeting at every forward": real / by_forward, "meeting once a step": real / by_step}


def main(config: str, words: list[str]) -> None:
    """Every number of ranks and forwards, for three ways to hold the same samples."""
    plan, _ = plan_written(config, words)
    if plan.index is None:
        sys.exit(f"no index yet: crossfoot index {config}")
    known = np.asarray(plan.index.lengths)
    draw = np.random.Generator(np.random.Philox(SEED))
    rows = []
    for ranks, accumulation in itertools.product(RANKS, ACCUMULATIONS):
        steps = draw.choice(known, (STEPS, ranks * accumulation * MICRO))
        by_length = PaddedLayout(ranks, accumulation, MICRO)
        balanced = PackedLayout(ranks, accumulation, MICRO, LLAMA_2_7B_WORK_PER_TOKEN, ranks)
        ways = {"padded": (by_length, False), "same slots packed": (by_length, True)}
        ways["packed, balanced"] = (balanced, True)
        shares = {name: share(*way, steps) for name, way in ways.items()}
        rows.append({"ranks": ranks, "forwards": accumulation, "micro_batch_size": MICRO, "share": shares})
    found = {
        "samples": known.size,
        "length": {name: int(np.quantile(known, at)) for name, at in (("median", 0.5), ("p90", 0.9))},
        "steps": STEPS,
        "rows": rows,
    }
    save("straggling", found)
    _show(rows)


def _show(rows: list[dict]) -> None:
    ways = list(rows[0]["share"])
    print("| ranks x forwards x micro | " + " | ".join(ways) + " |\n" + "|---" * (len(ways) + 1) + "|")
    for row in rows:
        cells = (" / ".join(f"{value:.2f}" for value in row["share"][way].values()) for way in ways)
        print(f"| {row['ranks']} x {row['forwards']} x {MICRO} | " + " | ".join(cells) + " |")
    print("real work / all time: ranks meet at every forward / once a step")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", default="configs/demo.yaml", help="whose index has the lengths")
    parser.add_argument("words", nargs="*", help="changes of it, key=value")
    choice = parser.parse_args()
    main(choice.config, choice.words)
