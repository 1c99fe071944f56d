"""What a run saves is whole, loads in plain PEFT or transformers, and is the model that was trained: under
every ZeRO stage, offloaded to the CPU, and on one process; all of them save the same model.

The sizes are odd on purpose: two ranks divide none of them. ZeRO-3 keeps no small parameter whole, as it
would by default with a model as small as this one.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from support.launching import (
    ROOT,
    ledger,
    plain,
    receipt,
    short_tokenizer,
    small_config,
    warm_ranks,
    write_samples,
)
from support.seen_runs import answer

pytestmark = pytest.mark.distributed

CLOSE = 1e-5
"""Of logits, absolute; they are about 1 in size."""
MERGED_BFLOAT16 = 0.05
"""Merging rounds W + BA to bfloat16 once more."""
LAYERS, HIDDEN, HEADS, HEAD, INNER, ROWS, R = 2, 35, 5, 6, 33, 261, 5
LINEAR = {
    **{f"self_attn.{name}_proj": (HEADS * HEAD, HIDDEN) for name in "qkv"},
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
"""(rows, columns) of every linear module of a layer."""
CPU = {"device": "cpu"}
NOTHING_STAYS_WHOLE = {
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
}
ZERO: dict[str, dict[str, Any]] = {
    "zero0": {"stage": 0},
    "zero1-offload": {"stage": 1, "offload_optimizer": CPU},
    "zero2": {"stage": 2},
    "zero2-offload": {"stage": 2, "offload_optimizer": CPU},
    "zero3": {"stage": 3, **NOTHING_STAYS_WHOLE},
    "zero3-offload": {"stage": 3, **NOTHING_STAYS_WHOLE, "offload_param": CPU, "offload_optimizer": CPU},
    "zero3-default": {"stage": 3},
}
"""Two ranks each; "accelerate" is one process beside them."""
TABLES = "[embed_tokens, lm_head]"
KINDS: dict[str, dict[str, str]] = {
    "tables": {"lora.modules_to_save": TABLES},
    "only-lora": {"lora.modules_to_save": "[]"},
    "pissa": {"lora.modules_to_save": "[]", "lora.init": "pissa"},
    "rows": {"lora.modules_to_save": "[]", "lora.trainable_token_indices": "[3, 200-259]"},
    "tied-rows": {"lora.modules_to_save": "[]", "lora.trainable_token_indices": "[3, 200-259]"},
    "tied": {"lora.modules_to_save": TABLES},
    "tied-only-lora": {"lora.modules_to_save": "[]"},
    "grown": {"lora.modules_to_save": TABLES},
    "bfloat16": {"lora.modules_to_save": TABLES, "model.dtype": "bfloat16"},
    "full": {"lora": "null"},
    "full-tied": {"lora": "null"},
}
Cell = tuple[str, str]
"""(kind, topology)."""
QUICK: tuple[Cell, ...] = (
    ("tables", "zero0"),
    ("tables", "zero3-offload"),
    ("pissa", "zero3"),
    ("full", "zero3-offload"),
    ("bfloat16", "zero2-offload"),
)
ALL: tuple[Cell, ...] = (
    *(
        (kind, topology)
        for kind, topology in itertools.product(KINDS, ("accelerate", *ZERO))
        if kind != "bfloat16" and not (kind.endswith("rows") and topology.startswith("zero3"))
    ),
    *(("bfloat16", topology) for topology in ZERO if topology != "zero0"),
)


def write_base(folder: Path, tied: bool) -> None:
    """A tiny Llama, for the built-in tokenizer."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        head_dim=HEAD,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


