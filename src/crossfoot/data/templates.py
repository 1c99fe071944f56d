"""Prompt templates of sft: the words around an instruction. The answer follows, then the end token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, pairwise

ALPACA2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"


@dataclass(frozen=True)
class Template:
    """The words before an instruction, between it and its input (when there is one), and behind. marks:
    those by which a text can be known that was put into the template before. jinja: the same for a
    conversation, as transformers reads it from chat_template.jinja.
    """

    before: str
    between: str
    after: str
    marks: tuple[str, ...]
    jinja: str

    def __call__(self, instruction: str, extra_input: str) -> str:
        """The prompt."""
        return "".join(self._pieces(instruction, extra_input))

    def own_spans(self, instruction: str, extra_input: str) -> tuple[tuple[int, int], ...]:
        """Where the template's own words stand in the prompt; between them is data."""
        ends = accumulate(map(len, self._pieces(instruction, extra_input)), initial=0)
        return tuple(list(pairwise(ends))[::2])

    def chat_template(self, *, begins: bool) -> str:
        """The text of chat_template.jinja. begins: a text begins with the begin token, as every sample
        did.
        """
        return self.jinja if begins else self.jinja.replace("bos_token + ", "")

    def _pieces(self, instruction: str, extra_input: str) -> tuple[str, ...]:
        """Words and data in turn."""
        asked = (instruction, self.between, extra_input) if extra_input else (instruction,)
        return (self.before, *asked, self.after)


alpaca2 = Template(
    before=f"[INST] <<SYS>>\n{ALPACA2_SYSTEM}\n<</SYS>>\n\n",
    between="\n",
    after=" [/INST]",
    marks=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    jinja=(
        "{%- set told = messages[0]['role'] == 'system' -%}"
        f"{{%- set system = messages[0]['content'] if told else '{ALPACA2_SYSTEM}' -%}}"
        "{%- for message in (messages[1:] if told else messages) -%}"
        "{%- if message['role'] == 'user' -%}"
        "{{- bos_token + '[INST] ' -}}"
        "{%- if loop.first -%}{{- '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' -}}{%- endif -%}"
        "{{- message['content'] + ' [/INST]' -}}"
        "{%- elif message['role'] == 'assistant' -%}"
        "{{- ' ' + message['content'] + eos_token -}}"
        "{%- endif -%}"
        "{%- endfor -%}"
    ),
)
"""The prompt of Chinese-Alpaca-2: Llama-2's [INST] block, the input on a line of its own when there is one.

Source: scripts/training/build_dataset.py of ymcui/Chinese-LLaMA-Alpaca-2.
"""

TEMPLATES: Mapping[str, Template] = {"alpaca2": alpaca2}


def template_sha256(name: str) -> str:
    """Of the words of a template, with and without an input: two texts of one name are two templates."""
    template = TEMPLATES[name]
    return sha256("\0".join((template("\1", "\2"), template("\1", ""))).encode()).hexdigest()
