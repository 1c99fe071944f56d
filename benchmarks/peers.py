"""Real tokens per second of crossfoot and its peers on the same samples:   python benchmarks/peers.py

Peers are installed from PyPI, each into an environment of its own under .benchmarks/. All are handed the same
token ids in the same order, and start from the same weights; each run is a process of its own with one
thread, and the runs of all stacks take turns. First the gradients of one step are compared. A finished run is
kept: the same command goes on where it was stopped.

    --quick            shape S, sft, one round: about a quarter of an hour
    --only WORD ...    rows or cases whose name holds a word
    --rounds N         runs of every row (default 3)
    --again            forget the runs that are kept
    --table            only show what is kept
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import HERE, machine, save, spread, table
from peer_work import Work

ENVIRONMENTS = {
    "crossfoot": "",
    "hf": "torch==2.13.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0",
    "llamafactory": "torch==2.13.0 llamafactory==0.9.5",
    "trl": "torch==2.13.0 trl==1.16.0 peft==0.21.2",
    "swift": "torch==2.13.0 ms-swift==4.6.0",
    "unsloth": "torch==2.13.0 unsloth==2026.10.9",
}
"""What each is installed from; the rest is what these ask for. crossfoot runs where this command does."""
PACK = 512
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


ROWS = (
    Row("crossfoot", "crossfoot", "crossfoot_train", rows=4, forwards=2, packed=PACK),
    Row("crossfoot, 1 x 8", "crossfoot", "crossfoot_train"),
    Row("LLaMA-Factory, neat packing", "llamafactory", "llamafactory_sft", forwards=3, packed=PACK, tasks=("sft",)),
    Row("LLaMA-Factory", "llamafactory", "llamafactory_sft"),
    Row("ms-swift", "swift", "swift_sft"),
    Row("unsloth", "unsloth", "unsloth_sft"),
    Row("TRL, packing", "trl", "trl_sft", forwards=3, packed=PACK, tasks=("sft",)),
    Row("TRL", "trl", "trl_sft"),
    Row("HF Trainer", "hf", "hf"),
    Row("HF Trainer, the recipe", "hf", "hf", checkpointing=True),
)


@dataclass(frozen=True)
class Case:
    """What all rows are compared on. steps: of the optimizer, after one that is not counted."""

    task: str
    shape: str
    dtype: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.task} {self.shape} {self.dtype}"


CASES = tuple(
    Case(task, shape, dtype, steps)
    for (task, shape), steps in {
        ("sft", "S"): 4, ("sft", "M"): 2, ("pretrain", "S"): 2, ("pretrain", "M"): 1,
    }.items()
    for dtype in ("float32", "bfloat16")
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One row in one case. gemm: torch's float32 matmul precision, where the row does not choose it itself."""

    case: Case
    row: Row
    gemm: str

    @property
    def name(self) -> str:
        return f"{self.case.name}/{self.row.name}" + ("" if self.gemm == "highest" else f", {self.gemm}")


def runs(only: list[str], quick: bool) -> Iterator[Run]:
    """All that are asked for; in float32 both GEMM lines of every row."""
    for case in CASES:
        if quick and (case.task, case.shape) != ("sft", "S"):
            continue
        for row in ROWS:
            for gemm in ("highest", "medium") if case.dtype == "float32" else ("highest",):
                run = Run(case, row, gemm)
                if case.task in row.tasks and (not only or any(word in run.name for word in only)):
                    yield run


