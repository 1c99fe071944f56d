"""What must hold for a run to start, beyond what the written files say of each other: the one list that
`check` looks through, that rank 0 of `train` is refused by, and that `launch` goes through before it starts
anything.

Whatever else train would refuse before it imports torch belongs into this list, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec

from crossfoot.checks.model_folder import model_folder_findings
from crossfoot.extras import missing_of, quantizer_missing, tracker_missing
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.locate import refuse_broken_tokenizer, refuse_unwritable_index
from crossfoot.planning.asked_tasks import wrong_with_evaluation
from crossfoot.runs.resume import PreviousAttempts, read_previous_attempts
from crossfoot.runs.run_folder import refuse_used_folder
from crossfoot.written.findings import in_file_order
from crossfoot.written.hub import not_here
from crossfoot.written.model_facts import BUILTIN_TINY
from crossfoot.written.run_file import RunFile
from crossfoot.written.section import Unsure
from crossfoot.written.weight_findings import attention_missing, kernels_missing


@dataclass(frozen=True)
class Start:
    """A start that is meant. continues: with the run that the run folder holds."""

    run: RunFile
    continues: bool = False

    @cached_property
    def previous_attempts(self) -> PreviousAttempts:
        """What the run folder holds to go on with. Raises Refused."""
        return read_previous_attempts(self.run)


Condition = Callable[[Start], Iterable[Finding]]
"""What stands against a start; a condition may raise Refused too. A key that the config has wrong ends it."""


def hub_files_are_here(start: Start) -> Iterable[Finding]:
    """Model and tokenizer of a hub are in the cache of this machine."""
    return not_here(start.run)


def model_loads(start: Start) -> Iterator[Finding]:
    """The model is a causal one, whole, not quantised, and what its config.json says."""
    path = start.run.config.model.path
    if path != BUILTIN_TINY:
        for finding in model_folder_findings(path):
            yield replace(finding, place=start.run.place("model.path"))


def tokenizer_loads(start: Start) -> Iterable[Finding]:
    """The tokenizer's files are whole, and name an end token."""
    refuse_broken_tokenizer(start.run)
    return ()


def attention_is_there(start: Start) -> Iterator[Finding]:
    """The attention kernel is installed, where what trains is installed, and works on weights like these."""
    model = start.run.config.model
    if model.attention != "flash_attention_2":
        return
    why = ""
    if model.dtype == "float32":
        why = "it computes in 16 bits only, and model.dtype is float32"
    elif not missing_of("train") and find_spec("flash_attn") is None and find_spec("kernels") is None:
        why = "the package flash-attn is not installed"
    if why:
        yield replace(attention_missing(model.attention, why), place=start.run.place("model.attention"))


def kernels_are_there(start: Start) -> Iterator[Finding]:
    """The package that model.kernels names is installed, and torch can run it, where what trains is there."""
    if start.run.config.model.kernels != "liger" or missing_of("train"):
        return
    place = start.run.place("model.kernels")
    if find_spec("triton") is None:
        why = "its kernels are Triton's, which this torch comes without: it is built for CPUs"
        yield replace(kernels_missing("liger", why), place=place)
    elif find_spec("liger_kernel") is None:
        why, install = "the package liger-kernel is not installed", "install it: pip install liger-kernel"
        yield replace(kernels_missing("liger", why, (install,)), place=place)


def quantizer_is_there(start: Start) -> Iterator[Finding]:
    """bitsandbytes is installed when the base is to be quantised, where what trains is installed."""
    asked = start.run.config.model.quantization
    if asked != "none" and missing_of("quant") and not missing_of("train"):
        yield quantizer_missing(asked, start.run.place("model.quantization"))


def tracker_is_there(start: Start) -> Iterator[Finding]:
    """What mirrors the ledger is installed when it is asked for, where what trains is installed."""
    wanted = start.run.config.tracking
    if missing_of("train"):
        return
    if wanted.wandb != "off" and missing_of("tracking"):
        place = start.run.place("tracking", "wandb")
        yield tracker_missing("tracking.wandb", wanted.wandb, "off", "tracking", place)
    if wanted.tensorboard and missing_of("tensorboard"):
        place = start.run.place("tracking", "tensorboard")
        yield tracker_missing("tracking.tensorboard", "true", "false", "tensorboard", place)


def evaluation_can_be_asked(start: Start) -> Iterator[Finding]:
    """The tasks that the run is evaluated on can be read, and their prompts fit."""
    yield from wrong_with_evaluation(start.run)


def run_folder_is_ours(start: Start) -> Iterable[Finding]:
    """The run folder is free and can be written; of a run that is continued, that it holds one."""
    if start.continues:
        _ = start.previous_attempts
    else:
        refuse_used_folder(start.run)
    return ()


def index_folder_is_ours(start: Start) -> Iterable[Finding]:
    """The folder of the token indexes can be written."""
    refuse_unwritable_index(start.run)
    return ()


START_CONDITIONS: tuple[Condition, ...] = (
    hub_files_are_here,
    model_loads,
    tokenizer_loads,
    attention_is_there,
    kernels_are_there,
    quantizer_is_there,
    tracker_is_there,
    evaluation_can_be_asked,
    run_folder_is_ours,
    index_folder_is_ours,
)


def unmet(start: Start) -> tuple[Finding, ...]:
    """What stands against the start, of all conditions, in file order. A condition that asks for a key which
    the config has wrong is passed over.
    """
    found: list[Finding] = []
    for condition in START_CONDITIONS:
        with suppress(Unsure):
            try:
                found.extend(condition(start))
            except Refused as refused:
                found.extend(refused.findings)
    return in_file_order(found, start.run.path)


def refuse_unmet(start: Start) -> None:
    """Raises Refused with all that stands against the start, when a part of it is an error."""
    found = unmet(start)
    if any(finding.counts_as == "error" for finding in found):
        raise Refused(found)
