"""CF588 to CF594: what the tokenizer's files and the model's say of the same thing."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.registry import Facts, rule
from crossfoot.data.templates import BUILT_IN, MARKS
from crossfoot.data.tokenizer_settings import JSON_FILE, MODEL_FILE
from crossfoot.findings.finding import Finding
from crossfoot.phrases import listed
from crossfoot.written.model_ends import CONFIG, GENERATION
from crossfoot.written.model_facts import BUILTIN_TINY

PADDED_SHARE = 0.02
"""Tables are padded to a round number of rows: phi-2's by 905 of 51,200, Qwen2's by 271 of 151,936."""
PADDED_ROWS = 128
SHARED_SHARE = 0.01
"""Two files of one vocabulary may differ in a few tokens that one of them renames."""


@rule("CF588", "warning")
def tokenizer_of_another_model(facts: Facts) -> Iterator[Finding]:
    """CF588: the tokenizer looks like that of another model.

    The model's table has many more rows than the tokenizer has tokens; or the tokenizer in the model's own
    folder has other ids for the same tokens. Ids then point at rows that stand for other tokens, and what is
    trained is another language. Tables are padded to a round number of rows: up to 2 % more rows than tokens,
    and up to 128, are passed over. A tokenizer that was extended keeps the ids of the old tokens. More tokens
    than rows is no fault: the table grows (and CF540 asks that it is trained).
    """
    files, model = facts.tokenizer, facts.model
    if files is None or model is None or files.rows is None or facts.run.config.model.path == BUILTIN_TINY:
        return
    titles = []
    if model.vocab_size - files.rows > max(PADDED_ROWS, PADDED_SHARE * model.vocab_size):
        titles.append(
            f"the tokenizer has {files.rows:,} tokens, and the model's table {model.vocab_size:,} rows"
        )
    unlike, own = files.unlike_model or (0, 0)
    if unlike > SHARED_SHARE * own:
        titles.append(f"{unlike:,} of {own:,} tokens of the model's own tokenizer have another id, or none")
    for title in titles:
        yield Finding(
            "CF588",
            title,
            severity="warning",
            place=facts.run.tokenizer_place,
            notes=("it looks like the tokenizer of another model: its ids would stand for other tokens",),
            helps=("use the tokenizer that the model was trained with",),
        )


@rule("CF589", "warning", "note")
def end_token_differs(facts: Facts) -> Iterator[Finding]:
    """CF589: the end token that is trained is not one that the model's own files end a text with.

    Every answer ends with the tokenizer's `eos_token`. Generation stops at the `eos_token_id` of
    generation_config.json, or of config.json where there is none: with other ids there, the trained model
    says its end token and talks on. A note where only config.json has other ids, which some servers and
    converters read.
    """
    files, ends = facts.tokenizer, facts.ends
    if files is None or files.end is None or ends is None:
        return
    end = files.end
    others = {name: ids for name, ids in ends.end_ids.items() if end.id not in ids}
    if not others:
        return
    decides = GENERATION if GENERATION in ends.end_ids else CONFIG
    said = [f"{name} says {listed(list(map(str, ids)))}" for name, ids in others.items()]
    yield Finding(
        "CF589",
        f"the end token of the tokenizer is {end.text} ({end.id}), {listed(said)}",
        severity="warning" if decides in others else "note",
        place=facts.run.tokenizer_place,
        notes=(
            "eos_token_id of the model's files: generation stops there, and nowhere else"
            if decides in others
            else f"{decides} has it, and generation stops there; others read {CONFIG}",
        ),
        helps=(
            f"write {end.id} into eos_token_id of {listed(list(others))}, or use the model's own tokenizer",
        ),
    )


@rule("CF590", "warning")
def begin_token_differs(facts: Facts) -> Iterator[Finding]:
    """CF590: the token put before every text is not the one that the model names.

    The model has seen its own `bos_token_id` at the start of every text. A tokenizer that puts none there
    is not judged: many models name a begin token and never use it.
    """
    files, ends = facts.tokenizer, facts.ends
    if files is None or files.begin is None or ends is None or ends.begin_id in (None, files.begin.id):
        return
    begin = f"{files.begin.text} ({files.begin.id})"
    yield Finding(
        "CF590",
        f"the tokenizer begins a text with {begin}, and the model with {ends.begin_id}",
        severity="warning",
        place=facts.run.tokenizer_place,
        notes=(f"bos_token_id of the model's {CONFIG}",),
        helps=("use the tokenizer that the model was trained with",),
    )


@rule("CF591", "warning")
def two_vocabularies(facts: Facts) -> Iterator[Finding]:
    """CF591: tokenizer.json and tokenizer.model in one folder are not the same vocabulary.

    Where both are there, tokenizer.json is read, here and by transformers. One that was left over from
    before the vocabulary was extended gives other tokens than the tokenizer.model beside it, and nobody
    says so.
    """
    files = facts.tokenizer
    if files is None or files.differing <= SHARED_SHARE * max(files.sizes.values(), default=0):
        return
    used, other = JSON_FILE, MODEL_FILE
    tokens, others = files.sizes[used], files.sizes[other]
    rows = f"; the model's table has {facts.model.vocab_size:,} rows" if facts.model is not None else ""
    yield Finding(
        "CF591",
        f"{used} has {tokens:,} tokens, and {other} beside it {others:,}",
        severity="warning",
        place=facts.run.tokenizer_place,
        label=files.folder,
        notes=(f"{used} is read; {files.differing:,} tokens are not in both{rows}",),
        helps=(f"move the one that is out of date aside: without {used}, {other} is read",),
    )


@rule("CF592", "warning")
def unknown_as_end(facts: Facts) -> Iterator[Finding]:
    """CF592: the tokenizer's end token is its unknown token.

    The model is trained to end with the token that stands for every character that the vocabulary has
    not: it ends where such a character should come, and is fed ends where the data has one. As a rule
    `eos_token` in special_tokens_map.json or tokenizer_config.json is a slip. Vocabularies that know
    every byte and have no unknown token, such as GPT-2's, may name one token for both.
    """
    files = facts.tokenizer
    if files is None or files.end is None or files.end.id != files.unknown_id:
        return
    yield Finding(
        "CF592",
        f"the end token of the tokenizer, {files.end.text} ({files.end.id}), is its unknown token",
        severity="warning",
        place=facts.run.tokenizer_place,
        label=files.folder,
        helps=("name the real one as eos_token in special_tokens_map.json or tokenizer_config.json",),
    )


@rule("CF593", "warning")
def other_chat_template(facts: Facts) -> Iterator[Finding]:
    """CF593: the tokenizer brings a chat template, and another one is trained.

    sft puts every prompt into `data.template`. A model that was tuned on ChatML or Llama-3's format, and
    whoever serves it by the `chat_template` of its tokenizer, asks in that form: what is trained here is
    then never asked for. The trained template is written beside the adapter as chat_template.jinja; what
    is served from other folders has the old one. Held against each other are the marks: a chat template
    that has all of `data.template`'s is taken for the same.
    """
    files, data = facts.tokenizer, facts.run.config.data
    if files is None or files.chat_template is None or data.task != "sft" or data.template not in BUILT_IN:
        return
    own = files.chat_template
    lacking = [mark for mark in MARKS if mark not in own.text]
    if not lacking:
        return
    yield Finding(
        "CF593",
        f"the {own.owner}'s chat template is another one than the template that is trained, {data.template}",
        severity="warning",
        place=facts.run.place("model", "path") if own.owner == "model" else facts.run.tokenizer_place,
        label=f"chat_template in {own.file}",
        notes=(f"it has no {listed(lacking, 'or')}",),
        helps=(
            f"ask the trained model by {data.template}, as chat_template.jinja beside what is saved does",
            "or train that one: data.template=tokenizer",
        ),
    )


@rule("CF594", "error", "warning")
def own_tokenizer_code(facts: Facts) -> Iterator[Finding]:
    """CF594: the tokenizer's folder brings code of its own, and that is never run.

    `auto_map` in its files names a class that lies beside them. transformers runs it when
    `trust_remote_code` is given, and else asks at the terminal; here neither happens: code of a
    downloaded folder may do anything. Where there is a tokenizer.json or a tokenizer.model, it is read
    without that class, and what the class does besides (tokens before each text, another way to cut) is
    missing: a warning. Where only the class can read the files it is an error.
    """
    files = facts.tokenizer
    if files is None or files.own_code is None:
        return
    readable = [name for name in (JSON_FILE, MODEL_FILE) if name in files.sizes]
    yield Finding(
        "CF594",
        f"the tokenizer brings code of its own, {files.own_code}, and that is not run",
        severity="warning" if readable else "error",
        place=facts.run.tokenizer_place,
        label=files.folder,
        notes=(
            f"{readable[0]} is read without it: what it does besides is missing"
            if readable
            else "without it nothing can read its files",
        ),
        helps=(
            "where you trust the code, save it as a tokenizer.json, and name that folder as tokenizer.path",
        ),
    )