class Environments:
    """Pythons of the peers, installed when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failed: dict[str, str] = {}

    def python(self, name: str) -> Path:
        """The interpreter; RuntimeError with the installer's last line where it cannot be had."""
        if not ENVIRONMENTS[name]:
            return Path(sys.executable)
        home = self._folder / "envs" / name
        stamp = home / "installed"
        if name in self._failed:
            raise RuntimeError(self._failed[name])
        if not stamp.exists() or stamp.read_text() != ENVIRONMENTS[name]:
            print(f"installing {name} ...", file=sys.stderr, flush=True)
            self._uv("venv", "--quiet", "--clear", "--python", sys.executable, home, name=name)
            wheels = os.environ.get("PIP_FIND_LINKS", "")
            where = ["--find-links", wheels] if wheels else ["--torch-backend", "cpu"]
            words = ENVIRONMENTS[name].split()
            self._uv("pip", "install", "--quiet", "--python", home / "bin" / "python", *where, *words, name=name)
            if wheels:  # PyPI's torchvision and torchaudio are built for CUDA, and break imports; text needs neither
                python = home / "bin" / "python"
                self._uv("pip", "uninstall", "--quiet", "--python", python, "torchvision", "torchaudio", name=name)
            stamp.write_text(ENVIRONMENTS[name])
        return home / "bin" / "python"

    def _uv(self, *words: str | Path, name: str) -> None:
        tool = shutil.which("uv") or str(self._folder / "envs" / "uv" / "bin" / "uv")
        if not Path(tool).exists():
            subprocess.run([sys.executable, "-m", "venv", self._folder / "envs" / "uv"], check=True)
            pip = self._folder / "envs" / "uv" / "bin" / "pip"
            subprocess.run([pip, "install", "--quiet", "uv"], check=True)
        environment = {**os.environ, "UV_CACHE_DIR": str(self._folder / "envs" / "cache"), "UV_SYSTEM_CERTS": "1"}
        done = subprocess.run([tool, *words], env=environment, capture_output=True, text=True)
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            self._failed[name] = f"not installed: {lines[-1] if lines else 'uv failed'}"
            raise RuntimeError(self._failed[name])


class Runner:
    """Runs, and what is kept of them in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environments = Environments(folder)

    def kept(self, run: Run, kind: str) -> Path:
        """Where the result of a run is. kind: a round's number, or gradients."""
        return self.folder / "results" / run.case.name / f"{run.row.name} {run.gemm} {kind}.json"

    def result(self, run: Run, kind: str) -> dict[str, Any]:
        """The result of a run, run now if it is not kept. One that fails is {"failed": its last line}."""
        out = self.kept(run, kind)
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            load = machine()["load"]
            found = self._start(run, kind, out.with_suffix(".new"))
            out.write_text(json.dumps({**found, "load": load}, indent=1), encoding="utf-8")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found

    def _start(self, run: Run, kind: str, new: Path) -> dict[str, Any]:
        try:
            python = self.environments.python(run.row.environment)
        except RuntimeError as error:
            return {"failed": str(error)}
        job = self._job(run, kind, new)
        words = [python, HERE / "stacks" / f"{run.row.script}.py", job]
        log = new.with_suffix(".log")
        with log.open("w", encoding="utf-8") as file:
            try:
                done = subprocess.run(
                    words, env=_surroundings(self.folder), stdout=file, stderr=subprocess.STDOUT, timeout=LIMIT_SECONDS
                )
            except subprocess.TimeoutExpired:
                return {"failed": f"took more than {LIMIT_SECONDS} s"}
        if done.returncode or not new.exists():
            lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
            return {"failed": lines[-1] if lines else f"exit code {done.returncode}"}
        found: dict[str, Any] = json.loads(new.read_text(encoding="utf-8"))
        new.unlink()
        return found

    def _job(self, run: Run, kind: str, out: Path) -> Path:
        """The job file of a run."""
        gradients = kind == "gradients"
        work = Work.at(self.folder / "work", run.case.shape)
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


