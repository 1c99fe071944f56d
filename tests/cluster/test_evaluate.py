"""SLURM's own tasks share out an evaluation, and the scores are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer
from crossfoot.models.tiny_model import write_tiny_model
from support.lab import HEAD, Lab

pytestmark = [pytest.mark.distributed, pytest.mark.cluster, pytest.mark.slow]


def test_tasks_on_two_nodes_share_out_the_items(lab: Lab, folder: Path) -> None:
    model = write_tiny_model(write_tiny_tokenizer(str(folder / "model")))
    evaluate = ("python", "-m", "crossfoot", "evaluate", model, "--tasks", "exam", "--shots", "2", "--out")
    alone = lab.run(HEAD, *evaluate, folder / "alone")
    assert alone.returncode == 0, alone.stdout
    shared = lab.run(HEAD, "srun", "--nodes=2", "--ntasks-per-node=2", *evaluate, folder / "shared")
    assert shared.returncode == 0, shared.stdout
    assert len(list((folder / "shared").glob("items*.jsonl"))) == 4
    assert shared.stdout.count("scores_sha256") == 1
    scores = [(folder / each / "scores.jsonl").read_bytes() for each in ("alone", "shared")]
    assert scores[0] == scores[1] and scores[0].count(b"\n") == 36
