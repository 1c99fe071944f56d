"""Packed against padded, and the loss inside the output layer against logits, on small models."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from crossfoot.findings.finding import Refused
from crossfoot.models.attention import SEGMENT_ATTENTION, require_packable
from crossfoot.models.head_loss import PLAIN_HEADS, head_loss
from crossfoot.training.batches import collate
from crossfoot.training.loss import SummedLoss
from crossfoot.written.model_kinds import NOT_PACKABLE

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "head_dim": 8,
}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(sorted(PLAIN_HEADS), SIZES),
    "gemma": SIZES,
    "gpt_neox": SIZES,
    "opt": SIZES | {"word_embed_proj_dim": 32, "ffn_dim": 48, "do_layer_norm_before": True, "dropout": 0.0},
    "gpt2": GPT2 | {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
}
LENGTHS = (23, 9, 1, 40, 2)


def index_of(lengths: tuple[int, ...]) -> Any:
    """Samples of random tokens; the second half of each is trained."""
    draw = np.random.default_rng(0)
    samples = [
        (draw.integers(3, 96, length).astype(np.int32), np.arange(length) >= length // 2)
        for length in lengths
    ]
    return SimpleNamespace(sample=lambda number: samples[number])


def small(family: str, layout: str, **more: Any) -> Any:
    """A model of two layers in float32, the same in both layouts."""
    config = AutoConfig.for_model(family, **{**FAMILIES[family], **more})
    torch.manual_seed(0)
    how = {"attn_implementation": SEGMENT_ATTENTION} if layout == "packed" else {}
    return AutoModelForCausalLM.from_config(config, **how).float().train()


def step(model: Any, *, packed: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """The summed loss of one slot with all samples, and its gradients."""
    loss = SummedLoss(model)(batch=collate(index_of(LENGTHS), range(len(LENGTHS)), packed=packed))
    loss.backward()
    return float(loss), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one: tuple[float, dict[str, Any]], other: tuple[float, dict[str, Any]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert torch.linalg.vector_norm(gradient - other[1][name]) <= 1e-5 * (
            torch.linalg.vector_norm(other[1][name]) + 1e-3
        ), name


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_padded(family: str) -> None:
    model = small(family, "packed")
    require_packable(model)
    assert_same(step(model, packed=True), step(small(family, "padded"), packed=False))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_packed_is_padded_when_activations_are_computed_again(family: str) -> None:
    model = small(family, "packed")
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert_same(step(model, packed=True), step(small(family, "padded"), packed=False))


def test_a_sliding_window_slides_within_a_sample() -> None:
    window = {"sliding_window": 5}
    packed, padded = small("mistral", "packed", **window), small("mistral", "padded", **window)
    assert_same(step(packed, packed=True), step(padded, packed=False))
    whole = step(small("mistral", "padded", sliding_window=None), packed=False)
    assert abs(whole[0] - step(small("mistral", "packed", **window), packed=True)[0]) > 1e-3


def test_scaled_rotary_positions_begin_again_with_every_sample() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 16}
    scaled = {"rope_scaling": {**rope, "low_freq_factor": 1.0, "high_freq_factor": 4.0}}
    packed, padded = small("llama", "packed", **scaled), small("llama", "padded", **scaled)
    assert_same(step(packed, packed=True), step(padded, packed=False))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", sorted(PLAIN_HEADS))
def test_the_loss_inside_the_output_layer_is_that_of_its_logits(
    family: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossfoot.models.head_loss.CHUNK_TOKENS", 7)
    inside = step(small(family, "packed", tie_word_embeddings=tied), packed=True)
    monkeypatch.setattr("crossfoot.training.loss.head_loss", lambda model: None)
    assert_same(inside, step(small(family, "packed", tie_word_embeddings=tied), packed=True))


def test_a_frozen_output_layer_costs_no_gradient_of_its_own() -> None:
    model, other = small("llama", "packed"), small("llama", "padded")
    for one in (model, other):
        one.lm_head.weight.requires_grad_(False)
    found = step(model, packed=True)
    assert_same(found, step(other, packed=False))
    assert "lm_head.weight" not in found[1]


def test_the_sum_is_float32_in_bfloat16_too() -> None:
    model = small("llama", "packed").bfloat16()
    batch = collate(index_of(LENGTHS), range(len(LENGTHS)), packed=True)
    loss = SummedLoss(model)(batch=batch)
    assert loss.dtype == torch.float32
    with torch.no_grad():
        ends = {"position_ids": batch.position_ids, "segment_ends": batch.segment_ends}
        logits = model(input_ids=batch.input_ids, **ends).logits.float()
    plain = functional.cross_entropy(logits[0, :-1], batch.labels[0, 1:], ignore_index=-100, reduction="sum")
    assert float(loss.detach()) == pytest.approx(float(plain), rel=2e-5)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_evaluating_counts_tokens_that_were_the_likeliest(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the output layer and outside it, in chunks, none among them."""
    monkeypatch.setattr("crossfoot.models.head_loss.CHUNK_TOKENS", 7)
    model = small(family, "packed")
    batch = collate(index_of(LENGTHS), range(len(LENGTHS)), packed=True)
    ends = {"position_ids": batch.position_ids, "segment_ends": batch.segment_ends}
    plain, wanted = model(input_ids=batch.input_ids, **ends).logits[0, :-1], batch.labels[0, 1:]
    best = plain.argmax(dim=-1)
    wanted[::3] = torch.where(wanted[::3] == -100, -100, best[::3])  # a third is right
    found = SummedLoss(model).eval()(batch=batch)
    assert found.dtype == torch.float32 and found.shape == (2,)
    assert int(found[1]) == int((best == wanted).sum()) > 0
    total = functional.cross_entropy(plain.float(), wanted, ignore_index=-100, reduction="sum")
    assert float(found[0]) == pytest.approx(float(total), rel=1e-5)
    assert SummedLoss(model).eval()(batch=collate(index_of(LENGTHS), [], packed=True)).tolist() == [0, 0]


