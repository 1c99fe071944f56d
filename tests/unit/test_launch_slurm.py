"""A submission to SLURM, with programs that answer as SLURM's do: refused, followed, detached, snapshotted.

The real ones are tried in tests/cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import crossfoot
from crossfoot.arithmetic.batch import Topology
from crossfoot.cli import main
from crossfoot.environment.forwarding import FORWARDED
from crossfoot.launch import outcome, submit
from crossfoot.launch.job import Job, LaunchOptions
from crossfoot.launch.slurm import limit_seconds
from crossfoot.launch.slurm_says import QueueState, refusal_of
from crossfoot.runs.ending import Ending
from crossfoot.runs.run_folder import holds_run
from crossfoot.written.run_file import load_run
from ledger_cases import Job as Told
from ledger_cases import six_samples
from support.launching import ROOT, small_config

FAKE = """\
#!/bin/sh
# one line a call; an answer is the first line of NAME.answers, and the last one stays
echo "$(basename "$0") $*" >> "$FAKE/calls"
name=$FAKE/$(basename "$0")
case "$*" in *--test-only*) name=$name-test;; esac
if [ -f "$name.does" ]; then sh "$name.does"; fi
line=$(head -n 1 "$name.answers" 2> /dev/null)
if [ "$(wc -l < "$name.answers")" -gt 1 ]; then sed -i 1d "$name.answers"; fi
code=${line%% *}
[ "$code" = 0 ] && echo "${line#* }" || echo "${line#* }" >&2
exit "$code"
"""
STEPS = [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*FORWARDED, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(submit, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(outcome, "WORD_SECONDS", 0.1)


class Slurm:
    """The fake cluster: what each program answers, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "slurm"
        self.folder.mkdir()
        for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
            program = self.folder / name
            program.write_text(FAKE)
            program.chmod(0o755)
            self.answers(name, "0 ")
        self.answers("sbatch-test", "0 sbatch: Job 12 to start at 2026-01-01T00:00:00")
        self.answers("sbatch", "0 12")
        self.answers("squeue", "0 PENDING|Resources", "0 RUNNING|None", "0 ")
        self.answers("scontrol", "0 JobId=12 JobState=COMPLETED Reason=None ExitCode=0:0")

    def answers(self, name: str, *lines: str) -> None:
        (self.folder / f"{name}.answers").write_text("\n".join(lines) + "\n")

    def does(self, name: str, script: str) -> None:
        (self.folder / f"{name}.does").write_text(script)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.chdir(tmp_path)
    small_config(tmp_path, cluster={"num_nodes": 1, "gpus_per_node": 2}, run={"dir": "runs/small"})
    fake = Slurm(tmp_path)
    monkeypatch.setenv("FAKE", str(fake.folder))
    monkeypatch.setenv("PATH", f"{fake.folder}:{Path(sys.executable).parent}:/usr/bin:/bin")
    return fake


def _launch(*words: str) -> int:
    return main(["launch", "config.yaml", *words, "--to", "slurm"])


