"""Everything that `check` holds against each other before anything slow starts; the rules are in the rules_*
modules.
"""

from __future__ import annotations

import importlib
import pkgutil

from crossfoot import checks
from crossfoot.checks.registry import Facts, run_rules
from crossfoot.findings.finding import Finding

__all__ = ["Facts", "run_static_rules"]

for _module in pkgutil.walk_packages(checks.__path__, f"{checks.__name__}."):
    if _module.name.rpartition(".")[2].startswith("rules_"):
        importlib.import_module(_module.name)  # which registers its rules


def run_static_rules(facts: Facts) -> tuple[Finding, ...]:
    """All findings about what people wrote, by code. Torch-free, and opens no file."""
    return run_rules(facts)
