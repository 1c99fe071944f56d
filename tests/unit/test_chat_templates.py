"""Templates in Jinja: ids and masks are those of transformers, and templates that cannot be held to their
word are refused with the place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import chat_cases as cases
from crossfoot.data.conversation import NotTrainable, Turn
from crossfoot.data.saved_tokenizer import save_tokenizer
from crossfoot.data.templates import Template
from crossfoot.findings.finding import Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.reference_check import compare_with_files
from crossfoot.index.show import shown_samples
from crossfoot.index.store import DataIndex
from index_cases import jsonl, written_run

CONVERSATIONS = cases.conversations(200)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cases.chat_tokenizer(tmp_path_factory.mktemp("chat"))


def built(folder: Path, tokenizer: str, source: str, rows: list[Any], **data: Any) -> DataIndex:
    (folder / "t.jinja").write_text(source, encoding="utf-8")
    path = jsonl(folder / "a.jsonl", *rows)
    settings = {"template": str(folder / "t.jinja"), "max_seq_len": 4096, **data}
    return ensure_index(written_run(folder, [path], tokenizer, **settings), [path], is_builder=True)


@pytest.mark.parametrize("marks", [True, False], ids=["by marks", "turn by turn"])
@pytest.mark.parametrize("family", cases.FAMILIES)
def test_ids_and_masks_are_those_of_transformers(
    tmp_path: Path, tokenizer: str, family: str, marks: bool
) -> None:
    source = (cases.TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    ours = source if marks else cases.without_marks(source)
    index = built(tmp_path, tokenizer, ours, [{"messages": one} for one in CONVERSATIONS])
    oracle = AutoTokenizer.from_pretrained(tokenizer)
    assert index.num_samples == 200
    for i, one in enumerate(CONVERSATIONS):
        wanted = oracle.apply_chat_template(
            one, chat_template=source, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, trained = index.sample(i)
        assert ids.tolist() == list(wanted["input_ids"]), one
        assert trained.astype(int).tolist() == list(wanted["assistant_masks"]), one
    comparison = compare_with_files(index, tokenizer, "seed")
    assert (comparison.compared, comparison.differences, comparison.notes) == (200, [], [])


CHATML = (cases.TEMPLATES / "chatml.jinja").read_text(encoding="utf-8")
TURNS = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"))
TOKENS = (("bos_token", "<s>"), ("eos_token", "</s>"))


def template(source: str, **more: Any) -> Template:
    return Template("t", source, TOKENS, cases.CONTROL, **more)


def trained_in(source: str, turns: tuple[Turn, ...] = TURNS, **more: Any) -> list[str]:
    (stretch,) = template(source, **more).stretches(turns)
    return [text for text, is_trained in stretch.segments if is_trained]


@pytest.mark.parametrize("source", [CHATML, cases.without_marks(CHATML)], ids=["by marks", "turn by turn"])
def test_the_last_answer_alone(source: str) -> None:
    assert trained_in(source) == ["b<|im_end|>", "d<|im_end|>"]
    assert trained_in(source, train_on="last") == ["d<|im_end|>"]
    unweighted = (TURNS[0], Turn("assistant", "b", is_trained=False), *TURNS[2:])
    assert trained_in(source, unweighted) == ["d<|im_end|>"]


EARLIER = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'user' and loop.revindex <= 2 %}(last) {% endif %}"
    "{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_template_that_changes_earlier_turns_is_refused_with_the_place() -> None:
    with pytest.raises(NotTrainable) as refused:
        template(EARLIER).stretches(TURNS)
    assert refused.value.code == "CF573"
    assert refused.value.reason == (
        'from character 7 on, asked after 1 turn, it is "user: (last) a assistant: ", and in the '
        'conversation "user: a assistant: b</s> user: (last) c "'
    )
    assert trained_in(EARLIER, train_on="last") == ["d</s>"]
    assert trained_in(EARLIER, TURNS[:2]) == ["b</s>"]


THINKS = (
    "{% for m in messages %}<{{ m.role[0] }}>{% if m.role == 'assistant' and loop.last %}<think></think>"
    "{% endif %}{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
"""In the manner of Qwen3: an empty reasoning in the last answer alone."""
ASKS_FOR_THOUGHT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<a>{{ m.content }}</s>{% else %}asked {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<a><think>{% endif %}"
)
"""In the manner of DeepSeek-R1."""
MOVES_THE_SYSTEM_PROMPT = (
    "{% if messages[0].role == 'system' %}{% set told, turns = messages[0].content, messages[1:] %}"
    "{% else %}{% set told, turns = '', messages %}{% endif %}{% for m in turns %}"
    "{% if m.role == 'user' %}[INST]{{ told if loop.last }} {{ m.content }}[/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
"""In the manner of Mistral's of 2024: it stands before a question that nothing follows."""


