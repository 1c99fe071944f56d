"""Records come out as they stand in the file, with the line they start on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from crossfoot.data import json_list
from crossfoot.data.findings import Problem
from crossfoot.data.record import Record
from crossfoot.data.records import read_records
from index_cases import GOOD, jsonl

TRAPS: list[dict[str, Any]] = [
    {"instruction": "日期", "input": "", "output": "2024-01-01"},
    {"instruction": "time", "input": "", "output": "2024-01-02 10:00:00"},
    {"instruction": "number", "input": "", "output": 42},
    {"instruction": "float", "output": 1.10, "extra": {"a": [1, "x"]}},
    {"instruction": "list", "input": None, "output": ["a"], "id": "s"},
    {"instruction": "no input {braces} \\n \u2028 \x0b", "output": 'quote " 😀', "id": 7},
    {"instruction": "empty", "input": "", "output": ""},
]


def values(path: str, task: Any = "sft") -> list[Any]:
    found = list(read_records(path))
    assert all(isinstance(record, Record) for record in found), found
    return [record.value for record in found if isinstance(record, Record)]


def problems(path: str, task: Any = "sft") -> list[Problem]:
    return [record for record in read_records(path) if isinstance(record, Problem)]


def test_jsonl_is_lossless(tmp_path: Path) -> None:
    assert values(jsonl(tmp_path / "a.jsonl", *TRAPS)) == TRAPS


@pytest.mark.parametrize("indent", [None, 1])
def test_json_list_is_lossless(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(TRAPS, ensure_ascii=indent is None, indent=indent), encoding="utf-8")
    assert values(str(path)) == TRAPS


def test_blank_lines_and_bom_do_not_shift_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = json.dumps(GOOD, ensure_ascii=False)
    path.write_bytes(f"\ufeff{line}\n\n  \r\n{line}\r\n".encode())
    assert [record.number for record in read_records(str(path))] == [1, 4]


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    assert values(jsonl(tmp_path / "a.json", GOOD, GOOD)) == [GOOD, GOOD]


def test_list_lines_are_where_records_start(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\n[\n\n  {"a": 1,\n   "b": 2}, {"c": 3},\r\n\n{\n}\n ,5 \n]\n', encoding="utf-8")
    found = list(read_records(str(path)))
    assert [(r.line, r.value) for r in found if isinstance(r, Record)] == [
        (4, {"a": 1, "b": 2}),
        (5, {"c": 3}),
        (7, {}),
        (9, 5),
    ]
    assert len(found) == 4


@pytest.mark.parametrize("window", [1, 2, 7, 64])
def test_list_is_the_same_through_any_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """The file is read in pieces; where a piece ends must not show, not even inside a number."""
    monkeypatch.setattr(json_list, "READ_CHARACTERS", window)
    path = tmp_path / "a.json"
    wanted = [*TRAPS, 12345678, -1.5e10, "text", None, True]
    path.write_text(json.dumps(wanted, ensure_ascii=False, indent=2), encoding="utf-8")
    assert values(str(path)) == wanted
    lines = [record.line for record in read_records(str(path))]
    text = path.read_text(encoding="utf-8").split("\n")
    assert [text[line - 1].strip()[:1] for line in lines[: len(TRAPS)]] == ["{"] * len(TRAPS)
    assert text[lines[len(TRAPS)] - 1] == "  12345678,"


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ('[{"a": 1},\n {"a" 2}]', 2, 7, "expecting ':'"),
        ('[{"a": 1}\n {"a": 2}]', 2, 2, "expected a comma"),
        ('[{"a": 1},\n {"a": 2}', 2, 10, "before its list is closed"),
        ('[{"a": 1},\n {"a": 2}, ]', 2, 12, "expecting value"),
        ('[{"a": 1}]\n{"a": 2}', 2, 1, "after the end"),
        ('[{"a": 1},\n {"a": "x', 2, 8, "unterminated"),
        ("[", 1, 2, "expecting value"),
        ('[1,\n"a\nb"]', 2, 3, "invalid control character"),
        (f"[1,\n{'[' * 200_000}", 2, 1, "nested too deeply"),
        (f"[1,\n{'9' * 5000}]", 2, 1, "limit"),
    ],
)
@pytest.mark.parametrize("window", [3, 1 << 20])
def test_broken_json_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    line: int,
    column: int,
    words: str,
    window: int,
) -> None:
    monkeypatch.setattr(json_list, "READ_CHARACTERS", window)
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    (problem,) = problems(str(path))
    assert (problem.code, problem.line, problem.column, problem.fatal) == ("CF503", line, column, True)
    assert words in problem.reason


def test_every_broken_line_of_jsonl_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD, '{"instruction": "x",', GOOD, "{}{}", "nope", "[")
    assert [(p.code, p.number, p.column) for p in problems(path)] == [
        ("CF503", 2, 21),
        ("CF503", 4, 3),
        ("CF503", 5, 1),
        ("CF503", 6, 2),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "list.json", "a.txt"])
def test_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    line = json.dumps(GOOD, ensure_ascii=False)
    text = f"[{line},\n{line},\n" if name == "list.json" else f"{line}\n\n"
    (tmp_path / name).write_bytes(text.encode() + line.encode("gb18030") + b"\n")
    (problem,) = problems(str(tmp_path / name), "pretrain")
    assert (problem.code, problem.line or problem.number, problem.fatal) == ("CF504", 3, True)


def test_a_file_cut_inside_a_character_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("一\r二\r\n三".encode()[:-1])
    (problem,) = problems(str(tmp_path / "a.txt"), "pretrain")
    assert (problem.code, problem.number) == ("CF504", 3)


def test_every_broken_line_of_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("一\n".encode() + b"\xff\r\r" + "二\n".encode() + b"\xc3\n")
    found = list(read_records(str(tmp_path / "a.txt")))
    assert [type(one) for one in found] == [Record, Problem, Record, Problem]
    assert [one.number for one in found] == [1, 2, 4, 5]


def test_text_is_lossless_even_under_a_name_with_stars(tmp_path: Path) -> None:
    folder = tmp_path / "d [1]*"
    folder.mkdir()
    path = folder / "a?b.txt"
    path.write_bytes("\ufeffone\r\n\n  two \nthree\x0bx\u2028y\n2024-01-01\n42".encode())
    found = list(read_records(str(path)))
    assert [(r.number, r.value["text"]) for r in found if isinstance(r, Record)] == [
        (1, "one"),
        (3, "  two "),
        (4, "three\x0bx\u2028y"),
        (5, "2024-01-01"),
        (6, "42"),
    ]
    assert len(found) == 5


def test_parquet_is_lossless_and_lines_are_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"instruction": f"问 {i}", "output": None if i == 3 else "2024-01-01", "n": i} for i in range(2500)
    ]
    path = tmp_path / "a[1].parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    found = [record for record in read_records(str(path)) if isinstance(record, Record)]
    assert [record.number for record in found] == list(range(1, 2501))
    assert [r.value for r in found] == rows


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["instruction", "output", "output"])
    pq.write_table(table, tmp_path / "a.parquet")
    (problem,) = problems(str(tmp_path / "a.parquet"))
    assert (problem.code, problem.reason) == ("CF513", "two columns have the name output")


def test_parquet_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """Even when all rows are one group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [os.urandom(1000).hex() for _ in range(10_000)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", row_group_size=10_000)
    assert os.path.getsize(tmp_path / "a.parquet") > 10 << 20
    before, most = pa.total_allocated_bytes(), 0
    for number, found in enumerate(read_records(str(tmp_path / "a.parquet"))):
        assert isinstance(found, Record) and found.value == {"text": rows[number]}
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 8 << 20


def test_parquet_numbers_stay_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert values(str(tmp_path / "a.parquet"), "pretrain") == [{"text": 1}, {"text": 2}]


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["output", "output"])
    pq.write_table(twice, tmp_path / "b.parquet")
    (broken,) = problems(str(tmp_path / "a.parquet"))
    (double,) = problems(str(tmp_path / "b.parquet"))
    assert (broken.code, double.code) == ("CF513", "CF513")
    assert double.reason == "two columns have the name output"
