"""The forms that records have elsewhere: chats and pairs under other names, preferences, token ids. A file
whose records have one of them is one finding that names it, and says how they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from crossfoot.data.conversation import form_of_fields, quoted_name
from crossfoot.data.records import Task

_CHATS = ("conversation", "dialog", "dialogue", "turns", "chat", "data")
_PAIRS_OF_TURN = (("role", "content"), ("from", "value"), ("role", "value"), ("from", "content"))
_ASKED = (
    *("instruction", "prompt", "question", "query", "input", "inputs", "problem", "source", "human", "user"),
    *("q", "ask", "指令", "问题", "提问"),
)
_BESIDE = ("context", "passage", "input")
"""What is asked about, beside what is asked."""
_ANSWERED = (
    *("output", "completion", "response", "answer", "answers", "target", "targets", "solution", "reply"),
    *("assistant", "bot", "gpt", "a", "输出", "回答", "答案"),
)
_TEXTS = ("content", "contents", "raw_content", "document", "body", "article", "page_content", "正文")
OTHER_FIELDS = "fields that are not read"

_WRITE_PAIRS = 'write what is asked as text in "instruction" (and "input"), the answer as text in "output"'
_WRITE_TEXT = 'write each document as text in "text"; questions with their answers are for data.task: sft'
_WRITE_TURNS = 'write each conversation as a list of turns in "messages", each with "role" and "content"'


@dataclass(frozen=True)
class Form:
    """name: in words. columns: our names with the record's, by which it is read. record: Python that makes a
    record which is read of such a record r, where one line can do that. task: the one that reads it as it
    is. advice: what else helps.
    """

    name: str
    record: str = ""
    task: Task | None = None
    advice: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


def form_of(value: Any, task: Task) -> Form | None:
    """The form of a record that this task does not read; None where it is none of another kind."""
    if task == "sft":
        return _question(value)
    if isinstance(value, str):
        return Form("bare texts, without names of fields", '{"text": r}')
    if isinstance(value, dict) and form_of_fields(value) is not None:
        return Form("conversations, or instructions with their answers", task="sft")
    if isinstance(value, dict) and "text" in value:
        return None
    form = _question(value)
    if form is not None and form.name == OTHER_FIELDS:
        name = next((name for name in value if name.strip().lower() in _TEXTS), None)
        if name is not None and isinstance(value[name], str):
            return Form(f"documents under the name {quoted_name(name)}", columns={"text": name})
    return form and replace(form, record="", columns={}, advice=_WRITE_TEXT)


def _question(value: Any) -> Form | None:
    """The form of what is none that sft reads."""
    if not isinstance(value, dict):
        return _not_an_object(value)
    if form_of_fields(value) is not None:
        return None  # what is wrong with the record is said of it
    names = {name.strip().lower(): name for name in reversed(value)}
    if "input_ids" in names:
        return Form(
            "token ids (input_ids)", advice="give the texts: the model's tokenizer makes its ids here"
        )
    if (chat := _chat(names, value)) is not None:
        return chat
    if "chosen" in names and "rejected" in names:
        return _preference(names, value)
    if "instances" in names and "instruction" in names:
        return Form("self-instruct tasks (instruction, instances)", advice="write each instance as a record")
    asked, answered = (
        next((names[one] for one in known if one in names), None) for known in (_ASKED, _ANSWERED)
    )
    if asked is not None and answered is not None:
        return _pair(names, value, asked, answered)
    if asked is None and answered is None and isinstance(value.get("text"), str):
        return Form("texts alone, without a question and an answer", task="pretrain")
    return None if "instruction" in value or "output" in value else Form(OTHER_FIELDS, advice=_WRITE_PAIRS)


def _not_an_object(value: Any) -> Form:
    if isinstance(value, str):
        return Form("bare texts, without names of fields", advice=_WRITE_PAIRS)
    if not isinstance(value, list):
        return Form("numbers or null, not objects", advice=_WRITE_PAIRS)
    if len(value) == 2 and all(isinstance(one, str) for one in value):
        return Form("lists of two texts", 'dict(zip(("instruction", "output"), r, strict=True))')
    if value and all(isinstance(one, dict) for one in value):
        return Form("lists of turns, without a name", '{"messages": r}')
    return Form("lists, without names of fields", advice=_WRITE_PAIRS)


def _chat(names: Mapping[str, str], value: Mapping[str, Any]) -> Form | None:
    if {"role", "content"} <= names.keys():
        return Form("single messages (role, content), one a record", advice=_WRITE_TURNS)
    for key in (names[name] for name in _CHATS if name in names):
        turns = value[key]
        if any(_are_turns(turns, role, said) for role, said in _PAIRS_OF_TURN):
            return Form(f"conversations in the field {quoted_name(key)}", columns={"messages": key})
        if key.lower() != "data" and not isinstance(turns, str | None):
            return Form(f"conversations in the field {quoted_name(key)}", advice=_WRITE_TURNS)
    return None


def _are_turns(turns: Any, role: str, said: str) -> bool:
    is_list = isinstance(turns, list) and bool(turns)
    return is_list and all(isinstance(turn, dict) and {role, said} <= turn.keys() for turn in turns)


def _preference(names: Mapping[str, str], value: Mapping[str, Any]) -> Form:
    asked = next((names[name] for name in _ASKED if name in names), "")
    chosen = names["chosen"]
    columns: dict[str, str] = {}
    if all(isinstance(value.get(name), str) for name in (asked, chosen)) and not value.get("input"):
        columns = {"instruction": asked, "output": chosen}
    advice = "preferences are not trained; the chosen answers alone can be, as instruction and output"
    return Form("preference pairs (chosen, rejected)", advice=advice, columns=columns)


def _pair(names: Mapping[str, str], value: Mapping[str, Any], asked: str, answered: str) -> Form:
    beside = next((names[name] for name in _BESIDE if name in names and names[name] != asked), None)
    fields = {"instruction": asked, "input": beside, "output": answered}
    there = {ours: theirs for ours, theirs in fields.items() if theirs is not None}
    name = f"questions and answers under other names ({quoted_name(asked)} and {quoted_name(answered)})"
    if not all(isinstance(value[one], str) for one in there.values()):
        return Form(name, advice=_WRITE_PAIRS)
    return Form(name, columns={ours: theirs for ours, theirs in there.items() if ours != theirs})