def test_a_template_that_writes_the_last_answer_otherwise() -> None:
    assert trained_in(THINKS, TURNS[:2]) == ["<think></think>b</s>"]
    assert trained_in(THINKS, train_on="last") == ["<think></think>d</s>"]
    template(THINKS).try_out()
    with pytest.raises(NotTrainable) as refused:
        template(THINKS).stretches(TURNS)
    assert refused.value.code == "CF573" and '2 turns alone are "<u>a</s><a><think>' in refused.value.reason


@pytest.mark.parametrize("train_on", ["all", "last"])
def test_a_template_that_asks_otherwise_than_it_writes(train_on: Any) -> None:
    asked = (Turn("system", "be kind"), *TURNS)
    moves = template(MOVES_THE_SYSTEM_PROMPT, train_on=train_on)
    moves.try_out()
    assert moves.stretches(TURNS)[0].segments[-1] == (" d</s>", True)
    for one in (moves, template(ASKS_FOR_THOUGHT, train_on=train_on)):
        with pytest.raises(NotTrainable) as refused:
            one.stretches(asked)
        assert refused.value.code == "CF063"


def test_an_answer_and_its_end_may_be_marked_by_themselves() -> None:
    two = "{% generation %}{{ turn.content }}{% endgeneration %}{% generation %}<|im_end|>{% endgeneration %}"
    source = CHATML.replace("{%- generation %}\n            {{- turn.content ~ '<|im_end|>' }}\n", two)
    assert two in source
    source = source.replace(two + "        {%- endgeneration %}", two)
    assert trained_in(source) == ["b<|im_end|>", "d<|im_end|>"]


@pytest.mark.parametrize(
    ("source", "code", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "CF574", 'an answer ends in "4."'),
        (CHATML.replace("~ '<|im_end|>' }}\n        {%- endg", "}}\n        {%- endg"), "CF574", '"2."'),
        ("{{ bos_token }}" * 2 + CHATML, "CF574", "it writes <s> twice, one behind the other"),
        (ASKS_FOR_THOUGHT, "CF063", 'asked <a><think>", and in the conversation "'),
        ("{% for m in messages %}", "CF575", "line 1: Unexpected end of template"),
        ("{{ raise_exception('no') }}", "CF575", "the template refuses it: no"),
        ("{{ strftime_now('%Y') }}", "CF575", "it asks for today's date (strftime_now)"),
        ("{{ ''.__class__.__mro__ }}", "CF575", "unsafe"),
        (CHATML.replace("turn.role == 'assistant'", "loop.first"), "CF575", "marks 1 answers"),
        ("  ", "CF575", "is empty"),
    ],
)
def test_a_template_that_cannot_be_held_to_its_word(
    tmp_path: Path, tokenizer: str, source: str, code: str, reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        built(tmp_path, tokenizer, source, [{"messages": CONVERSATIONS[0]}])
    (finding,) = refused.value.findings
    assert finding.code == code and reason in finding.label and finding.helps
    assert finding.place is not None and finding.place.file.endswith("run.yaml")


def test_a_record_that_the_template_refuses_is_named(tmp_path: Path, tokenizer: str) -> None:
    source = CHATML + "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    bad = {"messages": [{"role": "system", "content": "x"}, *CONVERSATIONS[1][-2:]]}
    good = {"messages": CONVERSATIONS[1][-2:]}
    with pytest.raises(Refused) as refused:
        built(tmp_path, tokenizer, source, [good, bad])
    (finding,) = refused.value.findings
    assert finding.code == "CF572" and finding.place is not None and finding.place.line == 2
    assert finding.label == "the template refuses it: no system"


@pytest.mark.parametrize("name", ["nowhere.jinja", "alpaca3", "tokenizer"])
def test_a_template_that_is_not_there(tmp_path: Path, tokenizer: str, name: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": CONVERSATIONS[0]})
    with pytest.raises(Refused) as refused:
        ensure_index(written_run(tmp_path, [path], tokenizer, template=name), [path], is_builder=True)
    (finding,) = refused.value.findings
    assert finding.code == "CF575" and finding.unreadable


@pytest.mark.parametrize("marks", [True, False])
def test_special_tokens_that_data_spells_are_text(tmp_path: Path, tokenizer: str, marks: bool) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "a <|im_end|> b"},
                {"role": "assistant", "content": " </s>"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b<|im_end|>\n<|im_start|>"},
            ]
        },
    ]
    source = CHATML if marks else cases.without_marks(CHATML)
    index = built(tmp_path, tokenizer, source, rows)
    for i in range(2):
        ids, trained = index.sample(i)
        special = [number for number in ids.tolist() if number in index_special(tokenizer)]
        assert len(special) == 4 and trained[np.flatnonzero(np.isin(ids, special))].tolist() == [0, 0, 0, 1]
    assert index.header.special_text_records.records == 2
    comparison = compare_with_files(index, tokenizer, "seed")
    assert (comparison.compared, comparison.differences) == (2, [])


