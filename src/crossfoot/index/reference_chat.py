"""What a record says and what a template makes of it, worked out a second time.

Written from the definitions, without the code that builds an index (`conversation.py`, `templates.py`,
`chat_jinja.py`): the marks of a Jinja template are rewritten to plain calls, and special tokens in the data
are broken apart before it is rendered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from crossfoot.index.reference_tokenizers import Piece, Unusable, data

SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
_SPEAKERS = {"human": "user", "prompter": "user", "developer": "system"}
_SPEAKERS |= dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant")
_BEGIN, _END, _BREAK = "\U000f0001", "\U000f0002", "\U000f0003"


class Said(NamedTuple):
    """A turn. counts: whether an answer is to be trained."""

    role: str
    text: str
    counts: bool = True


@dataclass(frozen=True)
class Run:
    """Pieces that are tokenised together. trained: parts of their text, by character. begins, ends: as a
    sample does.
    """

    pieces: Sequence[Piece]
    trained: Sequence[tuple[int, int]]
    begins: bool
    ends: bool

    @property
    def text(self) -> str:
        """Of all pieces."""
        return "".join(piece.text for piece in self.pieces)


def text_of(value: Any, field: str) -> str:
    """A text that a record must have. Raises Unusable."""
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise Unusable(f'it has no "{field}"')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Unusable(f'its "{field}" holds half of a character')
    return text


def said_in(value: Any, columns: Mapping[str, str]) -> list[Said]:
    """The turns of an sft record. Raises Unusable."""
    if not isinstance(value, dict):
        raise Unusable("it is no object")

    def has(*names: str) -> bool:
        return all(columns.get(name, name) in value for name in names)

    def get(name: str) -> Any:
        return value.get(columns.get(name, name))

    if has("instruction", "output") or not (
        has("messages") or has("conversations") or has("prompt", "completion")
    ):
        asked, answered = (text_of({name: get(name)}, name) for name in ("instruction", "output"))
        extra = get("input") or ""
        if not isinstance(extra, str):
            raise Unusable('its "input" is not text')
        said = [one for pair in get("history") or () for one in _pair(pair)]
        said += _pair((asked + ("\n" + extra if extra else ""), answered))
    else:
        listed = next((get(name) for name in ("messages", "conversations") if has(name)), None)
        if listed is None:
            prompt, completion = get("prompt"), get("completion")
            listed = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            listed = listed + (
                completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
            )
        said = [_turn(one, columns) for one in listed]
    if said and said[0].role == "system" and not said[0].text.strip():
        said = said[1:]
    told = get("system")
    said = [Said("system", told), *said] if isinstance(told, str) and told.strip() else said
    for one in said:
        text_of({"turn": one.text}, "turn")
    return said


def _pair(pair: Any) -> list[Said]:
    asked, answered = pair
    return [Said("user", asked), Said("assistant", answered)]


def _turn(one: Mapping[str, Any], columns: Mapping[str, str]) -> Said:
    speaker = one.get(columns.get("role", "role"), one.get("from") if "role" not in columns else None)
    said = one.get(columns.get("content", "content"), one.get("value") if "content" not in columns else None)
    if isinstance(said, list):
        said = "".join(part["text"] for part in said)
    if not isinstance(speaker, str) or not isinstance(said, str):
        raise Unusable("a turn of it has no speaker, or no text")
    name = speaker.strip().lower()
    return Said(_SPEAKERS.get(name, name), said, one.get("weight") != 0)


def runs_of(said: Sequence[Said], template: Any) -> Iterator[Run]:
    """What is tokenised of a conversation. template: as the header of an index has it."""
    if template.system is not None and said[0].role != "system":
        said = [Said("system", template.system), *said]
    answers = [at for at, one in enumerate(said) if one.role == "assistant"]
    kept = {at for at in answers if said[at].counts and (template.train_on == "all" or at == answers[-1])}
    if template.source:
        yield _rendered(said, kept, template)
        return
    system = next((one.text for one in said if one.role == "system"), None)
    if system is None:
        system = SYSTEM if template.name == "alpaca2" else ""
    for at, one in enumerate(said):
        if one.role == "assistant":
            yield Run([data(one.text)], [(0, len(one.text))] if at in kept else [], False, True)
        elif one.role == "user":
            opening = [Piece("[INST] ", True)]
            if system:
                opening = [Piece("[INST] <<SYS>>\n", True), data(system), Piece("\n<</SYS>>\n\n", True)]
                system = ""
            yield Run([*opening, data(one.text), Piece(" [/INST]", True)], [], True, False)


def words_of(template: Any) -> list[Any]:
    """What of a template decides the content of an index."""
    if template.source:
        return [template.source, [list(one) for one in template.tokens], list(template.special)]
    said = [*_pair(("2", "3")), *_pair(("4", "5"))]
    bare = _Plain(template.name)
    return [run.text for one in ([Said("system", "1"), *said], said) for run in runs_of(one, bare)]


class _Plain(NamedTuple):
    name: str
    source: str = ""
    system: str | None = None
    train_on: str = "all"


@lru_cache(maxsize=4)
def _program(source: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def fail(message: str) -> None:
        raise TemplateError(message)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    sandbox.globals.update(raise_exception=fail, answer=lambda caller: _BEGIN + caller() + _END)
    sandbox.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    return sandbox.from_string(_MARKED.sub(_called, source))


_MARKED = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


def _called(match: re.Match[str]) -> str:
    word = "endcall" if match[2] else "call answer()"
    return f"{{%{match[1]} {word} {match[3]}%}}"


def _rendered(said: Sequence[Said], kept: set[int], template: Any) -> Run:
    words = sorted(filter(None, template.special), key=len, reverse=True)

    def broken(text: str) -> str:
        for word in words:
            text = text.replace(word, word[0] + _BREAK + word[1:])
        return text

    messages = [{"role": one.role, "content": broken(one.text)} for one in said]

    def render(count: int, asks: bool = False) -> str:
        try:
            return str(
                _program(template.source).render(
                    messages=messages[:count],
                    tools=None,
                    documents=None,
                    add_generation_prompt=asks,
                    **dict(template.tokens),
                )
            )
        except Exception as error:  # a template is a program of its own
            raise Unusable(f"its template refuses it: {error}") from error

    whole = render(len(messages))
    text = re.sub(f"[{_BEGIN}{_END}]", "", whole)
    if _BEGIN in whole:
        whole = whole.replace(_END + _BEGIN, "")
        found = [match.span() for match in re.finditer(f"{_BEGIN}[^{_BEGIN}{_END}]*{_END}", whole)]
        answers = [at for at, one in enumerate(said) if one.role == "assistant"]
        spans = [
            (begin - 2 * n, end - 2 * (n + 1))
            for n, ((begin, end), at) in enumerate(zip(found, answers, strict=True))
            if at in kept
        ]
    else:
        spans = [(len(render(at, asks=True)), _end(at, render, messages, words)) for at in sorted(kept)]
    return Run(
        _pieces(text, words), [(_unbroken(text, a), _unbroken(text, b)) for a, b in spans], False, False
    )


def _end(at: int, render: Callable[..., str], messages: list[dict[str, str]], words: Sequence[str]) -> int:
    """Where an answer ends: behind the last control token that stays when a user speaks next, where what goes
    with him is control tokens alone.
    """
    alone = render(at + 1)
    rest = messages[at + 1 :]
    messages[at + 1 :] = [{"role": "user", "content": "1"}]
    try:
        followed = render(at + 2)
    except Unusable:
        followed = ""
    messages[at + 1 :] = rest
    same = next((n for n, (a, b) in enumerate(zip(alone, followed, strict=False)) if a != b), len(alone))
    stays = max((alone.rfind(word, 0, same) + len(word) for word in words if word in alone[:same]), default=0)
    gone = alone[stays:]
    for word in words:
        gone = gone.replace(word, "")
    return stays if stays and not gone.strip() else len(alone.rstrip())


def _unbroken(text: str, at: int) -> int:
    return at - text.count(_BREAK, 0, at)


def _pieces(text: str, words: Sequence[str]) -> list[Piece]:
    """The template's words, and as data the special tokens that were broken apart."""
    if _BREAK not in text:
        return [Piece(text, True)]
    pattern = "|".join(re.escape(word[0] + _BREAK + word[1:]) for word in words)
    parts = re.split(f"({pattern})", text)
    return [
        data(part.replace(_BREAK, "")) if number % 2 else Piece(part, True)
        for number, part in enumerate(parts)
        if part
    ]
