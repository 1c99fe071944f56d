"""Studies by the real command: killed at random moments it ends as an undisturbed one, byte for byte; on one
rank and on two it has the same curves.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from crossfoot.studies.results_file import read_results
from support.launching import ROOT, SCRIPTS, environment, small_config, start, write_samples

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

KILLS = 5
RATES = ("--to", "accelerate", "--rates", "x0.5,x1")


def config_in(folder: Path) -> Path:
    validation = write_samples(folder / "validation.jsonl", 6, seed=1)
    return small_config(
        folder,
        data={"train": [str(write_samples(folder / "data.jsonl", 80))], "validation": [str(validation)],
              "index_dir": str(folder / "index")},
        cluster={"num_nodes": 1, "gpus_per_node": 2},
        lr={"reference": 4e-3, "reference_batch": 8, "rule": "sqrt"},
    )  # fmt: skip


def command(config: Path, out: Path, *words: str) -> list[str | Path]:
    asked = ["--batches", "5,16", "--budget-samples", "80", "--validations", "6"]
    return [SCRIPTS / "crossfoot", "study", config, *asked, "--out", out, *words]


def killed(words: Sequence[str | Path], after_seconds: float) -> None:
    """Begin the command, and after a while kill it; what it has started is told, and ends."""
    process = subprocess.Popen(
        [str(word) for word in words], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    time.sleep(after_seconds)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_at_random_it_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    seed = int(os.environ.get("CROSSFOOT_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"CROSSFOOT_TEST_SEED={seed}")
    draw = random.Random(seed)
    config = config_in(tmp_path)
    words = command(config, tmp_path / "whole", *RATES)
    whole = start(words)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    words = command(config, tmp_path / "killed", *RATES)
    for _ in range(KILLS):
        killed(words, draw.uniform(2.0, 25.0))
    end = start(words)
    assert end.returncode == 0, end.stdout + end.stderr
    assert (tmp_path / "killed/results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
    attempts = list((tmp_path / "killed").glob("b*/attempt-*"))
    print(f"{len(attempts)} attempts at {len(read_results(str(tmp_path / 'killed')).runs)} runs")


def test_one_rank_and_two_have_the_same_curves(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    found = []
    for target in ("accelerate", "local"):
        done = start(command(config, tmp_path / target, "--to", target))
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(read_results(str(tmp_path / target)))
    one, two = found
    assert one.samples_sha256 == two.samples_sha256 and one.foots and two.foots
    assert [run.name for run in one.runs] == [run.name for run in two.runs]
    for left, right in zip(one.runs, two.runs, strict=True):
        assert [p.samples for p in left.points] == [p.samples for p in right.points]
        for here, there in zip(left.points, right.points, strict=True):
            assert here.validation_loss == pytest.approx(there.validation_loss, rel=1e-5)
            if here.step:
                assert here.training_loss == pytest.approx(there.training_loss, rel=1e-5)
