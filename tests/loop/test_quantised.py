"""A base in 4 and 8 bits, on a CPU: trained beside, validated, stopped and continued; what it weighs; and
what bitsandbytes would do otherwise.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from crossfoot.findings.finding import Refused
from crossfoot.merging.merge import merge
from crossfoot.models import load
from crossfoot.models.adapt import prepare_training, trained_summary
from crossfoot.models.head_loss import head_loss
from crossfoot.models.load import load_model
from crossfoot.models.quantise import held_bytes, is_packed, packed_layers
from crossfoot.written.config import Config
from crossfoot.written.parameter_counts import count_parameters
from support.launching import environment
from support.loop_room import Room
from support.watched_run import Watched

bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra quant is not installed")
pytestmark = pytest.mark.xdist_group("loop")

Trains = Callable[..., Watched]
TABLES = ["embed_tokens", "lm_head"]


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    """A grown and trained table, dropout, a validation after every step, a batch that leaves a slot empty."""
    validation = str(room.values["data"]["train"][0]).replace("questions", "validation")
    return room.config(
        model={"quantization": "nf4", "gradient_checkpointing": True},
        data={"validation": [validation]},
        lora={"r": 4, "alpha": 8, "dropout": 0.2, "modules_to_save": TABLES},
        deepspeed=None,
        batch={"micro_batch_size": 2, "grad_accum_steps": 4, "global_batch_size": 7},
        lr={"reference": 0.01, "warmup_steps": 1},
        optimizer={"name": "adamw", "max_grad_norm": 1.0},
        validation={"every_steps": 1},
        checkpoint={"every_steps": 1, "keep": 1},
        train={"max_steps": 3},
    )


def loaded_from(values: dict[str, Any], **model: Any) -> tuple[Config, load.LoadedModel]:
    section = {**values["model"], **model}
    config = Config.model_validate({**values, "run": {"name": "q"}, "model": section})
    found = load_model(
        config, section["path"], vocabulary=260, zero_stage=0, deepspeed_config=None, report=lambda _: None
    )
    return config, found


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_stopped_and_continued_is_undisturbed_to_the_bit(
    values: dict[str, Any], trains: Trains, quantization: str, tmp_path: Path
) -> None:
    values["model"]["quantization"] = quantization
    whole = trains(values, "whole")
    stopped = trains(values, stop_after=2)
    going = trains(values, continues=True)
    assert (whole.exit_code, stopped.exit_code, going.exit_code) == (0, 0, 0)
    assert json.loads((going.run_dir / "receipt.json").read_text())["foots"]
    for mine, theirs in zip([going.start, *going.after], whole.after[1:], strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert not any(".base_layer." in name for name in whole.start), "packed weights are not trained"
    moved = [name for name, value in whole.start.items() if not torch.equal(value, whole.after[-1][name])]
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in moved if "lora_" not in name} == {
        "default"
    }
    assert sum("lora_A" in name for name in moved) == sum("lora_A" in name for name in whole.start) == 7
    endings = [run.paper(attempt, "ending.json") for attempt, run in ((1, whole), (2, going))]
    assert endings[0]["validation_loss"] == endings[1]["validation_loss"]
    assert merge(str(going.run_dir), str(tmp_path / "merged")) == 0, "into the base's full weights"
    assert answers(tmp_path / "merged") == answers_unmerged(values, going.run_dir / "adapter")


def answers(folder: Path) -> list[list[int]]:
    return greedy(AutoModelForCausalLM.from_pretrained(folder))


def answers_unmerged(values: dict[str, Any], adapter: Path) -> list[list[int]]:
    base = AutoModelForCausalLM.from_pretrained(values["model"]["path"])
    base.resize_token_embeddings(260, mean_resizing=False)
    return greedy(PeftModel.from_pretrained(base, adapter))


def greedy(model: Any) -> list[list[int]]:
    """What follows on each of 100 prompts."""
    prompts = torch.arange(300).remainder(250).add(5).reshape(100, 3)
    asks = {"attention_mask": torch.ones_like(prompts), "max_new_tokens": 8, "pad_token_id": 0}
    told = model.eval().generate(prompts, do_sample=False, **asks)
    found: list[list[int]] = told.tolist()
    return found


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_validating_computes_as_training_and_leaves_the_gradient(
    values: dict[str, Any], quantization: str, dtype: str
) -> None:
    _, found = loaded_from(values, quantization=quantization, dtype=dtype, gradient_checkpointing=False)
    model, ids = found.model, torch.arange(3, 40).unsqueeze(0)
    places: dict[str, Any] = {"input_ids": ids, "position_ids": torch.arange(37).unsqueeze(0)}
    plain = copy.deepcopy(model)  # as bitsandbytes has it
    for _, layer in packed_layers(plain):
        del layer.__dict__["train"]

    def gradient(of: nn.Module) -> torch.Tensor:
        table = of.get_input_embeddings().weight.requires_grad_(True)
        (found,) = torch.autograd.grad(of(**places).logits.float().logsumexp(-1).sum(), table)
        return found

    before, trained = gradient(model), model.train()(**places).logits
    with torch.no_grad():
        assert torch.equal(model.eval()(**places).logits, trained)
    assert torch.equal(gradient(model.train()), before)
    if quantization == "int8" and dtype == "float32":  # what goes in is rounded to 8 bits too
        with torch.no_grad():
            assert not torch.equal(plain.eval()(**places).logits, plain.train()(**places).logits)


def test_what_the_plan_says_it_weighs_is_what_it_weighs(values: dict[str, Any]) -> None:
    for quantization in ("nf4", "int8"):
        config, found = loaded_from(values, quantization=quantization, dtype="bfloat16")
        weighs, elements = (
            held_bytes(found.model),
            sum(parameter.numel() for parameter in found.model.parameters() if not is_packed(parameter)),
        )
        counts = count_parameters(found.model.config.to_dict(), config.lora, 260, quantization)
        assert counts is not None
        base = counts.held - counts.trained
        assert base - counts.packed == elements
        assert weighs == counts.packed_bytes + 2 * elements
        assert head_loss(found.model) is not None
        _, everything, _ = trained_summary(prepare_training(config, found, lambda _: None, "float32"))
        assert everything == counts.held, "a packed weight counts whole"


@pytest.mark.parametrize("names", [["q_proj"], ["mlp"], ["layers"]])
def test_what_is_packed_is_not_trained_in_full(values: dict[str, Any], names: list[str]) -> None:
    values["lora"] = {"r": 2, "target_modules": ["v_proj"], "modules_to_save": names}
    config, found = loaded_from(values)
    with pytest.raises(Refused) as caught:
        prepare_training(config, found, lambda _: None)
    assert [finding.code for finding in caught.value.findings if finding.code != "CF548"] == ["CF599"]


def test_no_kernel_is_fetched_from_a_hub(tmp_path: Path) -> None:
    """On a CPU with AVX512-BF16 bitsandbytes would; elsewhere it does not. `kernels` is there afterwards."""
    fetches = "def get_kernel(*words, **named):\n    print('fetched')\n"
    (tmp_path / "kernels.py").write_text(fetches, encoding="utf-8")
    script = "from crossfoot.models.quiet import hush_libraries; hush_libraries(); import peft, sys"
    script += "; print('bitsandbytes' in sys.modules); import kernels"
    surroundings = environment()
    surroundings["PYTHONPATH"] += f":{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["True"]
