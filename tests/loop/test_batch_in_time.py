"""A batch that changes while a run trains: stopped, and continued on other ranks, it is as planned."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from crossfoot.arithmetic import schedule as schedule_module
from crossfoot.arithmetic.cutting import by_samples
from crossfoot.arithmetic.epoch_order import epoch_order
from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Refused
from crossfoot.index.store import open_index
from crossfoot.receipts.receipt import receipt_of
from crossfoot.training.rank_job import TrainOptions
from crossfoot.training.session import run
from support.launching import folded_config

FORMS: dict[str, dict[str, Any]] = {
    "samples": {"global_batch_size": [[0, 3], [9, 5], [38, 8]], "grad_accum_steps": 2},
    "tokens": {"target_trained_tokens": 60, "grad_accum_steps": 8, "global_batch_size": None},
}
SAMPLES, EPOCHS = 40, 2


@pytest.fixture(scope="module", params=FORMS)
def room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config for two ranks, whose last step of an epoch carries; and an undisturbed run of it."""
    folder = tmp_path_factory.mktemp(request.param)
    path = folded_config(
        folder,
        train={"epochs": EPOCHS, "max_steps": None},
        data={"last_step": "carry"},
        lr={"reference": 1e-3, "warmup_steps": None, "warmup_samples": 12, "min_ratio": 0.1}
        | ({"rule": "sqrt", "reference_batch": 3} if request.param == "samples" else {}),
    )
    config = json.loads(path.read_text())
    config["batch"] |= FORMS[request.param]
    path.write_text(json.dumps(config))
    assert train(folder, "calm") == 0
    return folder


def train(folder: Path, name: str, *words: str, **options: Any) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        words = (f"run.dir={folder / name}", *words)
        return run(str(folder / "config.yaml"), words, read_world({}), TrainOptions(**options))


def ledger(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name / "ledger.jsonl").read_text().splitlines()]


def sizes_by_hand(folder: Path) -> list[int]:
    """Samples of every step, counted one by one."""
    config = json.loads((folder / "config.yaml").read_text())
    lock = json.loads((folder / "calm" / "plan.lock.json").read_text())
    trained_tokens = open_index(folder / "index" / lock["index"]["address"]).trained_tokens
    order = np.concatenate([epoch_order(SAMPLES, config["run"]["seed"], epoch) for epoch in range(EPOCHS)])
    pairs, target = config["batch"]["global_batch_size"], config["batch"].get("target_trained_tokens")
    ends = [0]
    for done in range(1, len(order) + 1):
        begin = ends[-1]
        if target is None:
            is_full = done - begin == [batch for first, batch in pairs if first <= begin][-1]
        else:
            is_full = int(trained_tokens[order[begin:done]].sum()) >= target
        if is_full or done == len(order):
            ends.append(done)
    return [hi - lo for lo, hi in pairwise(ends)]


def test_every_step_has_the_samples_and_the_rate_that_are_written(room: Path) -> None:
    lines, sizes = ledger(room, "calm"), sizes_by_hand(room)
    assert [line["real_samples"] for line in lines] == [line["planned_samples"] for line in lines] == sizes
    assert len(set(sizes)) > 2
    assert receipt_of(str(room / "calm")).foots
    begins = np.cumsum([0, *sizes])
    warm = int((begins < 12).sum())
    for k, line in enumerate(lines):
        progress = (k - warm) / (len(lines) - warm)
        shape = (k + 1) / warm if k < warm else 0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2
        batch = [batch for first, batch in [[0, 3], [9, 5], [38, 8]] if first <= begins[k]][-1]
        factor = (batch / 3) ** 0.5 if room.name.startswith("samples") else 1.0
        assert line["lr"] == pytest.approx(1e-3 * factor * shape, rel=1e-9)


def test_continued_on_other_ranks_it_is_the_same_run(room: Path) -> None:
    """Two ranks stop inside of a batch, three go on."""
    assert train(room, "stopped", stop_after=4) == 0
    assert train(room, "stopped", "cluster.gpus_per_node=3", continues=True) == 0
    same = ("step", "real_samples", "trained_tokens", "samples_sha256", "lr", "epoch")
    calm, stopped = (
        [[line[key] for key in same] for line in ledger(room, name)] for name in ("calm", "stopped")
    )
    assert calm == stopped
    losses = [[line["loss"] for line in ledger(room, name)] for name in ("calm", "stopped")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert receipt_of(str(room / "stopped")).foots


def test_another_batch_in_time_is_another_run(room: Path) -> None:
    if room.name.startswith("tokens"):
        change, key = "batch.target_trained_tokens=61", "target_trained_tokens"
    else:
        change, key = "batch.global_batch_size=[[0, 3], [3, 5], [38, 8]]", "global_batch_size"
    assert train(room, "changed", stop_after=2) == 0
    with pytest.raises(Refused, match="CF745") as refused:
        train(room, "changed", change, continues=True)
    assert f"batch.{key}" in refused.value.findings[0].title


def test_steps_that_are_cut_elsewhere_are_refused_before_the_first(room: Path) -> None:
    """The receipt's own count is held against what the loop would be told."""
    if room.name.startswith("tokens"):
        real = schedule_module.by_tokens
        wrong = mock.patch.object(
            schedule_module, "by_tokens", lambda length, target, at: real(length, target + 1, at)
        )
    else:
        wrong = mock.patch.object(
            schedule_module, "by_samples", lambda length, _: by_samples(length, ((0, 3), (10, 5), (38, 8)))
        )
    with wrong, pytest.raises(Refused, match="CF709"):
        train(room, "cut")
