"""What is asked: the run, the adapter or the model that a path names, and what it was trained with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossfoot.data.conversation import Columns
from crossfoot.data.special_text import SpecialText
from crossfoot.data.templates import BUILT_IN, TOKENIZERS, Template, built_in_of
from crossfoot.data.tiny_tokenizer import tiny_folder
from crossfoot.data.tokenizer import load_encoder, tokenizer_path
from crossfoot.data.tokenizer_files import TokenizerFiles, read_tokenizer_files
from crossfoot.data.tokenizer_settings import read_settings
from crossfoot.findings.finding import Refused
from crossfoot.generating.asking import Asking
from crossfoot.generating.findings import base_missing, no_template, nothing_to_ask
from crossfoot.models.export import Source, find_source
from crossfoot.models.tiny_model import write_tiny_model
from crossfoot.models.trained_with import trained_with
from crossfoot.phrases import after_steps, reason_of
from crossfoot.runs.attempts import read_attempts, run_lock_path
from crossfoot.runs.ending import read_lock
from crossfoot.runs.nearby import is_run, refuse_no_run
from crossfoot.written.adapter_folder import ADAPTER_CONFIG, ADAPTER_NAME, AdapterFolder, open_adapter
from crossfoot.written.hub import hub_model
from crossfoot.written.model_ends import read_model_ends
from crossfoot.written.model_facts import BUILTIN_TINY, CONFIG_JSON, model_folder, read_config_json

MODEL_NAME = "model"
"""The folder in a run's folder that holds the model of a run without lora."""
_KINDS = ("float32", "bfloat16", "float16")
_TOKENS = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True)
class Voice:
    """what: in words. base: folder or hub id of the model. dtype: that it was trained or saved in. adapters:
    on it, in the order in which they were trained. checkpoint: of a run, instead of those. tokenizer,
    index_dir, special_text, template, columns: as in training.
    """

    what: str
    base: str
    dtype: str
    tokenizer: str
    adapters: tuple[AdapterFolder, ...] = ()
    checkpoint: Source | None = None
    index_dir: str = ""
    special_text: SpecialText = "text"
    template: Template | None = None
    columns: Columns | None = None

    @property
    def base_folder(self) -> str:
        """Where the files of the model are."""
        return str(model_folder(self.base) or self.base)

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
            "step": self.checkpoint and self.checkpoint.checkpoint.step,
        }


def find_voice(path: str, step: int | None, base: str | None) -> Voice:
    """What `path` names. step: of a run's checkpoint. base: where the model of an adapter is now. Raises
    Refused: CF804, CF805, what runs and adapters are refused for.
    """
    above, name = os.path.split(os.path.abspath(path))
    if step is None and name in (ADAPTER_NAME, MODEL_NAME) and is_run(above):
        path = os.path.relpath(above) if not os.path.isabs(path) else above
    if is_run(path):
        return _of_run(path, step, base)
    if step is not None:
        refuse_no_run(path, "generate", "--step", str(step))
    if os.path.isfile(os.path.join(path, ADAPTER_CONFIG)):
        return _of_adapter(path, base)
    if path == BUILTIN_TINY or (not os.path.isdir(path) and hub_model(path) is None):
        why = "is a file, not a folder" if os.path.isfile(path) else "is not there"
        raise Refused(nothing_to_ask(path, why, "name the folder of a model, an adapter or a run"))
    folder = model_folder(path)
    if folder is None or not (folder / CONFIG_JSON).is_file():
        why = (
            f"has neither {CONFIG_JSON} nor {ADAPTER_CONFIG}"
            if folder
            else "is no folder here, and not in the cache of a hub"
        )
        raise Refused(nothing_to_ask(path, why, "name the folder of a model, an adapter or a run"))
    return Voice(path, path, _dtype_of(str(folder)), str(folder), template=_template_in(str(folder)))


