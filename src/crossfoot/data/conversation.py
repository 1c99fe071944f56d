"""The forms of sft records, read into one: a conversation, the turns of who said what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
Columns = Mapping[str, str]
"""Our names of fields, each with the data's own (data.columns)."""
ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant"),
}
"""What data calls who speaks, in small letters."""
_WHO, _SAID = ("role", "from"), ("content", "value")
_OF_A_TURN = ("role", "content")


def quoted_name(name: object) -> str:
    """A name of the data, in double quotes."""
    return json.dumps(name, ensure_ascii=False)


def kind(value: object) -> str:
    """What a value of the data is, in words."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), f"of type {type(value).__name__}")


class NotTrainable(ValueError):
    """A record that no sample can be made of: the code of its finding, and the reason in words."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Turn:
    """What one of them said. is_trained: as the record wishes (OpenAI's weight 0: an answer that is only
    read).
    """

    role: Role
    text: str
    is_trained: bool = True


class Form(NamedTuple):
    """needs: fields by which a record of this form is known; may: others that it can have."""

    needs: tuple[str, ...]
    may: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """All fields that are read."""
        return (*self.needs, *self.may)


ALPACA = Form(("instruction", "output"), ("input", "system", "history"))
FORMS = (
    ALPACA,
    Form(("messages",), ("system",)),
    Form(("conversations",), ("system",)),
    Form(("prompt", "completion"), ("system",)),
)
"""The first one that a record has all fields of is the one it is read by."""
DOCUMENT = Form(("text",), ())
"""Of pretrain."""


def form_of_fields(names: Mapping[str, Any]) -> Form | None:
    """The form of a sft record with these fields; None: it has none that is read."""
    return next((form for form in FORMS if all(name in names for name in form.needs)), None)


def renamed(value: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """A record under the names that are read, where data.columns says its own. A field that has such a name
    and is not meant is called `name (its own)`.
    """
    theirs = {theirs: ours for ours, theirs in columns.items() if ours not in _OF_A_TURN}
    if not theirs:
        return value
    taken = set(theirs.values())
    return {
        theirs.get(name, f"{name} (its own)" if name in taken else name): one for name, one in value.items()
    }


def turns_of(value: Mapping[str, Any], columns: Columns) -> tuple[Turn, ...]:
    """The conversation of a record: a system turn or none, then user and assistant in turn, the assistant
    last. Raises NotTrainable: CF507, CF508 (no answer, no question), CF571.
    """
    form = form_of_fields(value)
    lacking = [theirs for ours, theirs in columns.items() if ours not in value and ours not in _OF_A_TURN]
    if form is None and lacking:
        has = ", ".join(list(value)[:8]) or "nothing"
        raise NotTrainable("CF507", f"no {quoted_name(lacking[0])}, which data.columns names; it has: {has}")
    if form is None or form is ALPACA:
        turns = [*_history(value.get("history")), *_asked_and_answered(value)]
    elif len(form.needs) == 1:
        turns = list(_turns(value[form.needs[0]], form.needs[0], columns))
    else:
        turns = list(_prompt_and_completion(value, columns))
    system = value.get("system")
    if system is not None and not isinstance(system, str):
        raise NotTrainable("CF571", f'"system" is {kind(system)}, not text')
    if system and system.strip():
        if turns and turns[0].role == "system":
            raise NotTrainable("CF571", 'it has a field "system", and a turn of the system')
        turns = [Turn("system", system), *turns]
    elif turns and turns[0].role == "system" and not turns[0].text.strip():
        turns = turns[1:]
    _refuse_disorder(turns)
    return tuple(turns)


def _asked_and_answered(value: Mapping[str, Any]) -> Iterator[Turn]:
    answer = text_in(value, "output", "CF507")
    asked = text_in(value, "instruction", "CF508")
    extra = value.get("input")
    if extra is not None and not isinstance(extra, str):
        raise NotTrainable("CF508", f'"input" is {kind(extra)}, not text')
    yield Turn("user", f"{asked}\n{extra}" if extra else asked)
    yield Turn("assistant", answer)


def text_in(value: Mapping[str, Any], field: str, code: str) -> str:
    """A text that a record must have. Raises NotTrainable."""
    if field not in value:
        found = ", ".join(list(value)[:8]) or "nothing"
        raise NotTrainable(code, f"no {quoted_name(field)}; it has: {found}")
    text = value[field]
    if not isinstance(text, str):
        raise NotTrainable(code, f"{quoted_name(field)} is {kind(text)}, not text")
    if not text.strip():
        raise NotTrainable(code, f"{quoted_name(field)} is empty")
    return text


def _history(pairs: Any) -> Iterator[Turn]:
    """Earlier questions and answers, as LLaMA-Factory has them: [[asked, answered], ...]."""
    if pairs is None:
        return
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise NotTrainable("CF571", f'"history" is {kind(pairs)}, not a list of pairs')
    for number, pair in enumerate(pairs, start=1):
        is_pair = isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(one, str) for one in pair)
        if not is_pair or isinstance(pair, str):
            raise NotTrainable("CF571", f'entry {number} of "history" is no pair of texts')
        yield Turn("user", pair[0])
        yield Turn("assistant", pair[1])


