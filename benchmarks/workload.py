"""The work that every stack is given: a Llama's shape, samples of heavy-tailed lengths, the files of both.

A tokenizer of whole words makes one token of each word, so a text has as many tokens as it is written with.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

VOCABULARY = 55_296
"""Rows of the embedding tables: Chinese-LLaMA-2's."""
PADDING = 0
"""Token id of padding alone: whatever else a forward is given is a real token."""
LONGEST = 512
MEDIAN_TOKENS, P90_TOKENS = 117, 352
TEMPLATE_TOKENS = 18
"""Of alpaca2 around an instruction, with the begin token and the end token."""
PROMPT_SHARE = 0.3
SAMPLES_PER_STEP = 8


@dataclass(frozen=True)
class Shape:
    """A Llama's, in its config's words."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int = VOCABULARY

    @property
    def linear_weights(self) -> int:
        """Numbers in the matrices of all layers, embedding and head apart."""
        each = 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size
        return self.num_hidden_layers * each

    def adapter_weights(self, rank: int) -> int:
        """Numbers in LoRA's A and B on all seven matrices of every layer."""
        widths = 4 * 2 * self.hidden_size + 3 * (self.hidden_size + self.intermediate_size)
        return self.num_hidden_layers * rank * widths

    def flops_per_token(self, lengths: np.ndarray, trained_share: float, rank: int = 64) -> float:
        """Needed for one real token on average, forward and backward: LoRA on all seven matrices, both tables
        trained, nothing computed twice, no padding. lengths: of the samples; trained_share: of their tokens.

        A frozen matrix costs 2 FLOPs a number forward and 2 backward (its input's gradient); a trained one 2
        and 4. Causal attention costs 2 L^2 x width a layer forward (scores and values, half of each square),
        and twice that backward. The head is needed for trained tokens alone. Norms and activations are not
        counted.
        """
        squares = float(np.mean(lengths.astype(np.float64) ** 2) / np.mean(lengths))
        attention = 3 * 2 * squares * self.hidden_size * self.num_hidden_layers
        head = 6 * self.vocab_size * self.hidden_size * trained_share
        return 4 * self.linear_weights + 6 * self.adapter_weights(rank) + attention + head


SHAPES = {
    "tiny": Shape(64, 176, 2, 4),
    "S": Shape(512, 1376, 8, 8),
    "M": Shape(768, 2048, 16, 12),
    "7B": Shape(4096, 11008, 32, 32),
}


def sample_lengths(count: int, seed: int = 7) -> np.ndarray:
    """int64 [count]: log-normal between the template's and LONGEST, median 117, mean 158, 90 % below 352.

    Of every eight in a row one is from each eighth of the distribution, in random order: steps hold about as
    many tokens, and a few of them say as much as many.
    """
    draw = np.random.Generator(np.random.Philox(seed))
    eighths = np.stack([draw.permutation(SAMPLES_PER_STEP) for _ in range(-(-count // SAMPLES_PER_STEP))])
    shares = (eighths.ravel()[:count] + draw.random(count)) / SAMPLES_PER_STEP
    spread = np.log(P90_TOKENS / MEDIAN_TOKENS) / NormalDist().inv_cdf(0.9)
    lengths = np.exp(
        np.log(MEDIAN_TOKENS) + spread * np.array([NormalDist().inv_cdf(share) for share in shares])
    )
    whole: np.ndarray = np.clip(np.rint(lengths), TEMPLATE_TOKENS + 6, LONGEST).astype(np.int64)
    return whole


def write_work(folder: Path, shape: Shape, order: np.ndarray) -> None:
    """sft.jsonl, pretrain.jsonl and the model's folder with a tokenizer. No torch, no weights.

    order: of training, so that a step of it holds samples whose lengths follow each other.
    """
    count = len(order)
    lengths = np.empty(count, dtype=np.int64)
    lengths[order] = sample_lengths(count)
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.Generator(np.random.Philox(11))
    with (folder / "sft.jsonl").open("w", encoding="utf-8") as file:
        for length in lengths.tolist():
            words = [f"w{word}" for word in draw.integers(300, VOCABULARY, size=length - TEMPLATE_TOKENS)]
            asked = max(1, round(PROMPT_SHARE * length) - TEMPLATE_TOKENS + 1)
            record = {"instruction": " ".join(words[:asked]), "input": "", "output": " ".join(words[asked:])}
            file.write(json.dumps(record) + "\n")
    with (folder / "pretrain.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(count):
            text = " ".join(f"w{word}" for word in draw.integers(300, VOCABULARY, size=LONGEST - 2))
            file.write(json.dumps({"text": text}) + "\n")
    _write_tokenizer(folder / "model")
    config = {
        **asdict(shape),
        "num_key_value_heads": shape.num_attention_heads,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": PADDING,
        "torch_dtype": "float32",
    }
    (folder / "model" / "config.json").write_text(json.dumps(config, indent=1))


def write_holes(file: Path, shape: Shape) -> None:
    """A safetensors file of a Llama whose values take no space on a disk: enough for who reads headers."""
    wide, inner = shape.hidden_size, shape.intermediate_size
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shape.vocab_size, wide),
        "lm_head.weight": (shape.vocab_size, wide),
    }
    tensors["model.norm.weight"] = (wide,)
    for layer in range(shape.num_hidden_layers):
        parts: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj": (wide, wide) for name in "qkvo"}
        parts |= {
            "mlp.gate_proj": (inner, wide),
            "mlp.up_proj": (inner, wide),
            "mlp.down_proj": (wide, inner),
        }
        parts |= {"input_layernorm": (wide,), "post_attention_layernorm": (wide,)}
        tensors |= {f"model.layers.{layer}.{name}.weight": size for name, size in parts.items()}
    header, end = {}, 0
    for name, size in tensors.items():
        begin, end = end, end + 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    words = {"<pad>": PADDING, "<s>": 1, "</s>": 2, "<unk>": 3}
    words |= {f"w{number}": number for number in range(4, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named: dict[str, object] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    named |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(named, indent=1))
