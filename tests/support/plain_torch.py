"""A run trained without any code of crossfoot's: plain torch, one unpadded sample at a time. What the loop is
held against.

Whatever both sides could get wrong together is written anew here: tokens, order, steps, rates, weights,
clipping, the rows of a grown table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from crossfoot.receipts.promised_slots import promised_slots, slots_of_steps

BEGIN, END, PIECES = 1, 2, 260
PROMPT = (
    "[INST] <<SYS>>\nYou are a helpful assistant. 你是一个乐于助人的助手。\n<</SYS>>\n\n{question} [/INST]"
)
_ALPHABET = {piece: 4 + number for number, piece in enumerate(sorted(ByteLevel.alphabet()))}
_SPLIT = ByteLevel(add_prefix_space=False, use_regex=False)

WORK_PER_TOKEN = 528
"""Of the model below: 16,896 weights, one layer of width 32."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sample:
    """Token ids; those from position `first_target` on are trained."""

    ids: tuple[int, ...]
    first_target: int

    @property
    def targets(self) -> int:
        return len(self.ids) - self.first_target


@dataclass(frozen=True)
class Step:
    """A step that was trained. samples: (epoch, id) in schedule order. loss: mean over its trained tokens.
    grad_norm: before clipping. after: every trained tensor.
    """

    samples: tuple[tuple[int, int], ...]
    rate: float
    loss: float
    grad_norm: float
    after: Tensors


def tiny_llama(folder: Path, rows: int = 256) -> Path:
    """One layer, hidden size 32, two heads on one key: 256 rows, so that its table must grow to the byte
    tokenizer's 260.
    """
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tokens(text: str) -> list[int]:
    """A byte, a token."""
    return [_ALPHABET[piece] for word, _ in _SPLIT.pre_tokenize_str(text) for piece in word]


def instructions(records: Sequence[dict[str, str]], max_seq_len: int) -> list[Sample]:
    """Of each record, question masked and answer trained."""
    found = []
    for record in records:
        prompt = [BEGIN, *tokens(PROMPT.format(question=record["instruction"]))]
        whole = [*prompt, *tokens(record["output"]), END]
        found.append(Sample(tuple(whole[:max_seq_len]), len(prompt)))
    return found


def blocks(records: Sequence[dict[str, str]], max_seq_len: int) -> list[Sample]:
    """Documents in one row, cut into blocks."""
    row = [token for record in records for token in (BEGIN, *tokens(record["text"]), END)]
    cut = [tuple(row[start : start + max_seq_len]) for start in range(0, len(row), max_seq_len)]
    return [Sample(ids, 1) for ids in cut if len(ids) > 1]


def steps_of(config: dict[str, Any], num_samples: int) -> list[list[tuple[int, int]]]:
    """(epoch, id) of every step, in the order of the epoch."""
    size, policy = config["batch"]["global_batch_size"], config["data"].get("last_step", "short")
    epochs, most = config["train"].get("epochs"), config["train"].get("max_steps")
    steps: list[list[tuple[int, int]]] = []
    row: list[tuple[int, int]] = []
    for epoch in range(epochs or 1 + most * size):
        words = np.random.Philox(key=np.array([config["run"]["seed"], epoch], dtype=np.uint64))
        order = sorted(enumerate(words.random_raw(num_samples).tolist()), key=lambda pair: pair[1])
        row += [(epoch, number) for number, _ in order]
        while len(row) >= size:
            steps.append(row[:size])
            row = row[size:]
        if row and policy == "short":
            steps.append(row)
        row = row if policy == "carry" else []
    return [*steps, *([row] if row else [])][:most]


def rate_of(config: dict[str, Any], step: int, total: int) -> float:
    """By the words of the manual: reference, rule, warm-up, shape."""
    lr = config["lr"]
    ratio = config["batch"]["global_batch_size"] / lr.get("reference_batch", 1)
    factor = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[lr.get("rule", "none")]
    peak, warmup = lr["reference"] * factor, lr.get("warmup_steps", 0)
    if step < warmup:
        return float(peak * (step + 1) / warmup)
    done = (step - warmup) / (total - warmup)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    decay = math.ceil(lr.get("decay_fraction", 0.0) * total)
    left["wsd"] = 1 - math.sqrt(max(0, step - (total - decay)) / max(1, decay))
    floor = lr.get("min_ratio", 0.0)
    return float(peak * (floor + (1 - floor) * left[lr.get("schedule", "cosine")]))


def ratio_of(config: dict[str, Any], name: str) -> float:
    """What the rate of a tensor is multiplied with, by its name."""
    own = [ratio for kind, ratio in config["lr"].get("groups", {}).items() if kind in name.split(".")]
    return own[0] if own else 1.0


