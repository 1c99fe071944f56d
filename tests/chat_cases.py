"""Conversations drawn by a seed, a tokenizer that knows the control tokens of six families, and templates
in their manner (templates/*.jinja).
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
FAMILIES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
CONTROL = (
    *("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|end|>"),
)
WORDS = (
    *(
        "the",
        "Weather",
        "in",
        "北京",
        "今天天气怎么样",
        "？",
        "。",
        "，请",
        "写一首诗",
        "naïve",
        "Ünder",
        "code:",
    ),
    *(
        "😀",
        "👩‍👩‍👧",
        "🇨🇳",
        "\t",
        "\n",
        "\n\n",
        "  ",
        "　",
        "\u00a0",
        "x = [1, 2]",
        "{{ braces }}",
        "{% if %}",
    ),
    *(
        "assistant",
        "user",
        "[INST]",
        "<<SYS>>",
        "it's",
        "1+1=2",
        "繁體",
        "русский",
        "العربية",
        "﷽",
        "e\u0301",
    ),
)


def sayings(draw: random.Random) -> str:
    """A text of some words, never blank."""
    said = draw.choice(("", " ")).join(draw.choice(WORDS) for _ in range(draw.randint(1, 12)))
    edge = draw.choice(("", "", " ", "\n"))
    return f"{edge}{said}{edge}" if said.strip() else "好"


def conversations(count: int, seed: int = 1) -> list[list[dict[str, str]]]:
    """Messages; a third of them begin with a system turn."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        turns = [{"role": "system", "content": sayings(draw)}] if draw.random() < 0.33 else []
        for _ in range(draw.randint(1, 4)):
            turns += [{"role": "user", "content": sayings(draw)}]
            turns += [{"role": "assistant", "content": sayings(draw)}]
        found.append(turns)
    return found


def without_marks(source: str) -> str:
    """The template with its marks taken out, and its blanks as they are."""
    opened = re.sub(r"\{%(-?) generation (-?)%\}", r"{%\1 if true \2%}", source)
    return re.sub(r"\{%(-?) endgeneration (-?)%\}", r"{%\1 endif \2%}", opened)


def chat_tokenizer(folder: Path, **settings: Any) -> str:
    """A byte-level BPE of a few hundred merges, in a folder as a hub has it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = [turn["content"] for one in conversations(60, seed=9) for turn in one]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    written = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        **settings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(written, ensure_ascii=False))
    return str(folder)