def test_tested_submitted_and_left_alone(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    assert _launch("--detach") == 0
    script = "runs/small/launch/slurm.sbatch"
    assert slurm.calls == ["sbatch --test-only", f"sbatch --parsable {script}"]
    said = capsys.readouterr().err
    assert "submitted job 12: 1 node x 2 GPUs = 2 ranks" in said
    assert "follow it with: tail -F runs/small/slurm-12.log" in said
    assert "cancel it with: scancel 12" in said
    assert not holds_run("runs/small")


def test_followed_to_its_end(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.does("squeue", "echo a line of the log >> runs/small/slurm-12.log")
    told = Told(Path("runs/small"), six_samples(), STEPS)
    slurm.does("scontrol", "")
    original = submit.final_state

    def ends(job_id: str) -> tuple[str, str, int]:
        told.run(2, ending=Ending("finished", 2, 0, 2))
        return original(job_id)

    submit_last = submit.final_state
    try:
        submit.final_state = ends
        assert _launch() == 0
    finally:
        submit.final_state = submit_last
    captured = capsys.readouterr()
    assert captured.out.count("a line of the log\n") >= 3
    assert "job 12 is pending: Resources, waits for nodes to become free" in captured.err
    assert "job 12 is running" in captured.err


@pytest.mark.parametrize(
    ("state", "code", "began"),
    [("CANCELLED", "0:15", False), ("TIMEOUT", "0:0", True), ("FAILED", "1:0", True)],
)
def test_a_job_that_ends_unsaid_is_told_with_slurms_reason(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], state: str, code: str, began: bool
) -> None:
    slurm.answers("squeue", f"0 {state}|None")
    slurm.answers("scontrol", f"0 JobId=12 JobState={state} Reason=TimeLimit ExitCode={code}")
    if began:
        slurm.does("scontrol", "mkdir -p runs/small/attempt-001")
    assert _launch() == 1
    said = capsys.readouterr().out
    assert f"error[CF492]: job 12 ended ({state}), and the run has not " in said
    assert ("written how it ended" if began else "begun") in said
    assert "SLURM's reason: TimeLimit" in said


def test_a_refusal_of_the_ranks_keeps_its_code(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    slurm.answers("scontrol", "0 JobId=12 JobState=FAILED Reason=NonZeroExitCode ExitCode=2:0")
    assert _launch() == 2
    assert "CF492" not in capsys.readouterr().out


def test_a_requeued_job_is_followed_further(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    looks = ["0 RUNNING|None", "0 COMPLETING|None", "0 ", "0 PENDING|BeginTime", "0 RUNNING|None", "0 ", "0 "]
    slurm.answers("squeue", *looks)
    slurm.answers("scontrol", "0 JobId=12 JobState=COMPLETED Reason=None ExitCode=130:0")
    assert _launch() == 130
    said = capsys.readouterr().err
    assert said.count("job 12 is running") == 2
    assert "queued again; SLURM lets about two minutes pass" in said


def test_a_silent_controller_is_asked_again(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    down = "1 slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    gone = "1 slurm_load_jobs error: Invalid job id specified"
    slurm.answers("squeue", "0 RUNNING|None", down, down, gone, gone)
    slurm.answers("scontrol", "0 JobId=12 JobState=COMPLETED Reason=None ExitCode=75:0")
    assert _launch() == 75
    assert capsys.readouterr().err.count("squeue gets no answer from SLURM; asking again ...") == 1


@pytest.mark.parametrize("answer", ["c\n", "\n", "l\n"])
def test_ctrl_c_asks_and_the_job_runs_on_unless_told(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answer

    def pressed(job_id: str, log: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(submit, "_until_it_ends", pressed)
    assert _launch() == 130
    said = capsys.readouterr().err
    assert "cancel job 12, or leave it running? [c/L]" in said
    assert ("scancel 12" in slurm.calls) == (answer == "c\n")
    assert ("job 12 is cancelled" if answer == "c\n" else "job 12 runs on\nfollow it with") in said


def test_without_a_terminal_ctrl_c_leaves_the_job(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pressed(job_id: str, log: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "_until_it_ends", pressed)
    assert _launch() == 130
    assert "scancel 12" not in slurm.calls


REFUSALS = [
    ("sbatch: error: invalid partition specified: gpu", "SLURM has no partition gpu", "--partition"),
    (
        "allocation failure: Invalid account or account/partition combination specified",
        "SLURM does not let account lab run here",
        "--account",
    ),
    (
        "allocation failure: Requested node configuration is not available",
        "SLURM has no nodes for this job: 1 node x 2 GPUs = 2 ranks",
        "sinfo",
    ),
    (
        "sbatch: error: Invalid generic resource (gres) specification",
        "SLURM has no GPUs to give, and 2 on each node are asked for",
        "DS_ACCELERATOR=cpu",
    ),
    (
        "allocation failure: Requested time limit is invalid (missing or exceeds some limit)",
        "SLURM does not give a job the time 90-0",
        "--time",
    ),
    ("sbatch: error: Invalid --time specification", "SLURM cannot read the time 90-0", "HH:MM:SS"),
    ("sbatch: error: something new", "SLURM refuses this job", "cluster.num_nodes"),
]


@pytest.mark.parametrize(("said", "title", "repair"), REFUSALS)
def test_what_slurm_refuses_is_never_submitted(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], said: str, title: str, repair: str
) -> None:
    slurm.answers("sbatch-test", f"1 {said}")
    assert _launch("--partition", "gpu", "--account", "lab", "--time", "90-0") == 1
    out = capsys.readouterr().out
    assert f"error[CF487]: {title}" in out
    assert (
        f"sbatch says: {said.removeprefix('sbatch: error: ').removeprefix('allocation failure: ')}\n" in out
    )
    assert repair in out
    assert len(slurm.calls) == 1
    assert not os.path.exists("runs")


@pytest.mark.parametrize(
    ("said", "fact"),
    (
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect)",
            "Unable to contact slurm controller (connect)",
        ),
        (
            "sbatch: fatal: Could not establish a configuration source",
            "fatal: Could not establish a configuration source",
        ),
    ),
)
def test_a_controller_that_is_down_is_a_finding_of_its_own(said: str, fact: str) -> None:
    job = Job("small", "config.yaml", (), "run", Topology(2, 1), "x", LaunchOptions("slurm"))
    finding = refusal_of(said, job)
    assert finding.code == "CF493"
    assert finding.notes == (f"it says: {fact}",)


def test_a_second_job_for_the_same_run_is_refused(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    assert _launch("--detach") == 0
    slurm.answers("squeue", "0 PENDING|Priority")
    assert _launch("--detach") == 1
    assert "error[CF488]: job 12 for runs/small is still in the queue (PENDING)" in capsys.readouterr().out
    assert os.path.exists("runs/small/launch/slurm.sbatch")
    slurm.answers("squeue", "1 slurm_load_jobs error: Invalid job id specified")
    assert _launch("--detach") == 0
    assert os.path.isdir("runs/small/snapshot-2")


def test_an_earlier_job_that_is_ending_is_waited_for(
    slurm: Slurm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _launch("--detach") == 0
    slurm.answers("squeue", "0 COMPLETING|None", "0 COMPLETING|None", "0 ")
    assert _launch("--detach") == 0
    assert capsys.readouterr().err.count("job 12 of this run is ending; waiting for it ...\n") == 1
    slurm.answers("squeue", "0 COMPLETING|None")
    monkeypatch.setattr(submit, "ENDING_SECONDS", 0.1)
    assert _launch("--detach") == 1
    assert "error[CF488]: job 12 for runs/small is still in the queue (COMPLETING)" in capsys.readouterr().out


def test_without_slurm_the_missing_program_is_named(
    slurm: Slurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (slurm.folder / "srun").unlink()
    monkeypatch.setenv("PATH", f"{slurm.folder}:{Path(sys.executable).parent}")
    assert _launch("--detach") == 1
    assert "error[CF482]: srun is not here" in capsys.readouterr().out


def test_the_job_trains_with_a_copy(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    Path("zero.json").write_text((ROOT / "ds_configs" / "zero2.json").read_text())
    words = ("lr.reference=3e-4", "deepspeed=zero.json", "run.name=it's one")
    assert _launch(*words, "--detach") == 0
    script = Path("runs/small/launch/slurm.sbatch").read_text()
    assert "srun python -u \\\n  runs/small/snapshot/train.py runs/small/snapshot/config.yaml\n" in script
    copied, planned = load_run("runs/small/snapshot/config.yaml"), load_run("config.yaml", words)
    assert copied.config.deepspeed == "runs/small/snapshot/zero.json"
    assert copied.config == planned.config.model_copy(update={"deepspeed": copied.config.deepspeed})
    assert Path(copied.config.deepspeed).read_text() == Path("zero.json").read_text()
    capsys.readouterr()
    assert main(["check", "runs/small/snapshot/config.yaml", "runs/small/launch/slurm.sbatch"]) == 0
    assert "nothing found" in capsys.readouterr().out


def test_editing_the_checkout_afterwards_changes_nothing(slurm: Slurm) -> None:
    """The copy is the code that runs, wherever else crossfoot is found."""
    assert _launch("--detach") == 0
    Path("elsewhere/crossfoot").mkdir(parents=True)
    Path("elsewhere/crossfoot/__init__.py").write_text("raise SystemExit('the edited checkout')\n")
    here = Path("runs/small/snapshot")
    assert not list(here.rglob("__pycache__"))
    seen = here / "train.py"
    shows = "import sys, crossfoot\nprint(crossfoot.__file__)\nsys.exit()\n"
    seen.write_text(seen.read_text().replace("import sys\n", shows, 1))
    done = subprocess.run(
        [sys.executable, seen],
        env={**os.environ, "PYTHONPATH": "elsewhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str((here / "crossfoot" / "__init__.py").absolute()), done.stderr
    ours = {
        path.relative_to(Path(crossfoot.__file__).parent)
        for path in _sources(Path(crossfoot.__file__).parent)
    }
    assert {path.relative_to(here / "crossfoot") for path in _sources(here / "crossfoot")} == ours


def _sources(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".py", ".json")]


def test_a_used_folder_is_refused_before_the_queue(slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(Path("runs/small"), six_samples(), STEPS)
    told.run(1, ending=Ending("signal", 1, 75, 2))
    assert _launch("--detach") == 1
    assert "error[CF011]" in capsys.readouterr().out
    assert slurm.calls == []
    assert _launch("--detach", "--continue", "runs/small") == 0
    assert "--continue runs/small\n" in Path("runs/small/launch/slurm.sbatch").read_text()
    assert _launch("--detach", "--continue", "runs/nothing") == 1
    assert "error[CF747]" in capsys.readouterr().out


def test_states_and_reasons_are_said_in_words() -> None:
    assert QueueState("PENDING", "None").in_words("3") == "job 3 is pending"
    assert QueueState("PENDING", "QOSMaxJobsPerUserLimit").in_words("3").endswith("is reached")
    assert QueueState("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1").in_words("3").endswith("or reserved")
    assert QueueState("PENDING", "JobHeldUser").in_words("3").endswith("scontrol release 3")
    assert QueueState("PENDING", "SomethingNew").in_words("3") == "job 3 is pending: SomethingNew"
    assert QueueState("REQUEUE_HOLD", "None").in_words("3") == "job 3 is requeue hold"


@pytest.mark.parametrize(
    ("time", "seconds"),
    (
        ("90", 5_400),
        ("90:30", 5_430),
        ("1:30:05", 5_405),
        ("2-0", 172_800),
        ("2-12:30", 217_800),
        ("2-12:00:07", 216_007),
        ("0", None),
        ("UNLIMITED", None),
        ("1:2:3:4", None),
        ("", None),
    ),
)
def test_a_time_limit_is_read_as_sbatch_reads_it(time: str, seconds: int | None) -> None:
    assert limit_seconds(time) == seconds


def test_a_job_that_would_be_warned_before_it_begins_is_refused(
    slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _launch("--time", "2") == 1
    assert "error[CF497]: --time 2 is no longer than the 120 s before its end" in capsys.readouterr().out
    assert _launch("--time", "2", "--signal-seconds", "90", "--print") == 0
