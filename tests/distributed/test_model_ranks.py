"""Loading, preparing and saving on two ranks under ZeRO 0, 2 and 3, against one process."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from crossfoot.models.adapt import load_adapter, prepare_training
from crossfoot.models.load import load_model
from crossfoot.written.config import Config
from support.launching import warm_ranks

WORKER = Path(__file__).with_name("model_worker.py")
TOKENS = torch.arange(1, 13).reshape(1, -1)
STAGES = (0, 2, 3)
KINDS: dict[str, dict[str, Any]] = {
    "untied": {"tied": False, "modules_to_save": ["embed_tokens", "lm_head"], "vocabulary": 70},
    "tied": {"tied": True, "modules_to_save": ["lm_head"], "vocabulary": 70},
    "dora": {"tied": False, "modules_to_save": [], "dora": True, "target_modules": "all-linear"},
    "merged": {"tied": True, "modules_to_save": [], "adapter": {"use_dora": True}},
    "continued": {"tied": False, "modules_to_save": ["embed_tokens", "lm_head"], "vocabulary": 70}
    | {"adapter": {"modules_to_save": ["embed_tokens", "lm_head"]}},
    "checkpointing": {"tied": False, "modules_to_save": [], "gradient_checkpointing": True},
    "bfloat16": {"tied": True, "modules_to_save": ["embed_tokens"], "vocabulary": 71, "dtype": "bfloat16"},
    "full": {"tied": True, "modules_to_save": None, "vocabulary": 70},
}


def write_base(folder: Path, layers: int = 2, hidden: int = 32, **changes: Any) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        **changes,
    )
    # bfloat16 on disk, so that float32 weights are memory of our own and not pages of the mapped file
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


def write_adapter(folder: Path, base: str, rows: int, **words: Any) -> str:
    """An adapter that peft made, with random matrices."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(rows, mean_resizing=False)
    targets = ["q_proj", "v_proj"]
    wanted = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets, **words)
    model = get_peft_model(model, wanted)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(str(folder))
    return str(folder)


def case_of(kind: str, bases: dict[bool, str]) -> dict[str, Any]:
    case = dict(KINDS[kind])
    saved = case.pop("modules_to_save")
    lora = {"r": 4, "alpha": 8.0, "target_modules": ["q_proj", "v_proj"], "modules_to_save": saved}
    lora |= {key: case.pop(key) for key in ("dora", "target_modules") if key in case}
    base = bases[case.pop("tied")]
    if "adapter" in case:
        folder = Path(base).with_name(f"adapter-{kind}")
        case["adapter"] = write_adapter(folder, base, case.get("vocabulary", 61), **case["adapter"])
        case["adapter_use"] = {"merged": "merge", "continued": "continue"}[kind]
    return {**case, "base": base, "lora": lora if saved is not None else None}


def on_two_ranks(cases: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """What ranks 0 and 1 saw, case by case."""
    (folder / "cases.json").write_text(json.dumps(cases))
    done = warm_ranks(2, WORKER, folder / "cases.json", folder)
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Any]:
    """(kind, stage) -> (case, rank 0's sight, rank 1's sight): one start of two ranks for all."""
    folder = tmp_path_factory.mktemp("ranks")
    bases = {tied: write_base(folder / str(tied), tie_word_embeddings=tied) for tied in (False, True)}
    wanted = [(kind, stage) for stage in STAGES for kind in KINDS]
    kinds = {kind: case_of(kind, bases) for kind in KINDS}
    cases = [
        {**kinds[kind], "stage": stage, "save": str(folder / f"{kind}-{stage}")} for kind, stage in wanted
    ]
    ranks = on_two_ranks(cases, folder)
    return {key: (cases[i], ranks[0][i], ranks[1][i]) for i, key in enumerate(wanted)}


