"""A mirror of the ledger at Weights & Biases, when the config asks for one. Rank 0 only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossfoot.findings.finding import Refused
from crossfoot.ledger.entry import StepEntry
from crossfoot.phrases import steps_done
from crossfoot.planning.plan import RunPlan
from crossfoot.training.findings import tracker_refuses


class WandbMirror:
    """One wandb run with the ledger's numbers under the ledger's names. Raises Refused when wandb does not
    start.
    """

    def __init__(self, plan: RunPlan, lock: Mapping[str, Any]) -> None:
        import wandb

        config = plan.run.config
        mode = config.tracking.wandb
        # Of itself wandb also sends what is printed, the machine's load, the code's git state and its patch.
        nothing_else = wandb.Settings(
            console="off", x_disable_stats=True, disable_git=True, disable_code=True, quiet=True
        )
        try:
            self._run = wandb.init(
                project=config.tracking.project,
                name=config.run.name,
                dir=plan.run.run_dir,
                mode="disabled" if mode == "off" else mode,
                config=dict(lock),
                settings=nothing_else,
            )
        except wandb.errors.Error as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            place = plan.run.place("tracking", "wandb")
            raise Refused(tracker_refuses(mode, reason, place)) from error

    def __call__(self, entry: StepEntry) -> None:
        """Mirror one ledger line: its numbers under its names, at the step as people count it; causes and
        per-rank rows stay in the ledger.
        """
        numbers = {key: value for key, value in entry.to_json().items() if isinstance(value, (int, float))}
        self._run.log(numbers, step=steps_done(entry.step))

    def close(self, receipt: Mapping[str, Any]) -> None:
        """Write the receipt's verdict into the summary and finish."""
        self._run.summary["foots"] = receipt["foots"]
        self._run.finish()
