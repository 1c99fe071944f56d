"""What can be wrong with a model's files: one function, one code, and its docstring is the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
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
}
"""Which config key a finding about the model is about."""


@rule_docs("CF542")
def model_unreadable(path: str, why: str) -> Finding:
    """CF542: the folder of `model.path` holds no model that transformers can read.

    config.json or a weight file is absent or damaged, or needs code of its own (trust_remote_code), which
    crossfoot does not run.
    """
    return Finding(
        "CF542",
        f"model.path holds no model that can be read: {path}",
        notes=(why,),
        helps=("the folder must hold config.json and model.safetensors, as save_pretrained writes them",),
        unreadable=True,
    )


@rule_docs("CF544")
def weights_missing(path: str, names: Sequence[str]) -> Finding:
    """CF544: tensors of the model are not in its weight files.

    transformers would fill them with random numbers and warn; training would begin from noise.
    """
    return Finding(
        "CF544",
        f"{len(names)} tensors of the model are not in its weight files: {path}",
        notes=("for example " + ", ".join(names[:3]), "they would be random numbers"),
        helps=("fetch the model again, or take the folder whose config.json belongs to these weights",),
    )


@rule_docs("CF545")
def attention_missing(name: str, why: str) -> Finding:
    """CF545: the attention kernel that `model.attention` asks for is not installed, or not for this machine.

    flash_attention_2 needs the flash-attn package and a GPU. With `auto` transformers chooses a kernel that
    is there.
    """
    return Finding(
        "CF545",
        f"model.attention {name} is not available here",
        notes=(why,),
        helps=("set model.attention to sdpa, or leave it at auto",),
    )


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
    and `crossfoot export RUN_DIR OUT` writes the adapter to another disk. Without a checkpoint the weights
    are lost with the process; the notes say which it is.
    """
    return Finding(
        "CF740", f"the {what} could not be written to {folder}: {reason}", notes=notes, helps=helps
    )
