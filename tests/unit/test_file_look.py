"""A data file that holds something else than the records of its task is one finding that names what it is,
and every command in it makes a file that is read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from ruamel.yaml import YAML

from crossfoot.data import file_look, sampling
from crossfoot.data.file_look import file_finding
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.locate import count_records
from crossfoot.index.look import look_at
from crossfoot.planning.prepare import read_and_check
from index_cases import GOOD, ROWS, jsonl, written_run

SAID = "这是一个回答，我们可以在这里说明。"
ASKED = "请介绍一下北京的历史和文化？"
RECORDS = [{"instruction": f"{ASKED}{n}", "input": "", "output": SAID} for n in range(9)]
TRADITIONAL = [
    {"instruction": "請介紹一下台灣的歷史與文化。", "output": "這是一個回答，我們可以在這裡說明。"}
] * 9
LINES = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in RECORDS)
LIST = json.dumps(RECORDS, ensure_ascii=False)
PRETTY = [json.dumps(one, ensure_ascii=False, indent=1) for one in RECORDS]
NAMES = tuple(RECORDS[0])


def chat(key: str, role: str, said: str, speakers: tuple[str, ...], **more: Any) -> dict[str, Any]:
    return {key: [{role: one, said: SAID} for one in speakers], **more}


FORMS: list[tuple[str, Any, str, bool]] = [
    ("sft", chat("dialog", "role", "content", ("user", "assistant")), '"dialog"', True),
    ("sft", chat("conversation", "role", "content", ("system", "user", "assistant")), '"conversation"', True),
    ("sft", chat("turns", "from", "value", ("human", "gpt"), id="1"), '"turns"', True),
    ("sft", chat("chat", "speaker", "said", ("human", "gpt") * 2), '"chat"', False),
    ("sft", {"role": "user", "content": "a"}, "single messages", False),
    ("sft", {"question": "a", "answer": "b"}, '"question" and "answer"', True),
    ("sft", {"question": "a", "context": "c", "answer": "b"}, '"question" and "answer"', True),
    ("sft", {"question": "a", "answer": ["b", "c"]}, '"question" and "answer"', False),
    ("sft", {"question": "a", "answer": "b", "history": [["x", "y"]]}, '"question" and "answer"', True),
    ("sft", {"input": "a", "output": "b"}, '"input" and "output"', True),
    ("sft", {"Instruction": "a", "Output": "b"}, '"Instruction" and "Output"', True),
    ("sft", {"问题": "a", "回答": "b"}, '"问题" and "回答"', True),
    ("sft", {"prompt": "a", "chosen": "b", "rejected": "c"}, "preference pairs", True),
    ("sft", {"input_ids": [1, 2], "labels": [1, 2]}, "token ids (input_ids)", False),
    ("sft", {"instruction": "a", "instances": [{"output": "b"}]}, "self-instruct", False),
    ("sft", {"text": "a"}, "texts alone", False),
    ("sft", ["a", "b"], "lists of two texts", True),
    ("sft", ["a", "b", "c"], "lists", False),
    ("sft", "a", "bare texts", False),
    ("sft", {"title": "a", "url": "b"}, "fields that are not read", False),
    ("pretrain", GOOD, "instructions with their answers", False),
    ("pretrain", chat("messages", "role", "content", ("user", "assistant")), "conversations", False),
    ("pretrain", {"prompt": "a", "completion": "b"}, "conversations", False),
    ("pretrain", {"content": "a"}, 'documents under the name "content"', True),
    ("pretrain", "a", "bare texts", True),
    ("pretrain", {"input_ids": [1]}, "token ids", False),
    ("pretrain", {"title": "a"}, "fields that are not read", False),
]


IN_ALL_ENDINGS = [FORMS[0], FORMS[2], FORMS[6], FORMS[13]]
CASES = [(*form, "jsonl") for form in FORMS]
CASES += [(*form, ending) for form in IN_ALL_ENDINGS for ending in ("json", "parquet")]


@pytest.mark.parametrize(("task", "record", "words", "converts", "ending"), CASES)
def test_records_of_another_form(
    tmp_path: Path, task: Any, record: Any, words: str, converts: bool, ending: str
) -> None:
    path = tmp_path / f"its data.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record] * 9), path)
    elif ending == "json":
        path.write_text(json.dumps([record] * 9, ensure_ascii=False), encoding="utf-8")
    else:
        jsonl(path, *[json.dumps(record, ensure_ascii=False)] * 9)
    finding = file_finding(str(path), task)
    assert finding is not None and finding.code == "CF561" and words in finding.title
    assert "all 9 records" in finding.label and not any("skip" in help_ for help_ in finding.helps)
    assert finding.helps, "there is always something to do"
    assert read_after(finding, tmp_path, task) is converts


@pytest.mark.parametrize(("good", "others", "is_said"), [(0, 9, True), (1, 18, True), (3, 18, False)])
def test_nearly_all_records_are_enough(tmp_path: Path, good: int, others: int, is_said: bool) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[GOOD] * good, *[{"question": "a", "answer": "b"}] * others)
    finding = file_finding(path, "sft")
    assert (finding is not None) is is_said
    if finding is not None:
        share = "18 of 19 records (95 %)" if good else "all 9 records"
        assert finding.label.endswith(share)
        assert any("data.columns" in help_ for help_ in finding.helps) is (not good)


def test_what_some_records_say_is_not_left_out_by_a_word(tmp_path: Path) -> None:
    one = {"question": "a", "answer": "b"}
    path = jsonl(tmp_path / "a.jsonl", one, one, {**one, "context": "c"})
    finding = file_finding(path, "sft")
    assert finding is not None and not any("data.columns" in help_ for help_ in finding.helps)


def test_of_a_large_file_some_records_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_look, "WHOLE_BYTES", 100)
    monkeypatch.setattr(file_look, "HEAD_BYTES", 300)
    for name in ("a.jsonl", "a.json", "b.json"):
        path, rows = tmp_path / name, [{"n": n, "question": f"{n}", "answer": "b" * 40} for n in range(900)]
        text = "\n".join(map(json.dumps, rows)) if name == "a.jsonl" else json.dumps(rows, indent=1)
        path.write_text(json.dumps(rows) if name == "b.json" else text)
        finding = file_finding(str(path), "sft")
        assert finding is not None and finding.code == "CF561"
        assert re.search(r"all 1\d\d|all 200", finding.label) and "that were looked at" in finding.label


def packed_tar(mode: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        member = tarfile.TarInfo("a.jsonl")
        member.size = len(LINES.encode())
        archive.addfile(member, io.BytesIO(LINES.encode()))
    return stream.getvalue()


def packed_zip(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, LINES)
    return stream.getvalue()


def parquet() -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), stream)
    return stream.getvalue()


def arrow(new: Any) -> bytes:
    stream = io.BytesIO()
    table = pyarrow.Table.from_pylist(RECORDS)
    with new(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def table(delimiter: str) -> str:
    return "".join(delimiter.join(row) + "\n" for row in (NAMES, *(one.values() for one in RECORDS)))


FILES: list[tuple[str, str | bytes, str, str, bool]] = [
    ("a.json", gzip.compress(LINES.encode()), "CF557", "packed: gzip", True),
    ("a.parquet.gz", gzip.compress(parquet()), "CF557", "packed: gzip", True),
    ("a.json", bz2.compress(LINES.encode()), "CF557", "packed: bzip2", True),
    ("a.jsonl.xz", lzma.compress(LINES.encode()), "CF557", "packed: xz", True),
    ("a.json", b"\x28\xb5\x2f\xfd" + bytes(20), "CF557", "packed: zstd", False),
    ("a.json", packed_tar("w"), "CF557", "a tar archive", True),
    ("a.tar.gz", packed_tar("w:gz"), "CF557", "a tar archive", True),
    ("a.json", packed_zip("a.jsonl"), "CF557", "a zip archive", True),
    ("a.xlsx", packed_zip("xl/workbook.xml"), "CF558", "an Excel workbook", False),
    ("a.json", parquet(), "CF558", "Parquet", True),
    ("a.parquet", LINES, "CF558", "JSON, one record a line", True),
    ("a.parquet", LIST, "CF558", "a JSON list", True),
    ("a.arrow", arrow(pyarrow.ipc.new_file), "CF558", "an Arrow file", True),
    ("a.json", arrow(pyarrow.ipc.new_stream), "CF558", "an Arrow file", True),
    ("a.json", b"SQLite format 3\0" + bytes(90), "CF558", "an SQLite database", False),
    ("a.json", bytes(range(256)) * 9, "CF558", "binary", False),
    ("a.jsonl", LIST, "CF558", "a JSON list", True),
    ("a.jsonl", json.dumps(RECORDS, indent=1), "CF558", "a JSON list", True),
    ("a.ndjson", LINES, "CF558", "JSON, one record a line", True),
    ("data", LIST, "CF558", "a JSON list", True),
    ("a.txt", LINES, "CF558", "JSON, one record a line", True),
    ("a.txt", table(","), "CF558", "a table (CSV)", True),
    ("a.json", table("\t"), "CF558", "a table (TSV", True),
    ("a.jsonl", table(";"), "CF558", "a table (CSV, with ;", True),
    ("a.jsonl", "- instruction: a\n  output: b\n" * 9, "CF558", "YAML", False),
    ("a.json", "\n<!DOCTYPE html>\n<html></html>", "CF558", "an HTML page", False),
    ("a.jsonl", "".join(f"{one!r}\n" for one in RECORDS), "CF558", "Python, not JSON", True),
    ("a.json", "今天天气很好。\n明天也很好。\n", "CF558", "plain text", False),
    ("a.jsonl", LINES.encode("utf-16"), "CF559", "UTF-16 text", True),
    *((f"{e}.jsonl", LINES.encode(e), "CF559", f"{e} text", True) for e in ("UTF-16LE", "UTF-16BE")),
    *((f"{e}.jsonl", LINES.encode(e), "CF559", f"{e} text", True) for e in ("UTF-32LE", "UTF-32BE")),
    ("a.json", LIST.encode("utf-32"), "CF559", "UTF-32 text", True),
    ("a.jsonl", LINES.encode("gb18030"), "CF559", "GB18030 text", True),
    ("a.json", json.dumps(TRADITIONAL, ensure_ascii=False).encode("gbk"), "CF559", "GB18030 text", True),
    ("a.json", json.dumps(TRADITIONAL, ensure_ascii=False).encode("big5"), "CF559", "Big5 text", True),
    ("a.json", '["où est l\'été à Béziers"]'.encode("latin-1"), "CF559", "encoding that is not known", False),
    ("a.json", PRETTY[0], "CF560", "one record, not a list", True),
    ("a.jsonl", PRETTY[0], "CF560", "one record, not a list", True),
    ("a.json", json.dumps({"data": RECORDS}), "CF560", 'around the list of records (in "data")', True),
    ("a.jsonl", json.dumps({"data": RECORDS}), "CF560", 'around the list of records (in "data")', True),
    ("a.json", json.dumps({"v": 1, "train": RECORDS * 999}, indent=1), "CF560", '(in "train")', True),
    (
        "a.json",
        json.dumps({name: [one[name] for one in RECORDS] for name in NAMES}),
        "CF560",
        "columns",
        True,
    ),
    (
        "a.json",
        json.dumps({name: {f"{n}": one[name] for n, one in enumerate(RECORDS)} for name in NAMES}),
        "CF560",
        "columns",
        True,
    ),
    ("a.json", json.dumps({f"{n}": one for n, one in enumerate(RECORDS)}), "CF560", "numbered", True),
    ("a.json", "\n".join(PRETTY), "CF560", "objects one after the other", True),
    ("a.json", ",\n".join(PRETTY), "CF560", "commas between them", True),
    ("a.jsonl", ",\n".join(LINES.splitlines()), "CF560", "commas between them", True),
    ("a.json", '["a", "b"]\n["c", "d"]\n', "CF560", "lists, one a line", False),
    ("a.json", '{"alpaca": {"file_name": "b.json"}}', "CF560", "dataset_info.json", False),
    ("a.json", '{"model_type": "llama", "x": 1}', "CF560", "one object", False),
]


@pytest.mark.parametrize(("name", "content", "code", "words", "converts"), FILES)
def test_a_file_that_is_something_else(
    tmp_path: Path, name: str, content: str | bytes, code: str, words: str, converts: bool
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    finding = file_finding(str(path), "sft")
    assert finding is not None and finding.code == code, finding
    assert words in finding.label and finding.helps and finding.unreadable
    assert read_after(finding, tmp_path, "sft") is converts


def read_after(finding: Finding, folder: Path, task: Any) -> bool:
    """Whether the commands of the helps make files that are read. They leave what was there as it was."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    commands = [help_.partition(": ")[2] for help_ in finding.helps]
    tools = ("python3", "iconv", "mv", "gzip", "bzip2", "xz", "zstd", "jq", "mkdir")
    commands = [one for one in commands if one.startswith(tools)]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        if command.startswith("jq") and shutil.which("jq") is None:
            pytest.skip("no jq here")
        done = subprocess.run(command, shell=True, capture_output=True, env={**os.environ, "PATH": path})
        if done.returncode:
            return False
        moved = command.startswith("mv")
        assert all(moved or one.read_bytes() == content for one, content in before.items())
    new = [one for one in folder.rglob("*") if one not in before and one.is_file()]
    if words := re.findall(r"'data\.columns=(\{.*\})'", "\n".join(finding.helps)):
        columns = dict(YAML(typ="safe").load(words[0]))
        return all(file_finding(str(one), task, columns) is None for one in before)
    return bool(new) and all(file_finding(str(one), task) is None for one in new)


