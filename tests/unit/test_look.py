"""A look at the data: what it finds without an index, and that it counts what the index counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from crossfoot.data import look as looking
from crossfoot.data import measuring
from crossfoot.data import tokenizer as loading
from crossfoot.data.look import DataLook, Leaks
from crossfoot.data.records import read_records
from crossfoot.data.samples import Texts
from crossfoot.data.sampling import located, some_records
from crossfoot.data.templates import Stretch
from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer
from crossfoot.data.tokenizer import encoder_at_hand, load_encoder
from crossfoot.findings.finding import Place, Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.look import look_at
from crossfoot.planning.prepare import read_and_check
from crossfoot.written.run_file import load_run
from index_cases import GOOD, alpaca2, jsonl, written_run
from support.launching import ROOT

SHARED = ROOT.parent / "shared" / "data"
CHINESE = SHARED / "chinese-llama-2-tokenizer"
ALPACA = SHARED / "alpaca_zh_demo.json"
SMOLLM = ROOT / "real" / "smollm2-135m"
BEGUN = 1 + len(alpaca2("q", "").encode())
"""Masked tokens of the instruction "q" in builtin:tiny."""


def record(number: int, answer: str = "b") -> dict[str, str]:
    return {"instruction": f"q{number:05}", "input": "", "output": answer}


def codes(look: DataLook) -> list[tuple[str, int]]:
    return [(finding.code, finding.place.line if finding.place else -1) for finding in look.findings]


def test_good_data_leaves_nothing_to_say(tmp_path: Path) -> None:
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", *map(record, range(40)))])
    look = look_at(run)
    assert (look.records, look.samples, look.findings) == (40, 40, ())
    assert (look.is_whole, look.is_indexed) == (True, False)
    assert (look.repeated_samples, look.lost_share, look.rejected_records) == (0, 0.0, 0)


def test_bad_records_are_named_with_their_lines(tmp_path: Path) -> None:
    lines = [GOOD, {**GOOD, "output": ""}, "{", {"prompt": "a", "output": "b"}, "[1]"]
    path = jsonl(tmp_path / "a.jsonl", *lines)
    look = look_at(written_run(tmp_path, [path]))
    assert codes(look) == [("CF507", 2), ("CF503", 3), ("CF508", 4), ("CF506", 5)]
    assert "data.bad_samples: skip" in look.findings[-1].helps[-1]
    skipping = look_at(written_run(tmp_path, [path], bad_samples="skip"))
    assert codes(skipping) == [("CF503", 3)], "what is broken is refused all the same"
    assert skipping.rejected_records == 3
    assert skipping.rejected_example == f'{path}:2: "output" is empty'


def test_the_index_refuses_the_same_records(tmp_path: Path) -> None:
    rows = [{**GOOD, "instruction": "很长的问题" * (40 if n in (3, 9) else 1) + str(n)} for n in range(12)]
    rows[5]["output"] = " "
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", *rows)])
    with pytest.raises(Refused) as caught:
        ensure_index(run, run.config.data.train, is_builder=True)
    look = look_at(run)
    assert codes(look) == [("CF509", 4), ("CF507", 6)]
    assert look.findings[0].title.startswith("2 prompts fill the window")
    assert [place.line for place, _ in look.findings[0].others] == [10]
    assert {(f.code, f.title, f.place, f.label, f.others) for f in look.findings} == {
        (f.code, f.title, f.place, f.label, f.others) for f in caught.value.findings
    }


@pytest.mark.parametrize("longest", [4, 5, 9])
def test_what_the_window_cuts_off(tmp_path: Path, longest: int) -> None:
    rows = [{"instruction": "q", "output": "a" * length} for length in (4, longest)]
    files = [jsonl(tmp_path / "a.jsonl", *rows)]
    run = written_run(tmp_path, files, max_seq_len=BEGUN + 5)
    look = look_at(run)
    lost = longest + 1 - 5
    assert look.truncated_samples == (lost > 0)
    assert look.lost_share == pytest.approx(lost / (longest + 1 + 5))
    assert look.longest_tokens == BEGUN + longest + 1
    assert look.has_counted_all
    exact = look_at(run, ensure_index(run, files, is_builder=True))
    assert exact.is_indexed
    assert exact.lost_share == pytest.approx(look.lost_share, rel=0.25), "the index counts after the shift"
    assert (exact.longest_tokens, exact.truncated_samples) == (look.longest_tokens, look.truncated_samples)


def test_many_long_records_are_represented_by_some(tmp_path: Path) -> None:
    rows = [record(n, "a" * (200 if n < 2 else 10 + n % 7)) for n in range(2000)]
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", *rows)], max_seq_len=BEGUN + 15)
    look = look_at(run)
    assert not look.has_counted_all
    assert look.longest_tokens == BEGUN + 5 + 200 + 1, "the longest ones are among them"
    exact = look_at(run, ensure_index(run, run.config.data.train, is_builder=True))
    assert look.truncated_samples == pytest.approx(exact.truncated_samples, rel=0.05)
    assert look.lost_share == pytest.approx(exact.lost_share, rel=0.1)


def test_repeats_and_what_validation_shares(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "a.jsonl", *map(record, (0, 1, 2, 1, 1, 3)))
    validation = jsonl(tmp_path / "b.jsonl", *map(record, (3, 1, 9)))
    run = written_run(tmp_path, [train], validation=[validation])
    look = look_at(run)
    shared = ((Place(validation, 1), Place(train, 6)), (Place(validation, 2), Place(train, 2)))
    assert (look.repeated_samples, look.leaks) == (2, Leaks(2, 3, shared, is_sure=True))
    index = ensure_index(run, [train], is_builder=True)
    assert look_at(run, index).leaks == look.leaks, "validation is not indexed yet"
    ensure_index(run, [validation], is_builder=True)
    exact = look_at(run, index)
    assert (exact.repeated_samples, exact.leaks) == (2, look.leaks)


def test_a_bad_validation_record_stops_the_run_too(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "a.jsonl", GOOD)
    bad = {**GOOD, "instruction": "很长的问题" * 40}
    validation = jsonl(tmp_path / "b.jsonl", GOOD, bad, {**GOOD, "output": None})
    look = look_at(written_run(tmp_path, [train], validation=[validation]))
    assert codes(look) == [("CF509", 2), ("CF507", 3)]


def test_a_file_that_is_listed_twice_is_read_once(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *map(record, range(4)))
    look = look_at(written_run(tmp_path, [path, path, str(tmp_path / "." / "a.jsonl")]))
    assert (look.records, look.repeated_samples) == (4, 0)


def test_an_empty_file_and_files_that_cannot_be_opened(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    run = written_run(tmp_path, [str(empty), str(tmp_path / "absent.jsonl")])
    assert (look_at(run).findings, look_at(run).records) == ((), 0)
    found = read_and_check(run.path, []).findings
    assert {finding.code for finding in found} >= {"CF505", "CF501"}


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large."""
    monkeypatch.setattr(looking, "WHOLE_BYTES", 100)