class Saved:
    """The runs of some cells, in one folder."""

    def __init__(self, folder: Path, cells: tuple[Cell, ...]) -> None:
        self.folder, self.cells = folder, cells
        self.tokenizer = short_tokenizer(folder)
        write_samples(folder / "data.jsonl", 18)
        for tied in (False, True):
            write_base(folder / f"base-{'tied' if tied else 'untied'}", tied)
        for name, block in ZERO.items():
            values = {"zero_optimization": {**block, "reduce_bucket_size": 50_000}}
            (folder / f"{name}.json").write_text(json.dumps(values))
        self.config = small_config(
            folder,
            batch={"micro_batch_size": 1},  # four forwards a step on each of two ranks
            cluster={"num_nodes": 1, "gpus_per_node": 2},
            lora={"r": R, "alpha": 10},
            lr={"reference": 1e-2, "warmup_steps": 1},
            # A large eps: Adam would make a full step out of the rounding of a gradient that is nearly zero.
            optimizer={"eps": 1e-4, "weight_decay": 0.1},
            train={"max_steps": 4},
        )
        for ranks in (1, 2):
            mine = [cell for cell in cells if (cell[1] == "accelerate") is (ranks == 1)]
            if mine:
                self.launch(ranks, [self.job(cell) for cell in mine])

    def launch(self, ranks: int, entries: list[dict[str, Any]]) -> None:
        """Run jobs in one set of ranks; every one ends with 0."""
        jobs = self.folder / f"jobs{ranks}.json"
        jobs.write_text(json.dumps(entries))
        script = ROOT / "tests" / "support" / "seen_runs.py"
        done = warm_ranks(ranks, script, jobs) if ranks > 1 else plain(script, jobs)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
        codes = json.loads(jobs.with_suffix(".codes.json").read_text())
        honest = {code for name, code in codes.items() if "never happened" not in name}
        assert honest == {0}, codes  # a step that was not even tried does not foot

    def job(self, cell: Cell, **more: str) -> dict[str, Any]:
        """The entry of a cell."""
        kind, topology = cell
        words = {
            "run.dir": self.run_dir(cell),
            "run.name": "-".join(cell),
            "model.path": self.base(cell),
            "tokenizer": json.dumps({"path": str(self.tokenizer) if kind == "grown" else "builtin:tiny"}),
            **KINDS[kind],
        }
        words |= more
        if topology != "accelerate":
            words["deepspeed"] = self.folder / f"{topology}.json"
        overrides = [f"{key}={value}" for key, value in words.items()]
        return {"name": "-".join(cell), "config": str(self.config), "overrides": overrides}

    def run_dir(self, cell: Cell) -> Path:
        """Of a cell's run."""
        return self.folder / "-".join(cell)

    def base(self, cell: Cell) -> Path:
        """What it began with."""
        return self.folder / ("base-tied" if "tied" in cell[0] else "base-untied")

    def seen(self, cell: Cell, what: str, rank: int = 0) -> np.ndarray:
        """Of the model in the run, when it was saved: its "logits", the names of "empty" parameters."""
        with np.load(self.run_dir(cell) / f"seen-rank{rank}.npz") as file:
            return file[what]

    def expected(self, cell: Cell) -> dict[str, tuple[int, ...]]:
        """Every tensor that was trained, by its name in the file, with its shape."""
        kind = cell[0]
        linear = {
            f"model.layers.{layer}.{name}": shape
            for layer, (name, shape) in itertools.product(range(LAYERS), LINEAR.items())
        }
        rows = Tokenizer.from_file(str(self.tokenizer / "tokenizer.json")).get_vocab_size()
        table = (rows if kind == "grown" else ROWS, HIDDEN)
        if not kind.startswith("full"):
            r = 2 * R if kind == "pissa" else R
            a = {f"base_model.model.{name}.lora_A.weight": (r, shape[1]) for name, shape in linear.items()}
            b = {f"base_model.model.{name}.lora_B.weight": (shape[0], r) for name, shape in linear.items()}
            tables = () if "[]" in KINDS[kind]["lora.modules_to_save"] else ("model.embed_tokens", "lm_head")
            if kind.endswith("rows"):
                delta = "token_adapter.trainable_tokens_delta"
                trained = (
                    ("model.embed_tokens",) if kind == "tied-rows" else ("model.embed_tokens", "lm_head")
                )
                return {**a, **b, **{f"base_model.model.{name}.{delta}": (61, HIDDEN) for name in trained}}
            return {**a, **b, **{f"base_model.model.{name}.weight": table for name in tables}}
        norms = ("input_layernorm", "post_attention_layernorm")
        vectors = [f"model.layers.{layer}.{name}" for layer in range(LAYERS) for name in norms]
        tables = ("model.embed_tokens", "lm_head") if "tied" not in kind else ("model.embed_tokens",)
        shapes = {
            **linear,
            **dict.fromkeys((*vectors, "model.norm"), (HIDDEN,)),
            **dict.fromkeys(tables, table),
        }
        return {f"{name}.weight": shape for name, shape in shapes.items()}

    def tensors(self, cell: Cell) -> dict[str, torch.Tensor]:
        """What was saved."""
        what = "model/model" if cell[0].startswith("full") else "adapter/adapter_model"
        return load_file(self.run_dir(cell) / f"{what}.safetensors")


