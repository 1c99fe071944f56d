"""A mirror for TensorBoard: event files in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoardMirror:
    """Scalars in `folder`. A number of the ledger stands under ledger/. Raises OSError."""

    def __init__(self, folder: str) -> None:
        from tensorboardX import SummaryWriter

        os.makedirs(folder, exist_ok=True)
        self._writer = SummaryWriter(folder)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """As a Mirror does it."""
        for name, number in numbers.items():
            self._writer.add_scalar(name if "/" in name else f"ledger/{name}", number, step)

    def close(self, foots: bool | None) -> None:
        """As a Mirror does it."""
        if foots is not None:
            self._writer.add_text("receipt", f"foots: {'yes' if foots else 'no'}")
        self._writer.close()
