"""Fields of a record that are not read are named and counted, and an error where they change what is
trained.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossfoot.cli import main
from crossfoot.data import look as looking
from crossfoot.data.unread_fields import unread_fields
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.look import index_findings, look_at
from crossfoot.planning.prepare import read_and_check, survey
from index_cases import GOOD, held, jsonl, written_run


def write(folder: Path, rows: list[dict[str, Any]], ending: str, name: str = "a") -> str:
    path = folder / f"{name}.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif ending == "json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        jsonl(path, *rows)
    return str(path)


def rows_of(more: Mapping[str, Any], count: int = 8) -> list[dict[str, Any]]:
    return [{**GOOD, "output": f"answer {i}", **more} for i in range(count)]


def told(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    return [(one.code, one.severity, one.title.partition(": ")[2]) for one in findings]


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_what_changes_the_meaning_is_an_error_at_every_verb(tmp_path: Path, ending: str) -> None:
    rows = rows_of({"tools": [["q", "a"]], "rejected": "You are a lawyer.", "id": "7"})
    rows[0] |= {"tools": [], "rejected": " "}
    run = written_run(tmp_path, [write(tmp_path, rows, ending)])
    wanted = [
        ("CF552", "error", "tools (7 of 8 records), rejected (7)"),
        ("CF553", "note", "id (8 of 8 records)"),
    ]
    assert told(look_at(run).findings) == wanted  # check, before there is an index
    with pytest.raises(Refused) as refused:
        held(run)  # train and index
    assert told(refused.value.findings) == wanted[:1]
    index = ensure_index(run, run.config.data.train, is_builder=True)
    assert told(look_at(run, index).findings) == told(index_findings(run, index)) == wanted
    checked = survey(read_and_check(run.path, []), index)  # plan
    assert told(tuple(one for one in checked.findings if one.code in ("CF552", "CF553"))) == wanted


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "user", "content": "q"}]},
        {"conversations": [{"from": "human", "value": "q"}]},
        {"tools": '[{"name": "search"}]'},
        {"System-Prompt": "x"},
        {"images": ["a.png"]},
        {"rejected": "no"},
        {"weight": 0.0},
        {"context": "The text that is asked about."},
    ],
    ids=lambda more: next(iter(more)),
)
@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_such_fields(tmp_path: Path, ending: str, more: dict[str, Any]) -> None:
    (finding,) = look_at(written_run(tmp_path, [write(tmp_path, rows_of(more), ending)])).findings
    (name,) = more
    assert told((finding,)) == [("CF552", "error", f"{name} (8 of 8 records)")]


def test_pictures_are_named_unread(tmp_path: Path) -> None:
    rows = rows_of({"image": {"bytes": b"\x89PNG", "path": "a.png"}, "embedding": [0.5] * 3})
    run = written_run(tmp_path, [write(tmp_path, rows, "parquet")])
    assert told(look_at(run).findings) == [
        ("CF552", "error", "image (8 of 8 records)"),
        ("CF553", "warning", "embedding (8 of 8 records)"),
    ]
    empty = rows_of({"image": None, "embedding": None})
    table = pa.Table.from_pylist(empty, schema=pq.read_schema(run.config.data.train[0]))
    pq.write_table(table, tmp_path / "b.parquet")
    assert told(look_at(written_run(tmp_path, [str(tmp_path / "b.parquet")])).findings) == []


@pytest.mark.parametrize("empty", [None, "", "  \n", [], {}, [[], [""]], [{"role": None}]])
def test_what_says_nothing_is_not_counted(empty: Any) -> None:
    assert unread_fields({**GOOD, "tools": empty}, "sft", {}) == ()
    assert unread_fields({**GOOD, "tools": [empty, 0]}, "sft", {}) == ("tools",)


def test_a_name_that_nobody_knows_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, rows_of({"blurb": "x", "url": "y"}), "jsonl")
    (finding,) = look_at(written_run(tmp_path, [path])).findings
    assert told((finding,)) == [("CF553", "warning", "blurb (8 of 8 records), url (8)")]


def test_pretrain_reads_a_text_and_what_is_beside_it_is_mostly_about_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[{"text": f"t {i}", "meta": {"a": 1}, "images": ["x"]} for i in "ab"])
    look = look_at(written_run(tmp_path, [path], task="pretrain"))
    assert [(one.code, one.severity) for one in look.findings] == [("CF552", "error"), ("CF553", "note")]


def test_on_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """The help's own words make it a run."""
    monkeypatch.chdir(tmp_path)
    odd = "a; rm -rf '$HOME' \\ ]"
    run = written_run(tmp_path, [write(tmp_path, rows_of({"tools": "x", odd: 1}), "jsonl")])
    error, warning = look_at(run).findings
    words = [shlex.split(one.helps[-1].rpartition(": ")[2]) for one in (error,)]
    assert words == [["data.ignored_fields=[tools]"]]
    (word,) = shlex.split(warning.helps[0].removeprefix("if that is meant, say so: "))
    assert main(["index", run.path, word.replace("[", "[tools, ")]) == 0
    assert "CF55" not in capsys.readouterr().out
    assert main(["index", run.path]) == 1  # the index is there, and is not believed blindly
    assert "CF552" in capsys.readouterr().out


def test_of_a_large_file_some_records_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "WHOLE_BYTES", 100)
    path = write(tmp_path, rows_of({"tools": "x"}, 100), "jsonl")
    (finding,) = look_at(written_run(tmp_path, [path])).findings
    assert finding.code == "CF552" and finding.title.endswith(" records that were looked at)")


def test_validation_records_count_too(tmp_path: Path) -> None:
    train = write(tmp_path, rows_of({}), "jsonl")
    other = write(tmp_path, rows_of({"tools": "x"}), "jsonl", "b")
    run = written_run(tmp_path, [train], validation=[other])
    (finding,) = (one for one in look_at(run).findings if one.code == "CF552")
    assert finding.place == run.place("data", "validation")


def test_names_without_number_are_not_kept(tmp_path: Path) -> None:
    rows = [{**GOOD, "output": f"a {i}", f"name {i} {'x' * 1000}": 1} for i in range(300)]
    index = ensure_index(
        written_run(tmp_path, [path := write(tmp_path, rows, "jsonl")]), [path], is_builder=True
    )
    assert len(index.header.unread_fields) == 200
    assert max(map(len, index.header.unread_fields)) == 80
