"""Which config key a finding about a model belongs to, once it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.written.run_file import RunFile

PLACES = {
    "CF070": "model.adapter",
    "CF541": "model.path",
    "CF542": "model.path",
    "CF543": "model.path",
    "CF544": "model.path",
    "CF545": "model.attention",
    "CF597": "model.kernels",
    "CF546": "lora.target_modules",
    "CF547": "lora.modules_to_save",
    "CF548": "lora.modules_to_save",
    "CF549": "lora.modules_to_save",
    "CF076": "lora.r",
    "CF599": "lora.modules_to_save",
    **dict.fromkeys(("CF565", "CF566", "CF567", "CF568", "CF569", "CF570"), "model.path"),
}
"""Which config key a finding about the model is about."""


def placed(findings: Sequence[Finding], run: RunFile) -> list[Finding]:
    """The findings, each at the place of its config key."""
    return [
        replace(finding, place=run.place(PLACES[finding.code])) if finding.code in PLACES else finding
        for finding in findings
    ]


@rule_docs("CF757", name="export-taken")
def export_taken(out: str) -> Finding:
    """CF757: something has the name that an export is to be written to.

    An export makes a new folder and replaces nothing. An empty folder may be there already.
    """
    return Finding(
        "CF757",
        f"{out} is there already",
        helps=("name a folder that is not there yet",),
    )


@rule_docs("CF740", name="weights-not-saved")
def not_saved(what: str, folder: str, reason: str, notes: tuple[str, ...], helps: tuple[str, ...]) -> Finding:
    """CF740: an adapter or a model could not be written to its folder.

    At the end of a run the ledger and the receipt stand, and say what was trained. When the last checkpoint
    holds these weights nothing is lost: with room on the disk `--continue` does the end of the run again,
    and `crossfoot export RUN_DIR OUT` writes them to another disk. Without a checkpoint the weights
    are lost with the process; the notes say which it is.
    """
    return Finding(
        "CF740", f"the {what} could not be written to {folder}: {reason}", notes=notes, helps=helps
    )
