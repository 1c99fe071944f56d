"""The two configs on real things, as the README starts them: minutes each, so only with -m slow.

SmolLM2-135M on product reviews needs `make real-data`; the Chinese-LLaMA-2 tokenizer and alpaca_zh_demo.json
lie in ../shared/data where there is one. The project contains neither.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.launching import ROOT, SCRIPTS, environment, free_port, ledger, receipt
from support.reloaded import indexes_of, mean_loss, validation_loss_of

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MOST_SECONDS = 1_800
SMOLLM2 = ROOT / "real" / "smollm2-135m"
REVIEWS = ROOT / "real" / "reviews-validation.jsonl"
CHINESE = ROOT.parent / "shared" / "data"
FLOAT32_BYTES = 4


def train(config: str, folder: Path) -> tuple[str, Path]:
    """(what was said, run folder) of `deepspeed --num_gpus 2 train.py CONFIG` from the repository's root."""
    run_dir = folder / "run"
    command = [SCRIPTS / "deepspeed", "--num_gpus", "2", "--master_port", free_port()]
    words = [
        ROOT / "train.py",
        f"configs/{config}",
        f"run.dir={run_dir}",
        f"data.index_dir={folder / 'index'}",
    ]
    done = subprocess.run(
        [str(word) for word in (*command, *words)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    print(said)
    return said, run_dir


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A LoRA of SmolLM2-135M on reviews, 2 ranks under ZeRO-0."""
    if not (SMOLLM2 / "config.json").exists() or not REVIEWS.exists():
        pytest.skip("no real/ here: run `make real-data`")
    return train("smollm2-reviews.yaml", tmp_path_factory.mktemp("reviews"))


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Chinese-LLaMA-2's tokenizer and 1,000 Chinese instructions on the built-in model."""
    if not (CHINESE / "alpaca_zh_demo.json").exists():
        pytest.skip("no ../shared/data here with the Chinese-LLaMA-2 tokenizer and alpaca_zh_demo.json")
    return train("chinese-alpaca2.yaml", tmp_path_factory.mktemp("chinese"))


def test_smollm2_learns_and_foots(reviews: tuple[str, Path]) -> None:
    said, run_dir = reviews
    losses = [line["loss"] for line in ledger(run_dir)]
    assert sum(losses[-3:]) / 3 < losses[0] / 10
    assert "foots: yes" in said
    assert receipt(run_dir)["foots"] is True
    assert "embed_tokens and lm_head are one tensor: trained as one" in said
    assert "embed_tokens and lm_head, one tensor: 28,311,552 in 1 tensor" in said
    assert "LoRA: 4,884,480 in 420 tensors" in said


def test_smollm2s_adapter_is_the_trained_model(reviews: tuple[str, Path]) -> None:
    """By peft alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _, run_dir = reviews
    base = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(base, run_dir / "adapter").eval()
    (validation,) = indexes_of(run_dir.parent / "index", REVIEWS.relative_to(ROOT))
    assert mean_loss(model, validation) == pytest.approx(validation_loss_of(run_dir), rel=1e-6)
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert torch.equal(table.weight, head.weight)
    # peft's file has the one tensor under both of its names
    expected = FLOAT32_BYTES * (4_884_480 + 2 * 28_311_552)
    assert (run_dir / "adapter" / "adapter_model.safetensors").stat().st_size == pytest.approx(
        expected, rel=1e-2
    )


def test_smollm2_tells_more_reviews_right_than_before(reviews: tuple[str, Path]) -> None:
    """By the tool of `make reviews`, whose table has the share and its interval of 95 %."""
    _, run_dir = reviews
    words = [sys.executable, ROOT / "tools" / "judge_reviews.py", run_dir / "adapter"]
    done = subprocess.run(
        words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=MOST_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    rows = [re.findall(r"([\d.]+)%", line) for line in done.stdout.splitlines()[1:]]
    (_, _, highest_before), (_, lowest_after, _) = [[float(number) for number in row] for row in rows]
    assert lowest_after > highest_before


def test_a_grown_chinese_vocabulary_learns_and_foots(chinese: tuple[str, Path]) -> None:
    from crossfoot.models.adapt import load_adapter

    said, run_dir = chinese
    losses = [line["loss"] for line in ledger(run_dir)]
    assert losses[-1] < losses[0] - 1
    assert "vocabulary grown 260 -> 55,296: 55,036 new rows set to the mean of the old" in said
    assert "foots: yes" in said
    assert receipt(run_dir)["foots"] is True
    model = load_adapter(run_dir.parent / "index" / "builtin-tiny", run_dir / "adapter")
    assert model.get_input_embeddings().weight.shape[0] == 55_296
