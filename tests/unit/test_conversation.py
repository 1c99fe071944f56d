"""Every form of a record comes to the same conversation; what is none is named with the reason."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from crossfoot.data.conversation import NotTrainable, Turn, renamed, turns_of
from crossfoot.data.tiny_tokenizer import tiny_folder
from crossfoot.data.unread_fields import unread_fields
from crossfoot.findings.finding import Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.look import look_at
from crossfoot.index.reference_chat import said_in
from crossfoot.index.reference_check import compare_with_files
from crossfoot.index.store import DataIndex
from index_cases import GOOD, held, jsonl, written_run

SAID = [("system", "简短。"), ("user", "a\nb"), ("assistant", "c"), ("user", "d"), ("assistant", "e")]


def turns(role: str, said: str, **names: str) -> list[dict[str, str]]:
    return [{role: names.get(who, who), said: text} for who, text in SAID]


FORMS: list[dict[str, Any]] = [
    {"system": "简短。", "history": [["a\nb", "c"]], "instruction": "d", "input": "", "output": "e"},
    {"messages": turns("role", "content")},
    {"messages": turns("role", "content")[1:], "system": "简短。"},
    {"messages": [{"role": who, "content": [{"type": "text", "text": text}]} for who, text in SAID]},
    {"messages": turns("role", "content", system="developer", assistant="Model")},
    {"conversations": turns("from", "value", user="human", assistant="gpt")},
    {"conversations": turns("role", "value", assistant="bot")},
    {"prompt": turns("role", "content")[:-1], "completion": turns("role", "content")[-1:]},
]


@pytest.mark.parametrize("value", FORMS)
def test_every_form_is_one_conversation(value: dict[str, Any]) -> None:
    assert turns_of(value, {}) == tuple(Turn(*turn) for turn in SAID)  # type: ignore[arg-type]
    assert [(one.role, one.text) for one in said_in(value, {})] == SAID
    assert unread_fields(value, "sft", {}) == ()


@pytest.mark.parametrize(
    "value", [{"instruction": "a", "input": "b", "output": "c"}, {"prompt": "a\nb", "completion": "c"}]
)
def test_one_question_and_one_answer(value: dict[str, Any]) -> None:
    assert turns_of(value, {}) == (Turn("user", "a\nb"), Turn("assistant", "c"))


def test_columns_name_what_is_meant() -> None:
    columns = {"instruction": "问题", "output": "回答"}
    value = renamed({"问题": "a", "回答": "b", "output": "other"}, columns)
    assert turns_of(value, columns) == (Turn("user", "a"), Turn("assistant", "b"))
    assert unread_fields(value, "sft", columns) == ("output (its own)",)
    columns = {"messages": "dialog", "role": "speaker", "content": "said"}
    value = renamed({"dialog": turns("speaker", "said")}, columns)
    assert turns_of(value, columns) == turns_of(FORMS[1], {})
    assert said_in({"dialog": turns("speaker", "said")}, columns) == said_in(FORMS[1], {})


def test_a_field_that_columns_names_and_nobody_has() -> None:
    columns = {"messages": "dialog"}
    with pytest.raises(NotTrainable, match='no "dialog", which data'):
        turns_of(renamed({"talk": []}, columns), columns)


def chat(*speakers: str, text: str = "x", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": one, "content": text, **more} for one in speakers]}


@pytest.mark.parametrize(
    ("value", "code", "reason"),
    [
        (chat("user", "user", "assistant"), "CF571", "two turns of the user (turns 1 and 2)"),
        (chat("assistant", "user"), "CF571", "the assistant speaks first (turn 1)"),
        (chat("system", "assistant"), "CF571", "the assistant speaks first (turn 2)"),
        (chat("user", "assistant", "system"), "CF571", "turn 3 is the system's; only the first one can be"),
        (chat("user", "assistant", "user"), "CF571", "its last turn is the user's, and nothing answers it"),
        (chat("user", "tool", "assistant"), "CF571", 'turn 2 of "messages" has the role "tool"'),
        (chat("user", "assistant", text="  "), "CF571", "turn 1, the user's, is empty"),
        (chat("user", "assistant", content=None), "CF571", 'turn 1 of "messages" has no "content"'),
        (chat("user", "assistant", weight=0), "CF571", "every answer has the weight 0"),
        (chat("user", "assistant", weight=0.5), "CF571", 'turn 1 of "messages" has the weight 0.5'),
        (chat(), "CF571", "it has no turn of a user"),
        ({"messages": "hello"}, "CF571", '"messages" is a text, not a list of turns'),
        ({"messages": ["hello"]}, "CF571", 'turn 1 of "messages" is a text, not an object'),
        (
            chat("user", content=[{"type": "image_url"}]),
            "CF571",
            "a part of another kind than text: image_url",
        ),
        ({**chat("system", "user", "assistant"), "system": "x"}, "CF571", 'a field "system", and a turn'),
        ({**GOOD, "history": [["a"]]}, "CF571", 'entry 1 of "history" is no pair of texts'),
        ({**GOOD, "history": "a"}, "CF571", '"history" is a text, not a list of pairs'),
        ({"prompt": "", "completion": "b"}, "CF508", '"prompt" is empty'),
        ({"prompt": "a", "completion": None}, "CF507", '"completion" is null, not text'),
    ],
)
def test_what_is_no_conversation_is_named(value: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(NotTrainable) as found:
        turns_of(value, {})
    assert found.value.code == code and reason in found.value.reason


def test_bad_conversations_are_one_finding_with_their_places(tmp_path: Path) -> None:
    good = chat("user", "assistant")
    path = jsonl(tmp_path / "a.jsonl", good, chat("assistant", "user"), good, chat("user"), good)
    run = written_run(tmp_path, [path])
    with pytest.raises(Refused) as refused:
        held(run)
    (finding,) = refused.value.findings
    assert (finding.code, finding.title) == ("CF571", "2 records are no conversations")
    assert finding.place is not None and finding.place.line == 2 and finding.others[0][0].line == 4
    assert [one.title for one in look_at(run).findings] == [finding.title]
    skipping = held(written_run(tmp_path, [path], bad_samples="skip"))
    assert skipping.num_samples == 3 and len(skipping.rejects) == 2


def test_fields_of_turns_that_are_not_read_are_counted(tmp_path: Path) -> None:
    called = {
        "messages": [
            {"role": "user", "content": "a", "name": "Li"},
            {"role": "assistant", "content": "b", "tool_calls": [{"id": "1"}]},
        ],
        "tools": None,
    }
    path = jsonl(tmp_path / "a.jsonl", called, chat("user", "assistant"))
    run = written_run(tmp_path, [path])
    found = {one.code: one for one in look_at(run).findings}
    assert set(found) == {"CF552", "CF553"}
    assert "messages.tool_calls (1 of 2 records)" in found["CF552"].title
    assert "messages.name (1 of 2 records)" in found["CF553"].title
    ignoring = written_run(tmp_path, [path], ignored_fields=["messages.tool_calls", "messages.name"])
    assert not look_at(ignoring).findings


def texts(index: DataIndex, i: int) -> tuple[str, str]:
    """What is masked and what is trained of a sample of builtin:tiny, which has a token for each byte."""
    from crossfoot.data.tiny_tokenizer import tiny_tokenizer

    ids, trained = index.sample(i)
    tokenizer = tiny_tokenizer()
    return (
        tokenizer.decode(ids[~trained].tolist(), skip_special_tokens=False),
        tokenizer.decode(ids[trained].tolist(), skip_special_tokens=False),
    )


@pytest.mark.parametrize("template", ["alpaca2", "llama2"])
def test_several_turns_in_the_built_in_templates(tmp_path: Path, template: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", *FORMS)
    run = written_run(tmp_path, [path], template=template, max_seq_len=2048)
    index = held(run)
    told = "<s>[INST] <<SYS>>\n简短。\n<</SYS>>\n\na\nb [/INST]"
    for i in range(len(FORMS)):
        assert texts(index, i) == (f"{told}<s>[INST] d [/INST]", "c</s>e</s>")
    last = held(written_run(tmp_path, [path], template=template, max_seq_len=2048, train_on="last"))
    assert texts(last, 0) == (f"{told}c</s><s>[INST] d [/INST]", "e</s>")
    for one in (index, last):
        comparison = compare_with_files(one, tiny_folder(run.index_dir), "seed")
        assert (comparison.compared, comparison.differences) == (len(FORMS), [])


@pytest.mark.parametrize(("template", "system"), [("alpaca2", "乐于助人"), ("llama2", None)])
def test_the_system_prompt_of_the_config(tmp_path: Path, template: str, system: str | None) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD, FORMS[0])
    (asked, _) = texts(held(written_run(tmp_path, [path], template=template)), 0)
    assert (system or "[INST] 说") in asked and ("<<SYS>>" in asked) is (system is not None)
    own = held(written_run(tmp_path, [path], template=template, system_prompt="Be brief."))
    assert texts(own, 0)[0].count("<<SYS>>\nBe brief.\n<</SYS>>") == 1
    assert "Be brief." not in texts(own, 1)[0]


def test_an_answer_of_weight_0_is_read_and_not_trained(tmp_path: Path) -> None:
    said = turns("role", "content")[1:]
    path = jsonl(tmp_path / "a.jsonl", {"messages": [said[0], {**said[1], "weight": 0}, *said[2:]]})
    index = held(written_run(tmp_path, [path]))
    assert texts(index, 0)[1] == "e</s>" and "c</s>" in texts(index, 0)[0]
    with pytest.raises(Refused, match="CF571"):
        held(
            written_run(
                tmp_path,
                [jsonl(tmp_path / "b.jsonl", {"messages": [*said[:3], {**said[3], "weight": 0}]})],
                train_on="last",
            )
        )


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "\n".join(json.dumps(one, ensure_ascii=False) for one in rows)
    if ".parquet" in path.name:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ".csv" in path.name or ".tsv" in path.name:
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            delimiter = "\t" if ".tsv" in path.name else ";" if "semicolon" in path.name else ","
            table = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
        text = path.read_text(encoding="utf-8")
    else:
        text = json.dumps(rows, ensure_ascii=False, indent=1) if ".json" in path.suffixes else text
        path.write_text(text, encoding="utf-8")
    if path.suffix.lower() == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    return str(path)


PAIRS = [{"instruction": f"问\n{n}, “a”", "input": "x" * (n % 2), "output": f"答;\t{n}"} for n in range(9)]


@pytest.mark.parametrize(
    "name",
    [
        *("a.jsonl.gz", "a.json.gz", "a.csv", "a.semicolon.csv", "a.tsv", "a.csv.gz", "A.JSONL.GZ"),
        *("a.parquet", "a.json"),
    ],
)
def test_every_kind_of_file_comes_to_the_same_samples(tmp_path: Path, name: str) -> None:
    plain = held(written_run(tmp_path, [jsonl(tmp_path / "plain.jsonl", *PAIRS)]))
    path = written(tmp_path / name, PAIRS)
    run = written_run(tmp_path, [path])
    assert not look_at(run).findings and look_at(run).records == 9
    index = held(run)
    assert index.tokens.tolist() == plain.tokens.tolist() and index.digests.tolist() == plain.digests.tolist()
    assert str(index.place(3)).startswith(path)
    comparison = compare_with_files(index, tiny_folder(run.index_dir), "seed")
    assert (comparison.compared, comparison.differences) == (9, [])


@pytest.mark.parametrize("name", ["a.parquet", "a.json", "a.json.gz"])
def test_conversations_in_other_files(tmp_path: Path, name: str) -> None:
    index = held(written_run(tmp_path, [written(tmp_path / name, [FORMS[1]] * 3)]))
    assert index.num_samples == 3 and texts(index, 2)[1] == "c</s>e</s>"


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jsonl.gz", gzip.compress(json.dumps(GOOD).encode() * 999)[:-12], "CF526"),
        ("a.csv", b"instruction,output\na,b\nc\n", "CF527"),
        ("a.csv", b'instruction,output\na,"b\nc\n', "CF527"),
        ("a.csv", b"instruction,output,output\na,b,c\n", "CF527"),
        ("a.csv", "instruction,output\n问,答\n".encode("gb18030") * 9, "CF559"),
    ],
)
def test_broken_tables_and_packed_files(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(content)
    run = written_run(tmp_path, [str(tmp_path / name)])
    with pytest.raises(Refused) as refused:
        ensure_index(run, run.config.data.train, is_builder=True)
    assert [one.code for one in refused.value.findings] == [code]


def test_a_pretrain_text_under_another_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"body": "今天"}, {"body": "明天"})
    run = written_run(tmp_path, [path], task="pretrain", columns={"text": "body"})
    index = held(run)
    assert index.header.real_tokens == 2 * 8
    assert not compare_with_files(index, tiny_folder(run.index_dir), "seed").differences
