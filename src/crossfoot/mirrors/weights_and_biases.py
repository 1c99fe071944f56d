"""A mirror at Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from crossfoot.findings.finding import Place, Refused
from crossfoot.mirrors.findings import tracker_refuses


class WandbMirror:
    """One wandb run. mode: offline or online. lock: becomes its config. place: where the config asks for it.
    Raises Refused when wandb does not start.
    """

    def __init__(
        self,
        lock: Mapping[str, Any],
        run_dir: str,
        mode: Literal["offline", "online"],
        project: str,
        place: Place | None = None,
    ) -> None:
        import wandb

        # Of itself wandb also sends what is printed, the machine's load, the code's git state and its patch.
        nothing_else = wandb.Settings(
            console="off", x_disable_stats=True, disable_git=True, disable_code=True, quiet=True
        )
        try:
            self._run = wandb.init(
                project=project,
                name=lock["name"],
                dir=run_dir,
                mode=mode,
                config=dict(lock),
                settings=nothing_else,
            )
        except wandb.errors.Error as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Refused(tracker_refuses(mode, reason, place)) from error

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """As a Mirror does it."""
        self._run.log(dict(numbers), step=step)

    def close(self, foots: bool | None) -> None:
        """As a Mirror does it."""
        if foots is not None:
            self._run.summary["foots"] = foots
        self._run.finish()
