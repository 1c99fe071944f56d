"""Scores: equal for any budget, after memory has run out, after a kill; as plain transformers gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from crossfoot.cli import main
from crossfoot.evaluation import loading, rows, scoring
from crossfoot.evaluation.budget import Budget
from crossfoot.evaluation.scorer import Scorer
from crossfoot.scores.item_log import ItemLog, read_log
from support.evaluating import Evaluates
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

BUDGETS = ("1", "300", "700", "1500", "5000", "auto")
SUBJECTS = ("rivers", "numbers")


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Questions of many lengths, of two subjects, with two worked examples each; choices of several
    tokens.
    """
    records: list[dict[str, Any]] = []
    for subject in SUBJECTS:
        for number in range(14):
            question = f"{subject} {'很长 ' * (number % 5)}{'of many words ' * (number % 4)}{number}?"
            choices = [str(number), f"{number + 1} or more", "水" * (number % 3 + 1), "none"]
            split = {"split": "dev"} if number < 2 else {}
            records.append({"question": question, "choices": choices, "answer": "ABCD"[number % 4], **split})
            records[-1]["subject"] = subject
    file = tmp_path_factory.mktemp("task") / "questions.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="session")
def alike(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Seventy questions of one length."""
    lines = [
        {"question": f"what is the number {number}, in words?", "choices": ["a", "b"], "answer": "A"}
        for number in range(10, 80)
    ]
    file = tmp_path_factory.mktemp("task") / "alike.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("scorer", "dtype"),
    [
        ("clean", "bfloat16"),
        ("clean-choices", "float32"),
        ("clean-choices", "bfloat16"),
        ("alpaca2", "float32"),
    ],
)
def test_the_scores_are_one_file_for_all_budgets(evaluates: Evaluates, scorer: str, dtype: str) -> None:
    words = ("--dtype", dtype, "--scorer", scorer, "--shots", "2")
    found = [evaluates(*words, "--budget", budget) for budget in BUDGETS]
    assert {one.code for one in found} == {0} and len(found[0].lines) == 24
    assert {one.scores for one in found} == {found[0].scores}
    assert all("CF876" not in one.told for one in found)
    most = [max(item.work.rows_in_forward for item in read_log(one.out).items) for one in found]
    assert most[0] == 1 and most[-1] > 2 and len(set(most)) > 2


class Full:
    """Memory that does not hold some of the forwards of several rows; each time in another allocator's
    words.
    """

    ERRORS: Sequence[Callable[[], BaseException]] = (
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        lambda: MemoryError(),
        lambda: RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."),
        lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    )

    def __init__(self, real: Callable[..., Any], at: Sequence[int]) -> None:
        self._real, self.left = real, dict(zip(at, self.ERRORS, strict=False))
        self.calls = 0

    def __call__(self, scorer: Scorer, prefix: Any, batch: Sequence[Any], *rest: Any) -> Any:
        self.calls += len(batch) > 1
        if len(batch) > 1 and self.calls in self.left:
            raise self.left.pop(self.calls)()
        return self._real(scorer, prefix, batch, *rest)


def test_memory_that_runs_out_five_times_changes_no_score(
    evaluates: Evaluates, alike: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluates("--budget", "9000", on=alike)
    full = Full(Scorer.logits, at=[1, 2, 3, 5, 6])
    monkeypatch.setattr(Scorer, "logits", lambda *given: full(*given))
    pressed = evaluates("--budget", "9000", on=alike)
    assert not full.left and pressed.code == 0
    assert pressed.scores == whole.scores
    halved = [one.budget_tokens for one in read_log(pressed.out).budgets if "out of memory" in one.why]
    assert len(halved) == 5
    assert "out of memory" in (pressed.out / "evaluation_log.md").read_text(encoding="utf-8")


def test_a_row_that_does_not_fit_is_refused_and_the_rest_is_kept(
    evaluates: Evaluates, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluates("--shots", "2")
    real, calls = Scorer.logits, []

    def refuse(scorer: Scorer, *given: Any) -> torch.Tensor:
        calls.append(None)
        if len(calls) > 4:
            raise MemoryError
        return real(scorer, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "logits", refuse)
        stopped = evaluates("--shots", "2", out="kept")
    assert stopped.code == 1 and "CF878" in stopped.told and "questions.jsonl:" in stopped.told
    kept = len(read_log(stopped.out).items)
    assert 0 < kept < 24
    again = evaluates("--shots", "2", out="kept")
    assert f"{kept} of 24 items are scored already" in again.told
    assert again.scores == whole.scores


def test_killed_in_the_middle_it_goes_on(evaluates: Evaluates, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluates("--shots", "2")
    real, kept = ItemLog.add, []

    class Killed(BaseException):
        pass

    def add(log: ItemLog, items: Sequence[Any]) -> None:
        if len(kept) == 9:
            raise Killed
        real(log, items)
        kept.extend(items)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(ItemLog, "add", add)
        evaluates("--shots", "2", out="killed")
    again = evaluates("--shots", "2", "--budget", "900", out="killed")
    assert "9 of 24 items are scored already" in again.told and again.scores == whole.scores
    monkeypatch.setattr(loading, "load_speaker", None)  # nothing is loaded where nothing is left
    assert evaluates("--shots", "2", out="killed").scores == whole.scores
    other = evaluates("--shots", "1", out="killed")
    assert other.code == 1 and "CF865" in other.told


def test_unfriendly_padding_is_caught(
    evaluates: Evaluates, alike: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows as long as they are: products of matrices then differ by how many there are."""
    monkeypatch.setattr(rows, "STEP", 1)
    caught = [evaluates("--budget", budget, on=alike) for budget in ("1", "300", "9000")]
    assert {one.scores for one in caught} == {caught[0].scores}
    assert [one.told.count("CF876") for one in caught] == [0, 1, 1]
    monkeypatch.setattr(scoring.Scoring, "_is_disturbed", lambda *_: False)
    unseen = [evaluates("--budget", budget, on=alike) for budget in ("1", "300", "9000")]
    assert len({one.scores for one in unseen}) > 1


def test_padding_to_a_neighbour_is_caught(evaluates: Evaluates, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most programs do: the rows of a batch are as long as its longest."""
    real = Scorer.logits

    def to_the_longest(scorer: Scorer, prefix: Any, batch: Any, shape: Any, *rest: Any) -> torch.Tensor:
        longest = max(len(row.ids) for row in batch) - prefix.tokens
        widened = rows.Shape(longest, longest - (shape.padded - shape.kept))
        found = real(scorer, prefix, batch, widened, *rest)
        missing = shape.kept - widened.kept
        return torch.nn.functional.pad(found, (0, 0, 0, missing))

    monkeypatch.setattr(Scorer, "logits", to_the_longest)
    caught = [evaluates("--shots", "2", "--budget", budget) for budget in ("1", "5000")]
    assert "CF876" in caught[1].told and caught[0].scores == caught[1].scores


def plain_log_probabilities(model: str, context: str, continuation: str) -> tuple[float, int]:
    """By transformers alone: the whole text, one forward, no cache."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    whole, before = tokenizer(context + continuation).input_ids, len(tokenizer(context).input_ids)
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        told = plain(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(told[at - 1, whole[at]]) for at in range(before, len(whole))), len(whole) - before


def asked(task: str, number: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the worked examples of the first subject, a question of it)."""
    records = [json.loads(line) for line in Path(task).read_text(encoding="utf-8").splitlines()]
    return records[:2], records[number]


def test_scores_are_those_of_plain_transformers(evaluates: Evaluates, model: str, task: str) -> None:
    found = evaluates("--shots", "2", "--scorer", "clean-choices")
    for number in (2, 5, 13):
        shots, item = asked(task, number)
        context = "".join(
            f"{one['question']}\n答案：{one['choices']['ABCD'.index(one['answer'])]}\n\n" for one in shots
        )
        line = next(one for one in found.lines if one["index"] == number - 2)
        for choice, text in enumerate(item["choices"]):
            total, tokens = plain_log_probabilities(model, f"{context}{item['question']}\n答案：", text)
            assert line["scores"][choice] == pytest.approx(total, abs=2e-4)
            assert line["tokens"][choice] == tokens


def test_letters_are_those_of_generates_processed_scores(evaluates: Evaluates, model: str, task: str) -> None:
    """As Chinese-LLaMA-Alpaca-2's scripts take them; what is sampled then does not count."""
    found = evaluates("--shots", "0", "--scorer", "alpaca2")
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    settings = GenerationConfig(
        **{"max_new_tokens": 1, "do_sample": True, "temperature": 0.2, "top_k": 0, "top_p": 1.0},
        repetition_penalty=1.1,
        output_scores=True,
        return_dict_in_generate=True,
        pad_token_id=2,
    )
    for number in (3, 8):
        item = asked(task, number)[1]
        listed = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", item["choices"], strict=True))
        ids = tokenizer(f"{item['question']}{listed}\n答案：", return_tensors="pt").input_ids
        told = plain.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        scores = told.scores[0][0]
        expected = [
            float(scores[tokenizer.encode(letter, add_special_tokens=False)[0]])
            + float(scores[tokenizer.encode(f"：{letter}")[-1]])
            for letter in "ABCD"
        ]
        line = next(one for one in found.lines if one["index"] == number - 2)
        assert line["scores"] == pytest.approx(expected, abs=2e-3)


def test_shots_that_do_not_fit_are_left_out_or_refused(
    evaluates: Evaluates, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for file in Path(model).iterdir():
        (small / file.name).write_bytes(file.read_bytes())
    values = json.loads((small / "config.json").read_text(encoding="utf-8"))
    (small / "config.json").write_text(json.dumps({**values, "max_position_embeddings": 224}))
    found = evaluates("--shots", "2", of=str(small))
    assert found.code == 0 and "CF879" in found.told and "lost" in found.told
    shots = {(one["shots"], one["shots_dropped"]) for one in found.lines}
    assert (2, 0) in shots and any(dropped for _, dropped in shots)
    refused = evaluates("--shots", "2", "--too-long", "refuse", of=str(small))
    assert refused.code == 1 and "CF879" in refused.told and not refused.lines
    (small / "config.json").write_text(json.dumps({**values, "max_position_embeddings": 64}))
    none = evaluates("--shots", "2", of=str(small))
    assert none.code == 1 and "too long: the model has 64 positions" in none.told


def test_forwards_of_one_shape_and_close_items_scored_again(
    evaluates: Evaluates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done on a GPU, forced on a CPU: margins below the noise are computed alone, in float32."""
    plain = evaluates("--shots", "2", "--dtype", "bfloat16")
    exact = evaluates("--shots", "2", "--dtype", "float32", "--budget", "1")
    real, noise = scoring.Scoring.run, sorted(one["margin"] for one in plain.lines)[12]

    def run(loop: scoring.Scoring, pieces: Any) -> None:
        loop.least_rows, loop.noise = 16, noise
        real(loop, pieces)

    monkeypatch.setattr(scoring.Scoring, "run", run)
    fixed = [
        evaluates("--shots", "2", "--dtype", "bfloat16", "--budget", budget) for budget in ("300", "5000")
    ]
    assert fixed[0].scores == fixed[1].scores and "CF876" not in fixed[1].told
    again = {one["id"] for one in fixed[0].lines if one["is_rescored"]}
    assert len(again) == 12
    for name, line in fixed[0].by_id.items():
        if name in again:  # by the weights as bfloat16 has them
            assert line["scores"] == pytest.approx(exact.by_id[name]["scores"], abs=0.01)
        assert (line["scores"] == plain.by_id[name]["scores"]) == (name not in again)


def test_a_run_its_adapter_and_a_checkpoint(
    evaluates: Evaluates, room: Room, trains: Callable[..., Watched], tmp_path: Path
) -> None:
    run = trains(
        room.config(
            lora={"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
            cluster={"num_nodes": 1, "gpus_per_node": 1},
            batch={"micro_batch_size": 3, "global_batch_size": 5},
            lr={"reference": 0.3},
            checkpoint={"every_steps": 1, "keep": 3},
            train={"max_steps": 2},
        )
    )
    task = tmp_path / "short.jsonl"
    lines = [{"question": f"{n}?" * n, "choices": ["一", "two"], "answer": n % 2} for n in range(1, 7)]
    task.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    found = evaluates(of=str(run.run_dir), on=str(task))
    assert found.code == 0 and len(found.lines) == 6
    for words in ({"of": str(run.run_dir / "adapter")}, {"of": str(run.run_dir)}):
        same = evaluates("--budget", "1", on=str(task), **words)
        assert same.scores == found.scores
    assert evaluates("--step", "2", of=str(run.run_dir), on=str(task)).scores == found.scores
    assert evaluates("--step", "1", of=str(run.run_dir), on=str(task)).scores != found.scores
    assert main(["evaluate", str(run.run_dir), "--tasks", str(task)]) == 0
    assert (run.run_dir / "evaluations" / "short-clean-0shot" / "page.html").exists()


def test_perplexity_is_that_of_plain_transformers(evaluates: Evaluates, model: str, tmp_path: Path) -> None:
    text = "".join(f"{number} is a number, 数字. " for number in range(20))
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    words = ("--window", "100", "--stride", "40")
    found = [evaluates(*words, "--budget", budget, on=str(file)) for budget in ("1", "500", "auto")]
    assert found[0].code == 0 and len({one.scores for one in found}) == 1
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(text).input_ids
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    total, predicted = 0.0, 1
    while predicted < len(ids):
        end = min(predicted + (100 if predicted == 1 else 40), len(ids))
        seen = ids[max(0, end - 101) : end]
        with torch.no_grad():
            told = plain(torch.tensor([seen[:-1]])).logits[0].log_softmax(-1)
        for back in range(1, end - predicted + 1):
            total += float(told[-back, seen[-back]])
        predicted = end
    (line,) = found[0].lines
    assert line["scores"] == [pytest.approx(total, rel=1e-5)] and line["tokens"] == [len(ids) - 1]
    assert line["bytes"] == len(text.encode()) and line["characters"] == [len(text)]
    assert evaluates(on=str(file)).code == 0


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    evaluates: Evaluates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_speaker", None)
    monkeypatch.setattr("crossfoot.evaluation.memory.free_memory", lambda: 300_000)
    refused = evaluates("--shots", "2")
    assert refused.code == 1 and "CF877" in refused.told
    assert "write --dtype bfloat16" in refused.told


def test_the_budget_follows_the_memory() -> None:
    said: list[tuple[int, str]] = []
    free = [10_000_000]
    budget = Budget(
        32768, True, lambda: free[0], lambda tokens, why, _: said.append((tokens, why)), bytes_a_token=2000.0
    )
    budget.begin()
    assert budget.tokens == 2500 and "by the estimate" in said[-1][1]
    budget.succeeded(2400, 2400 * 400)  # 500 a token were seen, with what is spared
    assert budget.tokens == 5000
    budget.succeeded(1000, 0)  # the rows that were left: no reason to grow
    assert budget.tokens == 5000
    budget.succeeded(4900, 0)
    assert budget.tokens == 10_000
    budget.failed(9800)
    assert budget.tokens == 4900
    budget.succeeded(4900, 0)
    budget.succeeded(4900, 0)
    assert budget.tokens == 4900  # never above what was seen to fit
    assert budget.rows(100) == 49 and budget.rows(100_000) == 1
