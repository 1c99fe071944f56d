"""What can be wrong when a model is evaluated: with memory, with what is asked, with the forward itself."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted, size


@rule_docs("CF876", "warning", name="rows-not-independent")
def rows_disturb_each_other(rows: int, tokens: int) -> Finding:
    """CF876: on this machine a row gives other numbers beside other rows than alone.

    How matrices are multiplied may depend on how many rows they have. Items are padded so that on today's
    CPUs it does not; while it evaluates, crossfoot computes a row of each shape again alone and compares all
    its logits, bit by bit. Where they differ, every row is computed alone from there on: slower, and the
    scores still depend on nothing but the item.
    """
    return Finding(
        "CF876",
        f"of {rows:,} rows of {tokens:,} tokens the last one differs from the same row alone",
        severity="warning",
        notes=("from here on every row is computed alone, so that scores do not depend on the batch",),
        helps=("set --budget 1 to compute alone from the beginning",),
    )


@rule_docs("CF877", name="model-beyond-memory")
def model_too_large(model: str, needed: int, free: int, device: str, fits: Sequence[str]) -> Finding:
    """CF877: a model is larger than the memory that is free where it would be loaded.

    Its bytes are those of its tensors, from the headers of the weight files, in the dtype that is asked for;
    nothing is loaded to know that. On a CPU every rank of a machine holds a model of its own.
    """
    needs = f"{model} takes {size(needed)}, and {size(free)} are free on {device}"
    return Finding(
        "CF877",
        needs,
        helps=tuple(fits) or ("take a machine with more memory, or a smaller model",),
    )


@rule_docs("CF878", name="row-beyond-memory")
def one_row_too_large(tokens: int, place: str, rows: int = 1) -> Finding:
    """CF878: a single row does not fit into the memory beside the model.

    Out of memory is answered by fewer rows at a time, down to one; down to 16 where texts are generated. The
    items that were scored so far are kept: the same command goes on with them.
    """
    many = "one row" if rows == 1 else f"{rows} rows"
    return Finding(
        "CF878",
        f"out of memory with {many} of {counted(tokens, 'token')}: {place}",
        helps=("write fewer --shots, or --dtype bfloat16 for half the memory",),
    )


@rule_docs("CF880", name="evaluating-rank-lost")
def rank_lost(said: str) -> Finding:
    """CF880: a rank of an evaluation has ended before the others.

    Each rank computes items of its own; the scores are made when all have done theirs. What was scored so far
    is in the log: the same command goes on with it, on any number of ranks.
    """
    return Finding(
        "CF880",
        "a rank has ended before its items were scored",
        notes=(said,),
        helps=("see what it said, and start the same command again: it goes on",),
    )
