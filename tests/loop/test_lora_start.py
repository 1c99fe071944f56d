"""Adapters that begin as a part of the base (PiSSA, OLoRA): the same model at the start, the same base again
from what a checkpoint holds, and what is saved stands on the base as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from crossfoot.findings.finding import Refused
from crossfoot.models import start_values
from crossfoot.models.adapt import prepare_training
from crossfoot.models.load import load_model
from crossfoot.models.save import save_adapter
from crossfoot.written.config import Config
from support.plain_torch import tiny_llama

pytestmark = pytest.mark.xdist_group("loop")

IDS = torch.arange(1, 40).reshape(1, -1)
WORDS = ["pissa", "pissa_niter_4", "olora"]


@dataclass(frozen=True)
class Base:
    """A model in a folder."""

    path: str

    def config(self, dtype: str = "float32", **lora: Any) -> Config:
        return Config.model_validate(
            {
                "run": {"name": "start"},
                "model": {"path": self.path, "dtype": dtype},
                "data": {"train": ["a.json"], "layout": "padded"},
                "batch": {"micro_batch_size": 1, "global_batch_size": 1},
                "lr": {"reference": 1e-4},
                "lora": {"r": 6, "alpha": 9, "target_modules": "all-linear", **lora},
                "train": {"max_steps": 1},
            }
        )

    def trained(
        self, config: Config, start: start_values.Tensors | None = None, dtype: str = "float32"
    ) -> Any:
        """The model to train, with fresh adapters."""
        words = {"vocabulary": 0, "zero_stage": 0, "deepspeed_config": None, "report": lambda line: None}
        loaded = load_model(config, self.path, **words)
        return prepare_training(config, loaded, words["report"], trained_dtype=dtype, start=start)

    def plain(self, dtype: torch.dtype = torch.float32) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype).eval()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Base]]:
    folder = tmp_path_factory.mktemp("bases")
    config = GPT2Config(vocab_size=256, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    yield {"llama": Base(str(tiny_llama(folder / "llama"))), "gpt2": Base(str(folder / "gpt2"))}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits.float()
    return found


def base_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if "base_layer" in name}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("word", WORDS)
def test_the_model_is_the_same_and_its_adapter_stands_on_the_base_as_it_was(
    word: str, family: str, bases: dict[str, Base], tmp_path: Path
) -> None:
    base = bases[family]
    model = base.trained(base.config(init=word, scaling="rslora"))
    wanted = logits(base.plain())
    assert (logits(model) - wanted).abs().max() < 1e-6 * wanted.abs().max()
    names = dict(base.plain().named_parameters())
    changed = {
        name: value
        for name, value in base_of(model).items()
        if not torch.equal(value, names[name.removeprefix("base_model.model.").replace(".base_layer", "")])
    }
    assert {name.rpartition(".")[2] for name in changed} == {"weight"} and len(changed) >= 4
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += 0.1 * torch.randn(parameter.shape)
    save_adapter(model, tmp_path / "adapter", gather=False)
    loaded = PeftModel.from_pretrained(base.plain(), tmp_path / "adapter")
    assert loaded.peft_config["default"].r == 12
    after = logits(model)
    assert (after - wanted).abs().max() > 0.01 * wanted.abs().max()
    assert (logits(loaded) - after).abs().max() < 1e-5 * after.abs().max()


@pytest.mark.parametrize("word", WORDS)
def test_the_base_is_the_same_to_the_bit_from_what_a_checkpoint_holds(
    word: str, bases: dict[str, Base]
) -> None:
    """Whatever the order of additions, and the precision of what is trained."""
    base = bases["llama"]
    config = base.config("bfloat16", init=word)
    first = base.trained(config, dtype="bfloat16")
    start = start_values.start_values(first)
    assert all(torch.equal(start[name], value.float()) for name, value in trained_of(first).items())
    other_order = mock.patch.object(start_values, "_rest", backwards)
    with other_order, mock.patch.object(start_values, "_begun", side_effect=AssertionError):
        again = base.trained(config, {name: value.clone() for name, value in start.items()})
    assert {value.dtype for value in trained_of(again).values()} == {torch.float32}
    for name, value in base_of(first).items():
        assert torch.equal(value, base_of(again)[name]), name


def backwards(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """What is left of a weight, its products added one at a time, the last one first."""
    taken = torch.zeros(weight.shape, dtype=torch.float64)
    for column in reversed(range(b.shape[1])):
        taken += b[:, column, None].double() * a[column].double()
    return (weight.double() - taken * scale).to(weight.dtype)


def trained_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def test_a_rank_that_a_weight_has_not(bases: dict[str, Base]) -> None:
    base = bases["llama"]
    with pytest.raises(Refused) as caught:
        base.trained(base.config(init="pissa", r=20))
    (finding,) = caught.value.findings
    assert finding.code == "CF076"
    assert finding.title.endswith("directions out of a weight, of which k_proj has 16")
    base.trained(base.config(init="pissa", r=16))
