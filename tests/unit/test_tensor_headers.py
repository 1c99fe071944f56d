"""Names and shapes out of weight files, as torch and safetensors write them, and what is no weight file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crossfoot.written.model_kinds import ENCODER_DECODERS, ENCODERS
from crossfoot.written.model_tensors import promised_tensors
from crossfoot.written.tensor_headers import DamagedFile, Tensor, read_tensors

TENSORS = {"a.weight": torch.zeros(3, 2), "b": torch.zeros(4, dtype=torch.bfloat16), "none": torch.zeros(0)}
READ = {"a.weight": Tensor("F32", (3, 2)), "b": Tensor("BF16", (4,)), "none": Tensor("F32", (0,))}


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def saved(folder: Path, kind: str) -> str:
    file = str(folder / ("w.safetensors" if kind == "safetensors" else "w.bin"))
    if kind == "safetensors":
        save_file(TENSORS, file, metadata={"format": "pt"})
    else:
        torch.save(TENSORS, file, _use_new_zipfile_serialization=kind == "zip")
    return file


@pytest.mark.parametrize("kind", ["safetensors", "zip", "before zip"])
def test_what_libraries_write(tmp_path: Path, kind: str) -> None:
    file = saved(tmp_path, kind)
    assert read_tensors(file) == READ
    whole = Path(file).read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 20, 7, 0):
        Path(file).write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            read_tensors(file)
    Path(file).write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(DamagedFile):
        read_tensors(file)


def test_a_parameter_and_a_part_of_a_storage(tmp_path: Path) -> None:
    file = str(tmp_path / "w.bin")
    torch.save({"p": nn.Parameter(torch.zeros(2)), "view": torch.zeros(8)[2:4]}, file)
    assert read_tensors(file) == {"p": Tensor("F32", (2,)), "view": Tensor("F32", (2,))}


def test_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1), "x": Harmful()}, "w.bin")
    with pytest.raises(DamagedFile, match="system"):
        read_tensors("w.bin")
    assert not Path("harmed").exists()
    torch.save(nn.Linear(2, 2), "w.bin")
    with pytest.raises(DamagedFile, match="Linear"):
        read_tensors("w.bin")
    torch.save([torch.zeros(1)], "w.bin")
    assert read_tensors("w.bin") is None


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b"[" * 100_000,
    ],
)
def test_a_header_that_lies(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(DamagedFile):
        read_tensors(str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}),
        ("llama", {"tie_word_embeddings": True, "head_dim": 4}),
        ("mistral", {"num_key_value_heads": 2}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("qwen3", {"num_key_value_heads": 2}),
        ("qwen3", {"num_key_value_heads": 2, "attention_bias": True, "head_dim": 16}),
    ],
)
def test_the_promised_tensors_are_those_that_transformers_builds(
    family: str, changes: dict[str, object]
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, **sizes, **changes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    built = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert promised_tensors(config.to_dict()) == built
    assert promised_tensors(json.loads(config.to_json_string())) == built


def test_the_encoders_are_those_that_transformers_warns_of() -> None:
    import transformers
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    folder = Path(transformers.__file__).parent / "models"
    warned = {
        family
        for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        for name in [family.replace("-", "_").removesuffix("_text")]
        for file in folder.glob(f"{name}/modeling_{name}*.py")
        if "as a standalone, add" in file.read_text(encoding="utf-8")
    }
    assert warned | {"reformer"} == ENCODERS
    pairs = {
        family
        for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if getattr(CONFIG_MAPPING[family], "is_encoder_decoder", False) is True
    }
    assert pairs <= ENCODER_DECODERS


def test_no_torch() -> None:
    code = (
        "import sys; from crossfoot.checks.model_folder import model_folder_findings as f; f('.');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
