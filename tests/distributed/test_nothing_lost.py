"""A run that is killed at any instant, and continued anywhere, ends as if nothing had happened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.launching import ROOT, plain, receipt, short_tokenizer, small_config, write_samples
from support.loss_figure import write_figure
from support.random_kills import (
    TRAINING,
    Killer,
    Leg,
    Torment,
    assert_same_tensors,
    attempt,
    counted_losses,
    train,
)

pytestmark = pytest.mark.distributed
EVERY_STEPS = 3
STEPS_PER_KILL = 5


def config_of(folder: Path, steps: int, dropout: float, batch: int | list[list[int]] = 7) -> Path:
    """A plan of `steps` steps, a checkpoint after every third; the rate follows the batch."""
    write_samples(folder / "data.jsonl", 120)
    return small_config(
        folder,
        tokenizer={"path": str(short_tokenizer(folder))},
        batch={"micro_batch_size": 2, "global_batch_size": batch, "grad_accum_steps": None},
        lora={"r": 4, "alpha": 8, "dropout": dropout, "modules_to_save": ["embed_tokens", "lm_head"]},
        lr={"reference": 1e-3, "warmup_steps": 2, "rule": "sqrt", "reference_batch": 7},
        train={"max_steps": steps},
        checkpoint={"every_steps": EVERY_STEPS, "keep": 2},
        faults={"timeout_seconds": 20.0},
    )


@pytest.mark.parametrize(
    ("kills", "launcher"), [(6, "torchrun"), pytest.param(30, "deepspeed", marks=pytest.mark.slow)]
)
def test_killed_and_continued_is_the_run_that_nobody_disturbed(
    tmp_path: Path, kills: int, launcher: str
) -> None:
    """Under dropout too: what a forward draws follows from the seed and the step, not from earlier draws. Six
    kills are of all ranks, of one and of the launcher, as it starts, in a step, in a save and behind one.
    """
    steps = kills * STEPS_PER_KILL
    config = config_of(tmp_path, steps, dropout=0.1)
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    leg = Leg(launcher=launcher)
    train(leg, config, calm)
    torment = Torment(config, stormy)
    killer = Killer(torment, steps, seed=kills)
    for _ in range(kills):
        attempt(torment, leg, killer)
    attempt(torment, leg, None)
    assert len(torment.killed) == kills, torment.killed
    is_expected(torment, calm, steps)
    assert counted_losses(stormy) == counted_losses(calm)
    assert_same_tensors(stormy / "adapter", calm / "adapter")
    last = f"checkpoints/step-{steps:06d}"
    assert_same_tensors(stormy / last, calm / last)
    if figure := os.environ.get("CROSSFOOT_FIGURE"):
        write_figure(ROOT / figure, calm, stormy)


def test_a_chain_over_topologies_engines_and_stages(tmp_path: Path) -> None:
    """2 ranks ZeRO-2, one accelerate process, 3 ranks ZeRO-3, 2 ranks ZeRO-2; a kill in each but the last.
    The batch grows on the way.
    """
    steps = 18
    config = config_of(tmp_path, steps, dropout=0.0, batch=[[0, 5], [30, 7], [80, 9]])
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    train(Leg(), config, calm)
    torment = Torment(config, stormy)
    killer = Killer(torment, steps, seed=4, moments=TRAINING)
    stage_3 = f"deepspeed={ROOT / 'ds_configs' / 'zero3.json'}"
    legs = [
        Leg(2),
        Leg(None, ("deepspeed=null", "batch.micro_batch_size=3")),
        Leg(3, (stage_3, "batch.micro_batch_size=1")),
    ]
    for leg in legs:
        attempt(torment, leg, killer)
    attempt(torment, Leg(2), None)
    is_expected(torment, calm, steps)
    theirs = counted_losses(calm)
    assert all(
        abs(loss - theirs[step]) <= 1e-5 * theirs[step] for step, loss in counted_losses(stormy).items()
    )
    used = {(row["world_size"], row["engine"], row["zero_stage"]) for row in receipt(stormy)["history"]}
    assert used == {(2, "deepspeed", 2), (1, "accelerate", None), (3, "deepspeed", 3)}


def is_expected(torment: Torment, calm: Path, steps: int) -> None:
    """The receipt foots over all attempts, counts what was lost, and nothing is left behind."""
    document = receipt(torment.run_dir)
    assert document["foots"], torment.output
    assert document["attempted_steps"] == document["lost_steps"] + steps
    assert document["applied_steps"] == steps
    rows = {row["name"]: row for row in document["rows"]}
    assert rows["samples seen twice"]["real"] == 0
    assert rows["distinct samples"]["difference"] == 0
    shown = plain("-m", "crossfoot", "receipt", torment.run_dir)
    assert shown.returncode == 0, shown.stdout

    def names(run_dir: Path) -> set[str]:
        paths = (*run_dir.glob("*"), *(run_dir / "checkpoints").glob("*"))
        return {path.name for path in paths if not path.name.startswith("attempt-")}

    assert names(torment.run_dir) == names(calm)
