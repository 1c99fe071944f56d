"""Each mistake in data: its code, its place, and words that help. Never a traceback, nothing left behind."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from crossfoot.data import tokenizer_limits
from crossfoot.data.findings import FINDINGS_BY_CODE
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index import build
from crossfoot.index.build import ensure_index
from crossfoot.index.locate import count_records, find_index
from crossfoot.planning.prepare import read_and_check
from crossfoot.written.run_file import RunFile
from index_cases import GOOD, jsonl, written_run


def refused(run: RunFile) -> Refused:
    with pytest.raises(Refused) as caught:
        ensure_index(run, list(run.config.data.train), is_builder=True)
    left = set(os.listdir(run.index_dir)) if os.path.isdir(run.index_dir) else set()
    assert {name for name in left if not name.endswith(".pulse")} <= {"builtin-tiny", "sources.json"}
    return caught.value


def places(findings: tuple[Finding, ...]) -> list[tuple[str, int]]:
    return [(finding.code, finding.place.line if finding.place else -1) for finding in findings]


LONG = "很长的问题" * 40

BAD_RECORDS: list[tuple[Any, str, str]] = [
    (["a"], "CF506", "a list"),
    ("7", "CF506", "a number"),
    ("null", "CF506", "null"),
    ({"instruction": "a", "input": ""}, "CF507", 'no "output"; it has: instruction, input'),
    ({**GOOD, "output": ""}, "CF507", '"output" is empty'),
    ({**GOOD, "output": " \n"}, "CF507", '"output" is empty'),
    ({**GOOD, "output": None}, "CF507", '"output" is null, not text'),
    ({**GOOD, "output": 42}, "CF507", '"output" is a number, not text'),
    ({**GOOD, "output": ["a"]}, "CF507", '"output" is a list, not text'),
    ({"prompt": "a", "output": "b"}, "CF508", 'no "instruction"; it has: prompt, output'),
    ({**GOOD, "instruction": ""}, "CF508", '"instruction" is empty'),
    ({**GOOD, "input": 3}, "CF508", '"input" is a number, not text'),
    ({**GOOD, "instruction": LONG}, "CF509", "data.max_seq_len is 256"),
    ('{"instruction": "a", "output": "x\\ud83d"}', "CF511", "\\ud83d, half of a character"),
    ('{"instruction": "a", "output": "b", "output": "c"}', "CF556", 'it names "output" twice'),
]


@pytest.mark.parametrize(("bad", "code", "words"), BAD_RECORDS)
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_bad_record_is_named(tmp_path: Path, bad: Any, code: str, words: str, ending: str) -> None:
    texts = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in (GOOD, bad, GOOD)]
    path = tmp_path / f"a.{ending}"
    path.write_text("[" + ",\n".join(texts) + "]" if ending == "json" else "\n".join(texts), encoding="utf-8")
    error = refused(written_run(tmp_path, [str(path)]))
    (finding,) = error.findings
    where = f"{path}:2, record 2" if ending == "json" else f"{path}:2"
    assert (finding.code, str(finding.place), error.exit_code) == (code, where, 1)
    assert words in finding.label
    assert "data.bad_samples: skip" in finding.helps[-1]


@pytest.mark.parametrize(("bad", "code", "words"), BAD_RECORDS)
def test_a_bad_record_is_left_out_and_counted(tmp_path: Path, bad: Any, code: str, words: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD, bad, {**GOOD, "output": "b"})
    run = written_run(tmp_path, [path], bad_samples="skip")
    index = ensure_index(run, [path], is_builder=True)
    (reject,) = index.rejects
    assert (str(reject.place), reject.code) == (f"{path}:2", code) and words in reject.reason
    assert (index.num_samples, index.header.rejected_records, index.header.sources[0].records) == (2, 1, 3)
    assert [index.origin(i) for i in range(2)] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_broken_line_is_refused_always(tmp_path: Path, policy: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD, '{"instruction": "x",', GOOD)
    error = refused(written_run(tmp_path, [path], bad_samples=policy))
    (finding,) = error.findings
    assert (finding.code, str(finding.place), error.exit_code) == ("CF503", f"{path}:2:21", 2)
    assert not any("bad_samples" in text for text in finding.helps)


def test_all_mistakes_at_once_across_files(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "a.jsonl", GOOD, {"instruction": "a"}, "nope", {**GOOD, "instruction": LONG})
    two = jsonl(tmp_path / "b.jsonl", {**GOOD, "input": []})
    error = refused(written_run(tmp_path, [one, two]))
    found = sorted((f.code, str(f.place)) for f in error.findings)
    assert found == [
        ("CF503", f"{one}:3:1"),
        ("CF507", f"{one}:2"),
        ("CF508", f"{two}:1"),
        ("CF509", f"{one}:4"),
    ]
    assert error.exit_code == 2
    assert sum("data.bad_samples: skip" in text for f in error.findings for text in f.helps) == 1


@pytest.mark.parametrize(("good", "advises_to_skip"), [(20, True), (1, False)])
def test_records_of_one_kind_are_one_finding(tmp_path: Path, good: int, advises_to_skip: bool) -> None:
    """Counted, the first three with their places; to leave all records out is no advice."""
    path = jsonl(tmp_path / "a.jsonl", *[GOOD] * good, *[{"instruction": "a"}] * 33)
    (finding,) = refused(written_run(tmp_path, [path])).findings
    assert (finding.code, finding.title) == ("CF507", "at least 33 records have no output")
    places = [finding.place, *(place for place, _ in finding.others)]
    assert [place and place.line for place in places] == [good + 1, good + 2, good + 3]
    assert finding.notes == ("30 more are not shown here",)
    assert any("data.bad_samples: skip" in help_ for help_ in finding.helps) is advises_to_skip


def test_missing_files_are_named_where_the_config_names_them(tmp_path: Path) -> None:
    good = jsonl(tmp_path / "a.jsonl", GOOD)
    folder = tmp_path / "folder"
    folder.mkdir()
    files = [good, str(tmp_path / "none.jsonl"), str(folder)]
    run = written_run(tmp_path, files)
    error = refused(run)
    assert [(f.code, f.place) for f in error.findings] == [
        ("CF501", run.place("data", "train", 1)),
        ("CF501", run.place("data", "train", 2)),
    ]
    assert "No such file" in error.findings[0].label and error.exit_code == 2
    assert error.findings[1].label == f"{folder} is a folder without a data file"
    assert error.findings[1].helps[0].startswith("put data files into it")
    with pytest.raises(Refused):
        find_index(run, files)
    with pytest.raises(Refused):
        count_records(files, "sft")


def test_unknown_endings(tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_text("x")
    (tmp_path / "a.txt").write_text("x")
    error = refused(written_run(tmp_path, [str(tmp_path / "a.doc"), str(tmp_path / "a.txt")]))
    assert [f.code for f in error.findings] == ["CF502", "CF502"]
    assert "is plain text, which has no instructions" in error.findings[1].label
    assert error.exit_code == 1


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_empty_data(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    (finding,) = refused(written_run(tmp_path, [str(path)])).findings
    assert finding.code == "CF505" and str(path) in finding.label


def test_nothing_left_after_skipping(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"instruction": "a"}, {**GOOD, "instruction": LONG})
    (finding,) = refused(written_run(tmp_path, [path], bad_samples="skip")).findings
    assert finding.code == "CF505" and "all 2 records were left out" in finding.label


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = json.dumps(GOOD, ensure_ascii=False) + "\n"
    path.write_bytes(line.encode() + line.encode("gb18030"))
    error = refused(written_run(tmp_path, [str(path)]))
    assert [(f.code, str(f.place)) for f in error.findings] == [("CF504", f"{path}:2")]
    assert error.exit_code == 2


def test_pretrain_records(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl",
        {"text": "好"},
        {"text": ""},
        {"content": "x"},
        {"text": 3},
        '{"text":"\\udc00"}',
    )
    findings = refused(written_run(tmp_path, [path], task="pretrain")).findings
    assert places(findings) == [("CF510", 2), ("CF511", 5)]
    assert [place.line for place, _ in findings[0].others] == [3, 4]


def test_tokenizer_mistakes(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD)
    index_dir = ensure_index(written_run(tmp_path, [path]), [path], is_builder=True).folder + "/.."
    tiny = Path(index_dir, "builtin-tiny")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    cases = {}

    def code() -> tuple[str, bool]:
        run = written_run(tmp_path, [path], tokenizer=str(folder))
        with pytest.raises(Refused) as caught:
            ensure_index(run, [path], is_builder=True)
        (finding,) = caught.value.findings
        assert finding.place == run.place("tokenizer", "path")
        return finding.code, finding.unreadable

    cases["empty folder"] = code()
    (folder / "tokenizer.json").write_text("{")
    cases["damaged"] = code()
    (folder / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    config = json.loads((tiny / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    cases["no end token"] = code()
    folder = tmp_path / "none"
    cases["no folder"] = code()
    assert cases == {
        "empty folder": ("CF520", True),
        "damaged": ("CF520", True),
        "no end token": ("CF521", False),
        "no folder": ("CF520", True),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tokenizer_config.json", "no vocabulary in "),
        ("added_tokens.json", "no vocabulary in "),
        ("merges.txt", "no vocabulary in "),
        ("pipe", "tokenizer.json in "),
        ("device", "tokenizer.json in "),
        ("large", "tokenizer.json in "),
    ],
)
def test_a_tokenizer_without_a_vocabulary_or_an_end_is_refused_before_a_library_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    """transformers makes an empty tokenizer of a folder without a vocabulary: no token of any text."""
    monkeypatch.setattr(tokenizer_limits, "LARGEST_FILE_BYTES", 1000)
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    names = {"tokenizer_class": "LlamaTokenizerFast", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    file = folder / "tokenizer.json"
    if name == "pipe":
        os.mkfifo(file)
    elif name == "device":
        file.symlink_to("/dev/zero")
    elif name == "large":
        file.write_text(" " * 1001)
    else:
        (folder / name).write_text(json.dumps(names))
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", GOOD)], tokenizer=str(folder))
    for found in (read_and_check(run.path, []).findings, refused(run).findings):
        (finding,) = (one for one in found if one.code.startswith("CF52"))
        assert (finding.code, finding.place) == ("CF520", run.place("tokenizer", "path"))
        assert finding.label.startswith(words)


def test_an_answer_that_becomes_no_token_is_no_answer(tmp_path: Path) -> None:
    """An end token alone would be trained."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    letters = Tokenizer(models.BPE({**{x: i for i, x in enumerate("abc[]/<>INSTY ")}, "</s>": 14}, []))
    letters.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    rows = [{"instruction": "a", "output": one, "text": one} for one in ("abc", "答", "cab")]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    for task in ("sft", "pretrain"):
        run = written_run(tmp_path, [path], tokenizer=str(folder), task=task)
        assert places(refused(run).findings) == [("CF551", 2)]


