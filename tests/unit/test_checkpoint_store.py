"""Checkpoints on disk: what is damaged is named, the last good one survives a kill at any instant."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import checkpoint_cases
from checkpoint_cases import half_made, save, values
from crossfoot.checkpoints import manifest as manifests
from crossfoot.checkpoints import store, tensor_bytes
from crossfoot.checkpoints.manifest import Damaged, read_manifest
from crossfoot.checkpoints.store import (
    commit,
    list_checkpoints,
    newest_good,
    prune,
)
from crossfoot.checkpoints.tensor_file import TensorFile
from crossfoot.digests import sha256_of_document

Damager = Callable[[Path], object]
DAMAGE: dict[str, tuple[Damager, str]] = {}


def names(run: Path) -> list[str]:
    return sorted(os.listdir(run / "checkpoints"))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    saved = save(tmp_path, 12, loss=2.5)
    assert saved.name == "step-000012"
    found, findings = newest_good(tmp_path, checksums=True)
    assert found == saved
    assert findings == ()
    assert read_manifest(saved.folder) == saved.manifest
    assert (saved.step, saved.manifest.validation_loss) == (12, 2.5)
    for name, tensor in saved.manifest.tensors.items():
        read = load_file(saved.folder / tensor.file)
        assert np.array_equal(read[name], values(12, name))


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert newest_good(tmp_path / "nowhere") == (None, ())
    assert list_checkpoints(tmp_path) == ()
    assert prune(tmp_path, keep=1, best=True, attempt=1) == ()


def test_a_file_of_tensors_is_what_was_announced(tmp_path: Path) -> None:
    file = TensorFile(str(tmp_path / "x.safetensors"), [("a", (2,)), ("b", ())])
    with pytest.raises(ValueError, match="announced"):
        file.write("b", np.float32(1).reshape(()))
    file = TensorFile(str(tmp_path / "y.safetensors"), [("a", (2,)), ("b", ())])
    with pytest.raises(ValueError, match="never came"):
        file.close()
    with pytest.raises(ValueError, match="announced"):
        file.write("a", np.zeros(2, np.float64))
    with pytest.raises(FileExistsError):
        TensorFile(str(tmp_path / "y.safetensors"), [])


def test_the_library_reads_every_shape(tmp_path: Path) -> None:
    shapes = [("scalar", ()), ("empty", (0, 3)), ("odd", (3, 5, 7)), ("\u5c71 name", (1,))]
    file = TensorFile(str(tmp_path / "x.safetensors"), shapes)
    written = {name: np.random.default_rng(1).random(shape, dtype=np.float32) for name, shape in shapes}
    for name, _ in shapes:
        file.write(name, written[name])
    entry = file.close()
    assert entry.bytes == (tmp_path / "x.safetensors").stat().st_size
    read = load_file(tmp_path / "x.safetensors")
    assert all(np.array_equal(read[name], value) for name, value in written.items())


def damage(text: str) -> Callable[[Damager], Damager]:
    """Decorator: a way to damage a checkpoint folder, and what is then said of it."""

    def register(how: Damager) -> Damager:
        DAMAGE[how.__name__] = (how, text)
        return how

    return register


@damage("tensors-00000-of-00002.safetensors has 99 bytes, 100 were written")
def truncated(folder: Path) -> None:
    os.truncate(folder / "tensors-00000-of-00002.safetensors", 99)


@damage("tensors-00000-of-00002.safetensors has 101 bytes, 100 were written")
def longer(folder: Path) -> None:
    with (folder / "tensors-00000-of-00002.safetensors").open("ab") as file:
        file.write(b"0")


@damage("tensors-00001-of-00002.safetensors is missing")
def deleted(folder: Path) -> None:
    (folder / "tensors-00001-of-00002.safetensors").unlink()


@damage("manifest.json is missing")
def without_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@damage("manifest.json is not JSON: Expecting property name enclosed in double quotes")
def half_a_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 200)


@damage("manifest.json is not JSON: Expecting value")
def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"")


@damage("manifest.json is not UTF-8 text")
def binary_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")


@damage("manifest.json is not a JSON object")
def manifest_of_another_kind(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1]")


@damage("manifest.json is not what was written: its sha256 differs")
def manifest_edited(folder: Path) -> None:
    text = (folder / "manifest.json").read_text().replace('"step": 12', '"step": 13')
    (folder / "manifest.json").write_text(text)


@damage("it is written in format 2, this crossfoot reads format 1")
def newer_format(folder: Path) -> None:
    text = (folder / "manifest.json").read_text().replace('"format": 1', '"format": 2')
    (folder / "manifest.json").write_text(text)


@damage("its manifest says 11 steps")
def another_ones_files(folder: Path) -> None:
    other = half_made(folder.parents[1], 11)
    shutil.rmtree(folder)
    other.rename(folder)


@damage("manifest.json is missing")
def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, how: str) -> None:
    before, newest = save(tmp_path, 8), save(tmp_path, 12)
    make_bad, text = DAMAGE[how]
    size = (newest.folder / "tensors-00000-of-00002.safetensors").stat().st_size
    make_bad(newest.folder)
    found, (finding,) = newest_good(tmp_path)
    assert found == before
    assert (finding.code, finding.severity) == ("CF761", "warning")
    assert (
        finding.title.replace(f"{size:,}", "100")
        .replace(f"{size - 1:,}", "99")
        .replace(f"{size + 1:,}", "101")
        == f"a checkpoint is damaged: {text}"
    )
    assert finding.place is not None
    assert finding.place.file == str(newest.folder)
    assert finding.notes == ("step-000008 is used instead",)
    assert list_checkpoints(tmp_path) == (before,)


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    before, newest = save(tmp_path, 8), save(tmp_path, 12)
    for file in newest.folder.iterdir():
        whole = file.read_bytes()
        for position in range(0, len(whole), 7):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << (position % 8)
            file.write_bytes(flipped)
            found, findings = newest_good(tmp_path, checksums=True)
            same_json = file.name == "manifest.json" and _equal_json(whole, bytes(flipped))
            assert (found == newest) if same_json else (found == before), (file.name, position)
            assert len(findings) == (0 if same_json else 1)
        file.write_bytes(whole)
    assert newest_good(tmp_path, checksums=True) == (newest, ())


def _equal_json(one: bytes, other: bytes) -> bool:
    """A space that became another blank, say."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def test_sizes_alone_do_not_see_a_flipped_bit_and_read_no_file(tmp_path: Path) -> None:
    newest = save(tmp_path, 12)
    file = newest.folder / "tensors-00000-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert newest_good(tmp_path) == (newest, ())
    with pytest.raises(Damaged, match=r"tensors-00000-of-00002\S+ has sha256 \w{7}, \w{7} was written"):
        manifests.verify_content(newest.folder, newest.manifest.files)
    found, (finding,) = newest_good(tmp_path, known_bad={"step-000012": "rank 3 says so"})
    assert found is None
    assert finding.title == "a checkpoint is damaged: rank 3 says so"
    assert finding.notes == ("there is no good one before it",)


