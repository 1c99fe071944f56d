"""The ledger file: whole lines, exact floats, torn ends cut off, damage named, a full disk said."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

import crossfoot
from crossfoot.findings.finding import Refused
from crossfoot.ledger.book import LedgerBook, read_book, read_readable
from crossfoot.ledger.entry import StepEntry, entry_of
from ledger_cases import six_samples, without_forward


def entries(count: int = 3) -> list[StepEntry]:
    data = six_samples()
    reconciler = data.reconciler(1)
    plans = [data.plan(step, [[[2 * step, 2 * step + 1]]]) for step in range(count)]
    made = [reconciler.step(plan, data.obey(plan)) for plan in plans]
    return [replace(made[0], loss=0.1 + 0.2, grad_norm=5e-324), *made[1:]]


def written(path: Path, lines: list[StepEntry]) -> Path:
    book = LedgerBook(str(path))
    for entry in lines:
        book.append(entry)
    book.close()
    return path


def codes(refused: pytest.ExceptionInfo[Refused]) -> list[str]:
    return [finding.code for finding in refused.value.findings]


def test_lines_come_back_exactly(tmp_path: Path) -> None:
    path = written(tmp_path / "ledger.jsonl", entries())
    lines = read_book(str(path))
    assert lines == entries() and lines.torn is None
    assert lines[0].loss == 0.1 + 0.2 and lines[0].grad_norm == 5e-324
    assert b" " not in path.read_bytes() and path.read_bytes().count(b"\n") == 3


def test_a_line_is_strict_json_even_when_floats_are_not_finite() -> None:
    entry = replace(entries()[0], loss=math.inf, grad_norm=-math.inf, lr=math.nan)
    document = json.loads(entry.to_line(), parse_constant=lambda word: pytest.fail(word))
    assert (document["loss"], document["grad_norm"], document["lr"]) == ("inf", "-inf", "nan")
    again = entry_of(entry.to_line())
    assert again.loss == math.inf and again.grad_norm == -math.inf and math.isnan(again.lr)


def test_causes_come_back_with_their_code() -> None:
    data = six_samples()
    plan = data.plan(0, [[[0, 1]]])
    entry = data.reconciler(1).step(plan, [without_forward(witness, 0) for witness in data.obey(plan)])
    assert json.loads(entry.to_line())["causes"][0]["code"] == "CF710"
    assert entry_of(entry.to_line()) == entry


def test_every_cut_of_the_last_line_leaves_the_others(tmp_path: Path) -> None:
    path = written(tmp_path / "ledger.jsonl", entries())
    whole = path.read_bytes()
    last = whole.rfind(b"\n", 0, -1) + 1
    for end in range(last + 1, len(whole)):
        path.write_bytes(whole[:end])
        lines = read_book(str(path))
        assert len(lines) == 2
        assert lines.torn is not None and lines.torn.place is not None and lines.torn.place.line == 3
    path.write_bytes(whole[:last])
    assert read_book(str(path)).torn is None


def test_opening_cuts_off_a_torn_line(tmp_path: Path) -> None:
    path = written(tmp_path / "ledger.jsonl", entries())
    path.write_bytes(path.read_bytes() + b'{"format":1,"step":' + b"7" * 100_000)
    written(path, [replace(entries()[2], step=3)])
    assert [entry.step for entry in read_book(str(path))] == [0, 1, 2, 3]


def test_what_is_cut_off_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path / "ledger.jsonl", entries())
    assert LedgerBook(str(path)).cut is None
    path.write_bytes(path.read_bytes() + b'{"format"')
    cut = LedgerBook(str(path)).cut
    assert cut is not None and (cut.code, cut.severity) == ("CF749", "note")
    assert "unfinished last line" in cut.title and "9 bytes" in cut.title
    assert cut.place is not None and cut.place.line == 4 and not list(tmp_path.glob("*cut*"))


def test_a_damaged_end_is_cut_off_for_continuing_and_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "ledger.jsonl", entries())
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:40] + b"\0" * 200 + b"\n" + third + b"{")
    lines = read_readable(str(path))
    assert lines == entries()[:1] and len(lines.damage) == 1 and lines.torn is not None
    book = LedgerBook(str(path), whole_bytes=lines.whole_bytes, keep_in=str(tmp_path))
    assert book.cut is not None and "2 lines from the first damaged one on" in book.cut.title
    for entry in entries()[1:]:
        book.append(entry)
    book.close()
    assert read_book(str(path)) == entries()
    assert (tmp_path / "ledger-cut.jsonl").read_bytes() == second[:40] + b"\0" * 200 + b"\n" + third + b"{"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (b"{", "Expecting"),
        (b"", "Expecting value"),
        (b"[]", "not a JSON object"),
        (b'{"format":1}', "format is 1"),
        (b'{"format":2}', "format is 2"),
        (b'{"format":3}', "step is missing"),
        (b'\xff\xfe{"', "not UTF-8"),
        (b"NaN", "NaN is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: bytes, words: str) -> None:
    path = written(tmp_path / "ledger.jsonl", entries())
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    with pytest.raises(Refused) as refused:
        read_book(str(path))
    (finding,) = refused.value.findings
    assert finding.code == "CF704" and str(finding.place) == f"{path}:2" and refused.value.exit_code == 2
    assert words in finding.notes[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attempt", 0),
        ("attempt", None),
        ("skipped", "tired"),
        ("per_rank", {"ranks": 1, "sha256": "0", "columns": {"rank": [0]}}),
        ("per_rank", [3]),
        ("step", "1"),
        ("step", True),
        ("applied", 1),
        ("loss", "many"),
        ("samples_sha256", 3),
        ("causes", {}),
    ],
)
def test_a_value_of_another_type_is_damage(name: str, value: object) -> None:
    document = {**entries()[0].to_json(), name: value}
    with pytest.raises(ValueError, match=name):
        entry_of(json.dumps(document))


@pytest.mark.parametrize("version", [3, 4])
def test_a_line_of_an_older_format_is_read(version: int) -> None:
    entry = entries()[0]
    columns = entry.per_rank.columns
    assert columns is not None
    document = {**entry.to_json(), "format": version}
    names = [one.name for one in fields(columns)]
    rows = zip(*(getattr(columns, name) for name in names), strict=True)
    document["per_rank"] = [dict(zip(names, row, strict=True)) for row in rows]
    newer = ["median_seconds", "fastest_seconds", "slowest_rank", *["slots_sha256"][version - 3 :]]
    for name in newer:
        del document[name]
    assert entry_of(json.dumps(document)) == replace(entry, **dict.fromkeys(newer))
    for damaged in ([{"rank": 0}], [3], [{**row, "samples": "x"} for row in document["per_rank"]]):
        with pytest.raises(ValueError, match="per_rank"):
            entry_of(json.dumps({**document, "per_rank": damaged}))


def test_a_missing_ledger_and_an_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_book(str(tmp_path / "ledger.jsonl"))
    assert codes(refused) == ["CF703"] and refused.value.exit_code == 2
    with pytest.raises(Refused) as refused:
        LedgerBook(str(tmp_path / "nowhere" / "ledger.jsonl"))
    assert codes(refused) == ["CF702"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_within_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "ledger.jsonl"
    first, second, third = entries()
    book = LedgerBook(str(path))
    book.append(first)
    book.fsync()
    book.append(second)
    write, room = os.write, [100]

    def nearly_full(descriptor: int, line: bytes) -> int:
        if not room:
            raise OSError(number, os.strerror(number))
        return write(descriptor, bytes(line[: room.pop()]))

    monkeypatch.setattr(os, "write", nearly_full)
    with pytest.raises(Refused) as refused:
        book.append(third)
    monkeypatch.undo()
    (finding,) = refused.value.findings
    assert finding.code == "CF701" and "disk is full" in finding.title and "step 3" in finding.title
    assert any(
        "all up to step 2 is in the ledger" in note and note.endswith("power cut: up to step 2")
        for note in finding.notes
    )
    assert read_book(str(path)) == [first, second] and read_book(str(path)).torn is None
    book.append(third)
    book.close()
    book.close()
    assert read_book(str(path)) == [first, second, third]


def test_a_torn_line_that_cannot_be_cut_off_at_once_is_cut_off_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.jsonl"
    first, second, _ = entries()
    book = LedgerBook(str(path))
    book.append(first)
    write, calls = os.write, []

    def half(descriptor: int, line: bytes) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, bytes(line[:50]))

    def stuck(*_: object) -> None:
        raise OSError(errno.EIO, "stuck")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        patch.setattr(os, "ftruncate", stuck)
        with pytest.raises(Refused):
            book.append(second)
        assert read_book(str(path)).torn is not None
        with pytest.raises(Refused) as refused:
            book.append(second)
        assert codes(refused) == ["CF702"]
    book.append(second)
    book.close()
    assert read_book(str(path)) == [first, second]


def test_a_real_file_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    size = len(written(path, entries(1)).read_bytes())
    program = f"""
