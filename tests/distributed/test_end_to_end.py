"""What a config may ask for, each run from its data to its receipt: the saved model is the trained one, and
every receipt foots.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from crossfoot.runs.dry_run import TOLERANCE
from support.launching import (
    ROOT,
    SCRIPTS,
    ledger,
    plain,
    receipt,
    short_tokenizer,
    small_config,
    start,
    warm_ranks,
    write_samples,
)
from support.reloaded import indexes_of, mean_loss, validation_loss_of
from support.wandb_file import wandb_rows

pytestmark = pytest.mark.distributed

STEPS = 4
BFLOAT16_LOSS, BFLOAT16_NORM = 2e-3, 1e-2
"""Relative to float32; measured over these four steps: losses within 4e-4, gradient norms within 2.1e-3."""
SAMPLES, VALIDATION_SAMPLES = 18, 5
TEXT = [f"河水向东流 {number} " + "the river runs east " * (number % 4) for number in range(40)]
Jobs = dict[str, dict[str, Any]]
"""Name -> what overrides the config, and in capitals the variables of the process."""


def zero(stage: int) -> dict[str, Any]:
    return {"deepspeed": ROOT / "ds_configs" / f"zero{stage}.json"}


def job(name: str, config: Path, words: dict[str, Any]) -> dict[str, Any]:
    """One entry of JOBS.json, in a run folder beside the config."""
    environ = {key: value for key, value in words.items() if key.isupper()}
    given = {"run.dir": config.parent / name, "run.name": name, **words}
    overrides = [f"{key}={value}" for key, value in given.items() if key not in environ]
    return {"name": name, "config": str(config), "overrides": overrides, "environ": environ}


def two_rank_jobs(folder: Path) -> Jobs:
    """Every run of two ranks under DeepSpeed."""
    jobs: Jobs = {}
    tied = {"model.path": folder / "tied", "tokenizer": '{"path": "builtin:tiny"}'}
    grown = {"tokenizer": json.dumps({"path": str(folder / "short-tokenizer")})}
    for stage in (0, 2, 3):
        jobs[f"adapter-zero{stage}"] = zero(stage)
        jobs[f"grown-zero{stage}"] = zero(stage) | grown
        jobs[f"tied-zero{stage}"] = zero(stage) | tied
        jobs[f"full-zero{stage}"] = zero(stage) | {"lora": "null"}
        jobs[f"full-tied-zero{stage}"] = zero(stage) | tied | {"lora": "null"}
    for stage in (1, 2, 3):
        jobs[f"bfloat16-zero{stage}"] = zero(stage) | {"model.dtype": "bfloat16"}
    jobs["bfloat16-full"] = zero(2) | {"model.dtype": "bfloat16", "lora": "null"}
    jobs["only-lora"] = {"lora.modules_to_save": "[]"}
    for kind in ("txt", "jsonl", "parquet"):
        jobs[f"pretrain-{kind}"] = {
            "data.task": "pretrain",
            "data.train": json.dumps([str(folder / f"text.{kind}")]),
            "data.validation": "[]",
            "data.max_seq_len": 48,
        }
    for policy in ("short", "drop", "carry"):
        jobs[f"last-step-{policy}"] = {"data.last_step": policy, "train": '{"epochs": 3}'}
    for stage in (2, 3):
        jobs[f"checkpointing-zero{stage}"] = zero(stage) | {"model.gradient_checkpointing": "true"}
    jobs["checkpointing-full"] = {"model.gradient_checkpointing": "true", "lora": "null"}
    for name in ("dropout", "dropout-again"):
        jobs[name] = {"lora.dropout": 0.2}
    jobs["wandb"] = {"tracking.wandb": "offline"}
    jobs["micro-beyond-data"] = {
        "batch.micro_batch_size": 64,
        "batch.global_batch_size": 128,
        "train": '{"epochs": 2}',
    }
    jobs["empty-slots"] = {"batch": '{"micro_batch_size": 1, "grad_accum_steps": 3, "global_batch_size": 5}'}
    jobs["every-two-steps"] = {"validation.every_steps": 2, "train.max_steps": 5}
    return jobs


ONE_PROCESS: Jobs = {
    "folded": {},
    "folded-dropout": {"lora.dropout": 0.2},
    "folded-bfloat16": {"model.dtype": "bfloat16"},
    "folded-bfloat16-full": {"model.dtype": "bfloat16", "lora": "null"},
    "told-accumulation": {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    "told-bfloat16": {"ACCELERATE_MIXED_PRECISION": "bf16"},
    "told-dynamo": {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
    "told-fsdp": {"ACCELERATE_USE_FSDP": "true"},
    "told-deepspeed": {"ACCELERATE_USE_DEEPSPEED": "true"},
    "nobody-logged-in": {
        "tracking.wandb": "online",
        "WANDB_API_KEY": "",
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "HOME": "/nonexistent",
        "NETRC": "/nonexistent",
    },
}
REFUSED = ("told-deepspeed", "told-fsdp", "nobody-logged-in")


def write_tied_llama(folder: Path) -> None:
    """A two-layer Llama whose input table is its output head, for the built-in tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(3)
    LlamaForCausalLM(config).float().save_pretrained(folder)