def _surroundings(folder: Path) -> dict[str, str]:
    """One thread, no GPU, nothing from a hub; the caches of the peers stay under the folder."""
    said = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    said |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    said |= {"HF_HOME": str(folder / "home"), "MODELSCOPE_CACHE": str(folder / "home"), "TORCHDYNAMO_DISABLE": "1"}
    said |= {"DISABLE_VERSION_CHECK": "1", "USE_MODELSCOPE_HUB": "0", "UNSLOTH_COMPILE_DISABLE": "1"}
    said |= {"UNSLOTH_SKIP_TORCHVISION_CHECK": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD_", "SLURM_"))}
    return {**kept, **said}


def compared(runner: Runner) -> dict[str, Any]:
    """How far each row's gradient of the first step is from that of the first row, relatively, table by table;
    on the tiny shape in float32, without dropout and clipping, with the same weights and samples.
    """
    import numpy as np

    found: dict[str, Any] = {}
    case = Case("sft", "tiny", "float32", 1)
    reference = None
    for row in ROWS:
        run = Run(case, row, "highest")
        result = runner.result(run, "gradients")
        if "failed" in result:
            found[row.name] = result["failed"]
            continue
        with np.load(runner.gradients(run)) as file:
            gradients = {name: file[name].astype(np.float64) for name in file.files}
        reference = reference or gradients
        tokens = int(result["steps"][0]["real_tokens"])
        found[row.name] = {"real_tokens": tokens} | {
            name: float(np.linalg.norm(gradients[name] - wanted) / np.linalg.norm(wanted))
            for name, wanted in reference.items()
        }
    return found


def summary(run: Run, results: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the data: the median over all counted steps of all rounds, with the least and the most."""
    named = {"case": run.case.name, "row": run.row.name, "gemm": run.gemm}
    good = [result for result in results if "failed" not in result]
    if not good:
        return {**named, "failed": results[0]["failed"]}
    steps = [step for result in good for step in result["steps"][1:]]
    return {
        **named,
        "tokens_per_cpu_second": spread([step["real_tokens"] / step["cpu_seconds"] for step in steps]),
        "tokens_per_second": spread([step["real_tokens"] / step["wall_seconds"] for step in steps]),
        "real_share": sum(step["real_tokens"] for step in steps) / sum(step["token_slots"] for step in steps),
        "tokens_per_step": sum(step["real_tokens"] for step in steps) / len(steps),
        "peak_rss_bytes": max(result["peak_rss_bytes"] for result in good),
        "rounds": len(good),
        "counted_steps": len(steps),
        "load": spread([result["load"] for result in good]),
        "set_gemm": good[0]["gemm"],
        "trained_numbers": good[0]["trained_numbers"],
        "versions": good[0]["versions"],
    }


def shown(rows: list[dict[str, Any]]) -> str:
    """One table for every case."""
    pages = []
    for case in dict.fromkeys(row["case"] for row in rows):
        lines = []
        for row in (row for row in rows if row["case"] == case):
            name = row["row"] + (", medium" if row["gemm"] == "medium" else "")
            if "failed" in row:
                lines.append([name, "-", "-", "-", "-", row["failed"][:60]])
                continue
            rate, wall = row["tokens_per_cpu_second"], row["tokens_per_second"]
            lines.append([
                name, f"{rate['median']:.0f}", f"{rate['least']:.0f}-{rate['most']:.0f}", f"{wall['median']:.0f}",
                f"{row['peak_rss_bytes'] / 2**30:.1f}", f"{row['real_share']:.0%}",
            ])  # fmt: skip
        head = [case, "tokens per CPU second", "least-most", "per second", "peak GiB", "real tokens"]
        pages.append(table(head, lines))
    return "\n\n".join(pages)


def main() -> int:
    """Compare, run in turns, show, write benchmarks/data/peers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(".benchmarks"))
    given = parser.parse_args()
    runner = Runner(given.folder.resolve())
    if given.again:
        shutil.rmtree(runner.folder / "results", ignore_errors=True)
    asked = list(runs(given.only, given.quick))
    gradients = {} if given.table else compared(runner)
    for round_ in () if given.table else range(1 if given.quick else given.rounds):
        for number, run in enumerate(asked):
            print(f"round {round_ + 1}, {number + 1} of {len(asked)}: {run.name}", file=sys.stderr, flush=True)
            runner.result(run, str(round_))
    rows = []
    for run in runs([], False):
        paths = sorted(runner.kept(run, "0").parent.glob(f"{run.row.name} {run.gemm} [0-9]*.json"))
        if paths:
            rows.append(summary(run, [json.loads(path.read_text(encoding="utf-8")) for path in paths]))
    print(shown(rows))
    if not given.table:
        print(f"\n{save('peers', {'gradients': gradients, 'rows': rows})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