def test_no_command_writes_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([["a", "b"]]))
    (tmp_path / "a.records.jsonl").write_text("mine")
    finding = file_finding(str(path), "sft")
    assert finding is not None and read_after(finding, tmp_path, "sft")
    assert (tmp_path / "a.records.jsonl").read_text() == "mine"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(
    "content", [LINES, "\ufeff" + LINES, json.dumps(GOOD), "nope\n" + LINES, LINES + "{"]
)
def test_what_is_read_or_broken_in_one_place_is_no_other_file(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert file_finding(str(tmp_path / name), "sft") is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", f'{{"text": "{"字" * 200_000}"}}\n' + '{"text": "b"}\n' * 3),
        ("a.json", f'{{"text": "{"字" * 200_000}"}}\n' + '{"text": "b"}\n' * 3),
        ("a.json", f'[{{"text": "{"字" * 200_000}"}}, {{"text": "b"}}]'),
        ("a.jsonl", f'{{"pages": [{{"n": 1, "said": "{"字" * 200_000}"}}], "text": "a"}}\n' * 3),
        ("a.jsonl", '{"text": "a"\n' + '{"text": "b"}\n' * 20),
        ("a.txt", "PK\x03\x04 is how a zip begins\nORC\n" + "字\0\x01" * 2 + "字" * 900),
        ("a.txt", "<html> is a tag\n" + "字" * 900),
        ("a.txt", '{"json": "in a text"}\n' * 3),
        ("a.txt", "\xa0\u2028é" * 90),
    ],
)
def test_large_and_odd_documents_are_no_other_files(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert file_finding(str(tmp_path / name), "pretrain") is None


def test_a_changed_file_is_looked_at_anew(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"question": "a", "answer": "b"})
    assert file_finding(path, "sft") is not None
    jsonl(tmp_path / "a.jsonl", GOOD)
    assert file_finding(path, "sft") is None


