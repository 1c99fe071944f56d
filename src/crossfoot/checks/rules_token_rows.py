"""CF079, CF080, CF081: rows of the tables of tokens that are trained (`lora.trainable_token_indices`)."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.deepspeed.vocabulary import zero_stage
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.phrases import listed
from crossfoot.written.model_facts import INPUT_TABLE_NAMES, OUTPUT_TABLE_NAMES
from crossfoot.written.token_rows import NEW, fault_of_rows

_KEY = ("lora", "trainable_token_indices")


@rule("CF079", name="no-such-rows")
def rows_that_are_not_there(facts: Facts) -> Iterator[Finding]:
    """CF079: `lora.trainable_token_indices` names rows that cannot be trained.

    A row is the id of a token; the table has as many as the tokenizer has tokens, or as the model has rows,
    whichever is more. A range has both ends in it: 32000-55295 are 23,296 rows. `new` is all that the
    tokenizer has beyond the rows of the model (with an adapter merged into it, beyond that adapter's). No row
    is named twice, since then one of the two would be trained and not used.
    """
    lora, rows, needed = facts.run.config.lora, facts.table_rows, facts.vocabulary
    if lora is None or lora.trainable_token_indices is None or rows is None or needed is None:
        return
    if why := fault_of_rows(lora.trainable_token_indices, rows, max(rows, needed)):
        is_new = lora.trainable_token_indices == NEW
        yield Finding(
            "CF079",
            f"lora.trainable_token_indices names rows that cannot be trained: {why}",
            place=facts.run.place(*_KEY),
            notes=(f"the model has {rows:,} rows, the tokenizer {needed:,} tokens",),
            helps=(
                "remove lora.trainable_token_indices, or name ids"
                if is_new
                else "correct it, or write new: the rows that the tokenizer adds",
            ),
        )


@rule("CF080", name="rows-trained-two-ways")
def rows_trained_two_ways(facts: Facts) -> Iterator[Finding]:
    """CF080: rows of the tables are to be trained, and a table has an adapter or is trained in full.

    `lora.trainable_token_indices` trains these rows of the input embedding and of the output head, and leaves
    all others as they are. With a table in `lora.modules_to_save` all rows are trained anyway; an adapter on
    one, in `lora.target_modules`, would change rows that are to stay. peft stops at the first, and trains
    only one of the two in the second case.
    """
    lora = facts.run.config.lora
    if lora is None or lora.trainable_token_indices is None:
        return
    for key in ("modules_to_save", "target_modules"):
        written = getattr(lora, key)
        tables = [
            name
            for name in ([] if isinstance(written, str) else written)
            if name.rpartition(".")[2] in (*INPUT_TABLE_NAMES, *OUTPUT_TABLE_NAMES)
        ]
        if tables:
            yield Finding(
                "CF080",
                f"lora.trainable_token_indices names rows of the tables, and lora.{key} has "
                f"{listed(tables, 'and')} too",
                place=facts.run.place("lora", key),
                others=((facts.run.place(*_KEY), "some rows"),),
                helps=(f"take {listed(tables, 'and')} out of lora.{key}", f"or remove {'.'.join(_KEY)}"),
            )


@rule("CF081", name="token-rows-in-parts")
def rows_in_parts(facts: Facts) -> Iterator[Finding]:
    """CF081: single rows of the tables are to be trained on ZeRO stage 3.

    peft copies the rows out of the table when it begins. Under stage 3, where a rank has only a part of the
    table, it does so on the device that CUDA names, and stops where there is none (tried: peft 0.21.2,
    DeepSpeed 0.19.8, 2 ranks on CPUs); on GPUs it has not been tried here. The rows are few, and on stages 1
    and 2 what the optimizer keeps of them is divided as well.
    """
    lora, deepspeed = facts.run.config.lora, facts.deepspeed
    if lora is None or lora.trainable_token_indices is None:
        return
    if deepspeed is None or zero_stage(deepspeed.values) != 3:
        return
    yield Finding(
        "CF081",
        "lora.trainable_token_indices trains single rows, and ZeRO stage 3 cuts the tables into parts",
        place=facts.run.place(*_KEY),
        others=((deepspeed.place("zero_optimization", "stage"), "stage 3"),),
        helps=(
            "set zero_optimization.stage to 2",
            "or train both tables: lora.modules_to_save=[embed_tokens, lm_head]",
        ),
    )
