"""Data files that never end, and records that are too large: a finding, in bounded memory."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfoot.data import json_list, line_files, parquet, record, sampling
from crossfoot.data import look as looking
from crossfoot.data.file_look import file_finding
from crossfoot.data.findings import Problem
from crossfoot.data.line_files import count_lines
from crossfoot.data.records import count_file, read_records
from crossfoot.index import reference_records
from crossfoot.index.look import look_at
from index_cases import GOOD, held, jsonl, written_run

LIMIT = 400
LONG = {**GOOD, "output": "字" * LIMIT}


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (json_list, line_files, record):
        monkeypatch.setattr(module, "LARGEST_RECORD_BYTES", LIMIT)
    monkeypatch.setattr(reference_records, "LONGEST_BYTES", LIMIT)
    monkeypatch.setattr(json_list, "READ_CHARACTERS", 64)
    monkeypatch.setattr(line_files, "BLOCK_BYTES", 64)


def told(path: str, task: Any = "sft") -> list[tuple[int, str, bool]]:
    """Number, code or nothing, whether it is fatal."""
    return [
        (found.number, found.code, found.fatal) if isinstance(found, Problem) else (found.number, "", False)
        for found in read_records(path)
    ]


def test_what_is_no_ordinary_file_is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "linked.jsonl").symlink_to(tmp_path / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jsonl"))
        reasons = {}
        for path in sorted(tmp_path.iterdir()):
            problem = file_finding(str(path), "sft")
            assert problem is not None and problem.code == "CF501", path
            reasons[path.name] = problem.label.removeprefix(f"{path} is ")
    assert reasons == {
        "linked.jsonl": "a pipe, not an ordinary file",
        "pipe.jsonl": "a pipe, not an ordinary file",
        "socket.jsonl": "a socket, not an ordinary file",
        "zero.jsonl": "a device, not an ordinary file",
    }


def test_a_line_that_is_too_large_is_named_and_passed_over(tmp_path: Path, low_limit: None) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD, LONG, GOOD, LONG)
    assert told(path) == [(1, "", False), (2, "CF550", False), (3, "", False), (4, "CF550", False)]
    assert count_file(path) == 4


def test_a_line_as_large_as_may_be_is_read(tmp_path: Path, low_limit: None) -> None:
    line = json.dumps({"text": "x" * (LIMIT - 13)}) + "\n"
    assert len(line) == LIMIT
    (tmp_path / "a.jsonl").write_text(line + line.replace("x", "xx", 1))
    assert told(str(tmp_path / "a.jsonl"), "pretrain") == [(1, "", False), (2, "CF550", False)]


@pytest.mark.parametrize("block", [1, 2, 3, 64])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_plain_text_has_the_same_lines_through_any_block(
    tmp_path: Path, low_limit: None, monkeypatch: pytest.MonkeyPatch, block: int, end: str
) -> None:
    monkeypatch.setattr(line_files, "BLOCK_BYTES", block)
    path = tmp_path / "a.txt"
    texts = ["first", "", "x" * (LIMIT + 1), "fourth", "last"]
    path.write_bytes(end.join(texts).encode())
    found = [(one.number, getattr(one, "value", None)) for one in read_records(str(path))]
    assert found == [(1, {"text": "first"}), (3, None), (4, {"text": "fourth"}), (5, {"text": "last"})]
    assert count_lines(str(path), ".txt") == 4


def test_behind_a_record_of_a_list_that_is_too_large_nothing_is_read(tmp_path: Path, low_limit: None) -> None:
    path = tmp_path / "a.json"
    for texts in ([GOOD, LONG, GOOD], [GOOD, "x" * (2 * LIMIT)], [GOOD, [[]] * LIMIT]):
        path.write_text(json.dumps(texts, ensure_ascii=False, indent=1), encoding="utf-8")
        assert told(str(path)) == [(1, "", False), (2, "CF550", True)]
    path.write_text(f'[1, "{"x" * 3 * LIMIT}', encoding="utf-8")  # a text that never ends
    assert told(str(path)) == [(1, "", False), (2, "CF550", True)]
    problem = count_file(str(path))
    assert isinstance(problem, Problem) and problem.code == "CF550"


def test_a_row_that_is_too_large_is_passed_over(tmp_path: Path, low_limit: None) -> None:
    pq.write_table(pa.Table.from_pylist([GOOD, LONG, GOOD]), tmp_path / "a.parquet")
    assert told(str(tmp_path / "a.parquet")) == [(1, "", False), (2, "CF550", False), (3, "", False)]


def test_rows_are_read_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": os.urandom(500).hex()} for _ in range(300)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    monkeypatch.setattr(parquet, "BATCH_BYTES", 10_000)
    real, sizes = pq.ParquetFile.iter_batches, []

    def seen(file: Any, batch_size: int, **words: Any) -> Any:
        sizes.append(batch_size)
        return real(file, batch_size=batch_size, **words)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", seen)
    assert len(list(read_records(str(tmp_path / "a.parquet")))) == 300
    assert 5 <= sizes[0] <= 10  # of 1,000 bytes each


def test_a_record_that_is_too_large_stops_or_is_left_out(tmp_path: Path, low_limit: None) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD, LONG, {**GOOD, "output": "b"})
    (finding,) = look_at(written_run(tmp_path, [path])).findings
    assert (finding.code, str(finding.place)) == ("CF550", f"{path}:2")
    assert any("bad_samples" in text for text in finding.helps)
    index = held(
        written_run(tmp_path, [path], bad_samples="skip")
    )  # and the second reader passes it over too
    assert [(one.place.line, one.code) for one in index.rejects] == [(2, "CF550")]
    assert index.numbers.tolist() == [1, 3]
    assert index.header.sources[0].records == 3


def test_a_look_at_a_large_file_tells_a_line_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LONGEST_RECORD_BYTES", 100), ("LARGEST_RECORD_BYTES", 400)):
        monkeypatch.setattr(sampling, name, value)
    monkeypatch.setattr(looking, "WHOLE_BYTES", 0)
    good = [{**GOOD, "output": f"answer {i}"} for i in range(30)]
    path = jsonl(tmp_path / "a.jsonl", *good[:20], {**GOOD, "output": "x" * 5000}, *good[20:])
    (finding,) = look_at(written_run(tmp_path, [path])).findings
    assert (finding.code, str(finding.place)) == ("CF550", f"{path}:21")
    path = jsonl(tmp_path / "b.jsonl", *good, {**GOOD, "output": "x" * 250})
    assert look_at(written_run(tmp_path, [path])).findings == ()