@pytest.mark.parametrize("bad_samples", ["stop", "skip"])
@pytest.mark.parametrize("key", ["train", "validation"])
def test_all_verbs_say_it_alike(tmp_path: Path, key: str, bad_samples: str) -> None:
    good = jsonl(tmp_path / "good.jsonl", *ROWS)
    other = jsonl(tmp_path / "other.jsonl", *[{"question": "a", "answer": "b"}] * 9)
    files: dict[str, list[str]] = {"train": [good], "validation": []}
    files[key].append(other)
    run = written_run(tmp_path, files["train"], validation=files["validation"], bad_samples=bad_samples)
    place = run.place("data", key, len(files[key]) - 1)
    (checked,) = (one for one in read_and_check(run.path, []).findings if one.severity == "error")
    assert (checked.code, checked.place) == ("CF561", place)
    with pytest.raises(Refused) as indexing:
        ensure_index(run, files[key], is_builder=True)
    assert indexing.value.findings == (checked,)
    with pytest.raises(Refused) as planning:
        count_records(files[key], "sft")
    assert [one.title for one in planning.value.findings] == [checked.title]


@pytest.mark.parametrize("whole", [True, False])
def test_a_record_of_a_list_on_one_line_has_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    rows = [{**GOOD, "instruction": f"{n} [{{"} for n in range(40)]
    rows[16] = {"instruction": "x"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    run = written_run(tmp_path, [str(path)])
    if not whole:
        monkeypatch.setattr("crossfoot.data.look.WHOLE_BYTES", 100)
        monkeypatch.setattr(sampling, "BLOCK_BYTES", 1000)
    (found,) = (one for one in look_at(run).findings if one.code == "CF507")
    assert str(found.place) == f"{path}, record 17"
    with pytest.raises(Refused) as refused:
        ensure_index(run, [str(path)], is_builder=True)
    assert refused.value.findings[0].place == found.place
    skipping = written_run(tmp_path, [str(path)], bad_samples="skip")
    index = ensure_index(skipping, [str(path)], is_builder=True)
    assert [str(one.place) for one in index.rejects] == [f"{path}, record 17"]
    assert index.origin(16) == f"{path}, record 18"
