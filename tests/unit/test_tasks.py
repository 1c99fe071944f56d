"""Tasks are read as they are written, exams and one's own; what is wrong in them is one finding for each
mistake, with file and line.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.render import render
from crossfoot.tasks.exam_folders import EXAM
from crossfoot.tasks.exam_groups import groups_of
from crossfoot.tasks.items import Task
from crossfoot.tasks.prompts import requests_of
from crossfoot.tasks.reading import read_tasks

HEADER = "id,question,A,B,C,D,answer\n"
ROW = "0,中国的首都是哪座城市？,上海,北京,广州,深圳,B\n"
HANS = "以下哪一个说法是正确的？我们的国家有很多的人"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped set as a folder `exam`, where the test is."""
    shutil.copytree(EXAM, tmp_path / "exam")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "exam"


def _one(*words: str, **options: Any) -> Task:
    (task,) = read_tasks(words, **options)
    return task


def _refused(*words: str, **options: Any) -> tuple[Finding, ...]:
    with pytest.raises(Refused) as caught:
        read_tasks(words, **options)
    return caught.value.findings


def _found(*words: str, **options: Any) -> tuple[str, str]:
    """(code and title, place) of the only finding."""
    (finding,) = _refused(*words, **options)
    return f"{finding.code} {finding.title}", str(finding.place)


def _cmmlu(folder: Path) -> None:
    """Make a folder of CMMLU out of one of C-Eval."""
    for split, named in (("dev", "dev"), ("val", "test")):
        for path in sorted((folder / split).glob("[a-z]*.csv")):
            rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
            target = folder / named / path.name.replace(f"_{split}", "")
            target.parent.mkdir(exist_ok=True)
            with target.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(
                    [["", "Question", *"ABCD", "Answer"], *(row[:7] for row in rows[1:])]
                )
            path.unlink()
    shutil.rmtree(folder / "val")


def test_the_shipped_set_is_balanced_and_right_in_form() -> None:
    task = _one("exam")
    assert (task.name, task.kind, task.form, task.split, task.warnings) == (
        "exam",
        "choice",
        "ceval",
        "val",
        (),
    )
    assert task.subjects == ("batch_arithmetic", "china_geography", "everyday_physics")
    for subject in task.subjects:
        assert Counter(item.gold for item in task.items if item.subject == subject) == dict.fromkeys(
            range(4), 3
        )
        assert {item.gold for item in task.shots[subject]} == {0, 1, 2, 3} and len(task.shots[subject]) == 5
    every = (*task.items, *(shot for shots in task.shots.values() for shot in shots))
    assert len({item.question for item in every}) == len(every) == 51, "no question is asked and shown"
    assert len({item.id for item in task.items}) == 36
    assert all("  " not in item.question and "," not in item.question for item in every)


def test_both_exams_come_to_the_same_items(folder: Path) -> None:
    ceval = _one("ceval=exam")
    assert ceval.items[1].place == "exam/val/batch_arithmetic_val.csv:3, row 2"
    assert ceval.items[1].id == "batch_arithmetic/1"
    _cmmlu(folder)
    cmmlu = _one("cmmlu=exam")
    assert (cmmlu.form, cmmlu.split) == ("cmmlu", "test")

    def said(task: Task) -> list[Any]:
        return [(item.id, item.question, item.choices, item.gold) for item in task.items]

    assert said(cmmlu) == said(ceval)
    assert {name: len(shots) for name, shots in cmmlu.shots.items()} == dict.fromkeys(ceval.subjects, 5)


def test_a_word_is_read_as_it_is_typed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(_one("ceval=~/exam").items) == 36
    for word in ("exam,ceval=exam", "exam,own.jsonl"):
        assert _refused(word)[0].helps[0] == f"write several tasks apart: {word.replace(',', ' ')}"
    assert _refused("CEVAL=exam")[0].helps == ("name it as the exam that it holds: ceval=exam",)
    assert "ceval=FOLDER" in _refused("ceval")[0].helps[0]


def test_what_lies_beside_the_tables_is_passed_over(folder: Path) -> None:
    for name in (
        "README.md",
        "._china_geography_val.csv",
        "china_geography_val.csv.gb18030",
        "notes_val.txt",
    ):
        (folder / "val" / name).write_bytes(b"\xff\xfe\x00")
    assert len(_one("ceval=exam").items) == 36
    _cmmlu(folder)
    (folder / "test" / "notes.txt").touch()
    assert len(_one("cmmlu=exam").items) == 36


