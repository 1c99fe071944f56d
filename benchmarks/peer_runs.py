"""One row in one case is a run: a process with a job file, whose result is kept."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
from measuring import HERE, machine
from peer_work import SAMPLES, Work

LIMIT_SECONDS = 900


@dataclass(frozen=True)
class Row:
    """One way to train the same samples. rows, forwards: of a forward, of a step; packed: tokens of a row."""

    name: str
    environment: str
    script: str
    rows: int = 1
    forwards: int = 8
    packed: int = 0
    checkpointing: bool = False
    tasks: tuple[str, ...] = ("sft", "pretrain")
    quick: bool = True


@dataclass(frozen=True)
class Case:
    """What all rows are compared on. steps: of the optimizer, after one that is not counted."""

    task: str
    shape: str
    dtype: str
    steps: int

    @property
    def name(self) -> str:
        """Task, shape and precision: "sft S float32"."""
        return f"{self.task} {self.shape} {self.dtype}"


@dataclass(frozen=True)
class Run:
    """One row in one case. gemm: torch's float32 matmul precision, if the row does not choose it itself."""

    case: Case
    row: Row
    gemm: str

    @property
    def name(self) -> str:
        """Case and row."""
        return f"{self.case.name}/{self.row.name}" + ("" if self.gemm == "highest" else f", {self.gemm}")


class Runner:
    """Runs, and what is kept of them in `folder`. device: cpu or cuda. random: weights are made there, and
    never lie in a file.
    """

    def __init__(
        self, folder: Path, device: str = "cpu", *, random: bool = False, samples: int = SAMPLES
    ) -> None:
        self.folder, self.device = folder, device
        self._random, self._samples = random, samples
        self.environments = environments.Environments(folder)

    def kept(self, run: Run, kind: str) -> Path:
        """Where the result of a run is. kind: a round's number, or gradients."""
        return self.folder / "results" / run.case.name / f"{run.row.name} {run.gemm} {kind}.json"

    def result(self, run: Run, kind: str) -> dict[str, Any]:
        """The result of a run, run now if it is not kept. One that fails is {"failed": its last line}."""
        out = self.kept(run, kind)
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            load = machine()["load"]
            new = self._start(run, kind, out.with_suffix(".new"))
            out.write_text(json.dumps({**new, "load": load}, indent=1), encoding="utf-8")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found

    def forget_failures(self) -> None:
        """What failed is tried again; once by each command."""
        for path in (self.folder / "results").glob("*/*.json"):
            if "failed" in json.loads(path.read_text(encoding="utf-8")):
                path.unlink()

    def _start(self, run: Run, kind: str, new: Path) -> dict[str, Any]:
        try:
            python = self.environments.python(run.row.environment)
        except RuntimeError as error:
            return {"failed": str(error)}
        job = self.job(run, kind, new)
        words = [python, HERE / "stacks" / f"{run.row.script}.py", job]
        try:
            done = environments.started(
                words, environments.surroundings(self.folder, self.device), LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"took more than {LIMIT_SECONDS} s"}
        new.with_suffix(".log").write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode or not new.exists():
            return {"failed": environments.last_line(done.stdout + done.stderr)}
        found: dict[str, Any] = json.loads(new.read_text(encoding="utf-8"))
        new.unlink()
        return found

    def job(self, run: Run, kind: str, out: Path) -> Path:
        """The job file of a run."""
        gradients = kind == "gradients"
        work = Work.at(self.folder / "work", run.case.shape, samples=self._samples, random=self._random)
        scratch = self.folder / "scratch" / run.row.script
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        steps = 1 if gradients else run.case.steps + 1
        values: dict[str, Any] = {
            "model": str(work.model),
            "samples": str(work.samples(run.case.task, first_step=gradients)),
            "folder": str(scratch / "out"),
            "task": run.case.task,
            "dtype": run.case.dtype,
            "gemm": run.gemm,
            "rows": run.row.rows,
            "forwards": run.row.forwards,
            "steps": steps,
            "packed": run.row.packed,
            "checkpointing": run.row.checkpointing,
            "dropout": 0.0 if gradients else 0.05,
            "gradients": str(self.gradients(run)) if gradients else None,
            "device": self.device,
            "random": self._random,
            "out": str(out),
        }
        if run.row.environment == "crossfoot":
            values["config"] = str(work.write_config(scratch, values))
        job = scratch / "job.json"
        job.write_text(json.dumps(values, indent=1), encoding="utf-8")
        return job

    def gradients(self, run: Run) -> Path:
        """The file with the gradients of a row."""
        return self.folder / "results" / run.case.name / f"{run.row.name}.npz"
