"""`crossfoot prove` on several architectures, from their config.json alone; and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from crossfoot.cli import main
from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Place, Refused
from crossfoot.probing import session
from crossfoot.probing.shrink import write_small_model
from support.launching import ROOT, environment, small_config

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096},
    "qwen2": {
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "hidden_size": 896,
        "tie_word_embeddings": True,
    },
    "gemma2": {},
    "gpt2": {},
    "mixtral": {},
}
LORA = {"llama": {"r": 4, "alpha": 8, "dropout": 0.1, "modules_to_save": ["embed_tokens", "lm_head"]}}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def _config_folder(folder: Path, name: str) -> Path:
    """A model folder with a config.json of the usual sizes and no weights."""
    from transformers import CONFIG_MAPPING

    CONFIG_MAPPING[name](**ARCHITECTURES[name]).save_pretrained(folder / name)
    return folder / name


def _run_config(folder: Path, model: Path | str, **sections: Any) -> Path:
    config = small_config(
        folder,
        model={"path": str(model), "dtype": "float32"},
        cluster={"gpus_per_node": 2, "num_nodes": 1},
        batch={"micro_batch_size": 2, "grad_accum_steps": 2, "global_batch_size": None},
        **sections,
    )
    (folder / "data.jsonl").unlink()
    return config


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_proven_small(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _run_config(tmp_path, _config_folder(tmp_path, name), lora=LORA.get(name))
    layout = ["data.layout=padded"] if name == "gemma2" else []  # its attention has a cap
    assert session.prove(str(config), layout, read_world({}), full=False, as_json=True) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["proven"] is True
    assert f"weights: {name}," in page["model"]
    assert page["total"]["relative_error"] < 3e-6
    assert any("dropout 0.1 -> 0" in line for line in page["said"]) is (name in ("llama", "gpt2"))
    names = {group["name"] for group in page["groups"]}
    tied = {"gemma2": "embed_tokens, lm_head", "qwen2": "embed_tokens, lm_head", "gpt2": "wte, lm_head"}
    assert tied.get(name, "lm_head") in names
    assert list(tmp_path.glob("run*")) == []


def test_a_small_model_keeps_what_makes_the_architecture(tmp_path: Path) -> None:
    said = write_small_model(str(_config_folder(tmp_path, "qwen2")), tmp_path / "small", 0, Place(""))
    assert "2 layers, hidden size 224, 14 heads on 2, 320 tokens" in said
    small = AutoConfig.from_pretrained(tmp_path / "small")
    assert (small.num_attention_heads, small.num_key_value_heads) == (14, 2)
    assert small.tie_word_embeddings is True
    again = write_small_model(str(tmp_path / "qwen2"), tmp_path / "again", 0, Place(""))
    assert again == said
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("small", "again")]
    assert weights[0] == weights[1]


def test_a_small_model_has_a_layer_of_every_kind(tmp_path: Path) -> None:
    write_small_model(str(_config_folder(tmp_path, "gemma2")), tmp_path / "small", 0, Place(""))
    small = AutoConfig.from_pretrained(tmp_path / "small")
    assert set(small.layer_types) == {"sliding_attention", "full_attention"}


def test_a_model_that_would_stay_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossfoot.probing.shrink.MOST_PARAMETERS", 1000)
    with pytest.raises(Refused) as refused:
        write_small_model(str(_config_folder(tmp_path, "gpt2")), tmp_path / "small", 0, Place("c.yaml", 3, 4))
    (finding,) = refused.value.findings
    assert finding.code == "CF751"
    assert "--full" in finding.helps[0]
    assert "parameters" in finding.notes[0]
    assert not (tmp_path / "small").exists()


def _refused(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["prove", str(config), *words])
    return code, capsys.readouterr().out


def test_a_missing_model_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _refused(_run_config(tmp_path, tmp_path / "nowhere"), capsys)
    assert code == 2
    assert "error[CF541]" in said and "CF501" not in said


def test_a_damaged_config_json_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{", encoding="utf-8")
    code, said = _refused(_run_config(tmp_path, tmp_path / "broken"), capsys)
    assert code == 2
    assert "error[CF542]" in said


def test_an_encoder_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import T5Config

    T5Config().save_pretrained(tmp_path / "t5")
    code, said = _refused(_run_config(tmp_path, tmp_path / "t5"), capsys)
    assert code == 1
    assert "error[CF543]" in said


def test_full_without_weights_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _refused(
        _run_config(tmp_path, _config_folder(tmp_path, "gpt2"), lora=None), capsys, "--full"
    )
    assert code == 2
    assert "error[CF542]" in said


def test_a_mistake_of_the_config_is_found_before_torch(tmp_path: Path) -> None:
    config = _run_config(tmp_path, "builtin:tiny")
    watched = (
        "import sys\nfrom crossfoot.cli import main\ncode = main(sys.argv[1:])\n"
        "print('torch' in sys.modules, file=sys.stderr)\nsys.exit(code)\n"
    )
    words = ["prove", str(config), "batch.grad_accum_steps=0"]
    done = subprocess.run(
        [sys.executable, "-c", watched, *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "batch.grad_accum_steps" in done.stdout
    assert done.stderr.splitlines()[-1] == "False"


@pytest.mark.skipif(not os.path.isdir(ROOT / "real" / "smollm2-135m"), reason="make real-data was not run")
@pytest.mark.slow
def test_real_weights_are_proven_with_measured_bounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    code = session.prove("configs/smollm2-reviews.yaml", [], read_world({}), full=True, as_json=True)
    page = json.loads(capsys.readouterr().out)
    assert code == 0 and page["proven"] is True
    assert page["total"]["relative_error"] < page["total"]["bound"] < 1e-3