def test_subjects_and_splits_are_chosen(folder: Path) -> None:
    assert _one("ceval=exam", subjects=["china_geography"]).subjects == ("china_geography",)
    dev = _one("ceval=exam", split="dev")
    assert len(dev.items) == 15 and not dev.shots
    assert _found("ceval=exam", subjects=["china_geografy", "x"])[0] == (
        "CF852 no task has the subjects china_geografy or x"
    )
    both = read_tasks(["exam", "ceval=exam"], subjects=["everyday_physics"])
    assert [len(task.items) for task in both] == [12, 12]


def test_hidden_answers_are_asked_for_and_known_to_nobody(folder: Path) -> None:
    hidden = "\n".join(line.rpartition(",")[0] for line in _lines(folder / "val" / "china_geography_val.csv"))
    (folder / "test").mkdir()
    (folder / "test" / "china_geography_test.csv").write_text(hidden + "\n", encoding="utf-8")
    task = _one("ceval=exam", split="test")
    assert len(task.items) == 12 and {item.gold for item in task.items} == {None}
    assert len(requests_of(task, "clean", 5)) == 12


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8-sig", "utf-16"])
def test_a_folder_of_one_encoding_is_read(folder: Path, encoding: str) -> None:
    plain = _one("ceval=exam")
    for path in folder.rglob("*.csv"):
        path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    read = _one("ceval=exam")
    assert (read.items, read.shots) == (plain.items, plain.shots)


@pytest.mark.parametrize(("question", "code"), [("龘齉", "CF504"), ("爨彧龘齉鬱麤靐龗" * 3, "CF559")])
def test_a_table_that_does_not_tell_goes_with_its_folder(folder: Path, question: str, code: str) -> None:
    (folder / "val" / "s_val.csv").write_bytes(f"{HEADER}0,{question},a,b,c,d,B\n".encode("gb18030"))
    assert _refused("ceval=exam")[0].code == code
    for path in folder.rglob("*_*_*.csv"):
        path.write_bytes(path.read_text(encoding="utf-8").encode("gb18030"))
    assert _one("ceval=exam").items[-1].question == question


def test_a_folder_of_two_encodings_is_named_file_by_file(folder: Path) -> None:
    path = folder / "val" / "china_geography_val.csv"
    path.write_bytes(path.read_text(encoding="utf-8").encode("gb18030"))
    (finding,) = _refused("ceval=exam")
    assert finding.code == "CF853" and finding.title == "the tables of an exam are UTF-8, but for 1 of them"
    assert str(finding.place) == "exam/val/china_geography_val.csv" and finding.label == "GB18030 text"
    subprocess.run(finding.helps[0].partition(": ")[2], shell=True, check=True)
    assert path.with_name(f"{path.name}.gb18030").exists()
    assert len(_one("ceval=exam").items) == 36


def test_a_damaged_byte_is_named_with_its_line(folder: Path) -> None:
    path = folder / "val" / "china_geography_val.csv"
    path.write_bytes(path.read_bytes() + b"12,\xff,a,b,c,d,A\n")
    title, place = _found("ceval=exam")
    assert (title, place) == ("CF504 this line is not UTF-8", "exam/val/china_geography_val.csv:14")


