"""The command that goes on with a run is the one that it was started with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crossfoot.runs.resume_command import resume_command

BY_HAND = "crossfoot train my.yaml --continue {run}"


def launched(run: Path, name: str, made_by: str, age: int = 0) -> None:
    """A launch file in a run folder, of so many seconds ago."""
    (run / "launch").mkdir(parents=True, exist_ok=True)
    file = run / "launch" / name
    file.write_text(f"#!/bin/bash\n# small: 2 ranks\n# made by: {made_by}\nexec true\n")
    os.utime(file, (1_000_000 - age, 1_000_000 - age))


def said(run: Path) -> str:
    return resume_command(str(run), "my.yaml")


def test_a_run_that_was_started_by_hand(tmp_path: Path) -> None:
    assert said(tmp_path) == BY_HAND.format(run=tmp_path)


def test_a_run_that_was_launched_is_launched_again(tmp_path: Path) -> None:
    launched(tmp_path, "slurm.sbatch", "crossfoot launch my.yaml 'run.name=a b' --to slurm --time 1:00:00")
    (tmp_path / "launch" / "submitted.json").write_text('{"job_id": "4"}')
    words = "crossfoot launch my.yaml 'run.name=a b' --to slurm --time 1:00:00 --continue"
    assert said(tmp_path) == f"{words} {tmp_path}"


def test_what_was_continued_is_continued_the_same_way(tmp_path: Path) -> None:
    words = f"crossfoot launch my.yaml --to local --continue {tmp_path}"
    launched(tmp_path, "local.sh", words)
    assert said(tmp_path) == words


def test_the_newest_start_counts(tmp_path: Path) -> None:
    launched(tmp_path, "slurm.sbatch", "crossfoot launch my.yaml --to slurm", age=60)
    launched(tmp_path, "deepspeed.sh", "crossfoot launch my.yaml --to deepspeed --hostfile hosts")
    assert said(tmp_path) == f"crossfoot launch my.yaml --to deepspeed --hostfile hosts --continue {tmp_path}"


@pytest.mark.parametrize(
    "made_by", ("crossfoot launch my.yaml --to accelerate --dry-run", "me", "crossfoot '")
)
def test_a_file_that_does_not_say_it_is_passed_over(tmp_path: Path, made_by: str) -> None:
    launched(tmp_path, "accelerate.sh", made_by)
    assert said(tmp_path) == BY_HAND.format(run=tmp_path)