def write(path: Path, rows: list[dict[str, str]], ending: str) -> str:
    file = path / f"a.{ending}"
    if ending == "parquet":
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, file, row_group_size=100)
    elif ending == "json":
        file.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        return jsonl(file, *rows)
    return str(file)


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_some_records_of_a_large_file(tmp_path: Path, small_reads: None, ending: str) -> None:
    rows = [record(n, "答" * (1 + n % 5)) for n in range(1000)]
    file = write(tmp_path, rows, ending)
    drawn = list(some_records(file, 100))
    values = [one.found.value for one in drawn]
    assert values[0] == rows[0]
    numbers = [int(value["instruction"][1:]) for value in values]
    assert numbers == sorted(set(numbers)), "none twice"
    assert 60 <= len(numbers) <= 200 and numbers[-1] > 800, "spread over the file"
    whole = [one.value for one in read_records(file)]
    assert whole == rows
    look = look_at(written_run(tmp_path, [file]))
    assert not look.is_whole
    assert (look.findings, look.repeated_samples) == ((), 0)
    assert look.records == look.samples <= 200


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_bad_record_in_a_large_file_has_its_line(tmp_path: Path, small_reads: None, ending: str) -> None:
    rows = [{**record(n), "output": ""} for n in range(300)]
    file = write(tmp_path, rows, ending)
    look = look_at(written_run(tmp_path, [file]))
    (finding,) = look.findings
    assert finding.code == "CF507" and finding.title.startswith("at least ")
    assert not any("bad_samples" in help_ for help_ in finding.helps), "nothing would be left"
    places = [finding.place, *(place for place, _ in finding.others)]
    assert len(set(places)) == 3
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    for place in places:
        assert place is not None
        if ending == "jsonl":
            assert json.loads(lines[place.line - 1])["output"] == "" and not place.part
            continue
        number = int(place.part.removeprefix("record "))
        assert lines[place.line].strip() == json.dumps("instruction") + f': "q{number - 1:05}",'


