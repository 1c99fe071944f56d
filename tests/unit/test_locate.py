"""Finding an index and counting records: by content, quickly, and without the heavy libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossfoot.data import templates
from crossfoot.findings.finding import Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.locate import count_records, estimate_samples, find_index
from index_cases import GOOD, jsonl, written_run

SRC = Path(__file__).parents[2] / "src"


def address(folder: Path, files: list[str], **data: object) -> str:
    return ensure_index(written_run(folder, files, **data), files, is_builder=True).address


def test_nothing_is_found_before_it_is_built(tmp_path: Path) -> None:
    files = [jsonl(tmp_path / "a.jsonl", GOOD)]
    run = written_run(tmp_path, files)
    assert find_index(run, files) is None
    assert not os.path.exists(run.index_dir)  # looking leaves no trace
    built = ensure_index(run, files, is_builder=True)
    found = find_index(run, files)
    assert found is not None and found.address == built.address and len(built.address) == 16


def test_address_follows_content_not_name(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "a.jsonl", GOOD, GOOD)
    first = address(tmp_path, [one])
    moved = str(tmp_path / "b.jsonl")
    os.rename(one, moved)
    index = find_index(written_run(tmp_path, [moved]), [moved])
    assert index is not None and index.address == first
    assert index.origin(1) == f"{moved}:2"  # the name it has now
    jsonl(tmp_path / "b.jsonl", GOOD, {**GOOD, "output": "x"})
    assert find_index(written_run(tmp_path, [moved]), [moved]) is None


def test_everything_that_decides_content_is_in_the_address(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "a.jsonl", {**GOOD, "text": "一"})
    two = jsonl(tmp_path / "b.jsonl", {**GOOD, "text": "二"})
    plain = str(tmp_path / "b.txt")
    Path(plain).write_bytes(Path(two).read_bytes())
    seen = [
        address(tmp_path, [one, two]),
        address(tmp_path, [two, one]),
        address(tmp_path, [one, two], max_seq_len=255),
        address(tmp_path, [one, two], bad_samples="skip"),
        address(tmp_path, [one, two], task="pretrain"),
        address(tmp_path, [one, plain], task="pretrain"),
    ]
    assert len(set(seen)) == len(seen)


def test_the_tokenizer_is_in_the_address(tmp_path: Path) -> None:
    files = [jsonl(tmp_path / "a.jsonl", GOOD)]
    index_dir = written_run(tmp_path, files).index_dir
    first = address(tmp_path, files)
    folder = os.path.join(index_dir, "builtin-tiny")
    second = ensure_index(written_run(tmp_path, files, tokenizer=folder), files, is_builder=True).address
    path = Path(folder, "tokenizer_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "x": 1}))
    third = ensure_index(written_run(tmp_path, files, tokenizer=folder), files, is_builder=True).address
    assert len({first, second, third}) == 3


def test_the_text_of_a_template_is_in_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [jsonl(tmp_path / "a.jsonl", GOOD)]
    before = address(tmp_path, files)
    monkeypatch.setitem(templates.BUILT_IN, "alpaca2", "Answer like a lawyer.")  # type: ignore[attr-defined]
    assert address(tmp_path, files) != before


def test_counts(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = jsonl(tmp_path / "a.jsonl", GOOD, "", GOOD, "   ", GOOD)
    listed = str(tmp_path / "b.json")
    Path(listed).write_text(json.dumps([{**GOOD, "output": "}{],["}] * 5, indent=1))
    rows = str(tmp_path / "c.parquet")
    pq.write_table(pa.Table.from_pylist([GOOD] * 7), rows)
    plain = str(tmp_path / "d.txt")
    Path(plain).write_text("一\n\n二\n三")
    assert [count_records([f], "sft") for f in (lines, listed, rows)] == [3, 5, 7]
    every = [lines, listed, rows]
    assert count_records(every, "sft") == estimate_samples(every, "sft", 9) == 15
    assert count_records([plain], "pretrain") == 3
    assert estimate_samples([plain], "pretrain", 4) == 2  # 12 bytes: 3 tokens and 3 end tokens, in fours


def test_long_files_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[GOOD] * 1000)
    monkeypatch.setattr("crossfoot.data.line_files.EXACT_BYTES", 5000)
    assert abs(count_records([path], "sft") - 1000) <= 1


@pytest.mark.parametrize("content", ["", "\n \n", "[]", "[ ]\n"])
def test_no_record_is_a_finding(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(Refused) as refused:
        count_records([str(path)], "sft")
    assert [finding.code for finding in refused.value.findings] == ["CF505"]


LOOK = """
import json, sys, time
from crossfoot.written.run_file import load_run
from crossfoot.index.locate import count_records, find_index
run = load_run(sys.argv[1], [])
files = list(run.config.data.train)
begin = time.process_time()
found, counted = find_index(run, files), count_records(files, "sft")
seconds = time.process_time() - begin
names = ("torch", "transformers", "datasets", "pyarrow", "tokenizers", "pandas")
heavy = [name for name in names if name in sys.modules]
print(json.dumps([found is not None, counted, seconds, heavy]))
"""


def look(run_path: str) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, run_path],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout))


def test_looking_is_light_with_and_without_an_index(tmp_path: Path) -> None:
    files = [jsonl(tmp_path / "a.jsonl", *[GOOD] * 2000)]
    run = written_run(tmp_path, files)
    before = look(run.path)
    ensure_index(run, files, is_builder=True)
    after = look(run.path)
    assert (before[0], after[0]) == (False, True)
    for _, counted, seconds, heavy in (before, after):
        assert counted == 2000 and heavy == []
        assert isinstance(seconds, float) and seconds < 0.2