def _of_run(run_dir: str, step: int | None, base: str | None) -> Voice:
    """What it has saved; before its end, and for a step, a checkpoint."""
    lock, started = read_lock(run_lock_path(run_dir)), read_attempts(run_dir)
    told = trained_with(run_dir, lock, started)
    config, index_dir, template = told.config, told.index_dir, told.template
    if template is None and config.data.task == "sft" and config.data.template in BUILT_IN:
        template = Template(config.data.template, system=config.data.system_prompt)
    own = base or config.model.path
    if own == BUILTIN_TINY:
        own = str(write_tiny_model(tiny_folder(index_dir)))
    voice = Voice(
        run_dir,
        own,
        config.model.dtype,
        tokenizer_path(config),
        index_dir=index_dir,
        special_text=config.data.special_text,
        template=template,
        columns=config.data.field_names,
    )
    saved = os.path.join(run_dir, ADAPTER_NAME if config.lora else MODEL_NAME)
    if step is None and os.path.isdir(saved) and not config.lora:
        return replace(voice, what=saved, base=saved)
    if step is None and os.path.isdir(saved):
        _refuse_missing(saved, own)
        return replace(voice, what=saved, adapters=tuple(_chain(open_adapter(saved))))
    source = find_source(run_dir, step)
    if base is not None:
        section = source.config.model.model_copy(update={"path": base})
        source = replace(source, config=source.config.model_copy(update={"model": section}))
    _refuse_missing(run_dir, own)
    what = f"{run_dir} {after_steps(source.checkpoint.step)}"
    return replace(voice, what=what, checkpoint=source)


def _of_adapter(path: str, base: str | None) -> Voice:
    adapters = tuple(_chain(open_adapter(path)))
    named = base or str(adapters[-1].values.get("base_model_name_or_path") or "")
    _refuse_missing(path, named)
    folder = str(model_folder(named))
    is_whole = any(os.path.isfile(os.path.join(path, name)) for name in _TOKENS)
    words = path if is_whole else folder
    return Voice(path, named, _dtype_of(folder), words, adapters, template=_template_in(words))


def _refuse_missing(adapter: str, base: str) -> None:
    folder = model_folder(base) if base else None
    if folder is None or not (folder / CONFIG_JSON).is_file():
        raise Refused(base_missing(adapter, base))


def _chain(adapter: AdapterFolder) -> Iterator[AdapterFolder]:
    """The adapters that this one stands on, the first of them in front."""
    if adapter.merged_first:
        yield from _chain(open_adapter(adapter.merged_first))
    yield adapter


def _dtype_of(folder: str) -> str:
    """What a config.json says its weights are in; float32 where it says nothing that is known."""
    try:
        values = read_config_json(Path(folder))
    except ValueError:
        return "float32"  # what is wrong with it is said as it is loaded
    said = values.get("dtype") or values.get("torch_dtype")
    return str(said) if said in _KINDS else "float32"


def _template_in(folder: str) -> Template | None:
    """The chat_template in a folder; None where there is none."""
    files = TokenizerFiles(folder)
    with suppress(Exception):  # what is wrong with the tokenizer is said as it is loaded
        files = read_tokenizer_files(folder)
    if files.chat_template is None:
        return None
    return built_in_of(files.chat_template.text) or _jinja(folder, files.chat_template.text)


def _jinja(folder: str, source: str) -> Template:
    tokens = tuple((name, token["content"]) for name, token in read_settings(folder).named.items())
    return Template(TOKENIZERS, source, tokens, tuple(sorted(read_tokenizer_files(folder).special)))


def asking(voice: Voice, template: str | None, system: str | None) -> Asking:
    """How it is asked. template, system: of the command line, instead of its own. Raises Refused: CF806, and
    for a tokenizer that cannot be loaded.
    """
    encoder = load_encoder(voice.tokenizer, voice.index_dir, special_text=voice.special_text)
    chosen = voice.template if template is None else _named_template(voice, template)
    if chosen is not None and system is not None:
        chosen = replace(chosen, system=system)
    is_model = voice.checkpoint is None and not voice.adapters
    ends = read_model_ends(voice.base).end_ids.values() if is_model else ()
    return Asking(encoder, chosen, tuple(number for ids in ends for number in ids))


def _named_template(voice: Voice, name: str) -> Template:
    folder = voice.tokenizer
    if name in BUILT_IN:
        return Template(name)
    if name == TOKENIZERS:
        if (own := _template_in(str(model_folder(folder) or folder))) is None:
            raise Refused(no_template("--template tokenizer", f"{folder} has no chat_template"))
        return own
    try:
        with open(name, encoding="utf-8") as stream:
            return _jinja(str(model_folder(folder) or folder), stream.read())
    except (OSError, ValueError) as error:
        raise Refused(no_template(f"--template {name}", reason_of(error))) from error
