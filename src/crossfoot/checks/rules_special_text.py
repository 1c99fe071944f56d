"""CF586, CF587: data that spells out special tokens, or that was put into a template before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted

if TYPE_CHECKING:
    from crossfoot.data.look import DataLook
    from crossfoot.data.special_text import SpelledNames


@rule("CF586", "warning")
def special_text(facts: Facts) -> Iterator[Finding]:
    """CF586: texts of the data spell out special tokens of the tokenizer, such as `</s>` or `<|im_end|>`.

    A page of HTML may hold `<s>struck</s>`, a transcript `<|endoftext|>`, and data that was rendered for
    another trainer the whole of a chat format. Most trainers make the tokens themselves of such text: a
    trained end token in the middle of an answer, a turn of another speaker inside a question. Here data
    is data: the text is encoded as the characters that it is, and only the template's own words make
    special tokens. Whoever means the tokens says `data.special_text: tokens`, and nothing is said any
    more; plan, index and receipt count the records either way. A text that the tokenizer cannot encode
    but as the token is a bad record (CF511).
    """
    look, config = facts.data, facts.run.config
    if look is None or not look.special_text.records or config.data.special_text == "tokens":
        return
    yield Finding(
        "CF586",
        f"{_records(look, look.special_text)} out special tokens of the tokenizer: they are trained as text",
        severity="warning",
        place=facts.run.place("data.train"),
        notes=_first(look.special_text),
        helps=(
            "take them out of the data where they were put in for another trainer",
            "or set data.special_text to tokens, if the tokens themselves are meant",
        ),
    )


@rule("CF587", "warning")
def template_in_data(facts: Facts) -> Iterator[Finding]:
    """CF587: texts of the data hold the template's own words, such as `[INST]` or `<<SYS>>`.

    The prompt is put into the template here. Data that was put into it before is trained with the
    template inside the template, and later answers to a form that nobody asks in. These words are no
    special tokens of the tokenizer: a template inside a text cannot be told from the real one by any
    encoding.
    """
    look = facts.data
    if look is None or not look.template_words.records:
        return
    found = look.template_words
    yield Finding(
        "CF587",
        f"{_records(look, found)} out the words of the template {facts.run.config.data.template}",
        severity="warning",
        place=facts.run.place("data.train"),
        notes=_first(found),
        helps=("give the bare texts as instruction, input and output: the template is put around them here",),
    )


def _records(look: DataLook, found: SpelledNames) -> str:
    """`3 records spell`, `at least 1 record spells`."""
    start = "" if look.is_whole else "at least "
    return f"{start}{counted(found.records, 'record')} {'spells' if found.records == 1 else 'spell'}"


def _first(found: SpelledNames) -> tuple[str, ...]:
    more = found.records - len(found.first)
    return (*found.first, *((f"and {more:,} more",) if more else ()))
