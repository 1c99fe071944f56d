"""An evaluation by the verb, in this process, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Evaluated:
    """By the verb. out: its folder."""

    out: Path
    code: int
    scores: bytes
    told: str
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def by_id(self) -> dict[str, dict[str, Any]]:
        return {line["id"]: line for line in self.lines}


Evaluates = Callable[..., Evaluated]
"""words, of: a model, on: a task, out: a folder."""
