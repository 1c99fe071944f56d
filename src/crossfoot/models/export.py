"""`crossfoot export`: an adapter (of a run without lora: a whole model) from any checkpoint of a run.

In one process, without a launcher or a GPU: the base model is loaded into the memory of this machine in the
run's precision, what was trained is set to the checkpoint's values, and saved as at the end of a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from safetensors import SafetensorError
from torch import nn

from crossfoot.checkpoints.findings import not_readable
from crossfoot.checkpoints.manifest import Manifest
from crossfoot.checkpoints.store import Checkpoint
from crossfoot.data.saved_tokenizer import save_tokenizer
from crossfoot.findings.finding import Refused
from crossfoot.model_source.findings import other_base
from crossfoot.model_source.source import ModelSource, checkpoint_source
from crossfoot.model_source.trained_run import TrainedRun
from crossfoot.models.adapt import prepare_training, table_names
from crossfoot.models.findings import export_taken, not_saved
from crossfoot.models.grow import grow_vocabulary
from crossfoot.models.load import LoadedModel, load_model
from crossfoot.models.parameters import give_values
from crossfoot.models.quiet import hush_libraries
from crossfoot.models.save import save_adapter
from crossfoot.models.start_values import stored_start
from crossfoot.models.stored import StoredTensors
from crossfoot.models.tiny_model import tiny_written
from crossfoot.output import say, tell
from crossfoot.phrases import after_steps, said_by
from crossfoot.runs.nearby import refuse_no_run
from crossfoot.written.config import Config
from crossfoot.written.token_rows import token_rows


def export(run_dir: str, out: str, step: int | None = None, base: str | None = None) -> int:
    """The verb; returns the exit code. step: whose checkpoint; None: the newest good one. base: where the
    base model is now. Raises Refused.
    """
    if os.path.lexists(out) and (os.path.islink(out) or not os.path.isdir(out) or os.listdir(out)):
        raise Refused(export_taken(out))
    refuse_no_run(run_dir, "export", out, *(() if step is None else ("--step", str(step))))
    source = tiny_written(checkpoint_source(run_dir, "export", step=step, base=base))
    hush_libraries()
    run, checkpoint = trained(source)
    what = "adapter" if run.config.lora else "model"
    tell(f"{checkpoint.folder}: loading {run.config.model.path} ...")
    model, loaded = load_trained(source)
    try:
        save_adapter(
            model,
            out,
            gather=False,
            loaded=loaded,
            add_tokenizer=lambda folder: save_tokenizer(run.config, run.index_dir, folder, run.template),
        )
    except (OSError, SafetensorError) as error:
        helps = ("name another folder, on a disk with room",)
        raise Refused(not_saved(what, out, said_by(error), (), helps)) from error
    say(f"{out}: the {what} {after_steps(checkpoint.step)}, from {checkpoint.folder}")
    return 0


def trained(source: ModelSource) -> tuple[TrainedRun, Checkpoint]:
    """The run and the checkpoint of a source that is a checkpoint."""
    assert source.run is not None and source.checkpoint is not None
    return source.run, source.checkpoint


def load_trained(
    source: ModelSource, load: Callable[..., LoadedModel] = load_model
) -> tuple[nn.Module, LoadedModel]:
    """The model as it was after the steps of the source's checkpoint, on the CPU; what is not trained as
    `load` makes it. Raises Refused.
    """
    run, checkpoint = trained(source)
    config, manifest = run.config, checkpoint.manifest
    loaded = load(config, run.base, vocabulary=0, zero_stage=0, deepspeed_config=None, report=tell)
    if (rows := _rows(manifest, table_names(loaded.model), config, loaded)) > loaded.vocabulary:
        grow_vocabulary(loaded.model, rows, None)
        loaded = replace(loaded, vocabulary=rows)
    # DeepSpeed trains in the model's precision beside a float32 master, accelerate in float32: saved at the
    # end of a run is what the forward uses.
    trained_dtype = None if run.engine == "deepspeed" else "float32"
    with _reading(checkpoint):
        start = stored_start(checkpoint)
    model = prepare_training(config, loaded, tell, trained_dtype=trained_dtype, start=start)
    _set_to(model, checkpoint)
    return model, loaded


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
    """Set what is trained to the checkpoint's values. Raises Refused (CF772) where names or shapes differ:
    the config is the run's own, so it is the base that does.
    """
    folder = str(checkpoint.folder)
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    stored = checkpoint.manifest.tensors
    if lacking := [name for name in trained if name not in stored]:
        why = f"{lacking[0]} would be trained on it, and is not in the checkpoint"
        raise Refused(other_base(folder, why))
    for name, one in trained.items():
        if stored[name].shape != tuple(one.shape):
            why = (
                f"{name} is {list(stored[name].shape)} in the checkpoint, and {list(one.shape)} on this base"
            )
            raise Refused(other_base(folder, why))
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
