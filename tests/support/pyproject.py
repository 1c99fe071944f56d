"""pyproject.toml's [project], as it is written."""

from __future__ import annotations

import sys
from typing import Any

from support.launching import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