def _prompt_and_completion(value: Mapping[str, Any], columns: Columns) -> Iterator[Turn]:
    """Texts, or lists of messages."""
    asked, answered = value["prompt"], value["completion"]
    if isinstance(asked, list):
        yield from _turns(asked, "prompt", columns)
    else:
        yield Turn("user", text_in(value, "prompt", "CF508"))
    if isinstance(answered, list):
        yield from _turns(answered, "completion", columns)
    else:
        yield Turn("assistant", text_in(value, "completion", "CF507"))


def _turns(listed: Any, field: str, columns: Columns) -> Iterator[Turn]:
    if not isinstance(listed, list):
        raise NotTrainable("CF571", f'"{field}" is {kind(listed)}, not a list of turns')
    for number, one in enumerate(listed, start=1):
        where = f'turn {number} of "{field}"'
        if not isinstance(one, dict):
            raise NotTrainable("CF571", f"{where} is {kind(one)}, not an object")
        who, said = (next((name for name in names if name in one), names[0]) for names in turn_names(columns))
        speaker = one.get(who)
        role = ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
        if role is None:
            has = f"has the role {quoted_name(speaker)}" if isinstance(speaker, str) else f'has no "{who}"'
            raise NotTrainable("CF571", f"{where} {has}; system, user and assistant are read")
        weight = one.get("weight")
        if weight not in (None, 0, 1):
            raise NotTrainable("CF571", f"{where} has the weight {weight}; 0 and 1 are read")
        yield Turn(role, _said(one.get(said), said, where), weight != 0)


def turn_names(columns: Columns) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields of a turn that say who speaks, and what."""
    who, said = (columns.get(name) for name in _OF_A_TURN)
    return (_WHO if who is None else (who,)), (_SAID if said is None else (said,))


def _said(said: Any, field: str, where: str) -> str:
    """A text, or a list of parts that are all texts."""
    if isinstance(said, list) and said and all(isinstance(one, dict) for one in said):
        texts = [one.get("text") for one in said if one.get("type", "text") == "text"]
        if len(texts) == len(said) and all(isinstance(one, str) for one in texts):
            return "".join(map(str, texts))
        other = next((str(one.get("type")) for one in said if one.get("type") != "text"), "no text")
        raise NotTrainable("CF571", f"{where} has a part of another kind than text: {other}")
    if not isinstance(said, str):
        missing = f'has no "{field}"' if said is None else f'has {kind(said)} as "{field}", not text'
        raise NotTrainable("CF571", f"{where} {missing}")
    return said


def _refuse_disorder(turns: Sequence[Turn]) -> None:
    """Raises NotTrainable unless they are system?, (user, assistant)+, none of them empty."""
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    first = 1 + len(turns) - len(spoken)
    if not spoken:
        raise NotTrainable("CF571", "it has no turn of a user")
    for number, turn in enumerate(spoken, start=first):
        due = "assistant" if (number - first) % 2 else "user"
        if turn.role == "system":
            raise NotTrainable("CF571", f"turn {number} is the system's; only the first one can be")
        if turn.role != due:
            what = "the assistant speaks first" if number == first else f"two turns of the {turn.role}"
            spot = f"turn {number}" if number == first else f"turns {number - 1} and {number}"
            raise NotTrainable("CF571", f"{what} ({spot}); user and assistant take turns")
        if not turn.text.strip():
            raise NotTrainable("CF571", f"turn {number}, the {turn.role}'s, is empty")
    if spoken[-1].role == "user":
        raise NotTrainable("CF571", "its last turn is the user's, and nothing answers it")
    if not any(turn.is_trained for turn in spoken if turn.role == "assistant"):
        raise NotTrainable("CF571", "every answer has the weight 0: nothing of it is to be trained")


def fields_of_turns(value: Mapping[str, Any], columns: Columns) -> Iterator[tuple[str, Any]]:
    """What the turns of a record hold beside who speaks and what is said, as `messages.tool_calls`."""
    form = form_of_fields(value)
    read = {"weight", *(name for names in turn_names(columns) for name in names)}
    for field in form.needs if form is not None and form is not ALPACA else ():
        for turn in value[field] if isinstance(value[field], list) else ():
            for name, one in turn.items() if isinstance(turn, dict) else ():
                if name not in read:
                    yield f"{field}.{name}", one
