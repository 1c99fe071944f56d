"""What is wrong with a batch that changes in the course of a run, as far as its keys alone say it."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.written.shown import shown

Given = tuple[Place, str, object]
"""(place, key, value)"""


@rule_docs("CF111", name="batch-thresholds-do-not-rise")
def thresholds_do_not_rise(place: Place, index: int, firsts: Sequence[int]) -> Finding:
    """CF111: the samples from which `batch.global_batch_size` changes do not rise from 0.

    `[[0, 32], [20000, 64]]` is a batch of 32 samples from the beginning on, and of 64 from sample 20,000 on.
    The first pair begins at 0, and every other one behind the pair before it; otherwise it would not be clear
    which batch holds. What rises is the samples; the batch itself may also fall.
    """
    first = firsts[index]
    if not index:
        title = f"the first batch of global_batch_size must hold from sample 0 on, not from {first:,}"
        helps: tuple[str, ...] = (f"write 0 for {first}",)
    else:
        before = firsts[index - 1]
        title = f"global_batch_size changes at {first:,} samples, which is not behind {before:,}"
        helps = (f"write more than {before} for {first}, or bring the pairs into order",)
    note = "[[0, 32], [20000, 64]] is 32 samples a step, and 64 from sample 20,000 on"
    return Finding("CF111", title, place=place, notes=(note,), helps=helps)


@rule_docs("CF112", name="batch-given-in-samples-and-tokens")
def batch_given_twice(samples: Given, tokens: Given) -> Finding:
    """CF112: `batch.global_batch_size` and `batch.target_trained_tokens` are both given.

    Each says by itself where a step ends: after so many samples, or as soon as its samples have so many
    trained tokens. With both, one of them would have no meaning.
    """
    return Finding(
        "CF112",
        f"a step is measured twice: global_batch_size {shown(samples[2])}, target_trained_tokens "
        f"{shown(tokens[2])}",
        place=tokens[0],
        others=((samples[0], "and here"),),
        helps=(
            "remove batch.target_trained_tokens: a step has so many samples",
            "or remove batch.global_batch_size: a step ends when it has so many trained tokens",
        ),
    )


@rule_docs("CF113", name="target-without-capacity")
def target_without_capacity(target: Given, others: Sequence[Given]) -> Finding:
    """CF113: `batch.target_trained_tokens` needs to know what a step can hold.

    How many samples reach the target differs from step to step, so nothing can be solved from it.
    `batch.micro_batch_size` (or `micro_batch_tokens`) and `batch.grad_accum_steps` say what the GPUs hold in
    one step; the largest step must fit in it, which is looked at when the data is indexed.
    """
    keys = [key for _, key, _ in others]
    missing = []
    if not {"micro_batch_size", "micro_batch_tokens"} & set(keys):
        missing.append("batch.micro_batch_size (samples per GPU per forward), or batch.micro_batch_tokens")
    if "grad_accum_steps" not in keys:
        missing.append("batch.grad_accum_steps (forwards per optimizer step, at most)")
    return Finding(
        "CF113",
        "target_trained_tokens says when a step ends, and not what a step can hold",
        place=target[0],
        others=tuple((place, "") for place, _, _ in others),
        helps=tuple(f"also set {one}" if not nth else f"and {one}" for nth, one in enumerate(missing)),
    )
