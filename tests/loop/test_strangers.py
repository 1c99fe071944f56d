"""Strangers at the meeting port: what they write is not taken for a rank's, ends nobody with a traceback, and
shows no line of a file. torch's store in memory stands for the one behind the port.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore

from crossfoot.documents import MOST_LEVELS
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.rendezvous import meeting_point, meeting_word, rendezvous
from crossfoot.rendezvous.meeting_point import introduce
from crossfoot.rendezvous.meeting_word import MeetingWord, WordFile, find_word
from crossfoot.rendezvous.rendezvous import RefusedTogether, Rendezvous

POINT = "node1:29500"
NOTES = json.dumps({"there": [{"code": "CF001", "title": "t", "place": {"file": "/etc/passwd", "line": 1}}]})
GARBAGE = (
    *("", "{}", "[]", "null", "\x00", "9" * 5_000, "[" * 100_000, NOTES, "a" * 300),
    *('{"rank": 1}', "0" * 64 + "0" * 16 + NOTES, "[" * (MOST_LEVELS + 5) + "]" * (MOST_LEVELS + 5)),
)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (meeting_point, rendezvous):
        monkeypatch.setattr(module, "BLIND_SECONDS", 0.3)
    monkeypatch.setattr(rendezvous, "_FAREWELL_SECONDS", 2.0)


@pytest.fixture(autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that all processes of this machine share."""
    folder = tmp_path_factory.mktemp("machine")
    monkeypatch.setattr(meeting_word.tempfile, "gettempdir", lambda: str(folder))
    return folder


def together(*ranks: Callable[[], Any]) -> list[Any]:
    """What each returns or raises, all at once."""

    def tried(rank: Callable[[], Any]) -> Any:
        try:
            return rank()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(tried, ranks))


def meets(store: Any, rank: int, run_dir: Path, size: int = 2, patience: float = 20.0) -> Rendezvous:
    return introduce(store, rank, size, POINT, str(run_dir), patience)


def exchanged(store: Any, run_dir: Path, size: int = 2) -> list[Any]:
    """Each rank's meeting, and one round of texts."""

    def one(rank: int) -> Callable[[], Any]:
        return lambda: meets(store, rank, run_dir, size).exchange(f"rank {rank}")

    return together(*map(one, range(size)))


def test_ranks_meet_and_leave_nothing_behind(tmp_path: Path, machine: Path) -> None:
    assert exchanged(HashStore(), tmp_path / "runs" / "one", 3) == [["rank 0", "rank 1", "rank 2"]] * 3
    assert list(tmp_path.iterdir()) == [] == list(machine.iterdir())


def test_the_word_is_for_the_user_alone(tmp_path: Path) -> None:
    with WordFile(str(tmp_path / "run")) as file:
        (path,) = tmp_path.iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert find_word(str(tmp_path / "run"), file.id) == file.word
        assert find_word(str(tmp_path / "run"), "0" * 16) is None
        assert find_word(str(tmp_path / "run"), "../../../etc/passwd") is None
    assert list(tmp_path.iterdir()) == []


def test_a_word_that_another_user_may_have_planted_is_none(
    tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, machine):
        folder.chmod(0o1777)
    with WordFile(str(tmp_path / "run")) as file:
        assert find_word(str(tmp_path / "run"), file.id) == file.word
        monkeypatch.setattr(meeting_word.os, "geteuid", lambda: os.getuid() + 1)
        assert find_word(str(tmp_path / "run"), file.id) is None


@pytest.mark.parametrize("text", GARBAGE)
def test_what_a_stranger_wrote_before_is_written_over(tmp_path: Path, text: str) -> None:
    store = HashStore()
    keys = [f"{head}/{rank}" for head in (1, 2) for rank in (0, 1)]
    for key in (*keys, "1/size", "2/size", "1/contradiction", "2/contradiction", "blind/1", "stopped"):
        store.set(key, text)
    assert exchanged(store, tmp_path) == [["rank 0", "rank 1"]] * 2


def test_a_stranger_who_comes_as_a_rank_is_waited_past(tmp_path: Path) -> None:
    store = HashStore()
    store.set("1/1", NOTES)
    alone, late = together(lambda: meets(store, 0, tmp_path, patience=1.5), lambda: None)
    assert late is None
    (finding,) = alone.findings
    assert finding.code == "CF432" and "somebody else wrote there as rank 1" in finding.notes


def test_texts_without_the_seal_are_none() -> None:
    word, other = MeetingWord(b"w" * 32), MeetingWord(b"w" * 32)
    raw = word.sealed("1/0", "text").encode()
    assert other.opened("1/0", raw) == "text"
    assert other.opened("1/1", raw) is None, "another rank's place"
    assert MeetingWord(b"v" * 32).opened("1/0", raw) is None
    assert other.opened("1/0", raw + b"x") is None
    assert other.opened("1/0", b"\xff" * 100) is None
    assert word.sealed("1/0", "text") != other.sealed("1/0", "text"), "two processes, two texts"


@dataclass(frozen=True)
class _Number:
    number: int


def test_a_rank_that_says_what_nobody_reads_is_a_finding_on_all(tmp_path: Path) -> None:
    store = HashStore()

    def one(rank: int, text: str) -> Any:
        met = meets(store, rank, tmp_path)
        return [met.read(said, _Number).number for said in met.exchange(text)]

    said = together(lambda: one(0, '{"number": 4}'), lambda: one(1, '{"number": "4"}'))
    assert [type(each) for each in said] == [RefusedTogether, RefusedTogether]
    assert said[0].findings == said[1].findings
    assert said[0].findings[0].code == "CF499" and "number is '4'" in said[0].findings[0].title


def test_findings_travel_whole(tmp_path: Path) -> None:
    store = HashStore()
    found = Finding(
        "CF011", "in use", place=Place("c.yaml", 4, 12), others=((Place("d", 1), "x"),), helps=("h",)
    )

    def one(rank: int, findings: Sequence[Finding]) -> None:
        meets(store, rank, tmp_path).share_refusal(findings)

    said = together(lambda: one(0, ()), lambda: one(1, (found,)))
    assert [each.findings for each in said] == [(found,), (found,)]


def test_a_rank_that_does_not_see_the_word_is_refused_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting_word.tempfile, "gettempdir", lambda: "/nowhere")
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    store = HashStore()
    said = together(lambda: meets(store, 0, here), lambda: meets(store, 1, here), lambda: None)
    assert all(isinstance(each, Rendezvous) for each in said[:2])
    store = HashStore()
    said = together(
        *(
            lambda rank=rank, folder=folder: meets(store, rank, folder, 3)
            for rank, folder in enumerate((here, here, elsewhere))
        )
    )
    assert [type(each) for each in said] == [RefusedTogether] * 3
    assert {each.findings[0].code for each in said} == {"CF421"}


def test_who_comes_second_or_too_many_is_told_so(tmp_path: Path) -> None:
    store = HashStore()
    gate = threading.Barrier(3)

    def second() -> Rendezvous:
        gate.wait(10)
        return meets(store, 1, tmp_path)

    def first(rank: int) -> None:
        meets(store, rank, tmp_path)
        gate.wait(10)

    *_, late = together(lambda: first(0), lambda: first(1), second)
    assert isinstance(late, Refused) and late.findings[0].code == "CF446"
    (beyond,) = together(lambda: meets(store, 2, tmp_path, 3))
    assert isinstance(beyond, Refused) and beyond.findings[0].code == "CF439"
