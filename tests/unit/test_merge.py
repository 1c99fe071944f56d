"""`crossfoot merge` of adapters that peft made, against the base under them; what cannot be merged."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from crossfoot.cli import main
from crossfoot.merging import merge as merge_module
from crossfoot.merging import stages
from crossfoot.merging.merge import merge
from crossfoot.written.adapter_folder import open_adapter

ROWS = 40
PROMPT = torch.arange(ROWS).reshape(1, -1)
SIZES: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LINEAR = {"target_modules": ["q_proj", "down_proj"]}
BOTH = {"modules_to_save": ["embed_tokens", "lm_head"]}
KINDS: dict[str, dict[str, Any]] = {
    "plain": LINEAR,
    "rslora": {**LINEAR, "use_rslora": True},
    "dora": {**LINEAR, "use_dora": True, **BOTH},
    "ranks of its own": {**LINEAR, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"down_proj": 5}},
    "on the table": {"target_modules": ["q_proj", "embed_tokens"]},
    "rows": {**LINEAR, "trainable_token_indices": [3, ROWS - 1]},
}


def small(folder: Path, *, tied: bool, **save: Any) -> PreTrainedModel:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    model.save_pretrained(folder, **save)
    return model


def adapt(folder: Path, base: Path, rows: int = 0, dtype: Any = None, **kind: Any) -> None:
    """An adapter in which every number counts."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    # peft writes into the lists that it is given
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **deepcopy(kind)))
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
            parameter.data = parameter.data.to(dtype or parameter.dtype)
    model.save_pretrained(folder, save_embedding_layers=False)


@torch.no_grad()
def unmerged(base: Path, adapter: Path, rows: int = 0) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    logits: torch.Tensor = PeftModel.from_pretrained(model, adapter).eval()(PROMPT).logits
    return logits


