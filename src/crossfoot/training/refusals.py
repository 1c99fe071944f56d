"""What can go wrong when ranks meet, while they train, and at the end: one function, one code, one manual
page.

Torch-free, so that `crossfoot explain` can read the pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from crossfoot.finding import Finding, Place
from crossfoot.manual import page
from crossfoot.written.run_file import RunFile


@page("CF013")
def tracker_missing(mode: str, place: Place) -> Finding:
    """CF013: the run asks for Weights & Biases, and wandb is not installed.

    wandb is an optional dependency. This is looked up before the data is tokenised and before a GPU is used.
    """
    return Finding(
        "CF013",
        f"tracking.wandb is {mode}, but wandb is not installed",
        place=place,
        helps=("install it: pip install wandb", "or set tracking.wandb to off"),
    )


@page("CF016")
def tracker_refuses(mode: str, reason: str, place: Place) -> Finding:
    """CF016: Weights & Biases was asked for, and does not start.

    Most often nobody is logged in on the machine of rank 0, or it has no way to the server. The run stops
    before the model is loaded: a run whose mirror is silently missing would be found out too late.
    """
    return Finding(
        "CF016",
        f"tracking.wandb is {mode}, but wandb does not start: {reason}",
        place=place,
        helps=("log in with `wandb login`", "or set tracking.wandb to offline, or off"),
    )


@page("CF420")
def plans_differ(who: str, theirs: str, first: str, ours: str) -> Finding:
    """CF420: two ranks hold different plans.

    Every rank makes the plan itself, from the config, the overrides and the data that it sees; the sha256 of
    plan.lock.json is then compared on all ranks. Nodes with different checkouts, data or command lines differ
    here, before a weight is loaded.
    """
    return Finding(
        "CF420",
        f"{who} holds plan {theirs[:7]}, {first} holds plan {ours[:7]}",
        notes=("the config, the data or the overrides differ between nodes",),
        helps=("start every node from the same checkout, with the same words on the command line",),
    )


@page("CF421")
def folder_not_shared(who: str, first: str, run_dir: str) -> Finding:
    """CF421: a rank does not see what rank 0 writes into the run folder.

    Rank 0 writes a random word into `run.dir` and every rank reads it there. A folder on a node's own disk
    has the same name on every node and another content.
    """
    return Finding(
        "CF421",
        f"{who} does not see the run folder {run_dir} that {first} writes",
        helps=("set run.dir to a folder on storage that every node mounts",),
    )


@page("CF422")
def ranks_contradict(who: str, claimed: tuple[int, int], actual: tuple[int, int]) -> Finding:
    """CF422: a launcher's variables and torch.distributed disagree about a rank or the number of ranks.

    The plan's share of this process comes from those variables, the gradients are averaged over
    torch.distributed's ranks: when the two differ, samples would be trained twice or not at all.
    """
    return Finding(
        "CF422",
        f"{who} was started as rank {claimed[0]} of {claimed[1]}, "
        f"torch.distributed says {actual[0]} of {actual[1]}",
        helps=("start all ranks with one launcher, and unset RANK and WORLD_SIZE before it",),
    )


@page("CF430")
def engine_believes(kind: str, name: str, believed: Any, planned: Any) -> Finding:
    """CF430: after its initialisation the engine believes another number than the plan.

    Batch numbers, accumulation, clipping, ZeRO stage, precision and the scheduler are read back from the
    engine and compared, not trusted: environment variables and plugins can overrule what an engine was told.
    """
    return Finding(
        "CF430",
        f"{kind} believes {name} is {believed!r}, the plan says {planned!r}",
        notes=("read back from the engine after its initialisation, before the first forward",),
        helps=("look for an environment variable or a plugin that overrules the engine's arguments",),
    )


@page("CF740")
def not_saved(what: str, folder: str, reason: str) -> Finding:
    """CF740: the trained weights could not be written at the end of the run.

    The ledger and the receipt stand, and say what was trained; the weights are lost, because this version
    keeps no checkpoint.
    """
    return Finding(
        "CF740",
        f"the {what} could not be written to {folder}: {reason}",
        helps=("make room on that disk, or set run.dir to another one, and train again",),
    )


@page("CF741")
def not_finite(steps_done: int, ledger: str) -> Finding:
    """CF741: the loss or the gradient norm became infinite or not a number, and the run was stopped.

    All ranks stop after the same step. The ledger's line of the step says on which rank it was seen.
    """
    return Finding(
        "CF741",
        f"the loss or the gradient is not finite: stopped after {steps_done:,} steps",
        notes=(f"the ledger names the step: {ledger}",),
        helps=("lower lr.reference, or lengthen the warm-up", "look at the samples of that step"),
    )


@page("CF542")
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


@page("CF544")
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


@page("CF545")
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


def placed(findings: Sequence[Finding], run: RunFile) -> list[Finding]:
    """The findings, each at the place of its config key."""
    return [
        replace(finding, place=run.place(PLACES[finding.code])) if finding.code in PLACES else finding
        for finding in findings
    ]
