"""What identifies the bytes of a data file: never its size and time alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossfoot import digests
from crossfoot.digests import sha256_of_file
from crossfoot.index import sources
from crossfoot.index.sources import source_states
from index_cases import GOOD, jsonl


def remembered(folder: Path) -> dict[str, list[Any]]:
    known: dict[str, list[Any]] = json.loads((folder / "sources.json").read_text())
    return known


def test_what_is_known_of_a_small_file_is_never_believed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD)
    first = source_states([path], str(tmp_path))[0].sha256
    os.utime(path, (1e9, 1e9))
    Path(path).write_text(Path(path).read_text().replace("苹", "平"))
    os.utime(path, (1e9, 1e9))
    assert source_states([path], str(tmp_path))[0].sha256 == sha256_of_file(path) != first
    assert not (tmp_path / "sources.json").exists()


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data file of which the hash is remembered, with another hash than its own."""
    monkeypatch.setattr(sources, "READ_ALWAYS_BYTES", 0)
    monkeypatch.setattr(sources, "SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(digests, "PART_BYTES", 2)
    path = jsonl(tmp_path / "a.jsonl", *[GOOD] * 100)
    os.utime(path, (1e9, 1e9))
    source_states([path], str(tmp_path))
    (entry,) = remembered(tmp_path).values()
    entry[-1] = "f" * 64
    (tmp_path / "sources.json").write_text(json.dumps({path: entry}))
    assert source_states([path], str(tmp_path))[0].sha256 == "f" * 64
    return path


def rewritten(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes().replace(b"\n", b" "))


def moved_over(path: str) -> None:
    other = shutil.copy(path, f"{path}.other")
    rewritten(other)
    os.replace(other, path)


def linked_elsewhere(path: str) -> None:
    os.rename(path, f"{path}.real")
    rewritten(shutil.copy(f"{path}.real", f"{path}.other"))
    os.symlink(f"{path}.other", path)


@pytest.mark.parametrize("change", [rewritten, moved_over, linked_elsewhere])
def test_a_large_file_is_read_again_when_it_is_another_one_of_the_same_size_and_time(
    tmp_path: Path, large: str, change: Callable[[str], None]
) -> None:
    change(large)
    os.utime(large, (1e9, 1e9))
    assert source_states([large], str(tmp_path))[0].sha256 == sha256_of_file(large)


def test_a_large_file_is_glanced_at_where_the_file_system_says_nothing(tmp_path: Path, large: str) -> None:
    rewritten(large)
    status = os.stat(large)
    (entry,) = remembered(tmp_path).values()
    entry[:4] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    (tmp_path / "sources.json").write_text(json.dumps({large: entry}))
    assert source_states([large], str(tmp_path))[0].sha256 == sha256_of_file(large)


def test_who_trains_reads_every_file(tmp_path: Path, large: str) -> None:
    assert source_states([large], str(tmp_path), reads=True)[0].sha256 == sha256_of_file(large)
    assert next(iter(remembered(tmp_path).values()))[-1] == sha256_of_file(large)


def test_hashes_are_not_remembered_of_a_file_just_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "READ_ALWAYS_BYTES", 0)
    path = jsonl(tmp_path / "a.jsonl", GOOD)
    os.utime(path, (1e9, 1e9))  # which its ctime tells
    source_states([path], str(tmp_path))
    assert not (tmp_path / "sources.json").exists()


@pytest.mark.parametrize("text", ["broken", "[]", '{"a": 1}', "[" * 100_000])
def test_a_broken_memory_is_no_memory(tmp_path: Path, large: str, text: str) -> None:
    (tmp_path / "sources.json").write_text(text)
    assert source_states([large], str(tmp_path))[0].sha256 == sha256_of_file(large)
