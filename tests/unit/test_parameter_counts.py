"""Trained parameters worked out from config.json and the section lora: those that peft really makes."""

from __future__ import annotations

from typing import Any

import pytest

from crossfoot.arithmetic.zero_stages import Parameters, Widths, stage_cost
from crossfoot.written.lora_section import LoraSection
from crossfoot.written.parameter_counts import count_parameters

TABLES = ["embed_tokens", "lm_head"]
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True, "num_key_value_heads": 2}),
    ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
]


@pytest.mark.parametrize("rows", [100, 130])
@pytest.mark.parametrize(
    "lora",
    [
        LoraSection(r=4, modules_to_save=TABLES),
        LoraSection(r=3, target_modules=["q_proj", "mlp.down_proj"]),
        LoraSection(r=2, target_modules=["v_proj"], modules_to_save=["lm_head"], dora=True),
        LoraSection(r=2, target_modules="all-linear", dora=True),
        LoraSection(r=2, target_modules=["v_proj"], trainable_token_indices=[3, "5-9"]),
        None,
    ],
    ids=("all", "some", "head and dora", "all-linear", "rows", "full"),
)
@pytest.mark.parametrize(("family", "changes"), FAMILIES, ids=[family for family, _ in FAMILIES])
def test_the_counts_are_those_of_the_model(
    family: str, changes: dict[str, Any], lora: LoraSection | None, rows: int
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 48}
    config = AutoConfig.for_model(family, **sizes, num_hidden_layers=2, num_attention_heads=4, **changes)
    counts = count_parameters(config.to_dict(), lora, rows)
    config.vocab_size = rows
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    if lora is not None:
        asked = {"target_modules": lora.target_modules, "modules_to_save": lora.modules_to_save or None}
        ties = bool(config.tie_word_embeddings and lora.modules_to_save)
        if lora.trainable_token_indices:
            asked["trainable_token_indices"] = {name: [3, 5, 6, 7, 8, 9] for name in TABLES}
        wanted = LoraConfig(r=lora.r, use_dora=lora.dora, ensure_weight_tying=ties, **asked)
        model = get_peft_model(model, wanted)
    held = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert counts is not None
    assert (counts.trained, counts.held) == (trained, held)


def test_an_unknown_family_is_not_guessed() -> None:
    assert count_parameters({"model_type": "gpt2", "vocab_size": 9}, None, 0) is None
    assert count_parameters({}, None, 0) is None


def test_what_a_stage_moves_and_holds() -> None:
    """1,000 trained of 10,000 parameters in bfloat16, four forwards, three ranks."""
    bfloat16 = Widths(weight=2, reduced=4, gradient=4, states=8, is_own_master=False)
    of = {
        stage: stage_cost(stage, Parameters(1_000, 10_000, 11_000), bfloat16, forwards=4, ranks=3)
        for stage in (1, 2, 3)
    }
    assert [of[stage].reduced_bytes for stage in of] == [4_000, 16_000, 16_000]
    assert [of[stage].gathered_bytes for stage in of] == [2_000, 2_000, 4 * 2 * 20_000]
    assert [of[stage].gradient_bytes for stage in of] == [6_000, 334 * 4, 334 * 4]
    assert [of[stage].weight_bytes for stage in of] == [22_000, 22_000, 3_667 * 2]
    assert {of[stage].state_bytes for stage in of} == {334 * 8}
    again = stage_cost(
        3, Parameters(1_000, 10_000, 11_000), bfloat16, forwards=4, ranks=3, recomputes=True
    ).gathered_bytes
    assert again == of[3].gathered_bytes * 3 // 2
