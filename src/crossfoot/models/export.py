"""`crossfoot export`: an adapter (of a run without lora: a whole model) from any checkpoint of a run.

In one process, without a launcher or a GPU: the base model is loaded into the memory of this machine in the
run's precision, what was trained is set to the checkpoint's values, and saved as at the end of a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from crossfoot.checkpoints.findings import no_such_checkpoint, not_readable, other_shapes, other_tensors
from crossfoot.checkpoints.manifest import Damaged, Manifest, verify_content
from crossfoot.checkpoints.store import Checkpoint, list_checkpoints
from crossfoot.data.saved_tokenizer import save_tokenizer
from crossfoot.data.templates import Template
from crossfoot.data.tiny_tokenizer import tiny_folder
from crossfoot.findings.finding import Refused
from crossfoot.models.adapt import prepare_training, table_names
from crossfoot.models.findings import export_taken, not_saved
from crossfoot.models.grow import grow_vocabulary
from crossfoot.models.load import LoadedModel, load_model
from crossfoot.models.parameters import give_values
from crossfoot.models.quiet import hush_libraries
from crossfoot.models.save import save_adapter
from crossfoot.models.start_values import stored_start
from crossfoot.models.stored import StoredTensors
from crossfoot.models.tiny_model import write_tiny_model
from crossfoot.models.trained_with import trained_with
from crossfoot.output import say, tell
from crossfoot.phrases import after_steps, said_by
from crossfoot.runs.attempts import lock_path, read_attempts
from crossfoot.runs.ending import read_lock
from crossfoot.runs.nearby import refuse_no_run
from crossfoot.runs.resume import of_another_run
from crossfoot.written.adapter_folder import adapter_unreadable, read_adapter
from crossfoot.written.config import Config
from crossfoot.written.model_facts import BUILTIN_TINY
from crossfoot.written.token_rows import token_rows


@dataclass(frozen=True)
class Source:
    """A checkpoint, and what it was trained with. engine: None where nobody has noted it. template: of the
    index, None where that is gone.
    """

    checkpoint: Checkpoint
    config: Config
    index_dir: str
    engine: str | None
    template: Template | None = None

    @property
    def model_path(self) -> str:
        """Folder or hub id of the base model."""
        path = self.config.model.path
        return tiny_folder(self.index_dir) if path == BUILTIN_TINY else path


def export(run_dir: str, out: str, step: int | None = None) -> int:
    """The verb; returns the exit code. step: whose checkpoint; None: the newest good one. Raises Refused."""
    if os.path.lexists(out) and (os.path.islink(out) or not os.path.isdir(out) or os.listdir(out)):
        raise Refused(export_taken(out))
    refuse_no_run(run_dir, "export", out, *(() if step is None else ("--step", str(step))))
    source = find_source(run_dir, step)
    hush_libraries()
    config, checkpoint = source.config, source.checkpoint
    what = "adapter" if config.lora else "model"
    tell(f"{checkpoint.folder}: loading {config.model.path} ...")
    model, loaded = load_trained(source)
    try:
        save_adapter(
            model,
            out,
            gather=False,
            loaded=loaded,
            add_tokenizer=lambda folder: save_tokenizer(config, source.index_dir, folder, source.template),
        )
    except (OSError, SafetensorError) as error:
        helps = ("name another folder, on a disk with room",)
        raise Refused(not_saved(what, out, said_by(error), (), helps)) from error
    say(f"{out}: the {what} {after_steps(checkpoint.step)}, from {checkpoint.folder}")
    return 0


def find_source(run_dir: str, step: int | None) -> Source:
    """The checkpoint of this step, or the newest good one, every byte compared with its checksum. Raises
    Refused (CF756; CF706 for a lock that cannot be read).
    """
    foreign = of_another_run(run_dir)
    notes: list[str] = []
    good = list_checkpoints(run_dir)
    for checkpoint in reversed(good):
        if step not in (None, checkpoint.step):
            continue
        problem = foreign.get(checkpoint.name) or _damage(checkpoint)
        if problem is None:
            return _source(run_dir, checkpoint)
        notes.append(f"{checkpoint.name}: {problem}")
        tell(f"{checkpoint.folder} is passed over: {problem}")
    there = [one.step for one in good if one.name not in foreign and step not in (None, one.step)]
    raise Refused(no_such_checkpoint(run_dir, step, there, tuple(notes)))


def load_trained(
    source: Source, load: Callable[..., LoadedModel] = load_model
) -> tuple[nn.Module, LoadedModel]:
    """The model as it was after the checkpoint's steps, on the CPU; what is not trained as `load` makes it.
    Raises Refused.
    """
    config, manifest = source.config, source.checkpoint.manifest
    if config.model.path == BUILTIN_TINY:
        write_tiny_model(source.model_path)
    loaded = load(config, source.model_path, vocabulary=0, zero_stage=0, deepspeed_config=None, report=tell)
    if (rows := _rows(manifest, table_names(loaded.model), config, loaded)) > loaded.vocabulary:
        grow_vocabulary(loaded.model, rows, None)
        loaded = replace(loaded, vocabulary=rows)
    # DeepSpeed trains in the model's precision beside a float32 master, accelerate in float32: saved at the
    # end of a run is what the forward uses.
    trained_dtype = None if source.engine == "deepspeed" else "float32"
    with _reading(source.checkpoint):
        start = stored_start(source.checkpoint)
    model = prepare_training(config, loaded, tell, trained_dtype=trained_dtype, start=start)
    _set_to(model, source.checkpoint)
    return model, loaded


def _damage(checkpoint: Checkpoint) -> str | None:
    try:
        verify_content(checkpoint.folder, checkpoint.manifest.files)
    except Damaged as damage:
        return str(damage)
    return None


def _source(run_dir: str, checkpoint: Checkpoint) -> Source:
    attempt = checkpoint.manifest.attempt
    lock: Mapping[str, Any] = read_lock(lock_path(run_dir, attempt))
    try:
        started = read_attempts(run_dir)
    except Refused:
        started = ()  # what the attempts noted is lost, and only the precision follows from it
    engines = [one.engine for one in started if one.attempt == attempt]
    told = trained_with(run_dir, lock, started)
    config = told.config
    if config.model.adapter_use == "merge":
        _refuse_other_adapter(config, lock)
    else:  # what was continued is in the checkpoint
        config = config.model_copy(update={"model": config.model.model_copy(update={"adapter": None})})
    return Source(checkpoint, config, told.index_dir, next(iter(engines), None), told.template)


def _refuse_other_adapter(config: Config, lock: Mapping[str, Any]) -> None:
    """Raises Refused when the adapter that was merged into the base is not there any more as it was."""
    adapter = read_adapter(config.model)
    if adapter is not None and adapter.identity != lock.get("adapter"):
        raise Refused(adapter_unreadable(adapter.path, "it has changed since this run was trained on it"))


def _rows(manifest: Manifest, tables: list[str], config: Config, loaded: LoadedModel) -> int:
    """Rows of the model's tables as the checkpoint has them; 0 when they were not trained."""
    if config.lora is not None and (named := config.lora.trainable_token_indices) is not None:
        trained = next(one.shape[0] for name, one in manifest.tensors.items() if ".token_adapter." in name)
        return token_rows(named, loaded.first_new, loaded.first_new + trained)[-1] + 1
    return max(
        (
            stored.shape[0]
            for name, stored in manifest.tensors.items()
            if len(stored.shape) == 2
            and name.endswith(".weight")
            and ".lora_" not in name
            and any(f"{table}." in name for table in tables)
        ),
        default=0,
    )


def _set_to(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Set what is trained to the checkpoint's values. Raises Refused where names or shapes differ."""
    name_of = checkpoint.name
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    stored = checkpoint.manifest.tensors
    if lacking := [name for name in trained if name not in stored]:
        raise Refused(other_tensors(f"trained in this run and not in {name_of}", lacking))
    differing = [
        (name, stored[name].shape, tuple(one.shape))
        for name, one in trained.items()
        if stored[name].shape != tuple(one.shape)
    ]
    if differing:
        raise Refused(other_shapes(name_of, differing))
    with _reading(checkpoint), StoredTensors(checkpoint) as tensors, torch.no_grad():
        for name, parameter in trained.items():
            value = tensors.read(name)
            assert value is not None
            give_values(parameter, value)


@contextmanager
def _reading(checkpoint: Checkpoint) -> Iterator[None]:
    """What the disk refuses inside is Refused."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = said_by(error) if isinstance(error, OSError) else str(error)
        raise Refused(not_readable(checkpoint.name, "this machine", reason)) from error
