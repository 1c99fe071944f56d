"""An index is held against its checksums and against its files by other code: what is altered is found."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from crossfoot.data import over_long, samples, templates
from crossfoot.data.conversation import Turn
from crossfoot.data.tiny_tokenizer import tiny_folder, write_tiny_tokenizer
from crossfoot.findings.finding import Refused
from crossfoot.index import build, columns, locate, reference_check, tokenised, verified, writer
from crossfoot.index.reference_chat import Said, runs_of
from crossfoot.index.reference_check import Comparison, compare_with_files
from crossfoot.index.reference_records import found_records, value_of
from crossfoot.index.reference_tokens import Expected
from crossfoot.index.store import (
    HEADER,
    REJECTS,
    DataIndex,
    array_path,
    open_index,
    segment_digests,
)
from crossfoot.index.verified import verified_index
from crossfoot.written.run_file import RunFile
from index_cases import GOOD, ROWS, alter_mask, alter_tokens, forge, held, jsonl, written_run

CHINESE = Path(__file__).parents[3] / "shared" / "data" / "chinese-llama-2-tokenizer"
needs_shared = pytest.mark.skipif(not CHINESE.is_dir(), reason="../shared is not beside this repository")


@pytest.fixture
def run(tmp_path: Path) -> RunFile:
    path = jsonl(tmp_path / "a.jsonl", *ROWS)
    os.utime(path, (1e9, 1e9))
    return written_run(tmp_path, [path])


def compared(run: RunFile, index: DataIndex | None = None, folder: str | None = None) -> Comparison:
    index = index or build.ensure_index(run, run.config.data.train, is_builder=True)
    return compare_with_files(index, folder or tiny_folder(run.index_dir), "seed")


def test_a_good_index_is_said_to_be_good(run: RunFile, capsys: pytest.CaptureFixture[str]) -> None:
    index = held(run)
    said = capsys.readouterr().err
    assert said.startswith("index held against its files: 12 of 12 records re-tokenised, equal (")
    assert sorted(index.header.checksums) == sorted(set(os.listdir(index.folder)) - {HEADER})
    assert len(index.header.arrays_sha256) == 64


def test_every_file_of_an_index_is_watched(run: RunFile, capsys: pytest.CaptureFixture[str]) -> None:
    index = held(run)
    whole = {name: Path(index.folder, name).read_bytes() for name in sorted(os.listdir(index.folder))}
    for name, content in whole.items():
        bad = bytearray(content or b"x")
        bad[len(bad) // 2] ^= 1
        Path(index.folder, name).write_bytes(bytes(bad))
        capsys.readouterr()
        again = held(run)
        said = capsys.readouterr().err
        assert (
            name in (HEADER, REJECTS)
            or f"is damaged ({name} is not as it was written): it is built anew" in said
        )
        assert said.rstrip().splitlines()[-1].startswith("index held against its files: 12 of 12")
        assert {n: Path(again.folder, n).read_bytes() for n in sorted(os.listdir(again.folder))} == whole
    assert not [name for name in os.listdir(run.index_dir) if "removed" in name]


def test_an_index_of_an_older_program_is_built_anew_at_its_address(run: RunFile) -> None:
    """Its run can be continued: the lock's address stays."""
    index = held(run)
    path = Path(index.folder, HEADER)
    older = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("sha256", "checksums")}
    path.write_text(json.dumps({**older, "format_version": 1}))
    assert held(run).folder == index.folder and json.loads(path.read_text())["checksums"]


def test_a_rank_that_comes_late_does_not_wait_for_a_builder_who_waits_for_it(run: RunFile) -> None:
    """Two ranks in two threads; the second opens the damaged index when the first has already seen it."""
    index = held(run)
    path = Path(array_path(index.folder, "tokens"))
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    rounds = threading.Barrier(2, timeout=20)
    looked = threading.Event()
    words: list[str] = []

    def first(look: Callable[[], str], _: float) -> str:
        words.append(look())
        if len(words) == 2:  # the first word is what it read of the files
            looked.set()
        rounds.wait()
        rounds.wait()
        return words[-1]

    def second(_: Callable[[], str], __: float) -> str:
        rounds.wait()
        word = words[-1]
        rounds.wait()
        assert looked.wait(20)
        return word

    def late() -> DataIndex:
        return verified_index(run, run.config.data.train, is_builder=False, says=second)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(late)
        mine = verified_index(run, run.config.data.train, says=first)
        assert np.array_equal(other.result(30).tokens, mine.tokens)
    assert [bool(word) for word in words] == [True, True, True, True, False]


