"""The forms that records have elsewhere: chats, pairs under other names, preferences, token ids. A file whose
records have one of them is one finding that names it. They are not read; `Form.record` says how they could.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from crossfoot.data.records import Task
from crossfoot.data.unread_fields import changes_meaning, unread_fields

_CHATS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat", "data")
_TURNS = {
    'chat messages, as OpenAI has them ("{key}" of role and content)': ("role", "content"),
    'ShareGPT conversations ("{key}" of from and value)': ("from", "value"),
}
"""The form of a list of turns, and the names of who speaks and of what is said."""
_ONE_TURN = [[asks, tells] for asks in ("user", "human") for tells in ("assistant", "gpt", "chatgpt", "bot")]
"""Who speaks in a conversation of one question and one answer."""
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
_WRITE_TURNS = (
    "write conversations of one question and one answer as instruction and output; several turns and system "
    "prompts are not read yet"
)


@dataclass(frozen=True)
class Form:
    """name: in words. record: Python that makes a record which is read of such a record r, where one line can
    do that and nothing is left out. task: the one that reads it as it is. advice: what else helps.
    """

    name: str
    record: str = ""
    task: Task | None = None
    advice: str = ""


def form_of(value: Any, task: Task) -> Form | None:
    """The form of a record that this task does not read; None where it is none of another kind."""
    if task == "sft":
        return _question(value)
    if isinstance(value, str):
        return Form("bare texts, without names of fields", '{"text": r}')
    if isinstance(value, dict) and isinstance(value.get("instruction"), str) and "output" in value:
        return Form("instructions with their answers", task="sft")
    if isinstance(value, dict) and "text" in value:
        return None
    form = _question(value)
    if form is not None and form.name == OTHER_FIELDS:
        name = next((name for name in value if name.strip().lower() in _TEXTS), None)
        if name is not None and isinstance(value[name], str):
            return Form(f"documents under the name {_key(name)}", f'{{"text": r[{_key(name)}]}}')
    return form and replace(form, record="", advice=_WRITE_TEXT)


def _question(value: Any) -> Form | None:
    """The form of what is not instruction, input and output."""
    if not isinstance(value, dict):
        return _not_an_object(value)
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
    if "instruction" in value and "output" in value:
        return None  # named as they are read: what is wrong with the record is said of it
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
        return Form("lists of objects (a conversation each?)", advice=_WRITE_TURNS)
    return Form("lists, without names of fields", advice=_WRITE_PAIRS)


def _chat(names: Mapping[str, str], value: Mapping[str, Any]) -> Form | None:
    if {"role", "content"} <= names.keys():
        return Form("single messages (role, content), one a record", advice=_WRITE_TURNS)
    for key in (names[name] for name in _CHATS if name in names):
        turns = value[key]
        for words, (role, said) in _TURNS.items():
            if _are_turns(turns, role, said):
                name = words.format(key=key)
                if [turn[role] for turn in turns] not in _ONE_TURN or not _is_all(value, key):
                    return Form(name, advice=_WRITE_TURNS)
                texts = f'(one["{said}"] for one in r[{_key(key)}])'
                return Form(name, f'dict(zip(("instruction", "output"), {texts}, strict=True))')
        if key.lower() != "data" and not isinstance(turns, str | None):
            return Form(f'conversations in the field "{key}"', advice=_WRITE_TURNS)
    return None


def _are_turns(turns: Any, role: str, said: str) -> bool:
    is_list = isinstance(turns, list) and bool(turns)
    return is_list and all(isinstance(turn, dict) and {role, said} <= turn.keys() for turn in turns)


def _preference(names: Mapping[str, str], value: Mapping[str, Any]) -> Form:
    asked = next((names[name] for name in _ASKED if name in names), "")
    record = ""
    if all(isinstance(value.get(name), str) for name in (asked, names["chosen"])) and not value.get("input"):
        record = f'{{"instruction": r[{_key(asked)}], "output": r[{_key(names["chosen"])}]}}'
    advice = "preferences are not trained; the chosen answers alone can be, as instruction and output"
    return Form("preference pairs (chosen, rejected)", record, advice=advice)


def _pair(names: Mapping[str, str], value: Mapping[str, Any], asked: str, answered: str) -> Form:
    beside = next((names[name] for name in _BESIDE if name in names and names[name] != asked), None)
    fields = {"instruction": asked, "input": beside, "output": answered}
    there = {ours: theirs for ours, theirs in fields.items() if theirs is not None}
    name = f"questions and answers under other names ({_key(asked)} and {_key(answered)})"
    if not all(isinstance(value[one], str) for one in there.values()) or not _is_all(value, *there.values()):
        return Form(name, advice=_WRITE_PAIRS)
    return Form(name, "{" + ", ".join(f'"{ours}": r[{_key(one)}]' for ours, one in there.items()) + "}")


def _is_all(value: Mapping[str, Any], *taken: str) -> bool:
    """Whether nothing of meaning is left out beside what is taken: a system prompt, tools, earlier turns."""
    return not any(changes_meaning(name, "sft") for name in unread_fields(value, "sft") if name not in taken)


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
