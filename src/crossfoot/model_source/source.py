"""What a path names, for every verb that takes a model: one answer, and one set of refusals."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crossfoot.checkpoints.store import Checkpoint, list_checkpoints
from crossfoot.data.conversation import Columns
from crossfoot.data.special_text import SpecialText
from crossfoot.data.template_source import template_in
from crossfoot.data.templates import Template
from crossfoot.data.tiny_tokenizer import tiny_folder
from crossfoot.data.tokenizer import VOCABULARIES, tokenizer_path
from crossfoot.findings.finding import Refused
from crossfoot.findings.formats import in_colour
from crossfoot.findings.render import render
from crossfoot.model_source.adapters import base_of, chain_of, require_base
from crossfoot.model_source.findings import base_has_changed, no_model
from crossfoot.model_source.trained_run import TrainedRun, find_checkpoint, read_trained_run
from crossfoot.output import tell
from crossfoot.phrases import after_steps
from crossfoot.runs.nearby import is_run, runs_near
from crossfoot.runs.run_folder import MODEL_NAME
from crossfoot.shell_words import quoted_path
from crossfoot.written.adapter_folder import ADAPTER_CONFIG, ADAPTER_NAME, AdapterFolder, open_adapter
from crossfoot.written.dtypes import DTYPES
from crossfoot.written.hub import hub_model
from crossfoot.written.model_facts import (
    BUILTIN_TINY,
    CONFIG_JSON,
    model_folder,
    read_config_json,
    weight_marks,
)

Kind = Literal["run", "adapter", "model"]


@dataclass(frozen=True)
class Named:
    """What a path names, without a look into it. run_dir: the run, or the one that has saved this adapter or
    model; "" of others.
    """

    kind: Kind
    path: str
    run_dir: str = ""


@dataclass(frozen=True)
class ModelSource:
    """A model, and all that is known of it without torch. what: in words. base: folder or hub id of the
    weights. adapters: on it, in the order in which they were trained. checkpoint: of the run, in place of the
    last of them (of a run without lora: of the weights). tokenizer: folder or hub id. template: None where
    there is none, or nobody knows it. run: that trained it.
    """

    what: str
    base: str
    tokenizer: str
    template: Template | None = None
    adapters: tuple[AdapterFolder, ...] = ()
    checkpoint: Checkpoint | None = None
    run: TrainedRun | None = None

    @property
    def is_adapted(self) -> bool:
        """Whether it is a base with adapters, not a whole model."""
        has_lora = self.run is not None and self.run.config.lora is not None
        return bool(self.adapters) or (self.checkpoint is not None and has_lora)

    @property
    def is_tiny(self) -> bool:
        """Whether its base is builtin:tiny, which is written when it is needed."""
        return self.run is not None and self.base == tiny_folder(self.run.index_dir)

    @property
    def base_folder(self) -> str:
        """Where the files of the base are."""
        return str(model_folder(self.base) or self.base)

    @property
    def trained_dtype(self) -> str | None:
        """What the base was in when it was trained on; None: not known."""
        return None if self.run is None else self.run.config.model.dtype

    @property
    def dtype(self) -> str:
        """What it was trained in; where that is not known, what the base's config.json says it is in."""
        return self.trained_dtype or _dtype_of(self.base_folder)

    @property
    def index_dir(self) -> str:
        """Where the run's index lies, or lay; "" without a run."""
        return "" if self.run is None else self.run.index_dir

    @property
    def special_text(self) -> SpecialText:
        """What a special token in a text is, as in training."""
        return "text" if self.run is None else self.run.config.data.special_text

    @property
    def columns(self) -> Columns:
        """Names of fields in records, as in training."""
        return {} if self.run is None else self.run.config.data.field_names

    @property
    def mark(self) -> dict[str, Any]:
        """What tells these weights from others: by name, size and time, and an adapter's by sha256."""
        folder = self.base_folder
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        stats = {name: os.stat(os.path.join(folder, name)) for name in names if ".safetensors" in name}
        return {
            "what": self.what,
            "base": [folder, *([name, one.st_size, one.st_mtime_ns] for name, one in stats.items())],
            "adapters": [one.identity for one in self.adapters],
            "step": self.checkpoint and self.checkpoint.step,
        }


def find_named(path: str, does: str, step: int | None = None) -> Named:
    """The run, the adapter or the model of a path. does: the verb, as in "nothing to merge". step: of a run.
    Raises Refused (CF759).
    """
    if is_run(path):
        return Named("run", path, path)
    folder = model_folder(path)
    if step is None:
        above = os.path.dirname(os.path.normpath(path)) or os.path.relpath(os.path.join(path, os.pardir))
        name = os.path.basename(os.path.abspath(path))
        run_dir = above if name in (ADAPTER_NAME, MODEL_NAME) and is_run(above) else ""
        if os.path.isfile(os.path.join(path, ADAPTER_CONFIG)):
            return Named("adapter", path, run_dir)
        if folder is not None and (folder / CONFIG_JSON).is_file():
            return Named("model", path, run_dir)
    near = runs_near(path)
    helps = near.helps(quoted_path)
    if step is not None:
        why = "is no run, so that it has no steps"
        raise Refused(no_model(path, does, why, *(helps or ("leave out --step",))))
    why = f"has neither {CONFIG_JSON} nor {ADAPTER_CONFIG}"
    if folder is None:
        is_id = hub_model(path) is not None
        why = "is no folder here, and not in the cache of a hub" if is_id else "is not there"
        why = "is a file, not a folder" if os.path.isfile(path) else why
    raise Refused(no_model(path, does, why, *helps, notes=near.notes))


