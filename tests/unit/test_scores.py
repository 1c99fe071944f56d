"""What a log of items comes to: summary, papers, pages, and the comparison of two evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from crossfoot.findings.finding import Refused
from crossfoot.scores.compare import compare
from crossfoot.scores.item_score import Score, Scored, likeliest
from crossfoot.scores.page import evaluation_log, evaluation_page
from crossfoot.scores.result_folder import finish, read_evaluation
from crossfoot.scores.summary import submission, summary_document, summary_of
from crossfoot.scores.tables import remarks, result_lines
from crossfoot.scores.work_summary import memory_by_rank
from support.made_scores import (
    ORIGIN,
    made_choice,
    made_items,
    made_log,
    made_rolling,
    made_text,
    write_log,
)

Change = Callable[[Score], Score]


def _finished(folder: Path, items: list[Scored], **changes: str) -> str:
    finish(write_log(folder, items, origin=replace(ORIGIN, **changes)))  # type: ignore[arg-type]
    return str(folder)


def _with(items: list[Scored], at: int, **changes: object) -> list[Scored]:
    """Another score for one of them."""
    new = replace(items[at].score, **changes)  # type: ignore[arg-type]
    return [*items[:at], replace(items[at], score=new), *items[at + 1 :]]


def test_an_answer_is_the_likeliest_choice_whole_per_token_or_per_character() -> None:
    score = made_choice(
        0, scores=(-4.0, -6.0, -9.0, -10.0), tokens=(1, 3, 9, 10), characters=(2, 2, 9, 10), gold=1
    ).score
    assert (score.answer, score.answer_per_token, score.answer_per_character) == (0, 2, 2)
    assert (score.margin, score.is_correct, score.shown_answer) == (2.0, False, "A")
    level = replace(score, scores=(-9.0, -4.0, -4.0, -math.inf))
    assert (level.answer, level.margin, level.is_correct) == (1, 0.0, True)
    lost = replace(score, scores=(-9.0, math.nan, -4.0, -5.0))
    assert (lost.answer, lost.margin, lost.is_correct, lost.shown_answer) == (None, None, False, "")
    hidden = replace(score, gold=None)
    assert (hidden.answer, hidden.is_correct) == (0, None)
    letters = replace(score, kind="letter")
    assert (letters.answer, letters.answer_per_token) == (0, None)
    assert likeliest([]) is None


@pytest.mark.parametrize(
    "changes", [{"gold": 4}, {"tokens": (1, 2)}, {"characters": (1,)}, {"choice": -1}, {"shots": -1}]
)
def test_a_score_that_cannot_be_is_an_error(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no choice|scores and|below 0"):
        made_choice(0, **changes)  # type: ignore[arg-type]


def test_the_summary_counts_what_there_is() -> None:
    log = made_log()
    summary = summary_of(log, "5" * 64)
    ceval, translate, wiki = summary.tasks
    assert (ceval.kind, translate.kind, wiki.kind) == ("choice", "text", "perplexity")
    assert (ceval.whole.items, ceval.whole.judged) == (52, 51)
    own = [one.score for one in log.items if one.score.task == "ceval"]
    right = [one.answer == one.gold for one in own if one.gold is not None]
    assert ceval.whole.accuracy and ceval.whole.accuracy.value == fmean(right)
    assert [part.name for part in ceval.subjects] == ["law", "中国语言文学", "physics", "hidden"]
    known = [part.accuracy.value for part in ceval.subjects if part.accuracy]
    assert len(known) == 3 and ceval.macro_accuracy == pytest.approx(fmean(known))
    assert summary.whole.mean_log_likelihood is None and summary.whole.perplexity is None
    counts = summary.counts
    assert (counts.with_shots_dropped, counts.shots_dropped, counts.rescored) == (1, 2, 1)
    assert (counts.without_letter, counts.not_a_number, counts.level, counts.hidden) == (1, 1, 1, 1)
    work = summary.work
    spent = [sum(one.work.milliseconds for one in log.written if one.work.rank == rank) for rank in (0, 1)]
    assert work.seconds == pytest.approx(max(spent) / 1000) and work.ranks == 2
    assert work.performance == pytest.approx(len(log.items) / work.seconds * 8 / (work.peak_bytes or 0) * 1e9)
    assert [one.milliseconds for one in work.slowest] == sorted(
        (one.work.milliseconds for one in log.items), reverse=True
    )[:10]
    assert memory_by_rank(log.written)[1][-1].seconds == pytest.approx(spent[1] / 1000)
    assert json.loads(json.dumps(summary_document(summary)))["tasks"][2]["kind"] == "perplexity"


def test_groups_and_perplexity_against_their_definitions() -> None:
    first, second = made_rolling(0).score, made_rolling(1).score
    scores = [first, replace(second, scores=(-1e6,), words=0)]
    log = replace(made_log(), written=tuple(replace(made_rolling(0), score=one) for one in scores))
    (task,) = summary_of(log, "").tasks
    loss = -first.scores[0] + 1e6
    found = task.whole.perplexity
    assert found and found.per_token == pytest.approx(math.exp(loss / 4000))
    assert found.per_character == pytest.approx(math.exp(loss / 6000))
    assert found.bits_per_byte == pytest.approx(loss / 12000 / math.log(2))
    assert found.per_word == math.inf  # e to a thousand
    assert task.subjects[1].perplexity and task.subjects[1].perplexity.per_word is None
    of = [("Other",), ("STEM", "Hard"), ("STEM",), ("mine",)]
    groups = [made_choice(at, groups=of[at % 4]) for at in range(8)]
    (task,) = summary_of(replace(made_log(), written=tuple(groups)), "").tasks
    assert [(part.name, part.items) for part in task.groups] == [
        ("STEM", 4),
        ("Other", 2),
        ("Hard", 2),
        ("mine", 2),
    ]


def test_hidden_answers_are_given_in_the_form_of_ceval(tmp_path: Path) -> None:
    items = [made_choice(at, id=f"law/{at}", gold=None) for at in range(3)]
    items = [*_with(items, 1, scores=(math.nan,) * 4), made_choice(3, task="own")]
    letters = submission("ceval", [one.score for one in items])
    assert letters == {"law": {"0": items[0].score.shown_answer, "1": "", "2": items[2].score.shown_answer}}
    _finished(tmp_path, items)
    assert json.loads((tmp_path / "submission.json").read_text()) == letters
    _finished(tmp_path / "two", [*items, made_choice(0, task="a/b", id="law/0", gold=None)])
    assert sorted(path.name for path in (tmp_path / "two").glob("sub*")) == [
        "submission-a_b.json",
        "submission-ceval.json",
    ]


def test_the_pages_say_everything() -> None:
    log = made_log("<models> | 模型")
    summary = summary_of(log, "5" * 64)
    assert not any("scored again" in words for words in remarks(summary))
    on_gpu = replace(summary, origin=replace(summary.origin, device="cuda NVIDIA H200"))
    assert next(remarks(on_gpu)).startswith("1 item scored again")
    page, text = evaluation_page(summary, log.written), evaluation_log(summary)
    lines = "\n".join(result_lines(summary))
    for words in (
        "中国语言文学",
        "mean of the subjects",
        "chrF",
        "bits per byte",
        "who guesses has 25.0 % right",
        "a letter was drawn",
        "5" * 64,
    ):
        assert words in page and words in text and words in lines
    for words in ("out of memory: halved", "items a second x rows in a forward / GB", "physics_val.csv"):
        assert words in page and words in text
    assert "Memory in use" in page and "<models>" not in page
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_a_finished_folder_is_read_again_and_held_against_its_log(tmp_path: Path) -> None:
    items = [*made_items(), *map(made_text, range(3))]
    folder = _finished(tmp_path / "a", items)
    found = read_evaluation(folder)
    document = json.loads((tmp_path / "a" / "evaluation.json").read_text(encoding="utf-8"))
    assert document["scores_sha256"] == found.summary.scores_sha256
    for name, old, new in (
        ("scores.jsonl", '"gold": ', '"gold":  '),
        ("evaluation.json", found.summary.scores_sha256, "0" * 64),
        ("items.jsonl", '"gold": 3', '"gold": 2'),
    ):
        path = Path(_finished(tmp_path / name, items)) / name
        changed = path.read_text(encoding="utf-8").replace(old, new, 1)
        path.write_text(changed, encoding="utf-8")
        with pytest.raises(Refused, match="CF871"):
            read_evaluation(tmp_path / name)


def test_a_folder_without_a_finished_evaluation_is_named(tmp_path: Path) -> None:
    folder = Path(_finished(tmp_path / "a", list(made_items())))
    for prepare, words in (
        (lambda: (folder / "scores.jsonl").write_text("{"), "CF871"),
        (lambda: (folder / "scores.jsonl").unlink(), "CF870.*no such file"),
        (lambda: (folder / "evaluation.json").unlink(), "CF870.*no evaluation.json yet, and 12 items"),
        (lambda: (folder / "items.jsonl").unlink(), "CF870.*no log"),
        (lambda: folder.rename(tmp_path / "b"), "CF870.*no such folder"),
    ):
        prepare()
        with pytest.raises(Refused, match=words):
            read_evaluation(folder)
    with pytest.raises(Refused, match=r"CF870.*no folder"):
        read_evaluation(__file__)


def test_nan_is_told(tmp_path: Path) -> None:
    items = _with(list(made_items()), 2, scores=(math.nan, -1.0, -2.0, -3.0))
    found = finish(write_log(tmp_path, items))
    assert [one.code for one in found.told] == ["CF873"]


def test_the_same_scores_are_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = list(made_items())
    one = _finished(tmp_path / "a", items)
    other = Path(_finished(tmp_path / "b", items[::-1], device="cuda", torch="2.14.0"))
    assert compare(one, str(other)) == 0
    out = capsys.readouterr().out
    assert out.startswith("identical: scores_sha256 ") and out.count("\n") == 1 and "12 items" in out


def test_what_changed_is_said_in_both_directions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [
        made_choice(at, ("law", "art")[at % 2], gold=0, scores=(-1.0, -2.0, -3.0, -4.0)) for at in range(8)
    ]
    items = _with(_with(items, 1, scores=(-2.0, -1.5, -3.0, -4.0)), 5, gold=3)
    other = _with(items, 0, scores=(-3.0, -1.0, -2.0, -4.0))
    other = _with(other, 1, scores=(-1.0, -2.0, -3.0, -4.0))
    other = _with(other, 2, scores=(-4.0, -1.0, -3.0, -4.0))
    other = _with(other, 5, scores=(-2.0, -1.0, -3.0, -4.0))
    compare(_finished(tmp_path / "a", items), _finished(tmp_path / "b", other, dtype="bfloat16"))
    lines = capsys.readouterr().out.splitlines()
    assert "right in the second alone: 1 item" in lines
    assert "  ceval/art-1  art_val.csv:3  B (0.5) -> A (1)  right: A" in lines
    assert "right in the first alone: 2 items" in lines
    assert "  ceval/law-0  law_val.csv:2  A (1) -> B (1)  right: A" in lines
    assert "  ceval/art-5  art_val.csv:7  A (1) -> B (1)  right: D" in lines
    assert "        dtype: float32 in the first, bfloat16 in the second" in lines
    (whole,) = [line for line in lines if line.startswith("ceval ")]
    assert "75.0 % (6/8)  62.5 % (5/8)" in whole and whole.endswith("1.000")
    assert (
        lines[-1] == "4 of 8 items answered otherwise; chance alone would explain the difference in accuracy"
    )


def test_a_clear_difference_and_scores_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [made_choice(at, gold=1, scores=(-1.0, -2.0, -3.0, -4.0)) for at in range(8)]
    right = [replace(one, score=replace(one.score, scores=(-2.0, -1.0, -3.0, -4.0))) for one in wrong]
    one, other = _finished(tmp_path / "a", wrong), _finished(tmp_path / "b", right)
    compare(one, other)
    assert "the second is better, by more than chance explains" in capsys.readouterr().out
    compare(other, one)
    assert "the first is better" in capsys.readouterr().out
    compare(one, _finished(tmp_path / "c", _with(wrong, 0, scores=(-1.0, -2.0, -3.0, -4.0 - 1e-15))))
    assert "the same answers to all 8 items; the scores of 1 differ" in capsys.readouterr().out


def test_texts_and_perplexities_are_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def items(seed: int) -> list[Scored]:
        return [made_text(at, seed=seed) for at in range(9)] + [
            made_rolling(at, seed=seed) for at in range(2)
        ]

    compare(_finished(tmp_path / "a", items(0)), _finished(tmp_path / "b", items(1)))
    out = capsys.readouterr().out
    assert "translate: chrF " in out and "wiki: perplexity per byte " in out
    assert "北京是中国的首都。 -> A | quick brown fox" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda items: items[:-2],
            ("only the first has some of the items", "2 items: ceval/中国语言文学-10"),
        ),
        (lambda items: [*items, made_choice(0, task="own")], ("only the second", "1 item: own/law-0")),
        (
            lambda items: _with(items, 3, prompt_sha256="0" * 64, shots=3, shots_dropped=2),
            ("their prompts differ", "the second has dropped shots from 1 of them"),
        ),
        (
            lambda items: _with(items, 3, gold=(items[3].score.gold or 0) ^ 1),
            ("right answers differ", "law-3"),
        ),
    ],
)
def test_what_was_asked_otherwise_is_not_compared(
    tmp_path: Path, change: Callable[[list[Scored]], list[Scored]], words: tuple[str, str]
) -> None:
    items = list(made_items())
    one, other = _finished(tmp_path / "a", items), _finished(tmp_path / "b", change(items))
    with pytest.raises(Refused, match="CF872") as refused:
        compare(one, other)
    (finding,) = refused.value.findings
    assert words[0] in finding.title and any(words[1] in note for note in finding.notes)