def test_a_folder_that_is_not_the_exams_names_what_is_meant(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes" / "val").mkdir(parents=True)
    (tmp_path / "notes" / "val" / "notes_val.txt").touch()
    said = {
        "ceval=.": ("ceval=./exam",),
        "ceval=exam/val": ("ceval=exam",),
        "ceval=exan": ("exam",),
        "cmmlu=exam": ("ceval=exam",),
        "ceval=empty": ("dev, val and test",),
        "cmmlu=notes": ("dev, val and test",),
        "exam/": ("ceval=exam/",),
    }
    for word, (help_,) in said.items():
        (finding,) = _refused(word)
        assert finding.code in ("CF850", "CF851") and help_ in " ".join(finding.helps), (word, finding)
    for word in ("ceval=.", "ceval=exam/val", "cmmlu=exam"):
        (finding,) = _refused(word)
        assert len(_one(finding.helps[0].rpartition(": ")[2]).items) == 36, word
    assert _refused("ceval=exam", split="test")[0].helps == ("name a split that is there: dev or val",)
    assert "has no split train" in _refused("ceval=exam", split="train")[0].title


ROWS: list[tuple[str, str, str]] = [
    ("0, ,a,b,c,d,B\n", "CF855 an item has no question", "question is empty"),
    ("0,q,a,b,c,d,\n", "CF856 an item has no answer", "answer is empty"),
    ("0,q,a,b,c,d,E\n", "CF857 an answer is no choice", "answer is 'E', and not one of A, B, C and D"),
    ("0,q,a,b,c,d,a\n", "CF857 an answer is no choice", "answer is 'a', and not one of A, B, C and D"),
    ("0,q,a,b,c,d,AB\n", "CF857 an answer is no choice", "answer is 'AB', and not one of A, B, C and D"),
    ("1,q,a,b,c,d,A\n", "CF859 an id is used twice", "id 1 is that of exam/val/s_val.csv:2, row 1 too"),
    ("0,q,a,b,c,A\n", "CF527 a table is not readable by its header", "it has 6 cells, and the header has 7"),
    ('0,"q\n', "CF527 a table is not readable by its header", "unexpected end of data"),
]


@pytest.mark.parametrize(("row", "title", "label"), ROWS)
def test_a_bad_row_is_named_with_its_line(folder: Path, row: str, title: str, label: str) -> None:
    (folder / "val" / "s_val.csv").write_text(HEADER + ROW.replace("0,", "1,", 1) + row, encoding="utf-8")
    (finding,) = _refused("ceval=exam", with_shots=False)
    assert (f"{finding.code} {finding.title}", finding.label) == (title, label)
    assert str(finding.place) == "exam/val/s_val.csv:3, row 2"


def test_choices_that_are_equal_or_empty_are_said_and_asked(folder: Path) -> None:
    rows = HEADER + ROW + "1,q,a,b,b,d,A\n2,q,a,b,,d,A\n"
    (folder / "val" / "s_val.csv").write_text(rows, encoding="utf-8")
    task = _one("ceval=exam", with_shots=False)
    (warning,) = task.warnings
    assert (warning.code, warning.severity) == ("CF858", "warning") and len(task.items) == 39
    assert warning.title == "2 items have choices that are equal or empty"
    assert [warning.label, *(label for _, label in warning.others)] == ["B and C are equal", "C is empty"]


def test_many_mistakes_are_one_finding_with_a_count(folder: Path) -> None:
    rows = "".join(f"{number},q{number},a,b,c,d,F\n" for number in range(40))
    (folder / "val" / "s_val.csv").write_text(HEADER + rows, encoding="utf-8")
    (finding,) = _refused("ceval=exam", with_shots=False)
    assert (
        render([finding])
        == """\
error[CF857]: 40 answers are no choices
 --> exam/val/s_val.csv:2, row 1: answer is 'F', and not one of A, B, C and D
 ::: exam/val/s_val.csv:3, row 2: answer is 'F', and not one of A, B, C and D
 ::: exam/val/s_val.csv:4, row 3: answer is 'F', and not one of A, B, C and D
  = note: 37 more are not shown here
  = help: write the letter of the right choice

1 error"""
    )


def test_columns_of_another_case_or_missing_are_one_finding(folder: Path) -> None:
    for name in ("a", "b"):
        path = folder / "val" / f"{name}_val.csv"
        path.write_text(HEADER.replace("question", "Question") + ROW, encoding="utf-8")
    (folder / "val" / "c_val.csv").write_text("id,question,A,B,C,answer\n0,q,a,b,c,A\n", encoding="utf-8")
    (finding,) = _refused("ceval=exam", with_shots=False)
    assert finding.title == "3 tables of an exam have other columns"
    assert finding.label == "no question; it has Question"
    assert finding.others[1][1] == "no D; it has id, question, A, B, C, answer"


def test_a_table_without_rows_and_a_program_named_csv(folder: Path) -> None:
    (folder / "val" / "s_val.csv").write_text(HEADER, encoding="utf-8")
    assert _found("ceval=exam") == ("CF863 a task has nothing to ask", "exam/val/s_val.csv")
    (folder / "val" / "t_val.csv").mkdir()
    assert _found("ceval=exam")[0].endswith("cannot be read: exam/val/t_val.csv: is a directory")
    (folder / "val" / "t_val.csv").rmdir()
    (folder / "val" / "s_val.csv").write_bytes(b"PK\x03\x04" + bytes(60))
    assert _refused("ceval=exam")[0].code == "CF557"


def test_worked_examples_that_are_missing_or_few_are_named(folder: Path) -> None:
    (folder / "dev" / "china_geography_dev.csv").unlink()
    path = folder / "dev" / "everyday_physics_dev.csv"
    path.write_text("\n".join(_lines(path)[:3]) + "\n", encoding="utf-8")
    task = _one("ceval=exam")
    with pytest.raises(Refused) as caught:
        requests_of(task, "clean")
    (finding,) = caught.value.findings
    assert (finding.code, finding.title) == ("CF861", "fewer than 5 worked examples in 2 of 3 subjects")
    assert str(finding.place) == "exam/dev/china_geography_dev.csv"
    assert finding.label == "it is not there" and finding.helps[1].endswith("--shots 0")
    assert [(str(place), label) for place, label in finding.others] == [
        ("exam/dev/everyday_physics_dev.csv", "2 of everyday_physics")
    ]
    assert len(requests_of(task, "clean", 0)) == 36
    shutil.rmtree(folder / "dev")
    assert len(requests_of(_one("ceval=exam", with_shots=False), "clean", 0)) == 36


def _written(records: Sequence[Any]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    Path("own.jsonl").write_text(text, encoding="utf-8")


CHOICE = {"question": "1 + 1 = ?", "choices": ["1", "2", "3"], "answer": "B"}


def test_a_task_of_ones_own(folder: Path) -> None:
    _written(
        [
            {**CHOICE, "split": "dev"},
            CHOICE,
            {**CHOICE, "answer": 1, "id": "x", "subject": "sums"},
            {**CHOICE, "answer": "2"},
        ]
    )
    task = _one("own.jsonl")
    assert (task.name, task.kind) == ("own", "choice")
    assert [item.gold for item in task.items] == [1, 1, 1]
    assert [(item.subject, item.id) for item in task.items] == [("own", "2"), ("sums", "x"), ("own", "4")]
    assert task.items[0].place == "own.jsonl:2" and len(task.shots["own"]) == 1
    assert _one("mine=own.jsonl").name == "mine"
    _written([{"prompt": "1 + 1 =", "reference": "2"}])
    (item,) = _one("own.jsonl").items
    assert (item.question, item.reference) == ("1 + 1 =", "2")
    Path("book.txt").write_bytes("第一行\r\n\r\n第三行\n".encode())
    text = _one("book.txt")
    assert text.kind == "perplexity" and [item.question for item in text.items] == ["第一行\r\n\r\n第三行\n"]


BAD: list[tuple[Any, str, str]] = [
    ({"instruction": "a", "output": "b"}, "CF860", "it has instruction, output"),
    ({"question": "a", "answer": "b"}, "CF860", "it has question, answer"),
    ([1], "CF860", "it is no object"),
    ({**CHOICE, "choices": {"A": "1"}}, "CF860", '"choices" is no list of texts'),
    ({**CHOICE, "choices": ["1"]}, "CF860", '"choices" has 1; it may have 2 to 26'),
    ({**CHOICE, "question": 3}, "CF860", '"question" is no text'),
    ({**CHOICE, "question": "\ud83d"}, "CF860", '"question" holds half a character, \\ud83d'),
    ({**CHOICE, "choices": ["\ud83d", "1"]}, "CF860", "one of the choices holds half a character, \\ud83d"),
    ({**CHOICE, "choices": ["1", 2]}, "CF860", "one of the choices is no text"),
    ({**CHOICE, "split": "train"}, "CF860", '"split" may be "dev", of records with choices'),
    ({"prompt": "a", "reference": "b"}, "CF860", 'it has "prompt", and the first record is of another form'),
    ({**CHOICE, "question": " "}, "CF855", "it is empty"),
    ({**CHOICE, "answer": None}, "CF856", 'it has no "answer"'),
    ({**CHOICE, "answer": "D"}, "CF857", "answer is 'D'; the letters are A to C"),
    ({**CHOICE, "answer": 3}, "CF857", "answer is 3, and the last index is 2"),
    ({**CHOICE, "answer": True}, "CF857", "answer is True"),
    (
        {**CHOICE, "choices": ["B", "x"], "answer": "B"},
        "CF857",
        "answer is B, the letter of one choice and the text of another",
    ),
    ({**CHOICE, "id": 1}, "CF859", "id 1 is that of own.jsonl:1 too"),
    ({**CHOICE, "id": [1]}, "CF860", '"id" is neither text nor a whole number'),
    ({**CHOICE, "split": "dev", "answer": None}, "CF856", "a worked example needs one"),
]


@pytest.mark.parametrize(("record", "code", "label"), BAD)
def test_a_bad_record_of_ones_own_is_named(folder: Path, record: Any, code: str, label: str) -> None:
    text = "".join(json.dumps(one) + "\n" for one in (CHOICE, record))
    Path("own.jsonl").write_text(text, encoding="utf-8")
    (finding,) = _refused("own.jsonl")
    assert (finding.code, finding.label, str(finding.place)) == (code, label, "own.jsonl:2")


def test_a_file_that_is_no_task(folder: Path) -> None:
    Path("own.jsonl").write_text('{"question": \n', encoding="utf-8")
    assert _found("own.jsonl")[0] == "CF503 this line is not JSON"
    Path("own.jsonl").write_text("\n", encoding="utf-8")
    assert _found("own.jsonl") == ("CF863 a task has nothing to ask", "own.jsonl")
    Path("own.jsonl").write_bytes((json.dumps({"text": HANS * 9}, ensure_ascii=False)).encode("gb18030"))
    assert _refused("own.jsonl")[0].code == "CF559"
    twice = json.dumps(CHOICE)[:-1] + ', "answer": "A"}'
    Path("own.jsonl").write_text(twice, encoding="utf-8")
    assert _refused("own.jsonl")[0].label == 'it has "answer" twice'
    Path("own.jsonl.gz").write_bytes(b"\x1f\x8b\x08" + bytes(20))
    assert _refused("own.jsonl.gz")[0].code == "CF526"
    Path("a.txt").write_bytes("第一\n第".encode() + b"\xff\n")
    assert _found("a.txt") == ("CF504 this line is not UTF-8", "a.txt:2")
    Path("a.csv").write_text(HEADER + ROW, encoding="utf-8")
    assert "is no kind of file that is read" in _found("a.csv")[0]
    assert "own.jsonl" in " ".join(_refused("own.json")[0].helps)
    Path("a=b.jsonl").write_text(json.dumps(CHOICE), encoding="utf-8")
    assert _one("a=b.jsonl").name == "a=b" and _one("a=a=b.jsonl").name == "a"
    assert _found("=a=b.jsonl")[0].startswith("CF850")
    assert _found("exam", "exam=own.jsonl")[0] == "CF862 two tasks are called exam: exam and exam=own.jsonl"


def test_groups_are_those_that_the_makers_of_an_exam_report() -> None:
    """How many subjects each has, as their papers say (arXiv 2305.08322, 2306.09212)."""
    groups = json.loads((Path(EXAM).parent / "exam_groups.json").read_text(encoding="utf-8"))
    sizes = {exam: {name: len(each) for name, each in own.items()} for exam, own in groups.items()}
    assert sizes["ceval"] == {"STEM": 20, "Social Science": 10, "Humanities": 11, "Other": 11, "Hard": 8}
    whole = {"STEM": 17, "Social Science": 22, "Humanities": 13, "Other": 15}
    assert {name: sizes["cmmlu"][name] for name in whole} == whole
    for exam, subjects in (("ceval", 52), ("cmmlu", 67)):
        parted = [one for name in whole for one in groups[exam][name]]
        assert len(parted) == len(set(parted)) == subjects
    assert groups_of("ceval", "college_physics") == ("STEM", "Hard")
    assert groups_of("cmmlu", "chinese_history") == ("Humanities", "China specific")
    assert groups_of("own", "college_physics") == groups_of("ceval", "mine") == ()


def test_files_as_ceval_hands_them_out(folder: Path) -> None:
    """A mark, line ends of Windows, an explanation on several lines, and a test split without answers."""
    exam = folder.parent / "handed"
    rows = {
        "dev": 'id,question,A,B,C,D,answer,explanation\n0,"1, or 2____。",1,2,3,4,B,"1. $x$\n2. 是, 所以"\n',
        "val": "id,question,A,B,C,D,answer\n0,几____。,一,二,三,四,C\n",
        "test": "id,question,A,B,C,D\n0,何____。,一,二,三,四\n1,谁____。,一,二,三,四\n",
    }
    for split, text in rows.items():
        (exam / split).mkdir(parents=True)
        file = exam / split / f"college_physics_{split}.csv"
        file.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    (asked,) = read_tasks(["ceval=handed"])
    (shot,) = asked.shots["college_physics"]
    assert (shot.question, shot.gold, asked.items[0].gold) == ("1, or 2____。", 1, 2)
    assert asked.items[0].groups == ("STEM", "Hard")
    (hidden,) = read_tasks(["ceval=handed"], split="test")
    assert [(item.question, item.gold) for item in hidden.items] == [("何____。", None), ("谁____。", None)]