def test_storage_that_loses_what_is_written_is_refused(run: RunFile, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = writer.IndexWriter.finish

    def lossy(self: writer.IndexWriter, *words: Any) -> None:
        finish(self, *words)
        with open(array_path(self._folder, "tokens"), "r+b") as stream:
            stream.write(b"\xff")

    monkeypatch.setattr(writer.IndexWriter, "finish", lossy)
    with pytest.raises(Refused, match="CF531"):
        held(run)


def digest(arrays: dict[str, np.ndarray]) -> None:
    arrays["digests"][3] ^= np.uint64(1)


def token_digest(arrays: dict[str, np.ndarray]) -> None:
    arrays["token_digests"][3] ^= np.uint64(1)


def count(arrays: dict[str, np.ndarray]) -> None:
    arrays["trained_tokens"][3] -= 1


def lost(arrays: dict[str, np.ndarray]) -> None:
    arrays["lost_tokens"][3] = 7


def line(arrays: dict[str, np.ndarray]) -> None:
    arrays["numbers"][3] = 3


def cut(arrays: dict[str, np.ndarray]) -> None:
    """One token of sample 3 goes to sample 4."""
    arrays["offsets"][4] -= 1
    arrays["lengths"][3] -= 1
    arrays["lengths"][4] += 1
    arrays["trained_tokens"][3] -= 1
    arrays["trained_tokens"][4] += 1


ALTERED = [
    (alter_tokens, "token"),
    (alter_mask, "is trained in the index, and must be masked"),
    (digest, "its digest is"),
    (token_digest, "its digest of tokens is"),
    (count, "its number of trained tokens is"),
    (lost, "its number of lost tokens is 7 in the index, and must be 0"),
    (line, "its record comes to 1 sample, and the index has 2 of it"),
    (cut, "tokens in the index"),
]


@pytest.mark.parametrize(("change", "words"), ALTERED, ids=lambda v: getattr(v, "__name__", None))
def test_an_altered_index_with_good_checksums_is_found_and_built_anew(
    run: RunFile,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, np.ndarray]], None],
    words: str,
) -> None:
    index = held(run)
    whole = {name: Path(index.folder, name).read_bytes() for name in os.listdir(index.folder)}
    forge(index, change)
    forged = open_index(index.folder, index.files)
    first = compared(run, forged).differences[0]
    assert first.sample == 3 and words in first.message
    assert first.origin == f"{index.files[0]}:{4 if change is not line else 3}"
    capsys.readouterr()
    again = held(run)
    said = capsys.readouterr().err
    assert f"the index {index.folder} does not hold what its files say ({first.origin}: " in said
    assert said.count("re-tokenised, equal") == 1
    assert {name: Path(again.folder, name).read_bytes() for name in os.listdir(again.folder)} == whole


def test_arrays_that_contradict_each_other(run: RunFile) -> None:
    index = held(run)
    offsets = index.offsets.copy()
    offsets[4] -= 1
    others = {
        "offsets": (replace(index, offsets=offsets), "the offsets are not the sums of the lengths"),
        "numbers": (replace(index, numbers=index.numbers[::-1]), "in the order of its records"),
        "file_ids": (replace(index, file_ids=index.file_ids + 1), "in the order of the files"),
        "totals": (
            replace(index, header=replace(index.header, real_tokens=1)),
            "real_tokens is 1 in the header",
        ),
    }
    for altered, words in others.values():
        (difference,) = compared(run, altered).differences
        assert words in difference.message and difference.sample is None