def find_model(
    path: str, does: str, *, step: int | None = None, base: str | None = None, from_checkpoint: bool = False
) -> ModelSource:
    """What `path` names. step: of a run's checkpoint. base: where the base is now. from_checkpoint: of a run
    without --step its newest good checkpoint, where it has any, not what it saved. Raises Refused: CF759,
    CF769, CF772, what runs, checkpoints and adapters are refused for.
    """
    here = find_named(path, does, step)
    if here.kind == "run":
        run = read_trained_run(path)
        has_checkpoint = from_checkpoint and list_checkpoints(path)
        saved = None if step is not None or has_checkpoint else run.saved
        if saved is None:
            return checkpoint_source(path, does, step=step, base=base)
        return _saved_source(run, saved, does, base)
    if here.run_dir and (known := _run_of(here)) is not None:
        return _saved_source(known, path, does, base)
    if here.kind == "adapter":
        return _adapter_source(path, base, does)
    folder = str(model_folder(path))
    return ModelSource(path, path, folder, template_in(folder))


def checkpoint_source(
    run_dir: str, does: str, *, step: int | None = None, base: str | None = None
) -> ModelSource:
    """A run's checkpoint of this step, or its newest good one. Raises as `find_model`."""
    checkpoint = find_checkpoint(run_dir, step)
    run = read_trained_run(run_dir, checkpoint.manifest.attempt).on(base).at(checkpoint)
    what = f"{run_dir} {after_steps(checkpoint.step)}"
    _require_base(run, run_dir, does, is_named=base is not None)
    return _of_run(run, what, run.base, checkpoint=checkpoint)


def refuse_missing_base(path: str, does: str) -> None:
    """Raises Refused where the base of a run or an adapter is not here, or an adapter that was merged into it
    has changed: CF070, CF769, CF772.
    """
    here = find_named(path, does)
    if here.kind == "run":
        _require_base(read_trained_run(path), path, does, is_named=False)
    elif here.kind == "adapter":
        _adapter_source(path, None, does)


def _require_base(run: TrainedRun, what: str, does: str, is_named: bool) -> None:
    """With the weights that the run began with, unless others are named."""
    if run.config.model.path == BUILTIN_TINY:
        return
    folder = require_base(what, run.base, does, is_named)
    noted = next((one.base for one in run.attempts if one.base), {})
    marks = weight_marks(folder) if noted else {}
    if other := [name for name in noted if marks.get(name) != noted[name]]:
        finding = base_has_changed(run.run_dir, str(folder), other, is_named)
        if not is_named:
            raise Refused(finding)
        tell(render([finding], in_colour()))


def _run_of(saved: Named) -> TrainedRun | None:
    """The run that has saved an adapter or a model; None where its papers cannot be read, or it saves the
    other of the two: what it has saved stands without it too.
    """
    with suppress(Refused):
        run = read_trained_run(saved.run_dir)
        return run if (saved.kind == "adapter") is (run.config.lora is not None) else None
    return None


def _saved_source(run: TrainedRun, saved: str, does: str, base: str | None) -> ModelSource:
    """What a run has saved in this folder."""
    run = run.on(base)
    if run.config.lora is None:
        return _of_run(run, saved, saved)
    adapters = chain_of(open_adapter(saved))
    _require_base(run, saved, does, is_named=base is not None)
    return _of_run(run, saved, run.base, adapters)


def _of_run(
    run: TrainedRun,
    what: str,
    base: str,
    adapters: tuple[AdapterFolder, ...] = (),
    checkpoint: Checkpoint | None = None,
) -> ModelSource:
    return ModelSource(what, base, tokenizer_path(run.config), run.template, adapters, checkpoint, run)


def _adapter_source(path: str, base: str | None, does: str) -> ModelSource:
    adapters = chain_of(open_adapter(path))
    named = base or base_of(adapters)
    require_base(path, named, does, base is not None)
    has_tokenizer = any(os.path.isfile(os.path.join(path, name)) for name in VOCABULARIES)
    tokenizer = path if has_tokenizer else str(model_folder(named))
    return ModelSource(path, named, tokenizer, template_in(tokenizer), adapters)


def _dtype_of(folder: str) -> str:
    """What a config.json says its weights are in; float32 where it says nothing that is known."""
    try:
        values = read_config_json(Path(folder))
    except ValueError:
        return "float32"  # what is wrong with it is said as it is loaded
    said = values.get("dtype") or values.get("torch_dtype")
    return str(said) if said in DTYPES else "float32"
