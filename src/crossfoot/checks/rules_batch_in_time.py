"""CF114 to CF118: a batch that changes in the course of a run, or that is measured in trained tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crossfoot.arithmetic.batch import Thresholds
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted, listed
from crossfoot.shell_words import joined, path_word
from crossfoot.written.run_file import RunFile

if TYPE_CHECKING:  # numpy, which a look at the config does without
    from crossfoot.arithmetic.schedule import Schedule


@rule("CF114", "warning", name="threshold-without-effect")
def threshold_without_effect(facts: Facts) -> Iterator[Finding]:
    """CF114: a pair of `batch.global_batch_size` never holds, or changes nothing.

    The batch of a step is that which holds at the step's first sample: of the pairs, the last whose number of
    samples the steps before it have trained, over all epochs. A pair is never looked at when the run is over
    before, or when the next one begins within the same step; and one with the same batch as the pair before
    it changes nothing.
    """
    pairs = facts.run.config.batch.from_samples
    idle = {nth: why for nth in range(1, len(pairs)) if (why := _idle(facts.schedule, pairs, nth))}
    if not idle:
        return
    texts = [f"[{pairs[nth][0]}, {pairs[nth][1]}]" for nth in idle]
    named, whys = listed(texts), list(idle.values())
    is_one_why = len(set(whys)) == 1
    yield Finding(
        "CF114",
        f"{named} of global_batch_size {'has' if len(idle) == 1 else 'have'} no effect"
        + (f": {whys[0]}" if is_one_why else ""),
        severity="warning",
        place=facts.run.place("batch", "global_batch_size", min(idle)),
        notes=() if is_one_why else tuple(map(": ".join, zip(texts, whys, strict=True))),
        helps=(f"remove {named}",),
    )


def _idle(schedule: Schedule | None, pairs: Thresholds, nth: int) -> str | None:
    """Why the pair changes nothing; None when it does."""
    first, batch = pairs[nth]
    if batch == pairs[nth - 1][1]:
        return f"the batch is {batch:,} before it too"
    if schedule is None:
        return None
    if first >= schedule.scheduled_samples:
        return f"the run trains {counted(schedule.scheduled_samples, 'sample')}"
    later = pairs[nth + 1][0] if nth + 1 < len(pairs) else None
    if later is not None and schedule.step_after(first) == schedule.step_after(later):
        return f"no step begins before sample {later:,}, where the next one holds"
    return None


@rule("CF115", "warning", name="target-below-a-sample")
def target_below_a_sample(facts: Facts) -> Iterator[Finding]:
    """CF115: a single sample has more trained tokens than `batch.target_trained_tokens`.

    A sample is never divided, so the step that begins with it holds it alone and has more than the target. A
    target of several times the largest sample keeps the steps alike. Known once the data is indexed.
    """
    schedule = facts.schedule
    if schedule is None or schedule.trained_tokens is None or schedule.target_trained_tokens is None:
        return
    target, tokens = schedule.target_trained_tokens, schedule.trained_tokens
    above, largest = int((tokens > target).sum()), int(tokens.max())
    if not above:
        return
    yield Finding(
        "CF115",
        f"{above:,} of {counted(len(tokens), 'sample')} {'has' if above == 1 else 'have'} more than "
        f"{target:,} trained tokens, up to {largest:,}",
        severity="warning",
        place=facts.run.place("batch", "target_trained_tokens"),
        helps=(f"set batch.target_trained_tokens to {8 * largest}, or another number well above {largest}",),
    )


@rule("CF116", name="beta-without-a-batch")
def beta_without_a_batch(facts: Facts) -> Iterator[Finding]:
    """CF116: AdamW's second beta is to follow the batch, and the batch changes while the run trains.

    `optimizer.beta2_reference_batch` keeps beta2's half-life in samples: beta2 to the power of the batch by
    it. One number is handed to the optimizer for the whole run, so there must be one batch.
    """
    config = facts.run.config
    key = "target_trained_tokens" if config.batch.target_trained_tokens is not None else "global_batch_size"
    changes = key == "target_trained_tokens" or isinstance(config.batch.global_batch_size, tuple)
    if config.optimizer.beta2_reference_batch is None or not changes:
        return
    yield Finding(
        "CF116",
        "optimizer.beta2_reference_batch follows the batch of a run whose steps have no one batch",
        place=facts.run.place("optimizer", "beta2_reference_batch"),
        others=((facts.run.place("batch", key), "the batch changes"),),
        helps=("remove optimizer.beta2_reference_batch, and set the beta itself in optimizer.betas",),
    )


@rule("CF117", name="rule-without-a-batch")
def rule_without_a_batch(facts: Facts) -> Iterator[Finding]:
    """CF117: `lr.rule` follows the samples of a step, and the steps are measured in trained tokens.

    With `batch.target_trained_tokens` steps have as many samples as reach the target: another number in each,
    about the same amount of training. So one rate is right for all of them, and there is no number of samples
    for linear or sqrt to follow.
    """
    config = facts.run.config
    if config.batch.target_trained_tokens is None or config.lr.rule == "none":
        return
    yield Finding(
        "CF117",
        f"lr.rule {config.lr.rule} follows the samples of a step, and every step has another number of them",
        place=facts.run.place("lr.rule"),
        others=((facts.run.place("batch", "target_trained_tokens"), "steps end by trained tokens"),),
        helps=(
            "set lr.rule to none and remove lr.reference_batch; lr.reference is then the rate of every step",
        ),
    )


@rule_docs("CF118", name="steps-need-the-index")
def steps_not_known(run: RunFile) -> Finding:
    """CF118: the plan of a run by trained tokens needs the data index, and there is none yet.

    `batch.target_trained_tokens` ends a step by what its samples hold, which is known when they are
    tokenised: before that nobody can say how many steps there are. `crossfoot train` makes the index itself.
    """
    return Finding(
        "CF118",
        "how many steps target_trained_tokens makes is not known before the data is indexed",
        place=run.place("batch", "target_trained_tokens"),
        helps=(f"make the index first: crossfoot index {joined([path_word(run.path), *run.overrides])}",),
    )