def test_a_slot_without_samples_has_a_loss_and_gradients_of_zero() -> None:
    model = small("llama", "packed")
    loss = SummedLoss(model)(batch=collate(index_of(LENGTHS), [], packed=True))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("family", ["gemma", "gpt2", "opt"])
def test_the_loss_stays_outside_where_it_must(family: str) -> None:
    assert head_loss(small(family, "padded")) is None


def test_an_output_layer_with_an_adapter_gives_its_logits() -> None:
    from peft import LoraConfig, get_peft_model

    wanted = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    assert head_loss(get_peft_model(small("llama", "packed"), wanted)) is None


def test_families_that_cannot_be_packed_are_those_that_transformers_says() -> None:
    """The table is read without torch; here the modules themselves are asked."""
    found = set()
    for family, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        model = getattr(transformers, name if isinstance(name, str) else name[0])
        words = inspect.signature(model.forward).parameters
        source = inspect.getsource(inspect.getmodule(model))
        more = "softcap=" in source or "s_aux=" in source
        if not model._supports_attention_backend or model._is_stateful or "position_ids" not in words or more:
            found.add(family)
    assert found - _not_causal() == NOT_PACKABLE


def _not_causal() -> set[str]:
    from crossfoot.written.model_kinds import ENCODER_DECODERS, ENCODERS

    return {*ENCODERS, *ENCODER_DECODERS, "xlm", "xlnet", "reformer", "rembert", "roformer"}


def test_what_attention_cannot_give_is_refused() -> None:
    model = small("llama", "packed")
    query = torch.zeros(1, 2, 4, 8)
    attention = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS[SEGMENT_ATTENTION]
    with pytest.raises(Refused) as refused:
        attention(model, query, query, query, None, segment_ends=(4,), softcap=30.0)
    assert refused.value.findings[0].code == "CF555"