def test_a_manifest_names_only_files_of_its_folder(tmp_path: Path) -> None:
    newest = save(tmp_path, 12)
    document = newest.manifest.to_json()
    for name in ("../tensors-00000-of-00002.safetensors", "/etc/passwd", ".hidden", ""):
        document["files"][0]["name"] = name
        del document["sha256"]
        document["sha256"] = sha256_of_document(document)
        (newest.folder / "manifest.json").write_text(json.dumps(document))
        found, (finding,) = newest_good(tmp_path)
        assert found is None
        assert "no name of a file in its folder" in finding.title


def resealed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The manifest changed by somebody who makes its sha256 anew."""
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    del document["sha256"]
    (folder / "manifest.json").write_text(json.dumps({**document, "sha256": sha256_of_document(document)}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["tensors"]["a"].update(file="/etc/passwd"), "'/etc/passwd', which is none of its files"),
        (lambda d: d["tensors"]["a"].update(file="../x.safetensors"), "which is none of its files"),
        (lambda d: d["tensors"]["a"].update(file="unlisted.safetensors"), "which is none of its files"),
        (lambda d: d["tensors"]["a"].update(shape="7"), "tensors.a.shape is '7', not a list"),
        (lambda d: d["tensors"]["a"].update(shape=[7, 1.5]), "tensors.a.shape.1 is 1.5"),
        (lambda d: d.update(step="12"), "step is '12', not a whole number"),
        (lambda d: d.update(step=10**30), "step is 1000"),
        (lambda d: d["optimizer"].update(step="12"), "optimizer.step is '12'"),
        (lambda d: d["optimizer"].update(step=13), "cannot have stepped 13 times in 12 steps"),
        (lambda d: d["optimizer"].update(odd_steps=[]), "optimizer.odd_steps is []"),
        (lambda d: d["optimizer"].update(odd_steps={"b": 1}), "stepped b, which is none of its tensors"),
        (lambda d: d.pop("attempt"), "attempt is missing"),
        (lambda d: d.update(files={}), "files is {}, not a list"),
        (lambda d: d.update(seconds=None), "seconds is None, not a number"),
    ],
)
def test_a_manifest_says_what_it_may(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    newest = save(tmp_path, 12)
    resealed(newest.folder, change)
    found, (finding,) = newest_good(tmp_path)
    assert found is None and finding.code == "CF761"
    assert words in finding.title


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a", "a.exp_avg"])
def test_a_number_that_is_none_is_the_checkpoints_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: float, name: str
) -> None:
    before = save(tmp_path, 8)
    real = checkpoint_cases.values

    def values(step: int, stored: str) -> np.ndarray:
        found = real(step, stored)
        found[3] = number if stored == name else found[3]
        return found

    monkeypatch.setattr(checkpoint_cases, "values", values)
    save(tmp_path, 12)
    found, (finding,) = newest_good(tmp_path, checksums=True)
    assert found == before
    assert finding.title == f"a checkpoint is damaged: {name} holds NaN or infinity, and was written so"
    assert finding.helps == ("look at the losses of the steps before it",)


def test_the_tensor_that_is_named_holds_it_across_the_pieces_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_bytes, "_CHUNK_BYTES", 6)
    shapes = [("b", (5,)), ("none", (0,)), ("a", (3,)), ("c", ())]
    for wanted in ("b", "a", "c"):
        path = tmp_path / f"{wanted}.safetensors"
        file = TensorFile(str(path), shapes)
        for name, shape in shapes:
            file.write(name, np.full(shape, np.nan if name == wanted else 1.0, np.float32))
        entry = file.close()
        read = tensor_bytes.read_tensor_bytes(path)
        assert (read.sha256, read.strange) == (entry.sha256, wanted)


def test_a_save_that_was_cut_off_is_named_and_not_taken(tmp_path: Path) -> None:
    before = save(tmp_path, 8)
    half_made(tmp_path, 4)
    partial = half_made(tmp_path, 12)  # whole, but never renamed
    found, (finding,) = newest_good(tmp_path)
    assert found == before
    assert (finding.code, finding.severity) == ("CF762", "warning")
    assert finding.place is not None
    assert finding.place.file == str(partial)
    assert finding.notes[0] == "step-000008 is used"


def test_what_is_not_whole_is_not_committed(tmp_path: Path) -> None:
    partial = half_made(tmp_path, 12)
    os.truncate(partial / "tensors-00000-of-00002.safetensors", 3)
    with pytest.raises(Damaged):
        commit(partial)
    assert newest_good(tmp_path)[0] is None


def test_a_second_checkpoint_of_a_step_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save(tmp_path, 12, attempt=1)
    second = save(tmp_path, 12, attempt=2)
    assert newest_good(tmp_path) == (second, ())
    assert list_checkpoints(tmp_path) == (second,)
    prune(tmp_path, keep=5, best=True, attempt=2)
    assert names(tmp_path) == ["step-000012"]
    assert newest_good(tmp_path) == (second, ())


@pytest.mark.parametrize(
    ("keep", "best", "stay"),
    [
        (1, False, [5]),
        (2, False, [4, 5]),
        (2, True, [2, 4, 5]),
        (9, True, [1, 2, 3, 4, 5]),
        (0, False, [5]),
        (0, True, [2, 5]),
    ],
)
def test_the_last_ones_and_the_best_one_stay(tmp_path: Path, keep: int, best: bool, stay: list[int]) -> None:
    for step, loss in enumerate([2.0, 1.5, None, 1.5, float("nan")], 1):
        save(tmp_path, step, loss=loss if step != 4 else 1.75)
    gone = prune(tmp_path, keep, best, attempt=1)
    assert [int(name[-6:]) for name in names(tmp_path)] == stay
    assert sorted(gone) == [f"step-{step:06d}" for step in range(1, 6) if step not in stay]


def test_of_equally_good_ones_the_newest_is_the_best(tmp_path: Path) -> None:
    for step, loss in enumerate([1.0, 1.0, 2.0], 1):
        save(tmp_path, step, loss=loss)
    prune(tmp_path, keep=1, best=True, attempt=1)
    assert names(tmp_path) == ["step-000002", "step-000003"]


def test_a_damaged_newest_one_does_not_push_out_the_last_good_one(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        save(tmp_path, step)
    truncated(tmp_path / "checkpoints" / "step-000012")
    prune(tmp_path, keep=1, best=False, attempt=1)
    assert names(tmp_path) == ["step-000008", "step-000012"]
    again = save(tmp_path, 12, attempt=2)
    prune(tmp_path, keep=1, best=False, attempt=2)
    assert names(tmp_path) == ["step-000012"]
    assert newest_good(tmp_path, checksums=True) == (again, ())


def test_leftovers_of_killed_saves_go_and_those_being_written_stay(tmp_path: Path) -> None:
    save(tmp_path, 8, attempt=2)
    earlier, mine, old, later = (half_made(tmp_path, 12, attempt) for attempt in (1, 2, 2, 3))
    for path in (*old.iterdir(), old):
        os.utime(path, (0, 0))
    (tmp_path / "checkpoints" / ".trash-step-000001-ab").mkdir()
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    assert prune(tmp_path, keep=2, best=True, attempt=2) == ()
    left = names(tmp_path)
    assert mine.name in left
    assert later.name in left
    assert earlier.name not in left
    assert old.name not in left
    assert {"notes.txt", "step-000008"} <= set(left)
    assert not [name for name in left if name.startswith(".trash")]


@pytest.mark.parametrize(("minutes", "stays"), [(55, True), (65, False)])
def test_a_save_of_this_attempt_is_given_up_after_an_hour(tmp_path: Path, minutes: int, stays: bool) -> None:
    save(tmp_path, 8)
    partial = half_made(tmp_path, 12, attempt=2)
    touched = time.time() - 60 * minutes
    for path in (*partial.iterdir(), partial):
        os.utime(path, (touched, touched))
    prune(tmp_path, keep=1, best=False, attempt=2)
    assert partial.exists() == stays


def test_a_save_that_did_not_end_is_said_where_it_would_be_newer(tmp_path: Path) -> None:
    save(tmp_path, 8)
    half_made(tmp_path, 7)
    half_made(tmp_path, 8)
    assert newest_good(tmp_path)[1] == ()
    half_made(tmp_path, 9)
    assert [finding.code for finding in newest_good(tmp_path)[1]] == ["CF762"]


def test_what_cannot_be_deleted_is_no_checkpoint_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (4, 8):
        save(tmp_path, step)
    monkeypatch.setattr(store, "_remove", lambda path: None)  # killed before it deletes
    prune(tmp_path, keep=1, best=False, attempt=1)
    monkeypatch.undo()
    assert [one.step for one in list_checkpoints(tmp_path)] == [8]
    assert len(names(tmp_path)) == 2
    prune(tmp_path, keep=1, best=False, attempt=1)
    assert names(tmp_path) == ["step-000008"]


def test_what_somebody_else_has_put_there_is_never_deleted(tmp_path: Path) -> None:
    """A folder with more than a checkpoint in it, one that is no checkpoint, a link, what is under a name of
    leftovers: each outlives the checkpoints that come after it.
    """
    save(tmp_path, 2)
    folder = tmp_path / "checkpoints"
    elsewhere = tmp_path / "elsewhere"
    theirs = [folder / "step-000002/notes.txt", folder / "step-000003/weights.bin"]
    theirs += [folder / ".trash-step-000001-ab/notes.txt", elsewhere / "manifest.json"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    (folder / "step-000004").symlink_to(elsewhere)
    for step in (3, 4, 8, 9):
        save(tmp_path, step)
        prune(tmp_path, keep=1, best=False, attempt=1)
    kept = [
        path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == 4
    ]
    assert kept == ["mine"] * 4
    assert [one.step for one in list_checkpoints(tmp_path)] == [2, 9]


class Killer:
    """Copies a folder before every system call below it that Python announces, as a kill there would leave
    it; an audit hook cannot be taken off again, so there is one.
    """

    def __init__(self) -> None:
        self.watched: Path | None = None
        self.copies: list[tuple[str, Path]] = []
        self._hooked = False

    @contextmanager
    def watch(self, folder: Path, copies: Path) -> Iterator[None]:
        if not self._hooked:
            sys.addaudithook(self._see)
            self._hooked = True
        self._into, self.copies, self.watched = copies, [], folder
        try:
            yield
        finally:
            self.watched = None

    def snapshot(self, event: str) -> None:
        folder, self.watched = self.watched, None
        copy = self._into / f"{len(self.copies):03d}"
        shutil.copytree(folder, copy)
        self.copies.append((event, copy))
        self.watched = folder

    def _see(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watched is None or not event.startswith(("open", "os.", "shutil.")) or not arguments:
            return
        if event == "open" or event.startswith(("os.re", "os.rm", "os.mk", "os.un", "shutil")):
            self.snapshot(f"{event} {arguments[0]}")


KILLER = Killer()


def test_a_kill_at_any_instant_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two older ones are there; a third is written, a fourth takes the place of the third, and each time the
    old ones go. Every state in between has a good newest one, and the next prune clears the rest away.
    """
    run = tmp_path / "run"
    for step in (4, 8):
        save(run, step)
    put = TensorFile._put

    def put_in_pieces(self: TensorFile, data: bytes) -> None:
        view = memoryview(data)
        put(self, view[:5])
        KILLER.snapshot("in the middle of a write")
        put(self, view[5:])

    monkeypatch.setattr(TensorFile, "_put", put_in_pieces)
    done = []
    with KILLER.watch(run, tmp_path / "copies"):
        for attempt in (1, 2):
            save(run, 12, attempt)
            done.append(len(KILLER.copies))
            prune(run, keep=1, best=False, attempt=attempt)
    monkeypatch.undo()
    assert names(run) == ["step-000012"]
    events = [event.split()[0] for event, _ in KILLER.copies]
    assert {"os.mkdir", "open", "os.rename", "os.remove", "os.rmdir"} <= set(events)
    assert events.count("in") == 8
    assert len(events) > 30
    for number, (event, copy) in enumerate(KILLER.copies):
        found, _ = newest_good(copy, checksums=True)
        assert found is not None, event
        is_written = number >= done[0]
        assert found.step == 12 if is_written else found.step in (8, 12), event
        if number >= done[1]:
            assert found.manifest.attempt == 2, event
        for name, tensor in found.manifest.tensors.items():
            assert np.array_equal(load_file(found.folder / tensor.file)[name], values(found.step, name))
        prune(copy, keep=1, best=False, attempt=3)
        assert len(names(copy)) == 1, event
        assert newest_good(copy, checksums=True)[0] is not None, event


def test_everything_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = half_made(tmp_path, 12)
    calls: list[str] = []
    sync, rename = os.fsync, os.replace

    def seen_sync(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def seen_rename(source: Path, target: Path) -> None:
        calls.append(f"rename to {target.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(os, "replace", seen_rename)
    commit(partial)
    tensors = [f"tensors-{rank:05d}-of-00002.safetensors" for rank in range(2)]
    files = {*tensors, "manifest.json", partial.name}
    assert set(calls[:4]) == files
    assert calls[3:] == [partial.name, "rename to step-000012", "checkpoints", tmp_path.name]