def test_some_documents_of_plain_text(tmp_path: Path, small_reads: None) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff第一行\n\n第三行\r\n".encode() + b"\xff\n" + "第五行\n".encode() * 30)
    found = list(read_records(str(file)))
    assert [one.number for one in found[:4]] == [1, 3, 4, 5]
    assert [getattr(one, "code", "") for one in found[:4]] == ["", "", "CF504", ""]
    assert found[1].value == {"text": "第三行"}
    look = look_at(written_run(tmp_path, [str(file)], task="pretrain"))
    assert look.records > 3


def test_a_line_longer_than_is_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossfoot.data.sampling.LONGEST_RECORD_BYTES", 500)
    rows = [record(n, "a" * (2000 if n == 50 else 10)) for n in range(100)]
    drawn = list(some_records(jsonl(tmp_path / "a.jsonl", *rows), 90))
    assert len(drawn) > 30
    assert all(len(one.found.value["output"]) == 10 for one in drawn if hasattr(one.found, "value"))
    assert all(hasattr(one.found, "value") for one in drawn), "half a line is no broken line"


def test_lines_are_counted_up_to_a_record(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", *map(record, range(50)))
    for one in list(some_records(file, 10))[1:]:
        problem = looking.Problem("CF507", 0, "x")
        line = located(problem, file, one.start).number
        assert int(one.found.value["instruction"][1:]) == line - 1


def tokenizers() -> list[object]:
    here = [pytest.param("builtin:tiny", id="tiny")]
    for name, folder in (("chinese", CHINESE), ("smollm2", SMOLLM)):
        skip = pytest.mark.skipif(not folder.is_dir(), reason=f"{folder.name} is not here")
        here.append(pytest.param(str(folder), id=name, marks=skip))
    return here


@pytest.mark.parametrize("path", tokenizers())
def test_it_counts_what_the_index_counts(tmp_path: Path, path: str) -> None:
    counter = measuring.TokenCounter(encoder_at_hand(path, str(tmp_path)))
    encoder = load_encoder(path, str(tmp_path))
    texts = [
        "Say hello.",
        "苹果、梨、桃。",
        " two  blanks ",
        "x\ny\n",
        "😀" * 3,
        alpaca2("问", "一 2"),
        "a</s>b",
    ]
    records = [
        Texts(0, 1, (Stretch(one, begins=True), Stretch(one, trained=((0, len(one)),)))) for one in texts
    ]
    counts = list(counter.count(records))
    lengths = [len(ids) for ids in encoder.encode(texts)]
    assert [sum(one.trained) for one in counts] == lengths
    assert [one.masked_tokens - len(encoder.facts.bos_ids) for one in counts] == lengths
    assert counter.is_exact
    assert counter.vocabulary == encoder.facts.vocabulary


@pytest.mark.skipif(not (CHINESE.is_dir() and ALPACA.is_file()), reason="../shared is not here")
def test_real_instructions_as_the_index_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written_run(tmp_path, [str(ALPACA)], tokenizer=str(CHINESE), max_seq_len=256)
    look = look_at(run)
    exact = look_at(run, ensure_index(run, run.config.data.train, is_builder=True))
    assert look.lost_share == pytest.approx(exact.lost_share, rel=0.2)
    assert look.truncated_samples == pytest.approx(exact.truncated_samples, rel=0.2)
    assert look.repeated_samples == exact.repeated_samples == 8
    assert look.vocabulary == exact.vocabulary == 55296
    monkeypatch.setattr(measuring, "MEASURED_RECORDS", 1000)
    look = look_at(run)
    assert look.has_counted_all
    assert (look.longest_tokens, look.truncated_samples) == (exact.longest_tokens, exact.truncated_samples)
    assert look.lost_share == pytest.approx(exact.lost_share, rel=0.01)


def test_without_a_tokenizer_tokens_are_estimated(tmp_path: Path) -> None:
    rows = [{**GOOD, "instruction": "很长的问题" * 100}, record(1), record(2, "很长的回答" * 100)]
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", *rows)], tokenizer="owner/not-here")
    look = look_at(run)
    assert not look.is_counted and look.vocabulary is None
    assert (look.hopeless_records, look.truncated_samples, look.findings) == (1, 1, ())


@pytest.mark.parametrize("text", ["{", "[]", '{"model": 3}'])
def test_a_damaged_tokenizer_is_somebody_elses_finding(tmp_path: Path, text: str) -> None:
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "tokenizer.json").write_text(text)
    file = jsonl(tmp_path / "a.jsonl", record(1, "a" * 400))
    assert not look_at(written_run(tmp_path, [file], tokenizer=str(tmp_path / "tok"))).is_counted