def test_a_file_of_another_content_with_the_size_and_time_of_before_is_another_index(
    run: RunFile, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = run.config.data.train
    before = held(run)
    text = Path(file).read_text(encoding="utf-8")
    Path(file).write_text(text.replace("答 7", "答 8"), encoding="utf-8")
    os.utime(file, (1e9, 1e9))
    assert os.path.getsize(file) == len(text.encode())
    assert locate.find_index(run, [file]) is None  # as check and plan look for it
    index = held(run)
    assert index.address != before.address
    assert index.header.sources[0].sha256 == sha256(Path(file).read_bytes()).hexdigest()
    assert open_index(before.folder).address == before.address  # right for the old content, and left alone


def test_a_file_that_is_written_to_between_its_hash_and_the_comparison(
    run: RunFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = run.config.data.train
    before = held(run)
    text, real = Path(file).read_text(encoding="utf-8"), verified.compare_with_files

    def late(*words: Any) -> Comparison:
        Path(file).write_text(text.replace("答 7", "答 8"), encoding="utf-8")
        return real(*words)

    monkeypatch.setattr(verified, "compare_with_files", late)
    capsys.readouterr()
    index = held(run)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"{file} was written to meanwhile ({file}:8: token ")
    assert said[-1].startswith("index held against its files: 12 of 12")
    assert index.address != before.address


@pytest.mark.parametrize("content", ["", "broken\n" * 12, json.dumps(ROWS[0]) + "\n", "7\n" * 12])
def test_a_file_that_no_longer_holds_the_records(run: RunFile, content: str) -> None:
    index = held(run)
    Path(index.files[0]).write_text(content)
    comparison = compared(run, index)
    assert comparison.compared == 12 and len(comparison.differences) >= 11


class Mutation:
    """Faults at the source of the index, one at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch.setattr

    def altered_samples(self, change: Callable[[samples.Sample], samples.Sample]) -> None:
        made = over_long.sft_samples

        def mutant(*words: Any) -> Iterator[Any]:
            yield from (change(one) if isinstance(one, samples.Sample) else one for one in made(*words))

        self.patch(tokenised, "sft_samples", mutant)

    def mask_shifted_by_one(self) -> None:
        self.altered_samples(lambda one: replace(one, trained=np.roll(one.trained, -1)))

    def prompt_trained(self) -> None:
        self.altered_samples(lambda one: replace(one, trained=np.ones_like(one.trained)))

    def begin_left_out(self) -> None:
        load = build.load_encoder

        def mutant(*words: Any, **more: Any) -> Any:
            encoder = load(*words, **more)
            return replace(encoder, facts=replace(encoder.facts, bos_ids=()))

        self.patch(build, "load_encoder", mutant)

    def end_left_out(self) -> None:
        self.altered_samples(lambda one: replace(one, ids=one.ids[:-1], trained=one.trained[:-1]))

    def another_template(self) -> None:
        self.patch(templates, "BUILT_IN", {**templates.BUILT_IN, "alpaca2": "You are another assistant."})

    def neighbours_line(self) -> None:
        self.altered_samples(lambda one: replace(one, number=one.number + 1))

    def first_token_counted(self) -> None:
        digests = columns.segment_digests
        self.patch(columns, "segment_digests", lambda ids, trained: digests(ids[:-1], trained[:-1]))

    def lost_tokens_forgotten(self) -> None:
        self.altered_samples(lambda one: replace(one, lost_tokens=0))


MUTATIONS = [name for name in vars(Mutation) if not name.startswith(("_", "altered"))]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_fault_of_the_builder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", *ROWS, {**GOOD, "output": "字" * 60})
    run = written_run(tmp_path, [path])
    getattr(Mutation(monkeypatch), name)()
    with pytest.raises(Refused) as refused:
        held(run)
    (finding,) = refused.value.findings
    assert finding.code == "CF535" and finding.place is not None and finding.label
    wanted = {"lost_tokens_forgotten": 13, "neighbours_line": 2}.get(name, 1)
    assert (finding.place.file, finding.place.line) == (path, wanted)


@pytest.mark.parametrize("fault", ["no end", "shifted"])
def test_a_fault_in_the_blocks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"document {i}"} for i in range(30)))
    run = written_run(tmp_path, [path], task="pretrain", max_seq_len=16)
    block = samples.BlockCutter._block
    if fault == "shifted":
        monkeypatch.setattr(
            samples.BlockCutter, "_block", staticmethod(lambda ids, origin: block(np.roll(ids, 1), origin))
        )
    else:
        load = build.load_encoder

        def mutant(*words: Any, **more: Any) -> Any:
            encoder = load(*words, **more)
            return replace(encoder, facts=replace(encoder.facts, eos_id=5))

        monkeypatch.setattr(build, "load_encoder", mutant)
    with pytest.raises(Refused, match="CF535"):
        held(run)


@pytest.mark.parametrize("system", [None, "In short."])
@pytest.mark.parametrize("train_on", ["all", "last"])
@pytest.mark.parametrize("name", templates.BUILT_IN)
def test_a_template_is_spelled_twice(name: str, train_on: Literal["all", "last"], system: str | None) -> None:
    template = templates.Template(name, system=system, train_on=train_on)
    said = [("user", "a"), ("assistant", "问 {x}\n"), ("user", " [INST] "), ("assistant", "b")]
    for turns in (said, [("system", "<<SYS>>"), *said]):
        stretches = template.stretches([Turn(*turn) for turn in turns])  # type: ignore[arg-type]
        for ours, run in zip(stretches, runs_of([Said(*turn) for turn in turns], template), strict=True):
            assert (ours.text, ours.begins, ours.ends) == (run.text, run.begins, run.ends)
            assert list(ours.trained) == list(run.trained)
            own = {place for span in ours.own for place in range(*span)}
            assert [place in own for place in range(len(run.text))] == [
                is_template for text, is_template in run.pieces for _ in text
            ]


def test_the_digest_is_worked_out_twice() -> None:
    ids, trained = [5, -1, 70_000, 2**31 - 1], [True, False, True, True]
    assert Expected(ids, trained, 0).digests() == segment_digests(ids, trained)


def test_every_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("crossfoot.index.reference_records.WINDOW_CHARACTERS", 7)
    lines = Path(jsonl(tmp_path / "a.jsonl", "\ufeff" + json.dumps(ROWS[0]), "", "  ", *ROWS[1:], ""))
    spread, one_line = tmp_path / "b.json", tmp_path / "c.json"
    spread.write_text("\ufeff \n" + json.dumps([*ROWS, {**GOOD, "output": "}{],["}], indent=1), "utf-8")
    one_line.write_text(json.dumps(ROWS, ensure_ascii=False) + "\n", encoding="utf-8")
    as_lines = tmp_path / "e.json"
    as_lines.write_bytes(lines.read_bytes())
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet", row_group_size=5)
    files = [str(one) for one in (lines, spread, one_line, as_lines, tmp_path / "d.parquet", lines)]
    comparison = compared(written_run(tmp_path, files))
    assert (comparison.compared, comparison.differences, comparison.notes) == (73, [], [])
    assert [value_of(found) for found in found_records(str(one_line))] == ROWS


@pytest.mark.parametrize("window", [4, 5, 64, 4000])
def test_blocks(tmp_path: Path, window: int) -> None:
    plain = tmp_path / "a.txt"
    plain.write_bytes(b"ab\r\n\n  \ncdefghijklmno\rp\naaaaaaaaaaaaaaaaaaaaaaaaaaa")
    rows = [{"text": "x" * (i % 9) + f"{i}"} for i in range(150)]
    lines = jsonl(tmp_path / "b.jsonl", {"text": " "}, *rows, '{"text": "a \\ud83d"}', 7, *rows)
    listed = tmp_path / "c.json"
    listed.write_text(json.dumps(rows, indent=0))
    files = [str(plain), lines, str(listed)]
    run = written_run(tmp_path, files, task="pretrain", max_seq_len=window, bad_samples="skip")
    index = build.ensure_index(run, files, is_builder=True)
    comparison = compared(run, index)
    assert (comparison.differences, comparison.notes) == ([], [])
    assert comparison.compared == min(200, index.num_samples)
    last = reference_check._choose(index, "seed")[-1]
    altered = index.tokens.copy()
    altered[index.offsets[last + 1] - 1] += 1
    (difference,) = compared(run, replace(index, tokens=altered)).differences
    assert difference.sample == last and difference.origin == index.origin(last)


def test_documents_on_one_line_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": f"document {i}"} for i in range(9)]))
    comparison = compared(written_run(tmp_path, [str(path)], task="pretrain", max_seq_len=16))
    assert (comparison.compared, comparison.differences, comparison.notes) == (7, [], [])


def test_books_are_passed_over_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = jsonl(tmp_path / "a.jsonl", *({"text": f"document {i}"} for i in range(9)))
    monkeypatch.setattr(reference_check, "TOKENISED_CHARACTERS", 50)
    comparison = compared(written_run(tmp_path, [path], task="pretrain", max_seq_len=16))
    assert comparison.compared == 3 and not comparison.differences
    assert comparison.notes[0].endswith(": their documents are too long to be tokenised in a few seconds")


def test_records_on_one_line_are_compared_also_where_some_were_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*ROWS, {"instruction": "x"}, GOOD]) + "\n")
    run = written_run(tmp_path, [str(path)], bad_samples="skip")
    comparison = compared(run)
    assert (comparison.compared, comparison.differences, comparison.notes) == (len(ROWS) + 1, [], [])
    index = held(run)
    assert index.origin(len(ROWS)) == f"{path}, record {len(ROWS) + 2}"
    assert str(index.rejects[0].place) == f"{path}, record {len(ROWS) + 1}"


def test_two_hundred_of_a_large_set_and_only_the_beginning_of_a_huge_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = jsonl(tmp_path / "a.jsonl", *ROWS * 50)
    run = written_run(tmp_path, [path, path])
    index = held(run)
    comparison = compared(run, index)
    assert (comparison.total, comparison.compared, comparison.differences) == (1200, 200, [])
    assert reference_check._choose(index, "one") != reference_check._choose(index, "two")
    monkeypatch.setattr(reference_check, "READ_BYTES", 2 * os.path.getsize(path) // 5)
    chosen = reference_check._choose(index, "one")
    assert len(chosen) == 200 == len(set(chosen)) and {i // 600 for i in chosen} == {0, 1}
    assert all(i % 600 < 120 for i in chosen)


def test_a_tokenizer_that_is_more_than_its_own_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token that tokenizer_config.json adds is not in tokenizer.json."""
    folder = tmp_path / "own"
    shutil.copytree(write_tiny_tokenizer(str(tmp_path)), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    more = {"extra_special_tokens": {"image_token": "<image>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **more}))
    path = jsonl(tmp_path / "a.jsonl", GOOD, {**GOOD, "output": "a<image>b"})
    run = written_run(tmp_path, [path], tokenizer=str(folder), special_text="tokens")
    index = held(run)
    assert "tokenizer.json" in index.header.checksums and index.tokens.max() == 260
    said = capsys.readouterr().err
    assert "index: 1 of the sampled records come out of tokenizer.json as other tokens" in said
    assert "2 of 2 records re-tokenised, equal" in said
    forge(index, lambda arrays: arrays["tokens"].__setitem__(-2, 9))
    assert len(compared(run, open_index(index.folder), str(folder)).differences) == 1
    (folder / "tokenizer.json").write_text("{")
    assert compared(run, index, str(folder)).notes[0].startswith("its records were not compared")


def test_a_tokenizer_that_splits_special_tokens(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(write_tiny_tokenizer(str(tmp_path)), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "split_special_tokens": True}))
    run = written_run(
        tmp_path,
        [jsonl(tmp_path / "a.jsonl", GOOD, {**GOOD, "output": "a</s>b"})],
        tokenizer=str(folder),
    )
    comparison = compared(run, folder=str(folder))
    assert (comparison.compared, comparison.differences, comparison.notes) == (2, [], [])


def test_without_a_tokenizer_to_ask_it_is_said(run: RunFile, tmp_path: Path) -> None:
    comparison = compared(run, held(run), str(tmp_path))
    assert comparison.compared == 0 and not comparison.differences
    assert "has neither tokenizer.json nor tokenizer.model" in comparison.notes[0]


@needs_shared
@pytest.mark.parametrize("special_text", ["text", "tokens"])
def test_sentencepiece(tmp_path: Path, special_text: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", *ROWS, {**GOOD, "output": "a</s>b"})
    run = written_run(tmp_path, [path], tokenizer=str(CHINESE), special_text=special_text)
    comparison = compared(run, folder=str(CHINESE))
    assert (comparison.compared, comparison.differences, comparison.notes) == (13, [], [])
