"""A run, for whoever makes its model or asks it: what it was trained with, what it has saved, and its
checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from crossfoot.checkpoints.findings import no_such_checkpoint
from crossfoot.checkpoints.manifest import Damaged, verify_content
from crossfoot.checkpoints.store import Checkpoint, list_checkpoints
from crossfoot.data.template_source import built_in_template
from crossfoot.data.templates import Template
from crossfoot.data.tiny_tokenizer import tiny_folder
from crossfoot.findings.finding import Refused
from crossfoot.index.store import DataIndex, IndexDamaged, read_header
from crossfoot.model_source.adapters import adapter_as_it_was, found_from
from crossfoot.output import tell
from crossfoot.phrases import after_steps
from crossfoot.receipts.run_promise import find_index, index_dirs
from crossfoot.runs.attempts import (
    ENDING_FILE,
    Attempt,
    attempt_numbers,
    attempt_path,
    lock_path,
    read_attempts,
    run_lock_path,
)
from crossfoot.runs.ending import read_ending, read_lock
from crossfoot.runs.resume import of_another_run
from crossfoot.runs.run_folder import MODEL_NAME
from crossfoot.written.adapter_folder import ADAPTER_NAME
from crossfoot.written.config import Config
from crossfoot.written.model_facts import BUILTIN_TINY
from crossfoot.written.paths import with_homes


@dataclass(frozen=True)
class TrainedRun:
    """config: of the run, or of one attempt at it, with the paths of models as they are found now. index_dir:
    where the index lies, or lay. template: that was trained; None of texts, and where nobody knows it any
    more. engine: of the attempt; None of a run, and where nobody has noted it.
    """

    run_dir: str
    config: Config
    index_dir: str
    template: Template | None
    lock: Mapping[str, Any] = field(repr=False)
    attempts: tuple[Attempt, ...] = field(repr=False)
    engine: str | None = None

    @property
    def base(self) -> str:
        """Folder or hub id of the base model. That of builtin:tiny may have to be written first."""
        path = self.config.model.path
        return tiny_folder(self.index_dir) if path == BUILTIN_TINY else path

    @property
    def saved(self) -> str | None:
        """The folder in which it has saved what it trained; None before that, and where a checkpoint of more
        steps is there.
        """
        folder = os.path.join(self.run_dir, ADAPTER_NAME if self.config.lora else MODEL_NAME)
        if not os.path.isdir(folder):
            return None
        steps = []
        for number in attempt_numbers(self.run_dir):
            with suppress(Refused):
                ending = read_ending(attempt_path(self.run_dir, number, ENDING_FILE))
                steps += [ending.step] if ending is not None and ending.saved_path is not None else []
        newest = max((one.step for one in list_checkpoints(self.run_dir)), default=0)
        return folder if not steps or max(steps) >= newest else None

    def on(self, base: str | None) -> TrainedRun:
        """The same on the base model in another folder, whose tokenizer is then the model's own one; None: as
        it is.
        """
        return self if base is None else self._with_model(path=base)

    def at(self, checkpoint: Checkpoint) -> TrainedRun:
        """The same, with what stands below a checkpoint: an adapter that was continued is in the checkpoint
        itself. Raises Refused (CF772) where one that was merged is another one now.
        """
        model = self.config.model
        if model.adapter is None:
            return self
        if model.adapter_use != "merge":
            return self._with_model(adapter=None)
        who = f"{self.run_dir} {after_steps(checkpoint.step)}"
        adapter_as_it_was(model.adapter, self.lock.get("adapter") or {}, who)
        return self

    @cached_property
    def index(self) -> DataIndex | None:
        """The tokens that it was trained on; None where they are not there any more."""
        return find_index(self.run_dir, self.lock, self.attempts)

    def _with_model(self, **values: Any) -> TrainedRun:
        model = self.config.model.model_copy(update=values)
        return replace(self, config=self.config.model_copy(update={"model": model}))


def read_trained_run(run_dir: str, attempt: int | None = None) -> TrainedRun:
    """attempt: whose lock counts; None: that of the run. Raises Refused for a lock that cannot be read."""
    lock = read_lock(run_lock_path(run_dir) if attempt is None else lock_path(run_dir, attempt))
    attempts: tuple[Attempt, ...] = ()
    with suppress(Refused):  # what they noted is lost: the precision, and where the index was
        attempts = tuple(read_attempts(run_dir))
    folders = index_dirs(run_dir, lock, attempts)
    index_dir = next(filter(os.path.isdir, folders), folders[0])
    config = _found(with_homes(Config.model_validate(lock["config"])), run_dir)
    template = None
    with suppress(IndexDamaged, KeyError, TypeError):
        template = read_header(os.path.join(index_dir, lock["index"]["address"])).template
    template = template or built_in_template(config.data)
    engine = next((one.engine for one in attempts if one.attempt == attempt), None)
    return TrainedRun(run_dir, config, index_dir, template, lock, attempts, engine)


def find_checkpoint(run_dir: str, step: int | None, naming: str = "--step ") -> Checkpoint:
    """The checkpoint of this step, or the newest good one, every byte compared with its checksum. naming:
    what stands before a step on the command line. Raises Refused (CF756; CF706 for a lock that cannot be
    read).
    """
    foreign = of_another_run(run_dir)
    notes: list[str] = []
    good = list_checkpoints(run_dir)
    for checkpoint in reversed(good):
        if step not in (None, checkpoint.step):
            continue
        problem = foreign.get(checkpoint.name) or _damage(checkpoint)
        if problem is None:
            return checkpoint
        notes.append(f"{checkpoint.name}: {problem}")
        tell(f"{checkpoint.folder} is passed over: {problem}")
    there = [one.step for one in good if one.name not in foreign and step not in (None, one.step)]
    raise Refused(no_such_checkpoint(run_dir, step, there, tuple(notes), naming))


def _damage(checkpoint: Checkpoint) -> str | None:
    try:
        verify_content(checkpoint.folder, checkpoint.manifest.files)
    except Damaged as damage:
        return str(damage)
    return None


def _found(config: Config, run_dir: str) -> Config:
    """With the paths of model, adapter and tokenizer as they are found from here or from the run."""
    model = {"path": found_from(config.model.path, run_dir)}
    if config.model.adapter is not None:
        model["adapter"] = found_from(config.model.adapter, run_dir)
    sections: dict[str, Any] = {"model": config.model.model_copy(update=model)}
    if (tokenizer := config.tokenizer) is not None:
        path = found_from(tokenizer.path, run_dir)
        sections["tokenizer"] = tokenizer.model_copy(update={"path": path})
    return config.model_copy(update=sections)
