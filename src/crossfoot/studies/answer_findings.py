"""What the answer of a study lacks, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crossfoot.arithmetic.critical_batch import FEWEST_BATCHES
from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted, listed
from crossfoot.studies.answer import Answer

_SHOWN = 3


def answer_findings(found: Answer) -> Iterator[Finding]:
    """All of them; none of a study whose answer lacks nothing."""
    unfinished = [batch for batch, why in found.without.items() if why == "unfinished"]
    by_how = {
        how: [one.batch for one in found.batches if one.target.how == how]
        for how in ("not reached", "at once")
    }
    edges = [one.batch for one in found.batches if one.edge is not None]
    if unfinished:
        yield batch_unfinished(unfinished)
    if found.diverged:
        yield runs_diverged(found.diverged)
    if found.target is not None and by_how["not reached"]:
        yield target_not_reached(by_how["not reached"], found.target, found.budget_samples)
    if found.target is not None and by_how["at once"]:
        yield target_at_once(by_how["at once"], found.target)
    if found.batches and found.fit is None:
        yield too_few_batches(len(found.steps))
    if edges:
        yield best_rate_at_edge(edges, len(found.batches))
    if found.rates == 1:
        yield one_rate()
    if found.seeds == 1:
        yield one_seed()


@rule_docs("CF223", "note")
def target_not_reached(batches: Sequence[int], target: float, budget_samples: int) -> Finding:
    """CF223: batches of a study do not come down to the target loss within its samples.

    Steps are counted until a validation loss that the study was given, or that most batches reach. A batch
    that does not get there with every seed has no number of steps, and is no part of the fit: it would be a
    guess. More samples for every run, or a target that is higher, may give it one.
    """
    return Finding(
        "CF223",
        f"not reached in {budget_samples:,} samples: a loss of {target:.3f}, by {_batches(batches)}",
        severity="note",
    )


@rule_docs("CF224", "warning")
def too_few_batches(reached: int) -> Finding:
    """CF224: too few batches of a study reach the target loss for a critical batch to be fitted.

    The hyperbola of steps over batches has two unknowns. Two batches always lie on one, whatever they took;
    with three it can be seen whether they do.
    """
    return Finding(
        "CF224",
        f"no critical batch: {counted(reached, 'batch has', 'batches have')} steps until the target, and a "
        f"fit needs {FEWEST_BATCHES}",
        severity="warning",
        helps=(
            "name more batches in --batches: what is trained stays",
            "or more samples in --budget-samples, in a study of its own",
        ),
    )


@rule_docs("CF225", "warning")
def best_rate_at_edge(batches: Sequence[int], answered: int) -> Finding:
    """CF225: the best rate of a batch is the smallest or the largest that was tried.

    A better one may lie beyond, and the batch would then need fewer steps than the study says. Batches can
    only be compared fairly at the best rate of each. A rate that diverged counts as tried.
    """
    which = "every batch" if len(batches) == answered else _batches(batches)
    return Finding(
        "CF225",
        f"the best rate of {which} is the smallest or largest that was tried: a better one may lie beyond",
        severity="warning",
        helps=("try more of them, what is trained stays: --rates x0.25,x0.5,x1,x2,x4",),
    )


@rule_docs("CF226", "note")
def one_seed() -> Finding:
    """CF226: a study has one seed, so that nobody knows how much of a difference is chance.

    Intervals of losses and of steps come from runs that differ in their seed alone. With one seed there are
    none. The critical batch has one all the same: it comes from how far the batches lie off the hyperbola.
    """
    return Finding(
        "CF226",
        "one seed: nobody knows how much of a difference between two batches is chance",
        severity="note",
        notes=("--seeds 3 gives intervals; what is trained stays",),
    )


@rule_docs("CF227", "note")
def runs_diverged(names: Sequence[str]) -> Finding:
    """CF227: runs of a study ended by a loss or a gradient that is NaN or infinite, and are not used.

    A rate that diverges with one seed is not chosen for its batch. The next smaller one is then not at the
    edge of what was tried.
    """
    more = len(names) - _SHOWN
    shown = listed([*names[:_SHOWN], f"{more:,} more"] if more > 0 else names)
    return Finding("CF227", f"diverged, and not used: {shown}", severity="note")


@rule_docs("CF228", "note")
def target_at_once(batches: Sequence[int], target: float) -> Finding:
    """CF228: batches of a study are at the target loss at their first validation, or before any step.

    Nobody saw when they came there, so that they have no number of steps. A lower target has one, or a study
    that validates more often.
    """
    return Finding(
        "CF228",
        f"no steps are counted of {_batches(batches)}: at a loss of {target:.3f} by the first validation",
        severity="note",
    )


@rule_docs("CF229", "note")
def batch_unfinished(batches: Sequence[int]) -> Finding:
    """CF229: a batch has no answer yet, because runs of it are not over.

    A run that was stopped, or that ended on a fault, is gone on with by the same command.
    """
    return Finding("CF229", f"no answer yet for {_batches(batches)}: runs are unfinished", severity="note")


@rule_docs("CF230", "note")
def one_rate() -> Finding:
    """CF230: a study tried one rate for each batch, so that nobody knows whether it is the best one.

    What the config's rule gives may suit one batch better than another. Then the batches differ in more than
    their number of samples.
    """
    return Finding(
        "CF230",
        "one rate for each batch: nobody knows whether another one is better",
        severity="note",
        notes=("--rates x0.5,x1,x2 tries three, and goes on beyond the best; what is trained stays",),
    )


def _batches(batches: Sequence[int]) -> str:
    """`a batch of 64`, `batches of 64 and 1,024`."""
    return f"{'a batch' if len(batches) == 1 else 'batches'} of {listed([f'{batch:,}' for batch in batches])}"
