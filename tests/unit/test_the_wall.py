"""The pure verbs never import torch, and answer; every code that a finding has is in the manual."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.launching import ROOT, environment, small_config

WATCHED = """
import sys
from crossfoot.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "deepspeed", "peft", "accelerate", "datasets"} & set(sys.modules)
print(f"heavy: {sorted(heavy)}", file=sys.stderr)
sys.exit(code)
"""


def _pure(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WATCHED, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", ("plan", "check", "index"))
def test_pure_verbs_import_nothing_heavy_without_an_index(tmp_path: Path, verb: str) -> None:
    done = _pure(verb, small_config(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "heavy: []" in done.stderr


def test_explain_imports_nothing_heavy() -> None:
    done = _pure("explain", "CF101")
    assert done.returncode == 0
    assert "heavy: []" in done.stderr
    assert "train_batch_size" in done.stdout


def test_explain_all_has_every_code_of_the_source() -> None:
    done = _pure("explain", "--all")
    assert done.returncode == 0
    assert "heavy: []" in done.stderr
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    codes = set(re.findall(r"CF\d{3}", source))
    assert codes == set(re.findall(r"^\| (CF\d{3}) \|", done.stdout, re.MULTILINE))
    assert codes == set(re.findall(r"^### (CF\d{3}): ", done.stdout, re.MULTILINE))


def test_plan_and_receipt_with_an_index_import_nothing_heavy(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    indexed = _pure("index", config)
    assert indexed.returncode == 0, indexed.stdout + indexed.stderr
    done = _pure("plan", config, "--json")
    assert "heavy: []" in done.stderr
    numbers = json.loads(done.stdout)
    assert numbers["estimated"] is False
    assert len(numbers["batches_sha256"]) == 64
    done = _pure("receipt", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "heavy: []" in done.stderr


def test_plan_json_has_the_contracts_keys(tmp_path: Path) -> None:
    numbers = json.loads(_pure("plan", small_config(tmp_path), "--json").stdout)
    promised = (
        "micro_batch_size grad_accum_steps gpus_per_node num_nodes world_size dp_degree global_batch_size "
        "samples_per_epoch steps_per_epoch total_steps last_step_samples learning_rate warmup_steps "
        "capacity_samples estimated batches_sha256 layout_sha256"
    )
    assert set(promised.split()) <= set(numbers)
    assert {"reference", "reference_batch", "rule", "peak"} <= set(numbers["learning_rate"])
    assert numbers["estimated"] is True
    assert numbers["batches_sha256"] is None


def test_overrides_may_stand_before_and_after_an_option(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    done = _pure("plan", config, "lr.reference=1e-3", "--json", "lr.reference=3e-3", "run.seed=7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == json.loads(
        _pure("plan", config, "lr.reference=3e-3", "run.seed=7", "--json").stdout
    )
    assert json.loads(done.stdout)["learning_rate"]["reference"] == 3e-3
    assert _pure("plan", config, "--jsn", "run.seed=7").returncode == 2
    assert _pure("explain", "CF101", "run.seed=7").returncode == 2


def test_code_of_a_folder_is_never_run_nor_asked_about() -> None:
    """transformers asks at the terminal where trust_remote_code is left out, and runs the code for a `y`."""
    loaders = {"from_pretrained", "from_config"}
    calls = []
    for file in (*(ROOT / "src").rglob("*.py"), *(ROOT / "tools").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in loaders
            ):
                owner = ast.unparse(node.func.value)
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if owner.startswith("Auto"):
                    calls.append((str(file.relative_to(ROOT)), owner, words))
    assert len(calls) >= 8
    for file, owner, words in calls:
        is_given = words.get("trust_remote_code") == "False" or words.get(None) == "arguments"
        assert is_given, (file, owner)
