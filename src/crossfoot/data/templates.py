"""Prompt templates of sft: the words around an instruction. The answer follows, then the end token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256

ALPACA2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"


def alpaca2(instruction: str, extra_input: str) -> str:
    """The prompt of Chinese-Alpaca-2: Llama-2's [INST] block, the input on a line of its own when there is
    one.

    Source: scripts/training/build_dataset.py of ymcui/Chinese-LLaMA-Alpaca-2.
    """
    asked = f"{instruction}\n{extra_input}" if extra_input else instruction
    return f"[INST] <<SYS>>\n{ALPACA2_SYSTEM}\n<</SYS>>\n\n{asked} [/INST]"


TEMPLATES: Mapping[str, Callable[[str, str], str]] = {"alpaca2": alpaca2}


def template_sha256(name: str) -> str:
    """Of the words of a template, with and without an input: two texts of one name are two templates."""
    template = TEMPLATES[name]
    return sha256("\0".join((template("\1", "\2"), template("\1", ""))).encode()).hexdigest()
