"""What a run hands over at its end, an adapter or a whole model: whether it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossfoot.runs.dry_run import is_dry_run
from crossfoot.runs.ending import AS_WISHED, Ending
from crossfoot.runs.run_folder import ADAPTER_NAME, MODEL_NAME

_LENGTH_BYTES = 8
_LARGEST_HEADER_BYTES = 100_000_000
"""As the safetensors library bounds it."""


def result_path(run_dir: str, config: Mapping[str, Any]) -> str:
    """Where the run of this config saves what it has trained."""
    return os.path.join(run_dir, ADAPTER_NAME if config.get("lora") else MODEL_NAME)


def is_whole(folder: str) -> bool:
    """Whether a folder holds a saved adapter or model, with files of weights that are as long as they say."""
    names = ("adapter_config.json", "config.json")
    weights = sorted(Path(folder).glob("*.safetensors"))
    return (
        bool(weights)
        and all(map(_is_whole_file, weights))
        and any(os.path.isfile(os.path.join(folder, name)) for name in names)
    )


def missing_result(run_dir: str, config: Mapping[str, Any], ending: Ending | None) -> str | None:
    """Why a run whose steps are all done has not handed over what it trained; None when it has, or is not
    meant to. ending: of its last attempt.
    """
    if is_dry_run(run_dir) or (ending is not None and ending.reason not in AS_WISHED):
        return None
    if ending is not None and ending.saved_path is None and not ending.exit_code:
        return None  # it was not meant to save anything
    what, path = "adapter" if config.get("lora") else "model", result_path(run_dir, config)
    if ending is None:
        return f"the {what} is not saved: the run was killed before its end, or is still at it"
    if ending.saved_path is None:
        return f"the {what} could not be saved when the run ended"
    return None if is_whole(path) else f"the {what} is not there any more, or not whole: {path}"


def _is_whole_file(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says: 8 bytes with the length of the header, the
    header, the tensors.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > _LARGEST_HEADER_BYTES:
                return False
            header = json.loads(file.read(length))
            size = os.fstat(file.fileno()).st_size
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(size == _LENGTH_BYTES + length + max(ends, default=0))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return False