import resource, sys
from crossfoot.findings.finding import Refused
from crossfoot.ledger.book import LedgerBook, read_book
book = LedgerBook({str(path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 200}, {size + 200}))
try:
    book.append(read_book({str(path)!r})[0])
except Refused as refused:
    print(refused)
"""
    source = str(Path(crossfoot.__file__).parents[1])  # not installed when only pytest's pythonpath names it
    environ = {**os.environ, "PYTHONPATH": source}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    assert "CF701: the disk is full" in done.stdout
    assert path.stat().st_size == size


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_device_that_is_full() -> None:
    book = LedgerBook("/dev/full")
    with pytest.raises(Refused) as refused:
        book.append(entries(1)[0])
    assert codes(refused) == ["CF701"]
    assert any("no step is in the ledger" in note for note in refused.value.findings[0].notes)


def test_lines_of_an_earlier_attempt_may_be_added_by_its_own_writer(tmp_path: Path) -> None:
    """The older one hangs, is put aside, and still writes a line: nobody's line is lost or cut."""
    path = tmp_path / "ledger.jsonl"
    old, new = LedgerBook(str(path)), LedgerBook(str(path))
    first, second, third = entries()
    new.append(replace(first, attempt=2))
    new.append(replace(second, attempt=2))
    with path.open("ab") as file:
        file.write(first.to_line().encode())
    new.append(replace(third, attempt=2))
    new.close()
    assert [(line.attempt, line.step) for line in read_book(str(path))] == [(2, 0), (2, 1), (1, 0), (2, 2)]
    before = path.read_bytes()
    with pytest.raises(Refused) as refused:
        old.append(first)
    assert codes(refused) == ["CF754"] and path.read_bytes() == before


@pytest.mark.parametrize("change", ["cut", "own attempt", "no line", "half a line"])
def test_a_ledger_with_another_writer_is_left_alone(tmp_path: Path, change: str) -> None:
    path = tmp_path / "ledger.jsonl"
    book = LedgerBook(str(path))
    first, second, third = entries()
    book.append(first)
    if change == "cut":
        os.truncate(path, 0)
    else:
        own = second.to_line()
        added = {"own attempt": own, "no line": "mine\n", "half a line": own[:9]}[change]
        with path.open("a", encoding="utf-8") as file:
            file.write(added)
    before = path.read_bytes()
    with pytest.raises(Refused) as refused:
        book.append(third)
    assert codes(refused) == ["CF754"] and path.read_bytes() == before


def test_when_a_later_attempt_has_begun_nothing_more_is_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    later: list[int] = []
    book = LedgerBook(str(path), successor=lambda: next(iter(later), None))
    first, second, _ = entries()
    book.append(first)
    later.append(7)
    with pytest.raises(Refused, match="CF754") as refused:
        book.append(second)
    assert "attempt 7 has begun" in refused.value.findings[0].notes[0]
    assert read_book(str(path)) == [first]