def alone(case: dict[str, Any]) -> dict[str, str]:
    """sha256 of every trained tensor as one process without DeepSpeed begins."""
    config = Config.model_validate(
        {
            "run": {"name": "t", "seed": 7},
            "model": {
                "path": case["base"],
                "dtype": case.get("dtype", "float32"),
                "adapter": case.get("adapter"),
                "adapter_use": case.get("adapter_use", "continue"),
            },
            "data": {"train": ["x.jsonl"]},
            "batch": {},
            "lr": {"reference": 1e-2},
            "lora": case["lora"],
            "train": {"max_steps": 1},
        }
    )
    loaded = load_model(
        config,
        case["base"],
        vocabulary=case.get("vocabulary", 0),
        zero_stage=0,
        deepspeed_config=None,
        report=print,
    )
    model = prepare_training(config, loaded, print)
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            values = parameter.detach().float().contiguous()
            found[name] = hashlib.sha256(values.numpy().tobytes() + str(values.shape).encode()).hexdigest()
    return found


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_ranks_and_stages_begin_bitwise_as_one_process(results: Any, kind: str, stage: int) -> None:
    case, first, second = results[kind, stage]
    expected = alone(case)
    assert expected
    assert first["start"] == expected
    assert second["start"] == expected
    rows = case.get("vocabulary", 61)
    assert (first["rows"], first["vocab_size"]) == ([rows, rows], rows)
    assert first["new_rows_are_mean"] or case.get("dtype") == "bfloat16" or "adapter" in case
    assert any(line.startswith("vocabulary grown 61") for line in first["said"]) is ("vocabulary" in case)


@pytest.mark.parametrize("kind", KINDS)
def test_stages_agree_on_losses_counts_and_groups(results: Any, kind: str) -> None:
    is_half = kind == "bfloat16"
    # DeepSpeed 0.19.8 at stage 0 in bfloat16 makes one Adam step with zero gradients when it starts
    # (FP16_UnfusedOptimizer.initialize_optimizer_states), so its first real step is a quarter too small.
    compared = STAGES[1:] if is_half else STAGES
    _, reference, _ = results[kind, compared[0]]
    for stage in compared:
        _, first, second = results[kind, stage]
        assert first["losses"] == second["losses"]
        assert first["losses"] == pytest.approx(reference["losses"], rel=0.01 if is_half else 1e-5)
        assert first["losses"][1] < first["losses"][0]
        assert first["summary"] == reference["summary"]
        assert first["groups"] == reference["groups"]


@pytest.mark.parametrize("kind", KINDS)
def test_under_zero3_nothing_stays_whole(results: Any, kind: str) -> None:
    for seen in results[kind, 3][1:]:
        assert seen["unparted"] == []
    assert results[kind, 2][1]["unparted"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_two_ranks_save_gives_the_trained_logits(results: Any, kind: str, stage: int) -> None:
    case, first, _ = results[kind, stage]
    dtype = case.get("dtype", "float32")
    if case["lora"] is None:
        model = AutoModelForCausalLM.from_pretrained(case["save"]).eval()
    else:
        model = load_adapter(case["base"], case["save"], dtype)
    with torch.no_grad():
        found = model(input_ids=TOKENS).logits.float()
    # peft holds a loaded bfloat16 adapter in float32, so the last bits of a bfloat16 forward differ
    assert (found - torch.tensor(first["logits"])).abs().max() <= (0.05 if dtype == "bfloat16" else 1e-6)
    is_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert is_tied is first["tied"] is KINDS[kind]["tied"]


def test_under_zero3_no_rank_ever_holds_the_whole_model(tmp_path: Path) -> None:
    """Load, prepare, one step: the most bytes alive on a rank at one time, its half of the model included."""
    base = write_base(tmp_path / "deep", layers=12, hidden=128)
    lora = {
        "r": 2,
        "alpha": 4.0,
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
    }
    case = {"base": base, "lora": lora, "vocabulary": 70, "measure": True, "steps": 1, "tokens": 3}
    for two, three in on_two_ranks([{**case, "stage": 2}, {**case, "stage": 3}], tmp_path):
        assert two["most_bytes"] > two["model_bytes"]  # the measure sees a whole model where there is one
        assert three["most_bytes"] < 0.62 * three["model_bytes"]
        assert three["losses"] == pytest.approx(two["losses"], rel=1e-5)
