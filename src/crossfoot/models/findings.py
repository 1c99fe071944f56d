"""Which config key a finding about a model belongs to, once it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossfoot.findings.finding import Finding
from crossfoot.written.run_file import RunFile

PLACES = {
    "CF541": "model.path",
    "CF542": "model.path",
    "CF543": "model.path",
    "CF544": "model.path",
    "CF545": "model.attention",
    "CF546": "lora.target_modules",
    "CF547": "lora.modules_to_save",
    "CF548": "lora.modules_to_save",
    "CF549": "lora.modules_to_save",
    **dict.fromkeys(("CF565", "CF566", "CF567", "CF568", "CF569", "CF570"), "model.path"),
}
"""Which config key a finding about the model is about."""


def placed(findings: Sequence[Finding], run: RunFile) -> list[Finding]:
    """The findings, each at the place of its config key."""
    return [
        replace(finding, place=run.place(PLACES[finding.code])) if finding.code in PLACES else finding
        for finding in findings
    ]
