"""Prompts are, character by character, those of Chinese-LLaMA-Alpaca-2's scripts, and so is what they take
from an answer. tests/exams/alpaca2.json was made by that project's own code: `eval_subject` of scripts/ceval
and scripts/cmmlu on the shipped set, with a tokenizer that writes down what it is given, and
`extract_answer`; null is where it draws a letter.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossfoot.cli import main
from crossfoot.findings.finding import Refused
from crossfoot.tasks.answers import ChrF, answered, exact_match, letter_in
from crossfoot.tasks.harness_yaml import export_task
from crossfoot.tasks.items import Item, Request, Task
from crossfoot.tasks.prompts import SCORERS, requests_of
from crossfoot.tasks.reading import read_tasks
from support.launching import ROOT

THERE = json.loads((ROOT / "tests" / "exams" / "alpaca2.json").read_text(encoding="utf-8"))
(EXAM,) = read_tasks(["exam"])


def _asked(key: str) -> Request:
    """`ceval everyday_physics 11 chat 5`: the exam, the subject, the row, the way, the shots."""
    form, subject, row, way, shots = key.split()
    task: Task = replace(EXAM, form=form)  # type: ignore[arg-type]
    scorer = "alpaca2-chat" if way == "chat" else "alpaca2"
    asked = [request for request in requests_of(task, scorer, int(shots)) if request.item.subject == subject]
    return asked[int(row)]


@pytest.mark.parametrize("key", THERE["prompts"])
def test_a_prompt_is_the_one_of_that_project(key: str) -> None:
    assert _asked(key).context == THERE["prompts"][key]


def test_five_shots_are_those_of_that_project() -> None:
    assert len(THERE["sha256"]) == 24
    for key, digest in THERE["sha256"].items():
        assert hashlib.sha256(_asked(key).context.encode()).hexdigest().startswith(digest), key


@pytest.mark.parametrize("scorer", SCORERS)
def test_shots_are_dropped_one_by_one_from_the_end(scorer: str) -> None:
    request: Request | None = requests_of(EXAM, scorer, 5)[20]
    prefixes = requests_of(EXAM, scorer, 5)[20].prefixes
    for shots in range(5, -1, -1):
        assert request is not None and request.shots == shots
        assert request.context == requests_of(EXAM, scorer, shots)[20].context
        assert request.prefix.startswith(prefixes[max(0, shots - 1)])
        request = request.shorter()
    assert request is None


def test_items_of_a_subject_share_their_prefixes() -> None:
    requests = requests_of(EXAM, "clean")
    for subject in EXAM.subjects:
        assert len({id(one.prefixes) for one in requests if one.item.subject == subject}) == 1
    assert all(one.shots == 5 and one.continuations == tuple("ABCD") for one in requests)


def test_the_words_of_clean() -> None:
    request = requests_of(EXAM, "clean", 0)[-1]
    assert request.context == (
        "以下是中国关于everyday_physics考试的单项选择题，请选出其中的正确答案。\n\n"
        "一块木块静止地漂浮在水面上，它受到的浮力与重力相比怎样？\n"
        "A. 浮力较大\nB. 两者大小相等\nC. 浮力较小\nD. 没有受到浮力\n答案："
    )
    request = requests_of(EXAM, "clean-choices", 0)[-1]
    assert request.context.endswith("\n\n一块木块静止地漂浮在水面上，它受到的浮力与重力相比怎样？\n答案：")
    assert request.continuations == ("浮力较大", "两者大小相等", "浮力较小", "没有受到浮力")


def test_a_task_in_english_is_asked_in_english(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    records = [
        {"question": "1 + 1 = ?", "choices": ["1", "2"], "answer": "B", "split": "dev"},
        {"question": "1 + 2 = ?", "choices": ["3", "4", "5"], "answer": "A"},
    ]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    (task,) = read_tasks([str(path)])
    (request,) = requests_of(task, "clean")
    assert request.context == "1 + 1 = ?\nA. 1\nB. 2\nAnswer: B\n\n1 + 2 = ?\nA. 3\nB. 4\nC. 5\nAnswer:"
    assert request.continuations == (" A", " B", " C")
    with pytest.raises(Refused, match="CF861"):
        requests_of(task, "clean", 2)


def test_texts_are_asked_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"prompt": " 1 + 1 =", "reference": "2"}\n', encoding="utf-8")
    (tmp_path / "a.txt").write_text("甲\n\n乙\n", encoding="utf-8")
    own, text = read_tasks([str(tmp_path / "own.jsonl"), str(tmp_path / "a.txt")])
    (request,) = requests_of(own, "clean")
    assert (request.kind, request.context, request.continuations) == ("generate", " 1 + 1 =", ())
    assert request.decoding is not None and not request.decoding.do_sample
    (request,) = requests_of(text, "alpaca2", 5)
    assert (request.kind, request.context, request.shots) == ("rolling", "甲\n\n乙\n", 0)


def test_a_letter_is_taken_as_that_project_takes_it() -> None:
    assert len(THERE["answers"]) > 100
    for text, letter in THERE["answers"].items():
        found = letter_in(text, _item("1"))
        assert (None if found is None else "ABCD"[found]) == letter, text
    equal = THERE["equal"]
    found = letter_in(equal["text"], replace(_item("1"), choices=tuple(equal["choices"])))
    assert found == "ABCD".index(equal["letter"]) == 2


def _item(id_: str) -> Item:
    return Item("exam", "s", id_, "", "q", tuple(THERE["choices"]), 0)


def test_without_a_letter_one_is_drawn_by_seed_and_item_alone() -> None:
    drawn = [answered("以上都不对", _item(str(number))) for number in range(400)]
    assert all(one.is_drawn for one in drawn)
    assert drawn == [answered("不知道", _item(str(number))) for number in range(400)]
    assert drawn != [answered("不知道", _item(str(number)), seed=1) for number in range(400)]
    assert all(70 < count < 130 for count in Counter(one.choice for one in drawn).values())
    assert not answered("B", _item("1")).is_drawn


def test_answers_are_held_against_references() -> None:
    assert exact_match("  “Ｂｅｉｊｉｎｇ。” ", "beijing") == 1 and exact_match("北京市", "北京") == 0
    assert ChrF()("北京", "北京") == 100 and 0 < ChrF()("北京市", "北京") < 100 and ChrF()("", "北京") == 0


def _documents(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    return map(json.loads, (folder / name).read_text(encoding="utf-8").splitlines())


def test_an_export_holds_what_is_asked(tmp_path: Path) -> None:
    """As lm-evaluation-harness puts it together: heading, worked examples with their delimiter, question."""
    folder = tmp_path / "export"
    command = export_task(EXAM, str(folder), "clean", 2)
    assert command == f"lm_eval --include_path {folder} --tasks crossfoot_exam --model hf"
    built = []
    for subject in EXAM.subjects:
        name = f"crossfoot_exam_{subject}"
        shots = "".join(
            f"{shot['asked']}{shot['choices'][shot['gold']]}\n\n"
            for shot in _documents(folder, f"{name}.dev.jsonl")
        )
        for one in _documents(folder, f"{name}.jsonl"):
            built.append((one["heading"] + shots + one["asked"], tuple(one["choices"]), one["gold"]))
    asked = requests_of(EXAM, "clean", 2)
    assert built == [(one.context, one.continuations, one.item.gold) for one in asked]
    text = (folder / "crossfoot_exam_china_geography.yaml").read_text(encoding="utf-8")
    assert "num_fewshot: 2" in text and "sampler: first_n" in text and "target_delimiter: ''" in text


def test_subjects_of_one_word_do_not_write_over_each_other(tmp_path: Path) -> None:
    renamed = [replace(item, subject=f"a{'-+*'[number % 3]}b") for number, item in enumerate(EXAM.items)]
    export_task(replace(EXAM, items=tuple(renamed), shots={}), str(tmp_path / "export"), "clean", 0)
    assert sum(len(list(_documents(path.parent, path.name))) for path in tmp_path.rglob("*.jsonl")) == 36


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    def refused(task: Task, folder: Path, scorer: str = "clean") -> str:
        with pytest.raises(Refused) as caught:
            export_task(task, str(folder), scorer)
        assert not (tmp_path / "new").exists()
        return str(caught.value)

    new = tmp_path / "new"
    assert "the harness has no scorer alpaca2" in refused(EXAM, new, "alpaca2")
    hidden = tuple(replace(item, gold=None) for item in EXAM.items)
    assert "its answers are hidden" in refused(replace(EXAM, items=hidden), new)
    (tmp_path / "a").touch()
    assert "holds files already" in refused(EXAM, tmp_path)


def test_the_verb_exports_all_its_tasks_or_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "one"}\n', encoding="utf-8")
    words = ["evaluate", "--tasks", "exam", str(texts), "--shots", "2", "--export"]
    assert main([*words, str(tmp_path / "out"), "--scorer", "alpaca2"]) == 1
    assert "CF864" in capsys.readouterr().out and not (tmp_path / "out").exists()
    assert main([*words, str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"lm_eval --include_path {tmp_path}/out/exam --tasks crossfoot_exam --model hf" in said
    export_task(EXAM, str(tmp_path / "alone"), "clean", 2)
    for file in (tmp_path / "alone").glob("*.jsonl"):
        assert file.read_bytes() == (tmp_path / "out" / "exam" / file.name).read_bytes()
    assert (tmp_path / "out" / "texts" / "crossfoot_texts.yaml").exists()
    (tmp_path / "file").write_text("")
    assert main([*words, str(tmp_path / "file" / "out")]) == 1
    assert "CF864" in capsys.readouterr().out
