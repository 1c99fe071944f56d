"""A program that is started warm cannot tell, but for what is imported already; and it ends as a cold one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.launching import plain, start, warm_ranks

pytestmark = pytest.mark.distributed

TELLS = """\
import atexit, os, sys, threading
atexit.register(lambda: print("at exit"))
print(sys.argv, sys.path[0], __name__, __file__, os.getcwd(), os.environ["WORD"], sorted(os.environ))
print(os.getpid() == os.getsid(0) == os.getpgrp(), threading.active_count(), sys.stdin.read(), sys.excepthook)
print("to stderr", file=sys.stderr)
if sys.argv[1] == "raises":
    raise ValueError("as asked")
if sys.argv[1] == "killed":
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
sys.exit(int(sys.argv[1]))
"""
RANKS = """\
import os, sys, time
if os.environ["RANK"] == "1":
    sys.exit(3)
time.sleep(600)
"""


@pytest.mark.parametrize("word", ("0", "7", "raises", "killed"))
def test_it_cannot_tell_and_ends_alike(tmp_path: Path, word: str) -> None:
    script = tmp_path / "tells.py"
    script.write_text(TELLS, encoding="utf-8")
    cold = start([sys.executable, script, word], WORD="given")
    warm = plain(script, word, WORD="given")
    expected = {"raises": 1, "killed": -9}
    assert warm.returncode == cold.returncode == (expected[word] if word in expected else int(word))
    assert warm.stdout == cold.stdout
    assert warm.stderr.splitlines()[0] == cold.stderr.splitlines()[0] == "to stderr"
    assert ("ValueError: as asked" in warm.stderr) is (word == "raises")


def test_a_module_is_started_too() -> None:
    cold = start([sys.executable, "-m", "crossfoot", "explain", "CF101"])
    warm = plain("-m", "crossfoot", "explain", "CF101")
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_it_is_warm_unless_an_import_would_see_other_variables(tmp_path: Path) -> None:
    script = tmp_path / "imported.py"
    script.write_text("import sys\nprint('torch' in sys.modules)\n", encoding="utf-8")
    assert plain(script).stdout == "True\n"
    assert plain(script, TORCH_HOME="elsewhere").stdout == "False\n"


def test_the_first_rank_that_fails_ends_the_others(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS, encoding="utf-8")
    assert warm_ranks(2, script).returncode == 3
