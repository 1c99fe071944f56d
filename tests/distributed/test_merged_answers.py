"""A merged folder in plain transformers answers 100 prompts as base and adapter do by plain peft, and its
AutoTokenizer makes every id of the index; whatever the run was trained with, on two ranks of deepspeed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from crossfoot.cli import main
from crossfoot.index.store import open_index
from support.launching import (
    ROOT,
    WORDS,
    deepspeed,
    receipt,
    short_tokenizer,
    small_config,
    warm_ranks,
)

pytestmark = pytest.mark.distributed

PROMPTS = 100
MOST = 16
"""New tokens of an answer."""
ROWS, MORE_ROWS = 261, 320
"""Of a base whose tables must grow to the tokenizer, and of one that has room."""
NOTHING_STAYS_WHOLE = {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 0}
BFLOAT16 = {"model.dtype": "bfloat16"}
TABLES = "[embed_tokens, lm_head]"
Ids = list[int]


@dataclass(frozen=True)
class Kind:
    """How a run is trained. stage: of ZeRO. words: of the command line."""

    stage: int
    tied: bool = False
    rows: int = ROWS
    words: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Name of its base model's folder."""
        return f"base-{'tied' if self.tied else 'untied'}-{self.rows}"

    @property
    def dtype(self) -> torch.dtype:
        """Of its base in training."""
        return torch.bfloat16 if "bfloat16" in self.words.values() else torch.float32


SMALL = {
    "zero3 grown": Kind(3, words={"lora.scaling": "rslora"}),
    "bfloat16": Kind(2, words=BFLOAT16),
}
ALL = {
    **SMALL,
    "zero3 tied grown": Kind(3, tied=True),
    "zero3 bfloat16": Kind(3, words=BFLOAT16),
    "tied": Kind(1, tied=True, rows=MORE_ROWS),
    "untied": Kind(1, rows=MORE_ROWS),
    "nf4": Kind(2, words={**BFLOAT16, "model.quantization": "nf4"}),
    "zero3 texts": Kind(3, words={"data.task": "pretrain", "data.max_seq_len": "64"}),
    "zero3 answers after texts": Kind(
        3, words={"model.adapter_use": "merge", "lora.modules_to_save": "[]", "lr.reference": "0.02"}
    ),
}
"""The last one stands on the one before it."""


def write_data(folder: Path) -> list[str]:
    """100 questions, whose answer follows from a word in them, and texts of them; returns the questions."""
    draw = random.Random(4)
    answers = {word: " ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for word in WORDS}
    asked = [(f"{number} {word}", answers[word]) for number, word in enumerate(WORDS * PROMPTS, 1)][:PROMPTS]
    records = [{"instruction": question, "input": "", "output": answer} for question, answer in asked]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(" ".join(both) for both in asked) + "\n", encoding="utf-8")
    return [question for question, _ in asked]


def write_base(folder: Path, kind: Kind) -> None:
    """A small Llama in float32, cut into several files."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=kind.rows,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=kind.tied,
        initializer_range=0.1,  # so that a few steps of LoRA learn something
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="200kB")


class Merged:
    """Runs of some kinds, and what is merged of them."""

    def __init__(self, folder: Path, kinds: dict[str, Kind], launch: Callable[..., Any]) -> None:
        self.folder, self.kinds = folder, kinds
        self.questions = write_data(folder)
        tokenizer = short_tokenizer(folder)
        config = small_config(
            folder,
            batch={"micro_batch_size": 4, "global_batch_size": 8},
            cluster={"num_nodes": 1, "gpus_per_node": 2},
            tokenizer={"path": str(tokenizer)},
            lora={"r": 8, "alpha": 16},
            lr={"reference": 1e-2, "warmup_steps": 1},
            train={"max_steps": 80},
            checkpoint={"keep": 1},
        )
        jobs = []
        for name, kind in kinds.items():
            if not (base := folder / kind.base).exists():
                write_base(base, kind)
            shipped = json.loads((ROOT / "ds_configs" / f"zero{kind.stage}.json").read_text(encoding="utf-8"))
            shipped["zero_optimization"] |= NOTHING_STAYS_WHOLE if kind.stage == 3 else {}
            (folder / f"{name}.json").write_text(json.dumps(shipped), encoding="utf-8")
            words = {
                "run.dir": self.run_dir(name),
                "model.path": base,
                "deepspeed": folder / f"{name}.json",
                **kind.words,
            }
            if "data.task" in kind.words:
                words["data.train"] = f"[{folder / 'texts.txt'}]"
            if "model.adapter_use" in kind.words:
                words["model.adapter"] = self.run_dir("zero3 texts")
            overrides = [f"{key}={value}" for key, value in words.items()]
            jobs.append({"name": name, "config": str(config), "overrides": overrides})
        (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
        done = launch(2, ROOT / "tests" / "support" / "many_runs.py", folder / "jobs.json")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
        assert all(receipt(self.run_dir(name))["foots"] for name in kinds)

    def run_dir(self, name: str) -> Path:
        """Of a kind's run."""
        return self.folder / "runs" / name

    def out(self, name: str, *words: str) -> Path:
        """The merged folder, made by the verb."""
        out = self.folder / "-".join(["merged", name, *words])
        if not out.exists():
            assert main(["merge", str(self.run_dir(name)), str(out), *words]) == 0
        return out

    def unmerged(self, name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
        """The base alone, and the base under the run's adapter, by peft; both compute in float32."""
        kind = self.kinds[name]
        base, under = (
            AutoModelForCausalLM.from_pretrained(self.folder / kind.base, dtype=kind.dtype).float()
            for _ in range(2)
        )
        adapters = [self.run_dir(name) / "adapter"]
        if "model.adapter_use" in kind.words:
            adapters.insert(0, self.run_dir("zero3 texts") / "adapter")
        rows = len(AutoTokenizer.from_pretrained(self.out(name)))
        if rows > kind.rows:
            for model in (base, under):
                model.resize_token_embeddings(rows, mean_resizing=False)
        for adapter in adapters[:-1]:
            under = PeftModel.from_pretrained(under, adapter).merge_and_unload()
        return base, PeftModel.from_pretrained(under, adapters[-1])

    @property
    def asked(self) -> list[str]:
        """The kinds that were trained to answer."""
        return [name for name, kind in self.kinds.items() if "data.task" not in kind.words]

    def loaded(self, out: Path) -> tuple[Any, list[Ids], int]:
        """A merged folder in plain transformers: the model, the questions by its template, the end token."""
        tokenizer = AutoTokenizer.from_pretrained(out)
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
            )
            for question in self.questions
        ]
        return AutoModelForCausalLM.from_pretrained(out), prompts, tokenizer.eos_token_id


