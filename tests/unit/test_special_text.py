"""Data that spells out special tokens or the template's words: encoded as data, counted, named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossfoot.data.conversation import Turn
from crossfoot.data.special_text import NAMED_EXAMPLES, Spellings
from crossfoot.data.templates import Template
from crossfoot.data.tiny_tokenizer import tiny_folder
from crossfoot.findings.finding import Place, Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.locate import address_of, source_states
from crossfoot.index.look import look_at
from crossfoot.index.reference_check import compare_with_files
from crossfoot.index.store import DataIndex, open_index
from crossfoot.planning.checking import find_all
from crossfoot.planning.page import render_plan
from crossfoot.planning.prepare import plan_checked, read_and_check
from crossfoot.receipts.index_check import index_faults
from index_cases import GOOD, alpaca2, held, jsonl, written_run
from tokenizer_cases import unigram_files, write

ROWS: list[dict[str, Any]] = [
    GOOD,
    {**GOOD, "output": "Write <s>old</s> and it is."},
    {"instruction": "<s>[INST] q [/INST]", "input": "", "output": "a</s>"},
    {"instruction": "q", "input": "</s>", "output": "a"},
    {"instruction": "[INST] <<SYS>>", "output": "a"},
]
BYTES = 4
"""The first id of a byte; those below are special."""


def in_bytes(text: str) -> list[int]:
    """builtin:tiny's ids of a text in which no token is special."""
    from crossfoot.data.tiny_tokenizer import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.encode_special_tokens = True
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def built(tmp_path: Path, rows: list[Any] = ROWS, **data: Any) -> DataIndex:
    path = jsonl(tmp_path / "a.jsonl", *rows)
    return ensure_index(written_run(tmp_path, [path], **data), [path], is_builder=True)


def test_spellings_are_found_in_data_alone() -> None:
    spellings = Spellings(["<s>", "<s>x", ""])
    assert spellings.in_data("a<s>b<s>xc<s>") == ("<s>", "<s>x")
    assert spellings.in_data("a<s>", [(1, 4)]) == ()
    assert spellings.in_data("a<s>", [(0, 3)]) == ("<s>",)  # half of it is data
    assert spellings.in_data("", ()) == () and Spellings([]).in_data("<s>") == ()


@pytest.mark.parametrize("asked", ["q", "q\nx [/INST]"])
def test_own_spans_are_the_templates_words(asked: str) -> None:
    turns = [Turn("system", "told"), Turn("user", asked), Turn("assistant", "x")]
    stretch, answer = Template("alpaca2").stretches(turns)
    words = [stretch.text[begin:end] for begin, end in stretch.own]
    assert words == ["[INST] <<SYS>>\n", "\n<</SYS>>\n\n", " [/INST]"] and answer.own == ()
    assert stretch.text == f"[INST] <<SYS>>\ntold\n<</SYS>>\n\n{asked} [/INST]"


def in_a(_: int, number: int) -> Place:
    return Place("a.jsonl", number)


def test_a_special_token_in_the_data_is_text(tmp_path: Path) -> None:
    index = built(tmp_path)
    for i, row in enumerate(ROWS):
        ids, trained = index.sample(i)
        prompt = in_bytes(alpaca2(row["instruction"], row.get("input") or ""))
        assert ids.tolist() == [1, *prompt, *in_bytes(row["output"]), 2]
        assert (ids[1:-1] >= BYTES).all() and trained[-1]
    assert index.header.special_text_records.records == 3
    named = index.header.special_text_records.named(in_a)
    assert named.first == ("a.jsonl:2 has <s>, </s>", "a.jsonl:3 has <s>, </s>", "a.jsonl:4 has </s>")
    assert index.header.template_records.named(in_a).first == (
        "a.jsonl:3 has [INST], [/INST]",
        "a.jsonl:5 has [INST], <<SYS>>",
    )


def test_tokens_on_purpose_are_counted_and_have_another_address(tmp_path: Path) -> None:
    as_text, as_tokens = built(tmp_path), built(tmp_path, special_text="tokens")
    assert as_text.address != as_tokens.address
    assert as_tokens.sample(1)[0].tolist().count(2) == 2 and as_tokens.sample(3)[0].tolist().count(2) == 2
    assert as_tokens.header.special_text_records == as_text.header.special_text_records
    assert as_tokens.sample(0)[0].tolist() == as_text.sample(0)[0].tolist()
    again = open_index(as_text.folder)
    assert again.header == as_text.header


@pytest.mark.parametrize("special_text", ["text", "tokens"])
@pytest.mark.parametrize("task", ["sft", "pretrain"])
def test_the_witness_holds_it(tmp_path: Path, special_text: str, task: str) -> None:
    rows = ROWS if task == "sft" else [{"text": f"{n} <s>[INST] x </s>" + "y" * n} for n in range(30)]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    run = written_run(tmp_path, [path], special_text=special_text, task=task, max_seq_len=128)
    index = held(run)
    folder = tiny_folder(run.index_dir)
    comparison = compare_with_files(index, folder, "seed")
    assert (comparison.compared, comparison.differences, comparison.notes) == (index.num_samples, [], [])
    assert index.header.special_text_records.records == (3 if task == "sft" else 30)
    other = index.tokens.copy()
    place = int(np.flatnonzero(other == (in_bytes("<")[0] if special_text == "text" else 2))[0])
    other[place] = 2 if special_text == "text" else 7
    assert compare_with_files(replace(index, tokens=other), folder, "seed").differences


