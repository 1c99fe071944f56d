"""Which tokens a model's own files begin and end a text with: config.json and generation_config.json,
read without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crossfoot.written.model_facts import model_folder

CONFIG, GENERATION = "config.json", "generation_config.json"
"""Generation ends by the second where that is there, else by the first."""


@dataclass(frozen=True)
class ModelEnds:
    """end_ids: by file, for each that names some. begin_id: of config.json."""

    end_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    begin_id: int | None = None


def read_model_ends(path: str) -> ModelEnds:
    """Of a model in a folder, or of a hub id in the local cache; nothing for a file that is not there, or
    is no JSON object (which is said of the model).
    """
    values = {name: _values(path, name) for name in (CONFIG, GENERATION)}
    ends = {name: _ids(one.get("eos_token_id")) for name, one in values.items()}
    begin = _ids(values[CONFIG].get("bos_token_id"))
    return ModelEnds({name: ids for name, ids in ends.items() if ids}, begin[0] if begin else None)


def _values(path: str, name: str) -> dict[str, Any]:
    folder = model_folder(path)
    try:
        with open(folder / name if folder is not None else "", encoding="utf-8") as stream:
            values = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    text = values.get("text_config")
    return {**values, **text} if isinstance(text, dict) else values


def _ids(value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(one for one in listed if isinstance(one, int) and not isinstance(one, bool))