def slots_of(config: dict[str, Any], ids: Sequence[int], samples: Sequence[Sample]) -> list[list[int]]:
    """The ids of every slot (forward f of rank r is number f x ranks + r), the longest samples first. Packed
    ones by the receipt's own dealing: what is looked at here is what becomes of them.
    """
    batch = config["batch"]
    cluster = config.get("cluster", {})
    ranks = cluster.get("num_nodes", 1) * cluster.get("gpus_per_node", 1)
    if config["data"].get("layout") != "padded":
        lengths = {number: len(samples[number].ids) for number in ids}
        dealing = SimpleNamespace(
            micro_batch_size=batch.get("micro_batch_size"),
            micro_batch_tokens=batch.get("micro_batch_tokens"),
            dealt_ranks=ranks,
            work_per_token=WORK_PER_TOKEN,
        )
        row, its_lengths = np.array([ids], dtype=np.int64), np.array([[lengths[number] for number in ids]])
        count = int(slots_of_steps(dealing, its_lengths)[0])
        slot = promised_slots(dealing, row, its_lengths, count)[0].tolist()
        longest_first = sorted(zip(ids, slot, strict=True), key=lambda place: (-lengths[place[0]], place[0]))
        return [[number for number, where in longest_first if where == this] for this in range(count)]
    forwards = -(-batch["global_batch_size"] // (ranks * batch["micro_batch_size"]))
    falling = sorted(ids, key=lambda number: -len(samples[number].ids))
    each, more = divmod(len(ids), ranks * forwards)
    sizes = [each + (slot < more) for slot in range(ranks * forwards)]
    return [[falling.pop(0) for _ in range(size)] for size in sizes]


def fresh_model(config: dict[str, Any]) -> Any:
    """The base with its table grown by rows of the mean, and fresh adapters where the config has some."""
    model = LlamaForCausalLM.from_pretrained(config["model"]["path"], dtype=torch.float32)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        old = table.weight.detach()
        mean = old.double().mean(dim=0, keepdim=True).float()
        table.weight = torch.nn.Parameter(torch.cat([old, mean.repeat(PIECES - len(old), 1)]))
    lora = config.get("lora")
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    rows = lora.get("trainable_token_indices", [])
    rows = list(range(256, PIECES)) if rows == "new" else rows
    wanted = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=0.0,
        use_rslora=lora.get("scaling") == "rslora",
        use_dora=lora.get("dora", False),
        init_lora_weights=lora.get("init", True),
        target_modules=lora["target_modules"],
        modules_to_save=lora.get("modules_to_save") or None,
        trainable_token_indices={name: rows for name in ("embed_tokens", "lm_head")} if rows else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["run"]["seed"])
        return get_peft_model(model, wanted)


def trained_of(model: Any) -> Tensors:
    """A copy of every trained tensor by its name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def loss_sum(model: Any, sample: Sample) -> torch.Tensor:
    """Summed cross entropy of the trained tokens of one sample."""
    ids = torch.tensor([sample.ids])
    chances = model(input_ids=ids).logits[0].log_softmax(dim=-1)
    places = torch.arange(sample.first_target, len(sample.ids))
    return -chances[places - 1, ids[0, places]].sum()


def mean_loss(model: Any, samples: Sequence[Sample]) -> float:
    """Mean cross entropy per trained token."""
    with torch.no_grad():
        total = sum(float(loss_sum(model, sample)) for sample in samples)
    return total / sum(sample.targets for sample in samples)


def train(model: Any, config: dict[str, Any], samples: Sequence[Sample]) -> Iterator[Step]:
    """The steps of the run; the weights are those after the step that was last taken."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    section = config["optimizer"]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(trained, lr=0.0)
    if section["name"] == "adamw":
        groups = [
            {
                "params": [parameter],
                "weight_decay": section["weight_decay"] if parameter.dim() >= 2 else 0.0,
                "ratio": ratio_of(config, name),
            }
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        batch = config["batch"]["global_batch_size"]
        power = batch / section.get("beta2_reference_batch", batch)
        betas = (section["betas"][0], section["betas"][1] ** power)
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=section["eps"], foreach=False)
    steps = steps_of(config, len(samples))
    for number, members in enumerate(steps):
        targets = sum(samples[sample].targets for _, sample in members)
        loss = 0.0
        for _, sample in members:
            one = loss_sum(model, samples[sample])
            (one / targets).backward()
            loss += float(one)
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in trained))
        limit = section.get("max_grad_norm", 1.0)
        if limit and norm > limit:
            for parameter in trained:
                parameter.grad *= limit / norm
        rate = rate_of(config, number, len(steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("ratio", 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield Step(tuple(members), rate, loss / targets, norm, trained_of(model))


def apart(real: Tensors, plain: Tensors, before: Tensors) -> dict[str, float]:
    """How far each tensor is from the plain one, beyond the rounding of its values, as a share of the step
    that it made.
    """
    assert real.keys() == plain.keys()
    shares = {}
    for name, value in plain.items():
        rounding = 4 * torch.finfo(torch.float32).eps * float(value.abs().max())
        differs = float((real[name] - value).abs().max())
        moved = float((value - before[name]).abs().max())
        shares[name] = differs / (moved or differs) if differs > rounding else 0.0
    return shares
