"""Chat templates in Jinja, rendered as transformers renders them, in a sandbox; and what of the text is an
answer: by the template's `{% generation %}` marks, or, without them, by rendering turn by turn.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError, UndefinedError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from crossfoot.data.conversation import NotTrainable, Turn
from crossfoot.data.special_text import Spans, Spellings
from crossfoot.phrases import counted

_WORD = secrets.token_hex(8)
"""No data has it: it marks places in a rendered text, and is taken out again."""
_OPEN, _CLOSE = f"\U0010fffe{_WORD}<", f"\U0010fffe{_WORD}>"
_MARK = re.compile(f"{_OPEN}|{_CLOSE}")
_SEEN_CHARACTERS = 40
Message = Mapping[str, str]


class _Generation(Extension):
    """The tag of transformers around what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    """No clock: a template that asks for today's date takes the date that it has for want of one."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)


class ChatTemplate:
    """One template. tokens: bos_token and the like, by name. special: texts of all special tokens."""

    def __init__(self, source: str, tokens: Mapping[str, str], special: Sequence[str]) -> None:
        try:
            self._template = _compiled(source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            raise NotTrainable("CF572", f"line {line}: {error}" if line else str(error)) from error
        self._tokens = tokens
        self._special = special
        self._spellings = Spellings(special)
        self.has_marks = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", source) is not None

    def render(self, turns: Sequence[Turn], trained: Sequence[int]) -> tuple[str, Spans, Spans]:
        """(the text of a conversation, what of it are the template's words, what of it is trained). trained:
        the answers that are, by their places among the turns.

        Raises NotTrainable: CF063, CF572 (the template refuses it), CF573, CF574.
        """
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        marked = self._text(messages)
        text, spans = _without_marks(marked)
        if self.has_marks:
            answers = self._marked_answers(text, spans, turns, trained)
        else:
            # The last one first: where that has its place, data.train_on: last is a way out for the others.
            answers = [self._answer(text, messages, place) for place in reversed(trained)][::-1]
        return text, self._own_words(text, messages), answers

    def asked(self, turns: Sequence[Turn]) -> tuple[str, Spans]:
        """(the text up to where the answer to the last turn begins, what of it are the template's words).
        Raises NotTrainable: CF572.
        """
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        text, _ = _without_marks(self._text(messages, asks=True))
        return text, self._own_words(text, messages, asks=True)

    def _text(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        try:
            text: str = self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=asks, **self._tokens
            )
        except Exception as error:  # a template is a program: whatever it does is said of it
            reason = str(error).strip().splitlines() or [type(error).__name__]
            if isinstance(error, UndefinedError) and "strftime_now" in reason[0]:
                reason = [
                    "it asks for today's date (strftime_now); write a date in its place, in a copy of it"
                ]
            raise NotTrainable("CF572", f"the template refuses it: {reason[0]}") from error
        return text

    @cached_property
    def _closing(self) -> str:
        """What ends a conversation behind its last answer and goes when a turn follows: blanks and special
        tokens, as Phi-3's end of text. Empty where there is none.
        """
        told = [{"role": role, "content": "1"} for role in ("user", "assistant", "user")]
        try:
            whole, followed = self._text(told[:2]), self._text(told)
        except NotTrainable:
            return ""
        shared = _alike(whole, followed)
        ends = [match.end() for match in self._spellings.pattern.finditer(whole) if match.end() <= shared]
        closing = whole[ends[-1] :] if ends else ""
        return closing if closing.strip() and not self._spellings.pattern.sub("", closing).strip() else ""

    def _marked_answers(
        self, text: str, spans: Spans, turns: Sequence[Turn], trained: Sequence[int]
    ) -> list[tuple[int, int]]:
        answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
        spans = _joined(spans)
        if len(spans) != len(answers):
            reason = f"the template marks {len(spans)} answers of a conversation that has {len(answers)}"
            raise NotTrainable("CF572", reason)
        kept = [span for span, place in zip(spans, answers, strict=True) if place in trained]
        for begin, end in kept:
            if not text[begin:end].rstrip().endswith(tuple(self._special)):
                raise _no_end(text[begin:end])
        return kept

    def _answer(self, text: str, messages: Sequence[Message], place: int) -> tuple[int, int]:
        """Where the answer of this place stands, its end token in it; blanks behind that are not trained."""
        before = self._text(messages[:place], asks=True)
        until = self._text(messages[: place + 1]).removesuffix(self._closing)
        for part, what in (
            (before, f"asked after {counted(place, 'turn')}, it is"),
            (until, f"{place + 1} turns alone are"),
        ):
            if not text.startswith(part):
                code = "CF063" if place == len(messages) - 1 else "CF573"
                raise NotTrainable(code, _difference(text, part, what))
        answer = until[len(before) :].rstrip()
        if not answer.endswith(tuple(self._special)):
            raise _no_end(answer)
        return len(before), len(before) + len(answer)

    def _own_words(self, text: str, messages: Sequence[Message], *, asks: bool = False) -> Spans:
        """All but the special tokens that the data spells out: something stands in for each of those in a
        second rendering, which shows where they are.
        """
        if not any(self._spellings.are_in(message["content"]) for message in messages):
            return ((0, len(text)),)
        found: list[str] = []

        def stand_in(match: re.Match[str]) -> str:
            found.append(match[0])
            return f"\U0010fffe{_WORD}{len(found) - 1}\U0010fffe"

        pattern = self._spellings.pattern
        hidden = self._text(
            [{**message, "content": pattern.sub(stand_in, message["content"])} for message in messages],
            asks=asks,
        )
        parts = re.split(f"\U0010fffe{_WORD}([0-9]+)\U0010fffe", _without_marks(hidden)[0])
        parts[1::2] = [found[int(number)] for number in parts[1::2]]
        if "".join(parts) != text:
            raise NotTrainable("CF572", f"the template does something else where a text has {found[0]}")
        spans, at = [], 0
        for number, part in enumerate(parts):
            if number % 2 == 0 and part:
                spans.append((at, at + len(part)))
            at += len(part)
        return spans


def _without_marks(marked: str) -> tuple[str, Spans]:
    """The text, and the parts of it between the marks."""
    text, opened, spans = "", 0, []
    at = 0
    for match in _MARK.finditer(marked):
        text += marked[at : match.start()]
        at = match.end()
        if match[0] == _OPEN:
            opened = len(text)
        elif len(text) > opened:
            spans.append((opened, len(text)))
    return text + marked[at:], spans


def _joined(spans: Spans) -> list[tuple[int, int]]:
    """With those that adjoin as one: a template may mark an answer and its end by themselves."""
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and joined[-1][1] == begin:
            begin = joined.pop()[0]
        joined.append((begin, end))
    return joined


def _alike(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def _difference(text: str, part: str, what: str) -> str:
    """Where the rendering of some turns (what: in words) is no beginning of the whole."""
    same = _alike(text, part)
    begin = max(0, same - _SEEN_CHARACTERS // 2)
    alone, within = (_shown(one[begin : begin + _SEEN_CHARACTERS]) for one in (part, text))
    return f"from character {same + 1:,} on, {what} {alone}, and in the conversation {within}"


def _no_end(answer: str) -> NotTrainable:
    ending = _shown(answer[-_SEEN_CHARACTERS // 2 :])
    return NotTrainable("CF574", f"an answer ends in {ending}, which is no special token of the tokenizer")


def _shown(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
