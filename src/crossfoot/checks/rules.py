"""Everything that `check` holds against each other before anything slow starts; the rules are in the rules_*
modules.
"""

from __future__ import annotations

from crossfoot.checks import (
    rules_batch,
    rules_data,
    rules_deepspeed,
    rules_deepspeed_engine,
    rules_deepspeed_keys,
    rules_deepspeed_types,
    rules_deepspeed_zero,
    rules_json,
    rules_launch,
    rules_launch_files,
    rules_launch_ranks,
    rules_launch_settings,
    rules_model,
    rules_rate,
)
from crossfoot.checks.registry import Facts, run_rules
from crossfoot.finding import Finding

__all__ = ["RULE_MODULES", "Facts", "check_static"]

RULE_MODULES = (
    rules_batch,
    rules_data,
    rules_deepspeed,
    rules_deepspeed_engine,
    rules_deepspeed_keys,
    rules_deepspeed_types,
    rules_deepspeed_zero,
    rules_json,
    rules_launch,
    rules_launch_files,
    rules_launch_ranks,
    rules_launch_settings,
    rules_model,
    rules_rate,
)
"""Importing them registers their rules."""


def check_static(facts: Facts) -> tuple[Finding, ...]:
    """All findings about what people wrote, in file order. Torch-free, and opens no file."""
    return run_rules(facts)
