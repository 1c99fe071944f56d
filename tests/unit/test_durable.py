"""Files and folders that get their name only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

from crossfoot import durable


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "paper.json"
    path.write_text("old")
    with path.open() as reader:
        durable.replace(path, "new, \N{GREEK SMALL LETTER ALPHA}\r\n")
        assert reader.read() == "old"
    assert path.read_bytes() == b"new, \xce\xb1\r\n"
    durable.replace(str(path), b"\x00\xff", is_synced=False)
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["paper.json"]


def test_a_new_file_has_the_rights_of_any_new_file_or_those_asked_for(tmp_path: Path) -> None:
    durable.replace(tmp_path / "ours", "")
    (tmp_path / "any").touch()
    durable.replace(tmp_path / "script", "", mode=0o755)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes["ours"] == modes["any"]
    assert modes["script"] == 0o755


def test_content_and_name_are_synced_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync = os.fsync

    def seen_sync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        seen.append(f"{name if name == tmp_path.name else 'partial'}, {sorted(os.listdir(tmp_path))[-1]}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen_sync)
    durable.replace(tmp_path / "zzz", "text", is_synced=False)
    assert seen == []
    (tmp_path / "zzz").unlink()
    durable.replace(tmp_path / "zzz", "text")
    assert seen[0].startswith("partial, .zzz.")
    assert seen[1:] == [f"{tmp_path.name}, zzz"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refusal_leaves_nothing_behind_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "paper.json"
    path.write_text("old")

    def refuses(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, refuses)
    with pytest.raises(OSError) as raised:
        durable.replace(path, "new")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["paper.json"])


def test_a_folder_makes_way_for_a_new_one_of_its_name(tmp_path: Path) -> None:
    target, aside = tmp_path / "step-3", tmp_path / ".old"
    for content in ("first", "second"):
        partial = tmp_path / ".partial"
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / "file").write_text(content)
        durable.rename_folder(partial, target, aside)
    assert (target / "deep" / "file").read_text() == "second"
    assert (aside / "deep" / "file").read_text() == "first"
    assert sorted(os.listdir(tmp_path)) == [".old", "step-3"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EIO, errno.EACCES])
def test_a_file_system_that_syncs_no_folders_fails_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuses_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuses_folders)
    durable.replace(tmp_path / "paper.json", "new")
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "tensors").write_text("numbers")
    durable.rename_folder(tmp_path / ".partial", tmp_path / "step-1", tmp_path / ".old")
    assert (tmp_path / "paper.json").read_text() == "new"
    assert (tmp_path / "step-1" / "tensors").read_text() == "numbers"


@pytest.mark.parametrize(
    ("number", "counts"),
    [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True), (errno.ENOSPC, True)],
)
def test_a_file_that_a_disk_could_not_take_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, counts: bool
) -> None:
    def refuses(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(OSError) if counts else contextlib.nullcontext():
        durable.replace(tmp_path / "paper.json", "new")


def test_a_rename_whose_answer_was_lost_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS asks again, and the server finds nothing to rename any more."""
    real = os.replace

    def asked_twice(source: str, target: str) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "replace", asked_twice)
    durable.replace(tmp_path / "paper.json", "new")
    assert (tmp_path / "paper.json").read_text() == "new"
    with pytest.raises(FileNotFoundError):
        durable.rename(tmp_path / "nothing", tmp_path / "something")
