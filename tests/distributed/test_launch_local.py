"""`crossfoot launch` on this machine, through the real launchers: two ranks by each of them, the dry run, and
signals.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from crossfoot.launch.ranks_here import rank_processes
from crossfoot.runs.dry_run import compare_with_dry_run
from crossfoot.runs.reader import read_run
from support.launching import ROOT, environment, ledger, receipt, small_config, start
from support.steering import Steering, until_gone, wait_until_held

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

VERB = (sys.executable, "-m", "crossfoot", "launch")
WAYS = {
    "local": ("--to", "local"),
    "torchrun": ("--to", "torchrun"),
    "accelerate": ("--to", "accelerate"),
    "deepspeed": ("--to", "deepspeed", "--no-ssh"),
}
STEPS = 3


def _launch(folder: Path, name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return start([*VERB, folder / "config.yaml", f"run.dir={folder / name}", *words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config for 2 ranks, a hostfile, and a dry run of the run `local`."""
    folder = tmp_path_factory.mktemp("launched")
    small_config(folder, cluster={"num_nodes": 1, "gpus_per_node": 2}, train={"max_steps": 4})
    (folder / "hosts").write_text("localhost slots=2\n")
    done = _launch(folder, "local", "--to", "accelerate", "--dry-run", "--steps", str(STEPS))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "FOLDED" in done.stdout
    assert f"dry run of small: {STEPS} steps of 4, 2 ranks folded into this process" in done.stdout
    assert f"receipt: foots, {STEPS * 7} samples trained" in done.stdout
    return folder


def _trained(folder: Path, way: str) -> None:
    """The run of that name is there; the first test that needs it starts it."""
    if (folder / way).exists():
        return
    hosts = ("--hostfile", folder / "hosts") if way == "deepspeed" else ()
    done = _launch(folder, way, *WAYS[way], *hosts)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("way", WAYS)
def test_every_launcher_trains_what_the_dry_run_trained(folder: Path, way: str) -> None:
    _trained(folder, way)
    assert receipt(folder / way)["foots"] is True
    for dry, real in zip(ledger(folder / "local-dryrun"), ledger(folder / way), strict=False):
        assert dry["samples_sha256"] == real["samples_sha256"]
        assert dry["loss"] == pytest.approx(real["loss"], rel=1e-5)
    suffix = "sh"
    script = folder / way / "launch" / f"{WAYS[way][1]}.{suffix}"
    assert f"run.dir={folder / way}" in script.read_text()
    check = start([sys.executable, "-m", "crossfoot", "check", folder / "config.yaml", script])
    assert "nothing found" in check.stdout


def test_the_run_is_held_against_its_dry_run(folder: Path) -> None:
    for way in ("local", "torchrun"):
        _trained(folder, way)
    said = compare_with_dry_run(read_run(str(folder / "local")))
    assert isinstance(said, str)
    assert said.startswith(f"the first {STEPS} steps agree with the dry run ")
    assert compare_with_dry_run(read_run(str(folder / "torchrun"))) is None


def test_a_used_folder_is_refused_at_once_and_a_new_one_is_not_made(folder: Path) -> None:
    (folder / "used").mkdir()
    (folder / "used" / "ledger.jsonl").write_text("")
    done = _launch(folder, "used", "--to", "local")
    assert done.returncode == 1
    assert os.listdir(folder / "used") == ["ledger.jsonl"]
    assert "error[CF011]" in done.stdout
    done = _launch(folder, "never", "--to", "local", "cluster.gpus_per_node=null")
    assert done.returncode == 1
    assert "error[CF480]" in done.stdout
    assert not (folder / "never").exists()


def test_ranks_that_refuse_leave_no_folder_and_their_code(folder: Path) -> None:
    """The launcher is told of another world than the plan's; torchrun makes 1 of every code."""
    done = start(
        [*VERB, folder / "config.yaml", f"run.dir={folder / 'none'}", "--to", "torchrun"],
        PET_NPROC_PER_NODE="1",
        SLURM_PROCID="x",
    )
    assert done.returncode == 1
    assert "error[CF410]" in done.stdout
    assert not (folder / "none").exists()


class Launched:
    """A run of six steps that was started with `crossfoot launch`, in a session of its own; its ranks are
    held before the third.
    """

    def __init__(self, folder: Path, name: str, *words: str) -> None:
        self.run_dir = folder / name
        steering = Steering(folder / f"steering-{name}")
        hold = steering.hold("step", 2)
        command = [*VERB, folder / "config.yaml", f"run.dir={self.run_dir}", "train.max_steps=6", *words]
        self.process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=environment(**steering.variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.ranks = wait_until_held(hold, 2, self.process)
        assert sorted(self.ranks.values()) == rank_processes(self.process.pid)

    def ended(self) -> tuple[int, str]:
        """(exit code, all that was said); no rank is left."""
        stdout, stderr = self.process.communicate(timeout=240)
        assert "Traceback" not in stdout
        until_gone(self.ranks.values())
        return self.process.returncode, stdout + stderr


@pytest.mark.parametrize(
    ("way", "number", "exit_code"),
    [("torchrun", signal.SIGUSR1, 75), ("local", signal.SIGTERM, 75), ("local", signal.SIGINT, 130)],
    ids=["torchrun-USR1", "deepspeed-TERM", "deepspeed-INT"],
)
def test_a_signal_ends_with_a_checkpoint_and_the_contracts_code(
    folder: Path, way: str, number: signal.Signals, exit_code: int
) -> None:
    launched = Launched(folder, f"stopped-{number.name}", "--to", way)
    launched.process.send_signal(number)
    code, said = launched.ended()
    assert code == exit_code, said[-3000:]
    assert receipt(launched.run_dir)["foots_so_far"] is True
    assert list((launched.run_dir / "checkpoints").iterdir())


def test_a_stopped_run_is_continued_by_another_launcher(folder: Path) -> None:
    launched = Launched(folder, "moved", "--to", "torchrun")
    launched.process.terminate()
    assert launched.ended()[0] == 75
    done_steps = len(ledger(launched.run_dir))
    assert 2 < done_steps < 6
    words = ("train.max_steps=6", "--continue", str(launched.run_dir), "--to", "local")
    done = start([*VERB, folder / "config.yaml", *words])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    papers = receipt(launched.run_dir)
    assert (papers["foots"], papers["attempts"], papers["done_steps"]) == (True, 2, 6)


def test_a_killed_launcher_leaves_no_ranks_and_its_run_is_saved(folder: Path) -> None:
    launched = Launched(folder, "killed", "--to", "local")
    psutil.Process(launched.process.pid).children()[0].kill()
    code, said = launched.ended()
    assert code == 75, said[-3000:]
    assert receipt(launched.run_dir)["foots_so_far"] is True
