"""What can be wrong with a conversation, and with the template that it is put into: one mistake, one code,
one docstring (the manual page).
"""

from __future__ import annotations

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs


@rule_docs("CF571")
def no_conversation(place: Place, reason: str) -> Finding:
    """CF571: the turns of a record are no conversation that can be trained.

    A conversation has a system turn or none, then a user and an assistant in turn, and the assistant speaks
    last. Roles are system (developer), user (human) and assistant (gpt, bot, model); tools and their calls
    are not trained. A text may be a list of parts where all of them are text. `weight: 0` at an answer, as
    OpenAI has it, means that it is read and not trained. With `data.bad_samples: skip` such records are left
    out, counted and listed in rejects.jsonl.
    """
    return Finding(
        "CF571",
        "this record is no conversation",
        place=place,
        label=reason,
        helps=("give user and assistant in turn, the assistant last, each with a text",),
    )


@rule_docs("CF572")
def template_refuses(place: Place, reason: str) -> Finding:
    """CF572: the chat template cannot render a record.

    A template may refuse what it has no words for, a system turn most often, or depend on something that
    these records do not have. It is asked as transformers asks it, with messages alone: no tools, no
    documents, and no date of today, because the same data must come to the same samples.
    """
    return Finding(
        "CF572",
        "the template does not take this record",
        place=place,
        label=reason,
        helps=("take such turns out of the data, or give data.template a template that has them",),
    )


_MARKS = (
    "put {% generation %} and {% endgeneration %} around the answer in a copy of the template, and name that "
    "file in data.template"
)


@rule_docs("CF573")
def prefix_changes(place: Place, reason: str) -> Finding:
    """CF573: the template writes earlier turns otherwise once a turn is added, so an answer has no place.

    Without `{% generation %}` marks an answer is what a rendering gains by it: the conversation up to the
    answer must be the beginning of the whole one. A template that takes the reasoning out of earlier answers
    (Qwen3's does, and writes an empty one into the last) breaks that: the model would be trained on turns
    that it never sees like this. Conversations of one answer are not concerned, and with
    `data.train_on: last` only the last answer must have its place.
    """
    return Finding(
        "CF573",
        "the template changes earlier turns when one is added",
        place=place,
        label=reason,
        helps=("set data.train_on to last", f"or {_MARKS}"),
    )


@rule_docs("CF063", name="asked-otherwise")
def asked_otherwise(place: Place, reason: str) -> Finding:
    """CF063: the template asks for the last answer with other words than it writes before one.

    With add_generation_prompt a template ends in what the model goes on from. Some end there in words that
    are not in the conversation with its answer: `<think>` (DeepSeek-R1's, which takes the reasoning out of
    every answer), or the system prompt, put before the last question where that is the last turn (Mistral's
    of 2024; in a conversation with its answer there is no system prompt at all). The model would be trained
    on another beginning than it is asked with, and where the answer begins is not known.
    """
    return Finding(
        "CF063",
        "the template asks for an answer otherwise than it writes one",
        place=place,
        label=reason,
        helps=(
            _MARKS,
            "or, where the system prompt moves, leave it out, or write it into the first question",
        ),
    )


@rule_docs("CF574")
def answer_without_end(place: Place, reason: str) -> Finding:
    """CF574: the template does not end an answer with a special token, once, inside what is trained.

    A model learns to stop from the token that ends its answers. It must be a special token of the tokenizer,
    written by the template behind each answer and, where the template has `{% generation %}` marks, inside
    them; blanks behind it are not trained. A begin or end token that is written twice is refused too.
    """
    return Finding(
        "CF574",
        "the template does not end answers with one end token",
        place=place,
        label=reason,
        helps=("write {{ eos_token }} once behind the answer, inside the marks where there are any",),
    )


@rule_docs("CF575")
def template_unusable(place: Place, reason: str) -> Finding:
    """CF575: data.template names no template that can be used.

    It is alpaca2 or llama2, which are built in, `tokenizer` for the chat_template that lies beside the
    tokenizer (chat_template.jinja, or in tokenizer_config.json), or the path of a file with such a template
    in Jinja. Templates run in a sandbox.
    """
    return Finding(
        "CF575",
        "the template cannot be used",
        place=place,
        label=reason,
        helps=("set data.template to alpaca2, llama2, tokenizer, or the path of a Jinja file",),
        unreadable=True,
    )
