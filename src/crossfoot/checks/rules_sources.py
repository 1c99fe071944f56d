"""CF529: what the sources of data.train ask for, against what they have."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted


@rule("CF529", "warning", name="limit-above-source")
def limit_above_source(facts: Facts) -> Iterator[Finding]:
    """CF529: `max_samples` of a source is more than the source has.

    All of its samples are used then, as without the key. Where the number was meant as "so many an epoch",
    the key for it is `weight`: it repeats samples.
    """
    for number, source in enumerate(facts.sources):
        limit, have = source.source.written.max_samples, source.samples
        if limit is None or limit <= have:
            continue
        many = f"to train {limit:,} of them an epoch, write weight: {limit / have:.4g} instead"
        yield Finding(
            "CF529",
            f"max_samples is {limit:,}, and {source.name} has {counted(have, 'sample')}",
            severity="warning",
            place=facts.run.place("data", "train", number, "max_samples"),
            helps=("remove max_samples: all are used", many),
        )
