"""The FLOPs of benchmarks/workload.py, counted by torch as a model of the same shape really runs."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from workload import SHAPES

RANK, TOKENS, TRAINED = 8, 48, 32


def test_matrix_products_are_those_that_a_step_computes() -> None:
    shape = replace(SHAPES["tiny"], vocab_size=512)
    llama = LlamaForCausalLM(LlamaConfig(**asdict(shape), tie_word_embeddings=False))
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tables = ["embed_tokens", "lm_head"]
    model = get_peft_model(llama, LoraConfig(r=RANK, target_modules=targets, modules_to_save=tables))
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(512, (1, TOKENS)), logits_to_keep=TRAINED).logits.sum().backward()
    counted = sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if str(op) in _PRODUCTS)
    needed = TOKENS * shape.flops_per_token(np.array([TOKENS]), TRAINED / TOKENS, RANK)
    attention = 6 * TOKENS**2 * shape.hidden_size * shape.num_hidden_layers
    assert counted == pytest.approx(needed - attention, rel=1e-9)


_PRODUCTS = ("aten.mm", "aten.addmm")
"""Attention is counted elsewhere, as if it were not causal."""
