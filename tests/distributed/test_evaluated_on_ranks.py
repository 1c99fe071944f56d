"""The scores of an evaluation are one file on one, two and three ranks, and after a rank was lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer
from crossfoot.models.tiny_model import write_tiny_model
from support.launching import plain, warm_ranks

pytestmark = pytest.mark.distributed

FULL = """
import os, sys
from crossfoot.evaluation.scorer import Scorer

real = Scorer.logits

def logits(scorer, *given):
    if os.environ["RANK"] == "1":
        raise MemoryError
    return real(scorer, *given)

Scorer.logits = logits
from crossfoot.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of an evaluation of two subjects, one of them much larger."""
    folder = tmp_path_factory.mktemp("evaluated")
    model = write_tiny_model(write_tiny_tokenizer(str(folder)))
    lines = [
        {
            "subject": "large" if number % 7 else "small",
            "question": f"{'which ' * (number % 6)}{number}?",
            "choices": [str(number), "水", "one or two"],
            "answer": number % 3,
            **({"split": "dev"} if number < 15 else {}),
        }
        for number in range(60)
    ]
    task = folder / "task.jsonl"
    task.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return [str(model), "--tasks", str(task), "--shots", "2", "--scorer", "clean-choices", "--budget", "900"]


def test_one_file_of_scores_on_any_number_of_ranks(words: list[str], tmp_path: Path) -> None:
    done = plain("-m", "crossfoot", "evaluate", *words, "--out", tmp_path / "1")
    assert done.returncode == 0, done.stdout + done.stderr
    for ranks in (2, 3):
        out = tmp_path / str(ranks)
        done = warm_ranks(ranks, "-m", "crossfoot", "evaluate", *words, "--out", out)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(list(out.glob("items*.jsonl"))) == ranks
        assert (out / "scores.jsonl").read_bytes() == (tmp_path / "1" / "scores.jsonl").read_bytes()
        assert done.stdout.count("scores_sha256") == 1


def test_one_file_of_answers_on_any_number_of_ranks(words: list[str], tmp_path: Path) -> None:
    """Sampled: what is drawn for an item is drawn on any rank."""
    sampled = [*words[:3], "--shots", "0", "--scorer", "alpaca2-text"]
    done = plain("-m", "crossfoot", "evaluate", *sampled, "--out", tmp_path / "1")
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "2"
    done = warm_ranks(2, "-m", "crossfoot", "evaluate", *sampled, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(out.glob("items*.jsonl"))) == 2
    assert (out / "scores.jsonl").read_bytes() == (tmp_path / "1" / "scores.jsonl").read_bytes()


@pytest.mark.slow
def test_what_was_scored_outlives_a_lost_rank(words: list[str], tmp_path: Path) -> None:
    whole = plain("-m", "crossfoot", "evaluate", *words, "--out", tmp_path / "1")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    out = tmp_path / "lost"
    script = tmp_path / "full.py"
    script.write_text(FULL, encoding="utf-8")
    lost = warm_ranks(2, script, "evaluate", *words, "--out", out)
    assert lost.returncode == 1 and "CF878" in lost.stdout, lost.stdout + lost.stderr
    again = plain("-m", "crossfoot", "evaluate", *words, "--out", out)
    assert again.returncode == 0 and "items are scored already" in again.stderr
    assert (out / "scores.jsonl").read_bytes() == (tmp_path / "1" / "scores.jsonl").read_bytes()


def test_more_ranks_than_items(words: list[str], tmp_path: Path) -> None:
    task = tmp_path / "one.jsonl"
    task.write_text(json.dumps({"question": "1 + 1?", "choices": ["1", "2"], "answer": 1}) + "\n")
    done = warm_ranks(2, "-m", "crossfoot", "evaluate", words[0], "--tasks", task, "--out", tmp_path / "out")
    assert done.returncode == 0 and "1 item" in done.stdout, done.stdout + done.stderr
