"""The tokenizer beside what was trained: its files, the chat template that was trained, the end token
that was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from crossfoot.data.plain_ids import PlainIds, plain_ids
from crossfoot.data.template_source import built_in_template
from crossfoot.data.templates import Template
from crossfoot.data.tokenizer import CHAT_TEMPLATE, copy_tokenizer, load_encoder, local_folder, tokenizer_path
from crossfoot.data.tokenizer_files import TokenizerFiles, read_tokenizer_files
from crossfoot.data.tokenizer_settings import read_object
from crossfoot.findings.finding import Refused
from crossfoot.written.config import Config

MODEL_CONFIGS = ("config.json", "generation_config.json")


def save_tokenizer(
    config: Config, index_dir: str, destination: str, template: Template | None = None
) -> PlainIds | None:
    """Put the tokenizer into a folder that holds an adapter or a model. After sft it asks by the template
    that was trained (template: of the index; None: not known, unless it is built in), whatever the
    tokenizer's own one is; a model in the folder ends its texts with the token that was trained. Returns
    how plain Python makes the ids that were trained, None where the tokenizer cannot be loaded any more.

    Raises OSError when the tokenizer is gone or the folder cannot be written.
    """
    path = tokenizer_path(config)
    copy_tokenizer(path, index_dir, destination)
    folder = local_folder(path, index_dir, may_write=False) or path
    files, encoder = TokenizerFiles(folder), None
    with suppress(Exception):  # what was trained is saved all the same, beside files that nobody can read
        files = read_tokenizer_files(folder)
    with suppress(Refused):
        encoder = load_encoder(path, index_dir, special_text=config.data.special_text)
    template = template or built_in_template(config.data)
    if template is not None:
        parted = encoder is None or template.is_parted(encoder.encode)
        text = template.chat_template(begins=files.begin is not None, parted=parted)
        write_chat_template(destination, text)
    elif os.path.isfile(own := os.path.join(folder, CHAT_TEMPLATE)):
        shutil.copyfile(own, os.path.join(destination, CHAT_TEMPLATE))
    if files.end is not None:
        end = files.end.id
        for name in MODEL_CONFIGS:
            _change(destination, name, "eos_token_id", lambda ids: with_end(ids, end))
    return None if encoder is None else plain_ids(encoder, config, index_dir, destination, template)


def write_chat_template(folder: str, text: str) -> None:
    """Where transformers looks for it: in a file of its own, and in the settings that have one."""
    with open(os.path.join(folder, CHAT_TEMPLATE), "w", encoding="utf-8") as stream:
        stream.write(text)
    _change(folder, "tokenizer_config.json", "chat_template", lambda _: text)


def with_end(ids: Any, end: int) -> Any:
    """An eos_token_id, one number or a list, with the end token in it: in front when it is new."""
    listed = ids if isinstance(ids, list) else [ids]
    if end in listed:
        return ids
    return [end, *listed] if ids is not None else end


def _change(folder: str, name: str, key: str, change: Callable[[Any], Any]) -> None:
    """Change what a JSON file says under a key that it has; a file without it stays as it is, byte for byte.
    So does one that is no JSON object.
    """
    values: dict[str, Any] = {}
    with suppress(ValueError):
        values = read_object(folder, name)
    if key not in values or (changed := change(values[key])) == values[key]:
        return
    with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
        json.dump({**values, key: changed}, stream, ensure_ascii=False, indent=2)
        stream.write("\n")