@torch.no_grad()
def alone(folder: Path) -> torch.Tensor:
    """The logits of a folder by plain transformers, which must find all of its tensors there."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    logits: torch.Tensor = model.eval()(PROMPT).logits
    return logits


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def account(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "merge.json").read_text(encoding="utf-8"))
    return told


@pytest.mark.parametrize(
    ("kind", "tied"),
    [*((kind, False) for kind in KINDS), ("dora", True), ("on the table", True), ("rows", True)],
)
def test_the_folder_answers_as_base_and_adapter(kind: str, tied: bool, tmp_path: Path) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    small(base, tied=tied, max_shard_size="20kB")
    adapt(
        adapter, base, **{**KINDS[kind], **({"ensure_weight_tying": True} if tied and kind == "dora" else {})}
    )
    assert merge(str(adapter), str(out)) == 0
    assert apart(alone(out), unmerged(base, adapter)) < 1e-6
    told = account(out)
    assert told["proven"] is True
    assert told["logits"]["adapter"] > 1e-3, "the adapter moves the logits"
    assert len(list(out.glob("model-*.safetensors"))) == len(list(base.glob("model-*.safetensors"))) > 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_table_that_grew(tied: bool, tmp_path: Path) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    small(base, tied=tied)
    adapt(adapter, base, ROWS + 3, **LINEAR, **BOTH, ensure_weight_tying=tied)
    assert merge(str(adapter), str(out)) == 0
    assert apart(alone(out), unmerged(base, adapter, ROWS + 3)) < 1e-6
    config = json.loads((out / "config.json").read_text())
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (ROWS + 3, tied)


def test_half_of_a_tied_table_is_untied(tmp_path: Path) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    small(base, tied=True)
    adapt(adapter, base, **LINEAR, modules_to_save=["lm_head"])
    assert merge(str(adapter), str(out)) == 0
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert apart(alone(out), unmerged(base, adapter)) < 1e-6


def test_weights_that_lie_the_other_way(tmp_path: Path) -> None:
    """GPT-2: matrices are stored transposed, and files of old lack the first word of a name."""
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    torch.manual_seed(1)
    sizes = {"vocab_size": ROWS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": ROWS}
    AutoModelForCausalLM.from_config(GPT2Config(**sizes)).transformer.save_pretrained(base)
    adapt(adapter, base, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    assert merge(str(adapter), str(out)) == 0
    assert apart(alone(out), unmerged(base, adapter)) < 1e-6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_have_a_measured_bound(dtype: str, tmp_path: Path) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    small(base, tied=False)
    adapt(adapter, base, **LINEAR, **BOTH)
    assert merge(str(adapter), str(out), dtype=dtype) == 0
    proof = account(out)["logits"]
    assert 1e-6 < proof["difference"] <= proof["bound"] < 0.1 * proof["adapter"]
    assert str(AutoModelForCausalLM.from_pretrained(out).dtype) == f"torch.{dtype}"


def test_pickled_weights_are_merged_too(tmp_path: Path) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    model = small(base, tied=False)
    (base / "model.safetensors").unlink()
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    adapt(adapter, base, **LINEAR)
    assert merge(str(adapter), str(out)) == 0
    assert apart(alone(out), unmerged(base, adapter)) < 1e-6


@pytest.mark.parametrize("fault", ["scale", "skipped"])
def test_a_wrong_merge_is_not_proven(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    small(base, tied=False)
    adapt(adapter, base, **LINEAR, **BOTH)
    whole = stages.Stage.merged

    def wrong(stage: Any, name: str, base: Any) -> torch.Tensor:
        value, before = whole(stage, name, base), base(name)
        if fault == "scale":
            return before + 1.001 * (value - before) if "q_proj" in name else value
        return before if name == "model.layers.1.self_attn.q_proj.weight" else value

    monkeypatch.setattr(stages.Stage, "merged", wrong)
    assert main(["merge", str(adapter), str(out)]) == 3
    assert "error[CF789]" in capsys.readouterr().out
    assert account(out)["proven"] is False


def full(path: Path, *_: Any) -> None:
    """A disk that takes half of a file."""
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_what_cannot_be_merged_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    small(base, tied=False)
    adapt(adapter, base, **LINEAR)
    AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, "hidden_size": 64})).save_pretrained(
        tmp_path / "other"
    )
    settings = json.loads((adapter / "adapter_config.json").read_text())

    def made(name: str, **values: Any) -> str:
        shutil.copytree(adapter, tmp_path / name)
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({**settings, **values}))
        return str(tmp_path / name)

    def said(*words: str) -> str:
        code = main(["merge", *words])
        assert code in (1, 2)
        assert not out.exists()
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        return capsys.readouterr().out

    (tmp_path / "empty").mkdir()
    assert "CF759" in said(str(tmp_path / "empty"), str(out))
    assert "CF759" in said(str(tmp_path / "nowhere"), str(out))
    assert "is a whole model already" in said(str(base), str(out))
    assert "CF769" in said(made("astray", base_model_name_or_path=str(tmp_path / "gone")), str(out))
    assert "CF772" in said(str(adapter), str(out), "--base", str(tmp_path / "other"))
    assert "CF786" in said(made("pissa", init_lora_weights="pissa"), str(out))
    assert "CF786" in said(made("biased", lora_bias=True), str(out))
    with monkeypatch.context() as patch:
        patch.setattr(merge_module, "write_tensors", full)
        assert "CF740" in said(str(adapter), str(out))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    assert "CF784" in said(str(adapter), str(out))
    assert "CF784" in said(str(adapter), str(tmp_path / "deep" / "er" / "out"))
    assert not (tmp_path / "deep").exists()


def test_two_at_once_do_not_hurt_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the first proves its folder, the second begins and ends."""
    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    small(base, tied=False)
    adapt(adapter, base, **LINEAR)
    (killed := tmp_path / ".out-abcdefgh").mkdir()
    proves = merge_module._prove
    codes, at_work = [], []

    def proves_later(*words: Any) -> Any:
        at_work.extend(path for path in tmp_path.iterdir() if path.name.startswith(".out-"))
        monkeypatch.setattr(merge_module, "_prove", proves)
        codes.append(main(["merge", str(adapter), str(out)]))
        assert all(path.is_dir() for path in at_work)
        return proves(*words)

    monkeypatch.setattr(merge_module, "_prove", proves_later)
    codes.append(main(["merge", str(adapter), str(out)]))
    assert codes == [0, 1] and len(at_work) == 2 and not killed.exists()
    assert "error[CF740]" in capsys.readouterr().out
    assert account(out)["proven"] is True
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_adapter_on_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, first, second = tmp_path / "base", tmp_path / "first", tmp_path / "second"
    small(base, tied=False)
    adapt(first, base, **LINEAR)
    adapt(second, base, target_modules=["q_proj", "v_proj"])
    noted = {"merged_adapter": str(first), **open_adapter(str(first)).identity}
    (second / "base.json").write_text(json.dumps(noted))
    assert merge(str(second), str(tmp_path / "out")) == 0
    plain = AutoModelForCausalLM.from_pretrained(base)
    for adapter in (first, second):
        plain = PeftModel.from_pretrained(plain, adapter).merge_and_unload()
    with torch.no_grad():
        assert apart(alone(tmp_path / "out"), plain.eval()(PROMPT).logits) < 1e-6
    assert [one["path"] for one in account(tmp_path / "out")["adapters"]] == [str(first), str(second)]
    (second / "base.json").write_text(json.dumps({**noted, "weights_sha256": "another"}))
    assert main(["merge", str(second), str(tmp_path / "again")]) == 1
    assert "error[CF772]" in capsys.readouterr().out


def test_without_memory_nothing_is_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import psutil

    base, adapter, out = tmp_path / "base", tmp_path / "adapter", tmp_path / "out"
    small(base, tied=False)
    adapt(adapter, base, **LINEAR)
    memory = namedtuple("memory", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(1000))
    assert main(["merge", str(adapter), str(out)]) == 3
    assert "NOT PROVEN" in capsys.readouterr().out
    assert apart(alone(out), unmerged(base, adapter)) < 1e-6