@pytest.mark.parametrize("later", [(GOOD, GOOD), ({**GOOD, "output": "苹果、梨、杏。"},)])
def test_a_file_that_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: tuple[Any, ...]
) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD)
    os.utime(path, (1e9, 1e9))
    real = build.load_encoder

    def slow(*args: Any, **words: Any) -> Any:
        jsonl(tmp_path / "a.jsonl", *later)
        os.utime(path, (1e9, 1e9))
        return real(*args, **words)

    monkeypatch.setattr(build, "load_encoder", slow)
    (finding,) = refused(written_run(tmp_path, [path])).findings
    assert finding.code == "CF532"


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "tokens.bin")

    path = jsonl(tmp_path / "a.jsonl", GOOD)
    monkeypatch.setattr(build.IndexWriter, "append", full)
    (finding,) = refused(written_run(tmp_path, [path])).findings
    assert finding.code == "CF531" and "No space left on device" in finding.label


def test_every_code_has_a_page() -> None:
    from crossfoot.findings.finding import Place

    for code, mistake in FINDINGS_BY_CODE.items():
        assert inspect.getdoc(mistake), code
        finding = mistake(Place("a"), "why")
        assert (finding.code, finding.label) == (code, "why")
        assert finding.title[0].islower() or finding.title.startswith("Parquet")
        assert not finding.title.endswith(".")
