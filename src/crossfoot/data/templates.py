"""What sft puts a conversation into: the stretches of text that come of it, and which of them are trained."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate, pairwise, product
from typing import TYPE_CHECKING, Literal

from crossfoot.data.conversation import NotTrainable, Turn
from crossfoot.data.special_text import Spans

if TYPE_CHECKING:
    from crossfoot.data.chat_jinja import ChatTemplate

ALPACA2_SYSTEM = "You are a helpful assistant. 你是一个乐于助人的助手。"
BUILT_IN: Mapping[str, str] = {"alpaca2": ALPACA2_SYSTEM, "llama2": ""}
"""Llama 2's [INST] blocks by name, each with the system prompt that a conversation has without its own.

Of Chinese-Alpaca-2: scripts/training/build_dataset.py of ymcui/Chinese-LLaMA-Alpaca-2.
"""
MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
TOKENIZERS = "tokenizer"
"""data.template: the chat_template that the tokenizer's folder has."""
TrainOn = Literal["all", "last"]
_ANSWERS = ("Yes.", "the end", "2", "好的。")
"""Whose ids show whether a tokenizer puts a blank before a text of its own accord."""


@dataclass(frozen=True)
class Stretch:
    """A text that is tokenised in one piece. own: the template's words in it; trained: what is trained.
    begins, ends: a begin token stands before it (where the tokenizer has one), an end token behind; that one
    is trained where the text is.
    """

    text: str
    own: Spans = ()
    trained: Spans = ()
    begins: bool = False
    ends: bool = False

    @property
    def is_mixed(self) -> bool:
        """Whether a part of it is trained, and a part is not."""
        return bool(self.trained) and list(self.trained) != [(0, len(self.text))]

    @property
    def segments(self) -> tuple[tuple[str, bool], ...]:
        """(text, whether it is trained), one behind the other, none empty."""
        edges = [0, *(edge for span in self.trained for edge in span), len(self.text)]
        parts = ((self.text[a:b], bool(place % 2)) for place, (a, b) in enumerate(pairwise(edges)))
        return tuple(part for part in parts if part[0])


