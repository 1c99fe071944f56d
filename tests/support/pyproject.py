"""pyproject.toml as it is written: [project] and [tool]."""

from __future__ import annotations

import sys
from typing import Any

from support.launching import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_WHOLE: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = _WHOLE["project"]
TOOL: dict[str, Any] = _WHOLE["tool"]
