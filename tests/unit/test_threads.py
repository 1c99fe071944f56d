"""Threads of a rank on a CPU: what a person has set counts, then the cores are shared out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crossfoot.environment import threads
from crossfoot.environment.world import Launcher, World

ALONE = World(0, 1, 0, 1, 0, 1, "plain")
FOUR = World(0, 8, 0, 4, 0, 2, "deepspeed")


def _on(monkeypatch: pytest.MonkeyPatch, mine: int, parents: int, *, told: bool = False) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: (mine, parents))
    monkeypatch.setattr(threads, "_launcher_was_told", lambda: told)


def by(launcher: Launcher) -> World:
    return replace(FOUR, launcher=launcher)


@pytest.mark.parametrize(
    ("world", "environ", "count"),
    [
        (ALONE, {}, 32),
        (FOUR, {}, 8),
        (FOUR, {"OMP_NUM_THREADS": "5"}, 5),
        (FOUR, {"OMP_NUM_THREADS": "5,2"}, 5),
        (FOUR, {"OMP_NUM_THREADS": "many"}, 8),
        (by("srun"), {"SLURM_CPUS_PER_TASK": "6"}, 6),
        (by("torchrun"), {"SLURM_CPUS_PER_TASK": "16", "OMP_NUM_THREADS": "1"}, 4),
        (by("torchrun"), {"OMP_NUM_THREADS": "1"}, 8),
        (by("torchrun"), {"OMP_NUM_THREADS": "2"}, 2),
        (by("deepspeed"), {"OMP_NUM_THREADS": "1"}, 1),
    ],
)
def test_the_first_that_says_a_number(
    monkeypatch: pytest.MonkeyPatch, world: World, environ: dict[str, str], count: int
) -> None:
    _on(monkeypatch, 32, 32)
    assert threads.threads_of(world, environ)[0] == count


def test_torchruns_own_one_is_told_from_a_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    _on(monkeypatch, 32, 32, told=True)
    assert threads.threads_of(by("torchrun"), {"OMP_NUM_THREADS": "1"})[0] == 1


def test_cores_that_a_rank_is_bound_to_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _on(monkeypatch, 3, 32)
    assert threads.threads_of(FOUR, {})[0] == 3
    _on(monkeypatch, 2, 2)
    assert threads.threads_of(FOUR, {})[0] == 1


def test_this_machine_has_cores() -> None:
    mine, parents = threads._cores()
    assert 1 <= mine <= parents
