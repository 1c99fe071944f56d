"""Whether two locks mix their sources alike, whatever these are called and however weights are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossfoot.runs.attempts import Change

_NUMBERS = ("samples", "used_samples", "samples_per_epoch")


def mixture_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> Change | None:
    """What an epoch takes of the sources where the two differ in that; of the same data."""
    locks = [lock.get("plan", {}).get("sources") or () for lock in (before, now)]
    if _mixed(locks[0]) == _mixed(locks[1]):
        return None
    words = [[f"{one['name']}: {one['samples_per_epoch']:,} an epoch" for one in lock] for lock in locks]
    own = [[one for one in words[side] if one not in words[1 - side]] for side in (0, 1)]
    return Change("data.train", *(", ".join(each) or "every sample once" for each in own))


def _mixed(sources: Any) -> list[tuple[Any, ...]]:
    """Numbers of each source; none where all are trained once."""
    numbers = [tuple(one[key] for key in _NUMBERS) for one in sources]
    return numbers if any(len(set(each)) > 1 for each in numbers) else []
