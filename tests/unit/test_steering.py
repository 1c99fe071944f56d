"""What steers the tests that start ranks finds its places in crossfoot, and stops a process there."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.held_rank import HOOKS
from support.launching import ROOT, environment
from support.steering import Steering, wait_until_asked, wait_until_held

RANK = """
import sys
from crossfoot.liveness.stopping import StopRequest
from crossfoot.liveness.rank_monitor import RankMonitor

with StopRequest() as stop, RankMonitor(sys.argv[1], 1, 0, 1) as rank_monitor:
    rank_monitor.phase("loading")
    stop.begin()
    rank_monitor.phase("training")
    for step in range(6):
        rank_monitor.tick(step)
        print(step, stop.reason.name, flush=True)
"""


@pytest.mark.parametrize("module", HOOKS)
def test_what_is_wrapped_is_there(module: str) -> None:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    for one in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        names |= {f"{one.name}.{part.name}" for part in one.body if isinstance(part, ast.FunctionDef)}
    assert set(HOOKS[module][0]) <= names


@pytest.fixture
def steering(tmp_path: Path) -> Steering:
    return Steering(tmp_path / "steering")


def rank(folder: Path, steering: Steering) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RANK, str(folder / "run")],
        cwd=ROOT,
        env=environment(**steering.variables),
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_rank_stands_where_it_is_held_and_goes_when_it_is_let_go(
    tmp_path: Path, steering: Steering
) -> None:
    first, second = steering.hold("loading"), steering.hold("step", 3)
    with rank(tmp_path, steering) as process:
        assert process.stdout is not None
        assert wait_until_held(first, 1, process) == {0: process.pid}
        assert not second.ranks()
        first.go()
        wait_until_held(second, 1, process)
        assert [process.stdout.readline() for _ in range(3)] == ["0 NO\n", "1 NO\n", "2 NO\n"]
        second.go()
        assert process.communicate(timeout=60)[0] == "3 NO\n4 NO\n5 NO\n"
    assert process.returncode == 0 and not second.asked()


def test_a_rank_that_is_asked_to_stop_goes_by_itself(tmp_path: Path, steering: Steering) -> None:
    hold = steering.hold("step", 3)
    with rank(tmp_path, steering) as process:
        wait_until_held(hold, 1, process)
        process.terminate()
        wait_until_asked(hold, [0])
        assert process.communicate(timeout=60)[0].endswith("2 NO\n3 TERMINATED\n4 TERMINATED\n5 TERMINATED\n")


def test_a_run_that_ends_before_it_is_held_is_said(tmp_path: Path, steering: Steering) -> None:
    hold = steering.hold("step", 77)
    with rank(tmp_path, steering) as process, pytest.raises(AssertionError, match="ended with 0 before it"):
        process.communicate(timeout=60)
        wait_until_held(hold, 1, process)
