"""What is merged: a base model and the adapters on it, of a run or of a folder that peft wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crossfoot.checkpoints.store import list_checkpoints
from crossfoot.data.tiny_tokenizer import tiny_folder
from crossfoot.findings.finding import Refused
from crossfoot.findings.formats import show
from crossfoot.index.store import DataIndex
from crossfoot.models.export import Source, find_source, load_trained
from crossfoot.models.load import LoadedModel, read_model_config
from crossfoot.models.merge_findings import (
    base_has_changed,
    base_not_here,
    not_mergeable,
    nothing_to_merge,
    other_base,
)
from crossfoot.models.merge_stages import without_values
from crossfoot.models.parameters import is_tied, rows_of
from crossfoot.models.save import save_adapter
from crossfoot.models.tiny_model import write_tiny_model
from crossfoot.models.trained_with import trained_with
from crossfoot.phrases import after_steps
from crossfoot.receipts.run_promise import find_index
from crossfoot.runs.attempts import read_attempts, run_lock_path
from crossfoot.runs.ending import read_lock
from crossfoot.runs.nearby import is_run, refuse_no_run
from crossfoot.shell_words import quoted_path
from crossfoot.written.adapter_folder import (
    ADAPTER_CONFIG,
    ADAPTER_NAME,
    AdapterFolder,
    open_adapter,
    read_adapter,
)
from crossfoot.written.config import Config
from crossfoot.written.model_facts import BUILTIN_TINY, CONFIG_JSON, model_folder, weight_marks

_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""How init_lora_weights begins, where peft changes the base as it makes the adapter."""
_UNREAD = (
    *("lora_bias", "layer_replication", "target_parameters"),
    *("alora_invocation_tokens", "use_qalora", "megatron_config"),
)
"""Keys of adapter_config.json that ask for more than a merge of layers does."""


@dataclass(frozen=True)
class MergedRun:
    """What a run was trained with. index: None where it is gone."""

    config: Config
    index_dir: str
    index: DataIndex | None


@dataclass(frozen=True)
class MergeSource:
    """adapters: in the order in which they were trained. base: folder or hub id. dtype: that the base had in
    training; None: not known. run: with the tokenizer and the texts; None for a folder of other tools. what:
    in words.
    """

    adapters: tuple[AdapterFolder, ...]
    base: str
    dtype: str | None
    run: MergedRun | None
    what: str


def open_source(path: str, step: int | None, base: str | None, work: str) -> MergeSource:
    """What `path` names. base: instead of what it says itself. work: an empty folder, for the adapter of a
    checkpoint. Raises Refused.
    """
    if is_run(path):
        return _of_run(path, step, base, work)
    if step is not None:
        raise Refused(nothing_to_merge(path, "is no run, so that it has no steps", "leave out --step"))
    if not os.path.isdir(path):
        refuse_no_run(path, "merge", "OUT")
    if not os.path.isfile(os.path.join(path, ADAPTER_CONFIG)):
        is_model = os.path.isfile(os.path.join(path, CONFIG_JSON))
        why = "is a whole model already" if is_model else f"has no {ADAPTER_CONFIG}"
        raise Refused(nothing_to_merge(path, why))
    adapters = tuple(_chain(open_adapter(path)))
    named = base or str(adapters[0].values.get("base_model_name_or_path") or "")
    return MergeSource(adapters, named, None, None, f"the adapter {path}")


def _of_run(run_dir: str, step: int | None, base: str | None, work: str) -> MergeSource:
    """The newest good checkpoint of a run, or that of a step; where there is none, the adapter that it
    saved.
    """
    run = _merged_run(run_dir)
    config = run.config
    if config.lora is None:
        whole = f"crossfoot export {quoted_path(run_dir)} OUT"
        raise Refused(nothing_to_merge(run_dir, "trained the whole model", f"write that: {whole}"))
    own = tiny_folder(run.index_dir) if config.model.path == BUILTIN_TINY else config.model.path
    if base is None and config.model.path == BUILTIN_TINY:
        write_tiny_model(own)
    named = base or own
    folder = require_base(run_dir, named)
    _compare_base(run_dir, folder, is_named=base is not None)
    saved = os.path.join(run_dir, ADAPTER_NAME)
    what = run_dir
    if step is None and not list_checkpoints(run_dir) and os.path.isdir(saved):
        work = saved
    else:
        source = find_source(run_dir, step)
        what += f" {after_steps(source.checkpoint.step)}"
        _write_adapter(source, named, work)
    *before, adapter = _chain(open_adapter(work))
    adapters = (*before, replace(adapter, path=what))
    return MergeSource(adapters, named, config.model.dtype, run, what)


def _merged_run(run_dir: str) -> MergedRun:
    lock = read_lock(run_lock_path(run_dir))
    attempts = read_attempts(run_dir)
    told = trained_with(run_dir, lock, attempts)
    return MergedRun(told.config, told.index_dir, find_index(run_dir, lock, attempts))


def _compare_base(run_dir: str, folder: Path, is_named: bool) -> None:
    """Hold a base's weights against those that the run began with. Raises Refused."""
    noted = next((one.base for one in read_attempts(run_dir) if one.base), {})
    marks = weight_marks(folder) if noted else {}
    if other := [name for name in noted if marks.get(name) != noted[name]]:
        finding = base_has_changed(run_dir, str(folder), other, is_named)
        if not is_named:
            raise Refused(finding)
        show([finding])


def require_base(path: str, base: str) -> Path:
    """The folder of a base model. Raises Refused."""
    folder = model_folder(base) if base else None
    if folder is None or not (folder / CONFIG_JSON).is_file():
        raise Refused(base_not_here(path, base))
    return folder


def _write_adapter(run: Source, base: str, folder: str) -> None:
    """The adapter of a checkpoint, in peft's form; the base it stands on is not loaded."""

    def shapes(config: Config, path: str, *_: Any, **__: Any) -> LoadedModel:
        first = read_adapter(config.model)
        model = without_values(read_model_config(base), 0 if first is None else first.needed_rows)
        rows = rows_of(model.get_input_embeddings())
        return LoadedModel(model, path, rows, rows, is_tied(model), 0, use_cache=True, merged_first=first)

    if run.config.lora is not None and run.config.lora.changes_base:  # a plain one is worked out of the base
        model, loaded = load_trained(run)
    else:
        with torch.device("meta"):
            model, loaded = load_trained(run, shapes)
    save_adapter(model, folder, gather=False, loaded=loaded)


def _chain(adapter: AdapterFolder) -> Iterator[AdapterFolder]:
    """The adapters that this one stands on, the first of them in front. Raises Refused."""
    why = next(_unmergeable(adapter), None)
    if why is not None:
        raise Refused(not_mergeable(adapter, why))
    if before := adapter.merged_first:
        earlier = open_adapter(before)
        if not adapter.stands_on(earlier):
            raise Refused(other_base(adapter, f"{before} has changed since this one was trained on it"))
        yield from _chain(earlier)
    yield adapter


def _unmergeable(adapter: AdapterFolder) -> Iterator[str]:
    values = adapter.values
    if (kind := values.get("peft_type")) != "LORA":
        yield f"it is {kind or 'of no kind that it names'}, not LORA"
        return
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OTHER_BASE):
        yield f"{start} changed its base when it began"
    if values.get("bias", "none") != "none":
        yield "it holds biases of the base too"
    yield from (f"its {key} is not known here" for key in _UNREAD if values.get(key))
