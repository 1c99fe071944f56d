"""A study as a job array of a real SLURM: submitted, left alone, collected by the same command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crossfoot.studies.results_file import read_results
from support.lab import HEAD, Lab
from support.launching import small_config, write_samples

pytestmark = [pytest.mark.distributed, pytest.mark.cluster, pytest.mark.slow]

IN_TIME = 900.0


def test_an_array_is_submitted_and_collected(lab: Lab, folder: Path) -> None:
    validation = write_samples(folder / "validation.jsonl", 5, seed=1)
    config = small_config(
        folder, data={"validation": [str(validation)]}, cluster={"num_nodes": 2, "gpus_per_node": 1}
    )
    out = folder / "study"
    study = ["python", "-m", "crossfoot", "study", config, "--batches", "4,7", "--seeds", "2"]
    study += ["--budget-samples", "28", "--to", "slurm", "--at-once", "2", "--out", out]
    submitted = lab.run(HEAD, *study, "--detach", timeout=IN_TIME)
    assert submitted.returncode == 0, submitted.stdout
    (job,) = re.findall(r"submitted job (\d+): 4 runs", submitted.stdout)
    script = (out / "launch" / "array.sbatch").read_text()
    assert "#SBATCH --array=0-3%2" in script and script.count("--job-name") == 1
    collected = lab.run(HEAD, *study, timeout=IN_TIME)
    assert collected.returncode == 0, collected.stdout
    results = read_results(str(out))
    assert results.foots and len(results.runs) == 4 and {run.state for run in results.runs} == {"done"}
    logs = sorted(path.name for path in out.glob("slurm-*.log"))
    assert len([name for name in logs if name.startswith(f"slurm-{job}_")]) == 4, logs
    assert "page.html" in collected.stdout