def test_a_text_with_no_other_tokens_is_a_bad_record(tmp_path: Path) -> None:
    folder = write(tmp_path / "tokenizer", unigram_files())
    rows = [{"text": "abc"}, {"text": "a</s>b"}]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    words = {"tokenizer": folder, "task": "pretrain"}
    with pytest.raises(Refused) as caught:
        ensure_index(written_run(tmp_path, [path], **words), [path], is_builder=True)
    (finding,) = caught.value.findings
    assert (finding.code, str(finding.place)) == ("CF511", f"{path}:2")
    assert finding.label == "it spells out </s>, and the tokenizer has no other tokens for that"
    run = written_run(tmp_path, [path], bad_samples="skip", **words)
    index = held(run)
    assert [reject.place.line for reject in index.rejects] == [2]
    assert index.header.special_text_records.records == 0
    as_tokens = held(written_run(tmp_path, [path], special_text="tokens", **words))
    assert as_tokens.tokens.tolist().count(as_tokens.header.tokenizer.eos_id) == 3


@pytest.mark.parametrize("has_index", [False, True])
def test_check_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_index: bool) -> None:
    monkeypatch.chdir(tmp_path)
    path, held_out = jsonl(Path("a.jsonl"), *ROWS), jsonl(Path("b.jsonl"), {**GOOD, "output": "x</s>"})
    run = written_run(Path(), [path], validation=[held_out])
    if has_index:
        for file in (path, held_out):
            ensure_index(run, [file], is_builder=True)
    found = {one.code: one for one in find_all(run.path)}
    assert found["CF586"].title.startswith("4 records spell out special tokens")
    assert found["CF586"].notes[-1] == "b.jsonl:1 has </s>"
    assert found["CF587"].title == "2 records spell out the words of the template alpaca2"
    codes = {one.code for one in find_all(run.path, ["data.special_text=tokens"])}
    assert "CF586" not in codes and "CF587" in codes


def test_a_large_file_is_looked_at_in_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossfoot.data.look.WHOLE_BYTES", 1000)
    rows = [{**GOOD, "instruction": f"{n}", "output": "x</s>" if n > 3 else "x"} for n in range(400)]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    run = written_run(tmp_path, [path])
    look = look_at(run, None, ("</s>",))
    assert not look.is_whole and 100 < look.special_text.records < 400
    assert len(look.special_text.first) == NAMED_EXAMPLES
    for words in look.special_text.first:
        line = int(words.removesuffix(" has </s>").rpartition(":")[2])
        assert "</s>" in json.dumps(rows[line - 1])
    title = next(one.title for one in find_all(run.path) if one.code == "CF586")
    assert title.startswith("at least ")


def test_plan_lock_index_and_receipt_count_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crossfoot.planning.lock import make_lock

    monkeypatch.chdir(tmp_path)
    path = jsonl(Path("a.jsonl"), *ROWS)
    run = written_run(Path(), [path])
    checked = read_and_check(run.path, [])
    plan = plan_checked(checked, held(checked.run))
    page = render_plan(plan)
    assert "records that spell special tokens              3   they stay text: data.special_text text" in page
    assert "records that hold template words               2" in page
    lock = make_lock(plan)
    assert lock["index"]["special_text_records"] == 3
    notes = index_faults(checked.run.run_dir, lock)[1]
    assert notes[:2] == [
        "3 records spell out special tokens of the tokenizer, which became text: "
        "a.jsonl:2 has <s>, </s>; a.jsonl:3 has <s>, </s>; a.jsonl:4 has </s>",
        "2 records spell out the words of the template alpaca2: "
        "a.jsonl:3 has [INST], [/INST]; a.jsonl:5 has [INST], <<SYS>>",
    ]
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [f"index: {note}" for note in notes[:2]]


def test_the_address_follows_the_key(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD)
    runs = [written_run(tmp_path, [path]), written_run(tmp_path, [path], special_text="tokens")]
    addresses = {address_of(run, source_states([path], run.index_dir), "mark") for run in runs}
    assert len(addresses) == 2


def mistral(tmp_path: Path) -> str:
    """builtin:tiny's bytes with the template's words as special tokens, as Mistral's tokenizer has them."""
    from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer

    folder = tmp_path / "mistral"
    shutil.copytree(write_tiny_tokenizer(str(tmp_path)), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    more = {"extra_special_tokens": ["[INST]", "[/INST]"]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **more}))
    return str(folder)


def test_a_template_whose_words_are_special_tokens(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *ROWS)
    run = written_run(tmp_path, [path], tokenizer=mistral(tmp_path))
    index = held(run)
    for i in range(len(ROWS)):
        ids, trained = index.sample(i)
        assert ids.tolist().count(260) == ids.tolist().count(261) == 1 and not trained[ids >= 260].any()
    assert index.header.special_text_records.records == 4
    assert index.header.template_records.named(in_a).first == ("a.jsonl:5 has <<SYS>>",)
