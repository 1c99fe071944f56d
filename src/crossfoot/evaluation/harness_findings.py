"""What can be wrong when lm-evaluation-harness asks crossfoot's scorer."""

from __future__ import annotations

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted


@rule_docs("CF885", name="harness-request-refused")
def not_asked(what: str, help_: str) -> Finding:
    """CF885: lm-evaluation-harness asks something that the model `crossfoot` does not do.

    It scores continuations (`loglikelihood`, `multiple_choice`) and whole texts (`loglikelihood_rolling`),
    and generates texts (`generate_until`), greedily or sampled by temperature, top_k, top_p and
    repetition_penalty, in one process. The harness' chat templates are not applied, and several ranks do not
    share its requests: `crossfoot evaluate` does that for its own tasks. A continuation or an answer that is
    longer than the model's positions cannot be had at all.
    """
    return Finding("CF885", what, helps=(help_,))


@rule_docs("CF886", "warning", name="harness-context-cut")
def contexts_cut(requests: int, tokens: int, positions: int) -> Finding:
    """CF886: contexts of lm-evaluation-harness are longer than the model's positions, and were cut.

    Their first tokens are left out, as the harness' own models do it: instructions and the first worked
    examples go first, and the first of all may be cut in the middle. With fewer worked examples
    (`--num_fewshot`) nothing is lost.
    """
    return Finding(
        "CF886",
        f"{counted(requests, 'context has', 'contexts have')} lost the first tokens, at most "
        f"{tokens:,}: the model has {positions:,} positions",
        severity="warning",
        helps=("name fewer worked examples: --num_fewshot",),
    )