def index_special(folder: str) -> set[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    return {number for number, one in tokenizer.get_added_tokens_decoder().items() if one.special}


def test_the_tokenizers_own_template(tmp_path: Path) -> None:
    folder = cases.chat_tokenizer(tmp_path / "own", chat_template=CHATML)
    path = jsonl(tmp_path / "a.jsonl", *({"messages": one} for one in CONVERSATIONS[:9]))
    run = written_run(tmp_path, [path], folder, template="tokenizer", system_prompt="Be brief.")
    index = ensure_index(run, [path], is_builder=True)
    assert index.header.template is not None and index.header.template.source == CHATML
    (destination := tmp_path / "saved").mkdir()
    said = save_tokenizer(run.config, run.index_dir, str(destination), index.header.template)
    oracle = AutoTokenizer.from_pretrained(destination)
    one = next(one for one in CONVERSATIONS[:9] if one[0]["role"] != "system")
    ids, _ = index.sample(CONVERSATIONS.index(one))
    assert oracle.apply_chat_template(one, return_dict=False) == ids.tolist()
    assert said is not None
    names: dict[str, Any] = {"folder": str(destination), "AutoTokenizer": AutoTokenizer}
    exec("\n".join((said.imports, said.asked, *said.ids)), names)
    asked = oracle.apply_chat_template(names["messages"], add_generation_prompt=True, return_dict=False)
    assert names["ids"] == asked and "Be brief." in names["prompt"]


def test_what_decides_the_samples_is_in_the_address(tmp_path: Path, tokenizer: str) -> None:
    rows = [{"messages": one} for one in CONVERSATIONS[:3]]
    ways: list[tuple[str, dict[str, Any]]] = [
        (CHATML, {}),
        (CHATML + " ", {}),
        (CHATML, {"train_on": "last"}),
        (CHATML, {"system_prompt": "x"}),
        (CHATML, {"columns": {"role": "role"}}),
    ]
    addresses = [built(tmp_path, tokenizer, source, rows, **data).address for source, data in ways]
    assert len(set(addresses)) == len(ways)


@pytest.mark.parametrize("library", ["tokenizers", "sentencepiece"])
def test_the_version_of_the_tokenizers_library_is_in_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": CONVERSATIONS[0]})
    run = written_run(tmp_path, [path], max_seq_len=4096)
    before = ensure_index(run, [path], is_builder=True).address
    monkeypatch.setattr("crossfoot.data.tokenizer.version", lambda name: "99" if name == library else "0")
    reads = {"tokenizers": "tokenizers 99", "sentencepiece": "tokenizers 0"}[library]
    index = ensure_index(run, [path], is_builder=True)
    assert index.address != before and index.header.reader == reads


@pytest.mark.parametrize("colour", [True, False])
def test_samples_are_shown_with_what_is_trained(tmp_path: Path, tokenizer: str, colour: bool) -> None:
    (tmp_path / "t.jinja").write_text(CHATML, encoding="utf-8")
    said = [{"role": "user", "content": "一\n二"}, {"role": "assistant", "content": "好\n\x1b[31m"}]
    path = jsonl(tmp_path / "a.jsonl", {"messages": said}, {"messages": said[:1]}, {"messages": said})
    run = written_run(tmp_path, [path], tokenizer, template=str(tmp_path / "t.jinja"))
    first, second, *others = shown_samples(run, 2, colour=colour)
    assert not others and not list(Path(run.index_dir).glob("*/header.json"))
    where, _, text = first.partition("\n")
    assert where.startswith(f"{path}:1: ") and where.endswith(" of them trained")
    asked = "<|im_start|>user\n一\n二<|im_end|>\n<|im_start|>assistant\n"
    if colour:
        assert "\x1b[1;32m好\x1b[0m\n\x1b[1;32m\\x1b[31m<|im_end|>\x1b[0m" in text
    else:
        assert text == f"{asked}{{+好\n\\x1b[31m<|im_end|>+}}\n"
    assert second == f"{path}:2: not trained, its last turn is the user's, and nothing answers it (CF571)"
