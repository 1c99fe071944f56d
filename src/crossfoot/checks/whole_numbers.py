"""What a DeepSpeed file may have in the place of a number: the number, "auto", or nothing; all else is a
mistake.
"""

from __future__ import annotations

import math
from typing import Any


def whole_number(value: Any) -> int | None:
    """An int that is no bool, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def finite_number(value: Any) -> float | int | None:
    """A finite int or float that is no bool, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None
