"""Why a mirror cannot be made."""

from __future__ import annotations

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.shell_words import quoted_path


@rule_docs("CF016")
def tracker_refuses(mode: str, reason: str, place: Place | None) -> Finding:
    """CF016: Weights & Biases was asked for, and does not start.

    Most often nobody is logged in on the machine of rank 0, or it has no way to the server. The run stops
    before the model is loaded: a run whose mirror is silently missing would be found out too late.
    """
    return Finding(
        "CF016",
        f"tracking.wandb is {mode}, but wandb does not start: {reason}",
        place=place,
        helps=("log in with `wandb login`", "or set tracking.wandb to offline, or off"),
    )


@rule_docs("CF788")
def mirror_taken(run_dir: str, out: str) -> Finding:
    """CF788: a mirror is to be written where one is.

    Event files add up: TensorBoard would show every step twice. Nothing is written over or deleted.
    """
    return Finding(
        "CF788",
        f"{out} is not empty",
        helps=(f"name another folder: crossfoot mirror {quoted_path(run_dir)} {quoted_path(out + '-2')}",),
    )