@pytest.fixture(
    scope="module",
    params=[pytest.param(QUICK, id="quick"), pytest.param(ALL, id="all", marks=pytest.mark.slow)],
)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("saved"), request.param)


def far(saved: Saved, cell: Cell, model: torch.nn.Module) -> float:
    """How far a model's logits are from those of the model that was trained."""
    return float(np.abs(answer(model) - saved.seen(cell, "logits")).max())


def by_hand(base: Path, adapter: Path, **words: Any) -> PeftModel:
    """Plain PEFT; what it only warns of is a failure."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=words.pop("dtype", torch.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = PeftModel.from_pretrained(model, adapter, **words)
    told = set_peft_model_state_dict(loaded, load_peft_weights(str(adapter)))
    assert told.unexpected_keys == []
    assert [name for name in told.missing_keys if "lora_" in name or "modules_to_save" in name] == []
    return loaded


def as_its_page_says(adapter: Path) -> PeftModel:
    """By the words of the README beside the adapter."""
    (code,) = re.findall(r"```python\n(.*?)```", (adapter / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"FOLDER": str(adapter)}
    exec(code, names)
    return names["model"]


def test_every_receipt_foots(saved: Saved) -> None:
    for cell in saved.cells:
        assert receipt(saved.run_dir(cell))["foots"] is True, cell


def test_every_trained_tensor_is_in_the_file_whole(saved: Saved) -> None:
    for cell in saved.cells:
        found = {name: tuple(tensor.shape) for name, tensor in saved.tensors(cell).items()}
        assert found == saved.expected(cell), cell
        dtype = torch.bfloat16 if cell[0] == "bfloat16" else torch.float32
        assert {tensor.dtype for tensor in saved.tensors(cell).values()} == {dtype}, cell


def test_the_runs_were_divided_and_offloaded_as_told(saved: Saved) -> None:
    for cell in saved.cells:
        kind, topology = cell
        is_parted = topology in ("zero3", "zero3-offload")
        shared = 1 if kind == "tied" else 0  # two names in the file, one parameter
        offloaded = [what for what in ("optimizer", "param") if f"offload_{what}" in ZERO.get(topology, {})]
        for rank in (0,) if topology == "accelerate" else (0, 1):
            empty = len(saved.seen(cell, "empty", rank))
            assert empty == (len(saved.expected(cell)) - shared if is_parted else 0), cell
            assert list(saved.seen(cell, "offloaded", rank)) == offloaded, cell


def test_the_adapter_in_plain_peft_and_merged_is_the_trained_model(saved: Saved, tmp_path: Path) -> None:
    worst = dict.fromkeys(("plain", "page", "merged", "merged and loaded"), 0.0)
    for cell in saved.cells:
        if cell[0].startswith(("full", "bfloat16")):
            continue
        adapter = saved.run_dir(cell) / "adapter"
        model = as_its_page_says(adapter)
        found = {"page": far(saved, cell, model)}
        if cell[0] != "grown":  # there its base must grow first, as the page says
            found["plain"] = far(saved, cell, by_hand(saved.base(cell), adapter))
        merged = model.merge_and_unload()
        found["merged"] = far(saved, cell, merged)
        merged.save_pretrained(tmp_path / "-".join(cell))
        found["merged and loaded"] = far(saved, cell, complete(tmp_path / "-".join(cell)))
        for way, distance in found.items():
            assert distance <= CLOSE, (cell, way)
            worst[way] = max(worst[way], distance)
        untrained = AutoModelForCausalLM.from_pretrained(saved.base(cell))
        assert np.abs(answer(untrained) - saved.seen(cell, "logits")[..., :ROWS]).max() > 1e-2, cell
    print("largest difference of logits:", {way: f"{distance:.1e}" for way, distance in worst.items()})


def test_a_bfloat16_adapter_is_the_trained_model(saved: Saved) -> None:
    """Bit for bit as it is; merged, to bfloat16."""
    worst = 0.0
    for cell in saved.cells:
        if cell[0] == "bfloat16":
            adapter = saved.run_dir(cell) / "adapter"
            model = by_hand(saved.base(cell), adapter, dtype=torch.bfloat16, autocast_adapter_dtype=False)
            assert far(saved, cell, model) == 0, cell
            worst = max(worst, far(saved, cell, model.merge_and_unload()))
            assert worst < MERGED_BFLOAT16
    print(f"largest difference of logits, merged: {worst:.1e}")


def complete(folder: Path) -> torch.nn.Module:
    """By plain transformers, with nothing missing or left over."""
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert not told["mismatched_keys"]
    return model


def test_the_fully_trained_model_in_plain_transformers_is_the_trained_model(saved: Saved) -> None:
    worst = 0.0
    for cell in saved.cells:
        if cell[0].startswith("full"):
            model = complete(saved.run_dir(cell) / "model")
            worst = max(worst, far(saved, cell, model))
            assert worst <= CLOSE, cell
            is_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
            assert is_tied is ("tied" in cell[0])
    print(f"largest difference of logits: {worst:.1e}")


def relative(saved: Saved, cell: Cell, other: Cell, number: str) -> float:
    """The largest relative difference of a number of two ledgers."""
    lines = zip(ledger(saved.run_dir(cell)), ledger(saved.run_dir(other)), strict=True)
    return max(abs(mine[number] / its[number] - 1) for mine, its in lines)


def test_all_topologies_train_and_save_the_same(saved: Saved) -> None:
    worst = dict.fromkeys(("tensors", "logits", "losses", "norms"), 0.0)
    for kind in KINDS:
        cells = [cell for cell in saved.cells if cell[0] == kind != "bfloat16"]
        for cell in cells[1:]:
            mine, first = saved.tensors(cell), saved.tensors(cells[0])
            found = {
                "tensors": max(float((mine[name] - first[name]).abs().max()) for name in first),
                "logits": float(np.abs(saved.seen(cell, "logits") - saved.seen(cells[0], "logits")).max()),
                "losses": relative(saved, cell, cells[0], "loss"),
                "norms": relative(saved, cell, cells[0], "grad_norm"),
            }
            for what, distance in found.items():
                assert distance <= CLOSE, (cell, what)
                worst[what] = max(worst[what], distance)
            assert np.abs(saved.seen(cell, "logits", rank=1) - saved.seen(cell, "logits")).max() <= CLOSE
    print("largest difference:", {what: f"{distance:.1e}" for what, distance in worst.items()})


def test_a_tensor_lost_or_spoiled_would_show(saved: Saved, tmp_path: Path) -> None:
    """What this file measures sees every single tensor of the adapter."""
    cell = saved.cells[0]
    model = by_hand(saved.base(cell), saved.run_dir(cell) / "adapter")
    seen = 0
    for name, parameter in model.named_parameters():
        if "lora_" in name or ".modules_to_save." in name:
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.zero_()
            assert far(saved, cell, model) > 10 * CLOSE, name
            with torch.no_grad():
                parameter.copy_(kept)
            seen += 1
    assert seen == len(saved.expected(cell))
    assert far(saved, cell, model) <= CLOSE
    spoiled = tmp_path / "adapter"
    shutil.copytree(saved.run_dir(cell) / "adapter", spoiled)
    tensors = saved.tensors(cell)
    del tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    save_file(tensors, spoiled / "adapter_model.safetensors")
    with pytest.raises(UserWarning, match="missing adapter keys"):
        by_hand(saved.base(cell), spoiled)


@pytest.mark.slow
def test_offloaded_a_step_that_is_left_out_leaves_nothing_behind(tmp_path: Path) -> None:
    """DeepSpeed 0.19.8 kept the gradients of such a step for all later ones (ZeRO 1 and 2, bfloat16)."""
    lab, told = Saved(tmp_path, ()), {"faults.nonfinite": "skip"}
    cells = [(kind, name) for kind in ("tables", "bfloat16") for name in ZERO if "offload" in name]
    jobs, pairs = [], []
    for cell in cells:
        folders = [f"{'-'.join(cell)}, {fault}" for fault in ("gradient is nan", "never happened")]
        for folder in folders:
            job = lab.job(cell, **told, **{"run.dir": str(tmp_path / folder)})
            jobs.append({**job, "name": folder, "fault": folder.partition(", ")[2]})
        pairs.append(folders)
    lab.launch(2, jobs)
    for struck, spared in pairs:
        assert [line["applied"] for line in ledger(tmp_path / struck)] == [True, True, False, True], struck
        found, wanted = (
            load_file(tmp_path / folder / "adapter" / "adapter_model.safetensors")
            for folder in (struck, spared)
        )
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), struck