def test_a_large_tokenizer_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_tokenizer(str(tmp_path))
    assert encoder_at_hand(folder, str(tmp_path)) is not None
    monkeypatch.setattr(loading, "LARGEST_JSON_BYTES", 10)
    assert encoder_at_hand(folder, str(tmp_path)) is None


def test_records_that_fit_by_their_bytes_are_not_tokenised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "measure", lambda *_: pytest.fail("tokenised"))
    file = jsonl(tmp_path / "a.jsonl", *map(record, range(5)))
    assert look_at(written_run(tmp_path, [file], max_seq_len=BEGUN + 20)).lost_share == 0
    assert measuring.MORE_THAN_BYTES >= 4


def test_the_look_brings_no_torch(tmp_path: Path) -> None:
    file = write(tmp_path, [record(1, "a" * 400)], "parquet")
    text = tmp_path / "b.txt"
    text.write_text("a\nb\n")
    written_run(tmp_path, [file, str(text)], task="pretrain")
    code = (
        "import sys; from crossfoot.index.look import look_at;"
        "from crossfoot.written.run_file import load_run;"
        f"print(look_at(load_run({str(tmp_path / 'run.yaml')!r})).records);"
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["demo", "smollm2-reviews", "chinese-alpaca2"])
def test_the_shipped_data_is_good(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run = load_run(f"configs/{name}.yaml")
    if not all(Path(file).exists() for file in run.config.data.train):
        pytest.skip("its data is not here")
    look = look_at(run)
    assert (look.findings, look.leaks.records, look.rejected_records) == ((), 0, 0)
    assert look.lost_share < 0.01 and look.repeated_samples < 0.01 * look.samples


@pytest.mark.parametrize("key", ["train", "validation"])
@pytest.mark.parametrize("window", [8, 256])
def test_data_of_which_skip_leaves_nothing_is_refused_as_the_index_refuses_it(
    tmp_path: Path, key: str, window: int
) -> None:
    bad = {"instruction": "q"} if window == 256 else GOOD  # without an output, or with a long prompt
    files = {"train": jsonl(tmp_path / "a.jsonl", GOOD), key: jsonl(tmp_path / "b.jsonl", bad, bad)}
    run = written_run(
        tmp_path,
        [files["train"]],
        validation=[files[key]] if key == "validation" else [],
        bad_samples="skip",
        max_seq_len=window,
    )
    found = [one for one in look_at(run).findings if one.place is not None and one.place.file == files[key]]
    assert [(one.code, one.label) for one in found] == [("CF505", looking.NOTHING_LEFT)]
    with pytest.raises(Refused) as refused:
        ensure_index(run, [files[key]], is_builder=True)
    assert [one.code for one in refused.value.findings] == ["CF505"]


def test_a_large_file_of_which_skip_leaves_nothing_is_refused_by_what_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "WHOLE_BYTES", 100)
    path = jsonl(tmp_path / "a.jsonl", *[{"instruction": str(i)} for i in range(300)])
    (finding,) = look_at(written_run(tmp_path, [path], bad_samples="skip")).findings
    assert finding.code == "CF505" and finding.label == looking.NOTHING_LEFT
