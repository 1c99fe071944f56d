"""Generated answers: equal for any budget, after out of memory, after a kill; those of plain transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from crossfoot.evaluation import answering, decoding
from crossfoot.evaluation.decoding import draw_key, gumbel_noise
from crossfoot.evaluation.scorer import Scorer
from crossfoot.generating.asking import Asking
from crossfoot.scores.item_log import ItemLog, read_log
from crossfoot.tasks import prompts
from crossfoot.tasks.items import Decoding, Item
from support.evaluating import Evaluated, Evaluates

pytestmark = pytest.mark.xdist_group("loop")

BUDGETS = ("1", "2000", "4000", "auto")


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Seventy prompts of four lengths; some fill a multiple of 16 tokens."""
    lines = [
        {"prompt": f"{'很长 ' * (number % 4)}what is {number}?", "reference": f"{number}"}
        for number in range(10, 80)
    ]
    return written(tmp_path_factory.mktemp("task") / "prompts.jsonl", lines)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Fifty questions with choices, of nearly one length."""
    lines = [{"question": f"what is {n}?", "choices": ["a", "b"], "answer": n % 2} for n in range(10, 60)]
    return written(tmp_path_factory.mktemp("task") / "questions.jsonl", lines)


def written(file: Path, lines: Sequence[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return str(file)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Decoding:
    """Answers of nine tokens, and texts that the tiny model does say end some of them."""
    found = Decoding(max_new_tokens=9, until=("/", "R", "\x14"))
    monkeypatch.setattr(prompts, "GENERATED", found)
    return found


def sampled(evaluates: Evaluates, questions: str, budget: str, *words: str) -> Evaluated:
    return evaluates("--scorer", "alpaca2-text", "--shots", "0", "--budget", budget, *words, on=questions)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("draws", [False, True])
def test_the_answers_are_one_file_for_all_budgets(
    evaluates: Evaluates, questions: str, dtype: str, *, draws: bool
) -> None:
    words = ("--dtype", dtype)
    found = [
        sampled(evaluates, questions, budget, *words) if draws else evaluates("--budget", budget, *words)
        for budget in BUDGETS
    ]
    assert {one.code for one in found} == {0}, found[0].told
    assert {one.scores for one in found} == {found[0].scores}
    assert all("CF876" not in one.told for one in found)
    most = [max(item.work.rows_in_forward for item in read_log(one.out).items) for one in found]
    assert most[0] == 16 and most[-1] > 16
    assert len({line["text"] for line in found[0].lines}) > 20


def test_answers_are_those_of_plain_transformers(
    evaluates: Evaluates, model: str, task: str, short: Decoding
) -> None:
    """Of each prompt alone, without padding."""
    found = evaluates()
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    settings = GenerationConfig(max_new_tokens=9, do_sample=False, eos_token_id=2, pad_token_id=2)
    ended = 0
    for line, asked in zip(found.lines, Path(task).read_text().splitlines(), strict=True):
        ids = tokenizer(json.loads(asked)["prompt"], return_tensors="pt").input_ids
        told = plain.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        whole = tokenizer.decode(told[0, ids.shape[1] :], skip_special_tokens=True)
        cut = min((whole.partition(one)[0] for one in short.until), key=len)
        assert line["text"] == cut.replace("\0", "�")
        assert line["characters"] == [len(cut)] and line["is_exact"] is False and line["chrf"] is not None
        ended += cut != whole
    assert 0 < ended < len(found.lines)


def test_what_is_said_is_judged(
    evaluates: Evaluates, monkeypatch: pytest.MonkeyPatch, questions: str
) -> None:
    monkeypatch.setattr(Asking, "text", lambda _, ids: " 42. ")
    found = evaluates()
    right = [line for line in found.lines if line["is_correct"]]
    assert [line["index"] for line in right] == [32] and right[0]["is_exact"] and right[0]["chrf"] > 50
    assert "1.4 % right: 1 of 70 items" in found.told
    monkeypatch.setattr(Asking, "text", lambda _, ids: "答案是B。")
    named = sampled(evaluates, questions, "auto")
    assert {(line["choice"], line["letter_found"]) for line in named.lines} == {(1, True)}
    assert "50.0 % right: 25 of 50 items" in named.told


def test_memory_that_runs_out_changes_no_answer(
    evaluates: Evaluates, questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sampled(evaluates, questions, "9000")
    other = sampled(evaluates, questions, "9000", "--seed", "1")
    assert other.code == 0 and [one["text"] for one in other.lines] != [one["text"] for one in whole.lines]
    real, calls = Scorer.generate, []

    def full(scorer: Scorer, ids: torch.Tensor, *rest: Any, **how: Any) -> list[list[int]]:
        calls.append(len(ids))
        if len(calls) in (1, 2):
            raise MemoryError
        return real(scorer, ids, *rest, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "generate", full)
        pressed = sampled(evaluates, questions, "9000")
    assert pressed.code == 0 and pressed.scores == whole.scores
    assert calls[0] > calls[1] > calls[2]
    assert sum("out of memory" in one.why for one in read_log(pressed.out).budgets) == 2

    def never(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Scorer, "generate", never)
    refused = sampled(evaluates, questions, "9000")
    assert refused.code == 1 and "CF878" in refused.told and "with 16 rows of" in refused.told


def test_killed_in_the_middle_it_goes_on(
    evaluates: Evaluates, questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sampled(evaluates, questions, "auto")
    real, kept = ItemLog.add, []

    class Killed(BaseException):
        pass

    def add(log: ItemLog, items: Sequence[Any]) -> None:
        if len(kept) == 21:
            raise Killed
        real(log, items)
        kept.extend(items)

    words = ("--scorer", "alpaca2-text", "--shots", "0")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(ItemLog, "add", add)
        evaluates(*words, on=questions, out="killed")
    again = evaluates(*words, on=questions, out="killed")
    assert "21 of 50 items are scored already" in again.told and again.scores == whole.scores


def test_one_generator_for_a_batch_is_seen(
    evaluates: Evaluates, questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As most programs draw: then an answer depends on who is beside it."""
    generator = np.random.Generator(np.random.Philox(key=0))

    def shared(self: decoding.Draw, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + torch.from_numpy(generator.gumbel(size=tuple(scores.shape)).astype(np.float32))

    monkeypatch.setattr(decoding.Draw, "__call__", shared)
    found = [sampled(evaluates, questions, budget) for budget in ("1", "9000")]
    assert found[0].code == found[1].code == 0 and found[0].scores != found[1].scores


def test_rows_in_other_numbers_are_caught(
    evaluates: Evaluates, questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of as many rows as there are: products of matrices then differ by how many."""
    monkeypatch.setattr(answering, "rounded_up", lambda tokens: tokens if tokens < 60 else 176)
    caught = sampled(evaluates, questions, "9000")
    assert caught.code == 0 and caught.told.count("CF876") == 1
    assert "every row is computed alone" in caught.told


def test_a_batch_holds_prompts_of_one_padded_length(
    evaluates: Evaluates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each of them has padding, so that all are computed in one way."""
    real, masks = Scorer.generate, []

    def seen(scorer: Scorer, ids: torch.Tensor, mask: torch.Tensor, **how: Any) -> list[list[int]]:
        masks.append(mask)
        return real(scorer, ids, mask, **how)

    monkeypatch.setattr(Scorer, "generate", seen)
    evaluates()
    for mask in masks:
        lengths, width = mask.sum(1), mask.shape[1]
        assert not mask.shape[0] % 16 and not width % 16
        assert bool((lengths < width).all()) and bool((lengths >= width - 16).all())


def test_noise_draws_each_token_with_its_probability() -> None:
    item = Item("task", "", "1", "file:1", "?")
    key = draw_key(item, 0)
    assert key != draw_key(item, 1) and key != draw_key(Item("task", "", "2", "file:1", "?"), 0)
    assert (gumbel_noise(key, 3, 8) == gumbel_noise(key, 3, 20)[:8]).all()
    assert (gumbel_noise(key, 3, 8) != gumbel_noise(key, 4, 8)).any()
    chances = np.array([0.6, 0.3, 0.1])
    drawn = [int((np.log(chances) + gumbel_noise(key, place, 3)).argmax()) for place in range(4000)]
    assert np.bincount(drawn) / 4000 == pytest.approx(chances, abs=0.03)