@dataclass(frozen=True)
class Template:
    """name: as in the config. source: Jinja, "" of one that is built in. tokens: bos_token and the like, by
    name; special: texts of all special tokens; both of the tokenizer, for Jinja. system: data.system_prompt.
    """

    name: str
    source: str = ""
    tokens: tuple[tuple[str, str], ...] = ()
    special: tuple[str, ...] = ()
    system: str | None = None
    train_on: TrainOn = "all"

    @property
    def marks(self) -> tuple[str, ...]:
        """Words by which a text can be known that was put into the template before."""
        return () if self.source else MARKS

    @property
    def sha256(self) -> str:
        """Of everything that decides what becomes of a conversation."""
        words = [self.source, *self._of_tokenizer] if self.source else [self.name, *_words_of(self.name)]
        return sha256(json.dumps([words, self.system, self.train_on]).encode()).hexdigest()

    @property
    def _of_tokenizer(self) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
        return self.tokens, self.special

    def stretches(self, turns: Sequence[Turn]) -> tuple[Stretch, ...]:
        """What comes of a conversation. Raises NotTrainable: CF063, CF572, CF573, CF574."""
        trained = self.trained_answers(turns)
        if not trained:
            raise NotTrainable("CF571", "its last answer has the weight 0, and data.train_on is last")
        return self.rendered(turns, trained)

    def trained_answers(self, turns: Sequence[Turn]) -> list[int]:
        """The answers of a conversation that are trained, by their places among its turns."""
        trained = [place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.is_trained]
        if self.train_on == "last":
            trained = [place for place in trained if place == len(turns) - 1]
        return trained

    def rendered(self, turns: Sequence[Turn], trained: Sequence[int]) -> tuple[Stretch, ...]:
        """What comes of turns of which these answers are trained. Raises as `stretches`."""
        if len(told := self._with_system(turns)) > len(turns):
            turns, trained = told, [place + 1 for place in trained]
        if not self.source:
            return _inst_blocks(turns, trained, BUILT_IN[self.name])
        text, own, answers = _chat_template(self.source, *self._of_tokenizer).render(turns, trained)
        return (Stretch(text, own, tuple(answers)),)

    def asked(self, turns: Sequence[Turn]) -> tuple[Stretch, ...]:
        """What comes of turns of which the user's is the last, up to where an answer begins. Raises
        NotTrainable: CF572.
        """
        if not self.source:
            return self.rendered(turns, ())
        text, own = _chat_template(self.source, *self._of_tokenizer).asked(self._with_system(turns))
        return (Stretch(text, own),)

    def _with_system(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        is_lacking = self.system is not None and turns[0].role != "system"
        return (Turn("system", self.system or ""), *turns) if is_lacking else turns

    def try_out(self) -> None:
        """Put a conversation into the template. Raises NotTrainable for what is wrong with any."""
        asked = (Turn("user", "1 + 1?"), Turn("assistant", "2."), Turn("user", "2 + 2?"))
        try:
            (stretch, *_) = self.stretches((*asked, Turn("assistant", "4.")))
        except NotTrainable as error:
            if error.code != "CF573":  # that is wrong with records of several turns, each of which is named
                raise
            (stretch, *_) = self.stretches(asked[:2])
        if not self.source:
            return
        for name in ("bos_token", "eos_token"):
            token = dict(self.tokens).get(name)
            if token and token * 2 in stretch.text:
                raise NotTrainable("CF574", f"it writes {token} twice, one behind the other")

    @property
    def around_question(self) -> tuple[str, str]:
        """The words before and behind the first question, where the template is built in."""
        (stretch,) = _inst_blocks((Turn("user", "\0"),), (), self._system)
        before, _, after = stretch.text.partition("\0")
        return before, after

    def is_parted(self, encode: Callable[[Sequence[str]], Sequence[Sequence[int]]]) -> bool:
        """Whether a blank before an answer gives a conversation as one text the ids that were trained, of a
        question and its answer each for itself. encode: the ids of each text.
        """
        if self.source:
            return False
        question = "1".join(self.around_question)

        def alike(blank: str) -> int:
            whole = encode([question + blank + answer for answer in _ANSWERS])
            first, *answers = encode([question, *_ANSWERS])
            return sum([*first, *own] == [*ids] for own, ids in zip(answers, whole, strict=True))

        return alike(" ") >= alike("")

    @property
    def _system(self) -> str:
        return BUILT_IN[self.name] if self.system is None else self.system

    def chat_template(self, *, begins: bool, parted: bool = True) -> str:
        """The text of chat_template.jinja. begins: a text begins with the begin token, as every sample of a
        template that is built in did. parted: a blank stands before an answer; answers were tokenised for
        themselves, and sentencepiece puts one there of its own, where another tokenizer has none.
        """
        if self.source:
            return self.source if self.system is None else _WITH_SYSTEM % _jinja(self.system) + self.source
        text = _JINJA % _jinja(self._system)
        text = text if begins else text.replace("bos_token + ", "")
        return text if parted else text.replace("' ' + message", "message")


def built_in_of(chat_template: str) -> Template | None:
    """The template that is built in and was written as this chat_template; None: it is another one. Its
    questions and answers are then tokenised as they were trained.
    """
    system = re.search(r'if told else (".*?") -%}', chat_template, re.DOTALL)
    if system is None:
        return None
    template = Template("llama2", system=json.loads(system[1]))
    ways = product((True, False), repeat=2)
    written = [template.chat_template(begins=begins, parted=parted) for begins, parted in ways]
    return template if chat_template in written else None


@lru_cache(maxsize=8)
def _chat_template(
    source: str, tokens: tuple[tuple[str, str], ...], special: tuple[str, ...]
) -> ChatTemplate:
    from crossfoot.data.chat_jinja import ChatTemplate

    return ChatTemplate(source, dict(tokens), special)


def _inst_blocks(turns: Sequence[Turn], trained: Sequence[int], system: str) -> tuple[Stretch, ...]:
    """A question and its answer are tokenised each for itself, as the recipe does it."""
    if turns[0].role == "system":
        system = turns[0].text
    stretches: list[Stretch] = []
    for place, turn in enumerate(turns):
        if turn.role == "user":
            told = ("<<SYS>>\n", system, "\n<</SYS>>\n\n") if system and not stretches else ("", "", "")
            pieces = ("[INST] " + told[0], told[1], told[2], turn.text, " [/INST]")
            ends = accumulate(map(len, pieces), initial=0)
            own = tuple(span for span in list(pairwise(ends))[::2] if span[0] < span[1])
            stretches.append(Stretch("".join(pieces), own, begins=True))
        elif turn.role == "assistant":
            is_trained = ((0, len(turn.text)),) if place in trained else ()
            stretches.append(Stretch(turn.text, trained=is_trained, ends=True))
    return tuple(stretches)


def _words_of(name: str) -> list[str]:
    """All that a template of this name says around two questions, with a system turn and without."""
    turns = [Turn("user", "2"), Turn("assistant", "3"), Turn("user", "4"), Turn("assistant", "5")]
    both = ([Turn("system", "1"), *turns], turns)
    return [stretch.text for one in both for stretch in _inst_blocks(one, (), BUILT_IN[name])]


def _jinja(text: str) -> str:
    """A text as Jinja reads it."""
    return json.dumps(text, ensure_ascii=False)


_WITH_SYSTEM = (
    "{%%- if messages[0]['role'] != 'system' -%%}"
    "{%%- set messages = [{'role': 'system', 'content': %s}] + messages -%%}"
    "{%%- endif -%%}"
)
_JINJA = (
    "{%%- set told = messages[0]['role'] == 'system' -%%}"
    "{%%- set system = messages[0]['content'] if told else %s -%%}"
    "{%%- for message in (messages[1:] if told else messages) -%%}"
    "{%%- if message['role'] == 'user' -%%}"
    "{{- bos_token + '[INST] ' -}}"
    "{%%- if loop.first and system -%%}{{- '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' -}}{%%- endif -%%}"
    "{{- message['content'] + ' [/INST]' -}}"
    "{%%- elif message['role'] == 'assistant' -%%}"
    "{{- ' ' + message['content'] + eos_token -}}"
    "{%%- endif -%%}"
    "{%%- endfor -%%}"
)
