"""accelerate keeps one state for the life of a process, and refuses the next Accelerator that differs."""

from __future__ import annotations

import sys


def forget() -> None:
    """Make the next Accelerator of this process the first. Imports nothing that was not imported before."""
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
