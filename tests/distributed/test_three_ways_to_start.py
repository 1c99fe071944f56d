"""deepspeed, accelerate and plain python start the same train.py: same losses, a receipt that foots, exit
codes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crossfoot.written.run_file import load_run
from support.launching import (
    ROOT,
    SCRIPTS,
    deepspeed,
    environment,
    free_port,
    ledger,
    plain,
    receipt,
    small_config,
    start,
    warm_ranks,
)
from support.steering import Steering, until_gone, wait_until_held

pytestmark = pytest.mark.distributed

TRAIN = ROOT / "train.py"
CLUSTER = {"num_nodes": 1, "gpus_per_node": 2}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder, config) of a 2-rank run of the real deepspeed launcher."""
    folder = tmp_path_factory.mktemp("ways")
    config = small_config(folder, cluster=CLUSTER, train={"max_steps": 6})
    done = deepspeed(2, TRAIN, config, f"run.dir={folder / 'deepspeed'}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert "foots: yes" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    for command in next_commands(done.stdout):
        assert in_shell(command).returncode == 0, command
    return folder, config


def next_commands(stdout: str) -> list[str]:
    """What the end of a run proposes to type."""
    _, _, said = stdout.partition("\nnext:\n")
    return [line.strip() for line in said.splitlines() if re.match(r"  \S", line)]


def in_shell(command: str) -> subprocess.CompletedProcess[str]:
    """A command as it stands, in the folder where the run was started."""
    return start(["bash", "-c", command])


def _agree(folder: Path, name: str, steps: int) -> None:
    for one, other in zip(ledger(folder / "deepspeed")[:steps], ledger(folder / name), strict=True):
        assert one["samples_sha256"] == other["samples_sha256"]
        assert one["lr"] == other["lr"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
    assert receipt(folder / name)["foots"] is True


def test_accelerate_reproduces_the_first_steps(two_ranks: tuple[Path, Path]) -> None:
    folder, config = two_ranks
    launcher = [SCRIPTS / "accelerate", "launch", "--cpu", "--num_processes", "1"]
    done = start([*launcher, TRAIN, config, f"run.dir={folder / 'accelerate'}", "--stop-after", "3"])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "FOLDED" in done.stdout
    _agree(folder, "accelerate", 3)
    go_on, *others = next_commands(done.stdout)
    assert "accelerate launch --cpu --num_processes 1" in go_on and len(others) == 3
    for command in (*others, go_on):
        said = in_shell(command)
        assert said.returncode == 0, command + said.stdout[-3000:] + said.stderr[-3000:]
    _agree(folder, "accelerate", 6)


def test_plain_python_and_the_verb_are_the_same(two_ranks: tuple[Path, Path]) -> None:
    folder, config = two_ranks
    done = start([sys.executable, TRAIN, config, f"run.dir={folder / 'plain'}"])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    _agree(folder, "plain", 6)
    verb = ["-m", "crossfoot", "train", config, f"run.dir={folder / 'verb'}"]
    assert plain(*verb, "--stop-after", "2").returncode == 0
    _agree(folder, "verb", 2)


def test_the_resolved_config_reads_back_equal(two_ranks: tuple[Path, Path]) -> None:
    folder, config = two_ranks
    resolved = load_run(str(folder / "deepspeed" / "attempt-001" / "config.yaml"))
    assert resolved.config == load_run(str(config), [f"run.dir={folder / 'deepspeed'}"]).config


def test_the_receipt_again_from_the_files(two_ranks: tuple[Path, Path]) -> None:
    folder, _ = two_ranks
    again = start([sys.executable, "-m", "crossfoot", "receipt", folder / "deepspeed"])
    assert again.returncode == 0
    assert "foots: yes" in again.stdout


def test_a_fault_ends_the_launcher_with_3(two_ranks: tuple[Path, Path]) -> None:
    folder, config = two_ranks
    script = ROOT / "tests" / "support" / "faulty_train.py"
    done = deepspeed(2, script, config, f"run.dir={folder / 'faulty'}", CROSSFOOT_TEST_FAULT="sample twice")
    assert done.returncode == 3, done.stdout[-3000:] + done.stderr[-3000:]
    assert "foots: no" in done.stdout
    assert "CF713  step 3, rank 1" in done.stdout
    again = start([sys.executable, "-m", "crossfoot", "receipt", folder / "faulty"])
    assert again.returncode == 3


def test_a_world_that_is_not_the_plan_is_refused(two_ranks: tuple[Path, Path]) -> None:
    folder, config = two_ranks
    done = deepspeed(1, TRAIN, config, f"run.dir={folder / 'refused'}")
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "error[CF44" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "refused").exists()


def test_a_used_folder_is_refused_and_untouched(two_ranks: tuple[Path, Path]) -> None:
    folder, config = two_ranks
    before = (folder / "deepspeed" / "ledger.jsonl").read_bytes()
    done = warm_ranks(2, TRAIN, config, f"run.dir={folder / 'deepspeed'}")
    assert done.returncode == 1
    assert "error[CF011]" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (folder / "deepspeed" / "ledger.jsonl").read_bytes() == before


def _interrupt(command: list[str], run_dir: Path, ranks: int) -> subprocess.CompletedProcess[str]:
    """Start, wait until the ranks stand before the third step, press Ctrl-C (SIGINT to the foreground group),
    wait for the end.
    """
    steering = Steering(run_dir.with_name(f"steering-{run_dir.name}"))
    hold = steering.hold("step", 2)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**steering.variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        pids = wait_until_held(hold, ranks, process).values()
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
        until_gone(pids)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def test_ctrl_c_keeps_and_says_what_was_done(two_ranks: tuple[Path, Path]) -> None:
    folder, config = two_ranks
    run_dir = folder / "interrupted"
    words = [str(TRAIN), str(config), f"run.dir={run_dir}", "train.max_steps=6"]
    done = _interrupt([sys.executable, *words], run_dir, 1)
    assert done.returncode == 130, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
    assert "what was done foots" in done.stdout
    steps = len(ledger(run_dir))
    assert f"stopped after {steps} of 6 steps; kept:" in done.stdout
    assert (run_dir / "adapter" / "adapter_model.safetensors").exists()
    assert receipt(run_dir)["foots"] is False
    assert receipt(run_dir)["foots_so_far"] is True


@pytest.mark.slow
def test_ctrl_c_under_the_deepspeed_launcher(two_ranks: tuple[Path, Path]) -> None:
    folder, config = two_ranks
    run_dir = folder / "interrupted2"
    launcher = [str(SCRIPTS / "deepspeed"), "--num_gpus", "2", "--master_port", str(free_port())]
    words = [str(TRAIN), str(config), f"run.dir={run_dir}", "train.max_steps=6"]
    done = _interrupt([*launcher, *words], run_dir, 2)
    assert done.returncode != 0
    assert receipt(run_dir)["foots_so_far"] is True
    assert receipt(run_dir)["done_steps"] == len(ledger(run_dir))
