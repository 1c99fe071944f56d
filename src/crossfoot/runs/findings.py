"""What can be wrong with a run beside another one: one function, one code, and its docstring is the page."""

from __future__ import annotations

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import step_name


@rule_docs("CF490", "warning")
def differs_from_dry_run(
    step: int, here: float, there: float, difference: float, tolerance: float, dry_dir: str
) -> Finding:
    """CF490: a step of the run did not have the loss that its dry run had.

    The dry run trains the first steps of the same plan in one process: the same samples, rates and weights,
    so the losses agree but for rounding: 1e-5 at most in float32, 5e-3 in bfloat16, 2e-3 in float16. A larger
    difference means that something is not the same on the cluster: another base model under the same path, a
    rank that computes wrongly, another version of a library. The receipt does not see it, because counts,
    rates and samples agree. `crossfoot prove` on the cluster finds out whether its gradients are right.
    """
    return Finding(
        "CF490",
        f"{step_name(step)} had loss {here:.7g} here and {there:.7g} in the dry run",
        severity="warning",
        notes=(
            f"they differ by {difference:.1e} of their size, and {tolerance:g} is rounding",
            f"the dry run is in {dry_dir}",
        ),
        helps=("compare the gradient with plain torch on the cluster: crossfoot prove CONFIG",),
    )
