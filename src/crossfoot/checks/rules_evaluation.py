"""CF881: evaluations while a model is trained that its engine cannot give."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.deepspeed.vocabulary import zero_stage
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding


@rule("CF881", name="evaluation-in-parts")
def evaluation_in_parts(facts: Facts) -> Iterator[Finding]:
    """CF881: a run on ZeRO stage 3 is to be evaluated while it trains.

    Each rank scores items of its own, in as many forwards as these take. On stage 3 a rank has only a part of
    each weight, and every forward is one of all ranks together: they would wait for each other for ever.
    `crossfoot evaluate RUN_DIR --step N` gives the same scores from a checkpoint, while the run trains or
    afterwards.
    """
    section, deepspeed = facts.run.config.evaluation, facts.deepspeed
    if not section.tasks or deepspeed is None or zero_stage(deepspeed.values) != 3:
        return
    yield Finding(
        "CF881",
        "evaluation.tasks asks the model while it is trained, and ZeRO stage 3 cuts its weights into parts",
        place=facts.run.place("evaluation", "tasks"),
        others=((deepspeed.place("zero_optimization", "stage"), "stage 3"),),
        helps=(
            "set zero_optimization.stage to 2",
            "or remove evaluation.tasks, and evaluate a checkpoint: crossfoot evaluate RUN_DIR --step N",
        ),
    )