def write_text(folder: Path) -> None:
    """The same documents in the three forms that a pre-training run reads."""
    import pyarrow
    import pyarrow.parquet

    (folder / "text.txt").write_text("".join(f"{line}\n" for line in TEXT), encoding="utf-8")
    lines = (json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in TEXT)
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXT}), folder / "text.parquet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs: one set of two ranks, and one plain process."""
    folder = tmp_path_factory.mktemp("ends")
    write_samples(folder / "data.jsonl", SAMPLES)
    write_samples(folder / "validation.jsonl", VALIDATION_SAMPLES, seed=1)
    short_tokenizer(folder)
    write_tied_llama(folder / "tied")
    write_text(folder)
    config = small_config(
        folder,
        data={"validation": [str(folder / "validation.jsonl")]},
        cluster={"num_nodes": 1, "gpus_per_node": 2},
        train={"max_steps": STEPS},
    )
    for launch, jobs in ((2, two_rank_jobs(folder)), (1, ONE_PROCESS)):
        path = folder / f"jobs{launch}.json"
        path.write_text(json.dumps([job(name, config, words) for name, words in jobs.items()]))
        script = ROOT / "tests" / "support" / "many_runs.py"
        done = warm_ranks(2, script, path) if launch == 2 else plain(script, path)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder


def codes(runs: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for launch in (1, 2):
        found |= json.loads((runs / f"jobs{launch}.codes.json").read_text(encoding="utf-8"))
    return found


def losses(runs: Path, name: str) -> list[float]:
    return [line["loss"] for line in ledger(runs / name)]


def norms(runs: Path, name: str) -> list[float]:
    return [line["grad_norm"] for line in ledger(runs / name)]


def said(runs: Path, name: str) -> str:
    return (runs / f"{name}.said").read_text(encoding="utf-8")


def base_of(runs: Path, name: str) -> Path:
    return runs / "tied" if "tied" in name else runs / "index" / "builtin-tiny"


@pytest.mark.lie("U4", answer="impossible")
def test_every_run_foots(runs: Path) -> None:
    for name, code in codes(runs).items():
        if name not in REFUSED:
            assert code == 0, name
            assert receipt(runs / name)["foots"] is True, name


@pytest.mark.parametrize(
    "name", [*(f"{kind}-zero{stage}" for kind in ("adapter", "tied") for stage in (0, 2, 3)), "only-lora"]
)
def test_the_adapter_is_the_trained_model(runs: Path, name: str) -> None:
    """Loaded by peft alone, one unpadded sample at a time, it has the loss the trained model had."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    validation = indexes_of(runs / "index", runs / "validation.jsonl")[0]
    base = AutoModelForCausalLM.from_pretrained(base_of(runs, name), dtype=torch.float32)
    untrained = mean_loss(base, validation)
    model = PeftModel.from_pretrained(base, runs / name / "adapter")
    assert mean_loss(model, validation) == pytest.approx(validation_loss_of(runs / name), rel=1e-6)
    assert validation_loss_of(runs / name) != pytest.approx(untrained, rel=1e-3)
    if "tied" in name:
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        assert torch.equal(table.weight, head.weight)


@pytest.mark.parametrize("stage", (0, 2, 3))
def test_the_adapter_of_a_grown_vocabulary_is_the_trained_model(runs: Path, stage: int) -> None:
    from crossfoot.models.adapt import load_adapter

    name = f"grown-zero{stage}"
    assert "vocabulary grown 260 -> " in said(runs, name)
    model = load_adapter(base_of(runs, name), runs / name / "adapter")
    validation = indexes_of(runs / "index", runs / "validation.jsonl")[-1]
    assert mean_loss(model, validation) == pytest.approx(validation_loss_of(runs / name), rel=1e-6)


@pytest.mark.parametrize("stage", (0, 2, 3))
@pytest.mark.parametrize("kind", ("full", "full-tied"))
def test_the_fully_trained_model_loads_as_any_other(runs: Path, kind: str, stage: int) -> None:
    from transformers import AutoModelForCausalLM

    name = f"{kind}-zero{stage}"
    model = AutoModelForCausalLM.from_pretrained(runs / name / "model")
    validation = indexes_of(runs / "index", runs / "validation.jsonl")[0]
    assert model.dtype == torch.float32
    assert mean_loss(model, validation) == pytest.approx(validation_loss_of(runs / name), rel=1e-6)
    assert (runs / name / "model" / "tokenizer.json").exists()


def test_a_tied_model_says_that_it_trains_one_tensor(runs: Path) -> None:
    for stage in (0, 2, 3):
        assert "embed_tokens and lm_head are one tensor: trained as one" in said(runs, f"tied-zero{stage}")
        assert "embed_tokens and lm_head, one tensor: 16,640 in 1 tensor" in said(runs, f"tied-zero{stage}")
    assert "one tensor" not in said(runs, "adapter-zero2")


@pytest.mark.parametrize("kind", ("adapter", "grown", "tied", "full", "full-tied"))
def test_the_stages_train_the_same(runs: Path, kind: str) -> None:
    for stage in (2, 3):
        assert losses(runs, f"{kind}-zero{stage}") == pytest.approx(losses(runs, f"{kind}-zero0"), rel=1e-5)


def test_pretraining_reads_text_json_lines_and_parquet_alike(runs: Path) -> None:
    expected = ledger(runs / "pretrain-txt")
    assert expected[-1]["loss"] < expected[0]["loss"]
    for kind in ("jsonl", "parquet"):
        for line, other in zip(expected, ledger(runs / f"pretrain-{kind}"), strict=True):
            assert line["samples_sha256"] == other["samples_sha256"]
            assert line["loss"] == pytest.approx(other["loss"], rel=1e-6)
    first = expected[0]
    assert (
        first["trained_tokens"] == first["real_tokens"] - first["real_samples"]
    )  # all but each block's first


@pytest.mark.parametrize(
    ("policy", "sizes"),
    [
        ("short", [7, 7, 4] * 3),
        ("drop", [7, 7] * 3),
        ("carry", [7] * 7 + [5]),
    ],
)
def test_what_becomes_of_an_epochs_rest(runs: Path, policy: str, sizes: list[int]) -> None:
    lines = ledger(runs / f"last-step-{policy}")
    assert [line["real_samples"] for line in lines] == sizes
    assert all(line["repeated_samples"] == 0 for line in lines)
    first_seen = sum(line["first_seen_samples"] for line in lines)
    rows = {row["name"]: row for row in receipt(runs / f"last-step-{policy}")["rows"]}
    assert rows["distinct samples"]["real"] == rows["distinct samples"]["planned"] == first_seen
    if policy == "drop":
        assert 14 < first_seen <= SAMPLES  # the rest of one epoch is in another
    else:
        assert first_seen == SAMPLES
        assert sum(sizes) == 3 * SAMPLES


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("bfloat16-zero1", "adapter-zero2"),
        ("bfloat16-zero2", "adapter-zero2"),
        ("bfloat16-zero3", "adapter-zero2"),
        ("folded-bfloat16", "adapter-zero2"),
        ("bfloat16-full", "full-zero2"),
        ("folded-bfloat16-full", "full-zero2"),
    ],
)
def test_bfloat16_stays_near_float32(runs: Path, name: str, twin: str) -> None:
    assert losses(runs, name) != losses(runs, twin)
    assert losses(runs, name) == pytest.approx(losses(runs, twin), rel=BFLOAT16_LOSS)
    assert norms(runs, name) == pytest.approx(norms(runs, twin), rel=BFLOAT16_NORM)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("bfloat16-zero1", "folded-bfloat16"),
        ("bfloat16-zero2", "folded-bfloat16"),
        ("bfloat16-zero3", "folded-bfloat16"),
        ("bfloat16-full", "folded-bfloat16-full"),
    ],
)
def test_bfloat16_agrees_with_its_dry_run(runs: Path, name: str, twin: str) -> None:
    """The rounding of trained weights and of their sums; an eighth of what CF490 tolerates anywhere."""
    pairs = zip(losses(runs, name), losses(runs, twin), strict=True)
    largest = max(abs(one - other) / other for one, other in pairs)
    print(f"{name} and {twin} differ by {largest:.1e} at most")
    assert largest < TOLERANCE["bfloat16"] / 8


def test_validation_is_the_same_on_one_process_and_on_two(runs: Path) -> None:
    assert losses(runs, "folded") == pytest.approx(losses(runs, "adapter-zero2"), rel=1e-5)
    expected = validation_loss_of(runs / "adapter-zero2")
    assert validation_loss_of(runs / "folded") == pytest.approx(expected, rel=1e-6)


def test_validation_every_so_many_steps(runs: Path) -> None:
    said_steps = re.findall(
        r"^step (\d+)   validation loss (\d+\.\d+)   perplexity", said(runs, "every-two-steps"), re.M
    )
    assert [step for step, _ in said_steps] == ["2", "4"]
    assert losses(runs, "every-two-steps")[0] == pytest.approx(losses(runs, "adapter-zero2")[0], rel=1e-6)


def test_gradient_checkpointing_changes_nothing(runs: Path) -> None:
    twins = {"zero2": "adapter-zero2", "zero3": "adapter-zero3", "full": "full-zero2"}
    for kind, twin in twins.items():
        name = f"checkpointing-{kind}"
        assert "activations are computed again" in said(runs, name)
        assert losses(runs, name) == pytest.approx(losses(runs, twin), rel=1e-6)
        assert norms(runs, name) == pytest.approx(norms(runs, twin), rel=1e-6)


def test_dropout_is_repeatable(runs: Path) -> None:
    assert losses(runs, "dropout") == losses(runs, "dropout-again")
    assert losses(runs, "dropout")[2:] != pytest.approx(losses(runs, "adapter-zero2")[2:], rel=1e-6)
    assert "lora.dropout 0.2: its draws are the same wherever a step has " in said(runs, "dropout")


def test_dropout_draws_the_same_in_the_folded_plan(runs: Path) -> None:
    assert losses(runs, "folded-dropout") == pytest.approx(losses(runs, "dropout"), rel=1e-5)
    assert norms(runs, "folded-dropout") == pytest.approx(norms(runs, "dropout"), rel=1e-4)


def test_wandb_mirrors_the_ledger(runs: Path) -> None:
    lines = ledger(runs / "wandb")
    (file,) = (runs / "wandb" / "wandb").glob("offline-run-*/run-*.wandb")
    rows, summary = wandb_rows(file)
    assert len(rows) == len(lines)
    for line, row in zip(lines, rows, strict=True):
        numbers = {key: value for key, value in line.items() if isinstance(value, (int, float))}
        assert {
            key: value for key, value in row.items() if not key.startswith(("_", "validation/"))
        } == numbers
    assert summary["foots"] is True


def test_a_tracker_that_does_not_start_is_refused(runs: Path) -> None:
    assert codes(runs)["nobody-logged-in"] == 1
    assert "tracking.wandb is online, but wandb does not start: No API key" in said(runs, "nobody-logged-in")
    assert not (runs / "nobody-logged-in" / "ledger.jsonl").exists()


def test_a_micro_batch_beyond_the_data(runs: Path) -> None:
    lines = ledger(runs / "micro-beyond-data")
    assert [line["real_samples"] for line in lines] == [SAMPLES, SAMPLES]
    assert lines[0]["per_rank"]["columns"]["samples"] == [9, 9]
    assert [line["epoch"] for line in lines] == [0, 1]


def test_a_step_with_an_empty_slot(runs: Path) -> None:
    lines = ledger(runs / "empty-slots")
    assert lines[0]["per_rank"]["columns"]["samples"] == [3, 2]
    assert lines[0]["per_rank"]["columns"]["forwards"] == [3, 3]
    assert [line["real_samples"] for line in lines] == [5, 5, 5, 3]


@pytest.mark.parametrize("name", ("told-accumulation", "told-bfloat16", "told-dynamo"))
def test_variables_of_accelerate_do_not_change_the_run(runs: Path, name: str) -> None:
    assert losses(runs, name) == losses(runs, "folded")


@pytest.mark.parametrize("name", ("told-deepspeed", "told-fsdp"))
def test_an_engine_of_accelerates_own_is_refused(runs: Path, name: str) -> None:
    assert codes(runs)[name] == 1
    assert "accelerate is set to drive an engine of its own (ACCELERATE_USE_" in said(runs, name)


def test_accelerates_own_options_do_not_change_the_run(runs: Path) -> None:
    """The launcher is told another accumulation and another precision than the plan's."""
    launcher = [SCRIPTS / "accelerate", "launch", "--cpu", "--num_processes", "1"]
    options = ["--mixed_precision", "bf16", "--gradient_accumulation_steps", "4"]
    words = [runs / "config.yaml", f"run.dir={runs / 'launched'}"]
    done = start([*launcher, *options, ROOT / "train.py", *words])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert losses(runs, "launched") == losses(runs, "folded")