def answers(model: torch.nn.Module, prompts: Sequence[Ids], end: int) -> list[Ids]:
    """Greedy; prompts of one length together, so that nothing is padded."""
    said: dict[int, Ids] = {}
    for length in {len(ids) for ids in prompts}:
        some = [number for number, ids in enumerate(prompts) if len(ids) == length]
        asked = torch.tensor([prompts[number] for number in some])
        words: dict[str, Any] = {"do_sample": False, "max_new_tokens": MOST, "eos_token_id": end}
        with torch.no_grad():
            found = model.eval().generate(
                input_ids=asked, attention_mask=torch.ones_like(asked), pad_token_id=end, **words
            )
        for number, ids in zip(some, found[:, length:].tolist(), strict=True):
            said[number] = ids[: ids.index(end)] if end in ids else ids
    return [said[number] for number in range(len(prompts))]


def end_tokens(model: Any) -> Sequence[int]:
    """At which its folder says that an answer ends."""
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((SMALL, warm_ranks), id="small"),
        pytest.param((ALL, deepspeed), id="all", marks=pytest.mark.slow),
    ],
)
def merged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """All kinds are started by the real launcher."""
    return Merged(tmp_path_factory.mktemp("merged"), *request.param)


def test_all_prompts_are_answered_alike(merged: Merged) -> None:
    """In float32; what 16 bits change is shown apart."""
    for name in merged.asked:
        out = merged.out(name, "--dtype", "float32")
        model, prompts, end = merged.loaded(out)
        base, under = merged.unmerged(name)
        wanted = answers(under, prompts, end)
        assert answers(model, prompts, end) == wanted, name
        assert model.dtype == torch.float32 and end in end_tokens(model)
        before = answers(base, prompts, end)
        assert sum(one != other for one, other in zip(wanted, before, strict=True)) > 0.9 * PROMPTS, name
        assert len({tuple(ids) for ids in wanted}) >= 10, "a wrong merge would hardly show"


def test_sixteen_bits_answer_alike_too(merged: Merged) -> None:
    """The numbers are rounded once more; these answers are sure enough to stay."""
    for name in merged.asked:
        if merged.kinds[name].dtype == torch.float32:
            continue
        model, prompts, end = merged.loaded(merged.out(name))
        assert model.dtype == torch.bfloat16
        _, under = merged.unmerged(name)
        found, wanted = answers(model.float(), prompts, end), answers(under, prompts, end)
        assert found == wanted, name


def test_auto_tokenizer_makes_every_id_of_the_index(merged: Merged) -> None:
    for name, kind in merged.kinds.items():
        lock = json.loads((merged.run_dir(name) / "plan.lock.json").read_text(encoding="utf-8"))
        index = open_index(str(merged.folder / "index" / lock["index"]["address"]))
        tokenizer = AutoTokenizer.from_pretrained(merged.out(name))
        if "data.task" in kind.words:
            texts = (merged.folder / "texts.txt").read_text(encoding="utf-8").splitlines()
            ids = [id for text in texts for id in [*tokenizer(text).input_ids, tokenizer.eos_token_id]]
            assert index.tokens[:].tolist() == ids[: len(index.tokens)]
            continue
        lines = (merged.folder / "data.jsonl").read_text(encoding="utf-8").splitlines()
        for number, record in enumerate(map(json.loads, lines)):
            turns = [
                {"role": "user", "content": record["instruction"]},
                {"role": "assistant", "content": record["output"]},
            ]
            said = tokenizer.apply_chat_template(turns, return_dict=False)
            assert said == index.sample(number)[0].tolist(), (name, record)
        assert index.num_samples == len(lines) == PROMPTS
