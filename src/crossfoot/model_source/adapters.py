"""What an adapter stands on: the adapters before it, and the base model, wherever that lies now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from crossfoot.documents import Malformed, read_object
from crossfoot.findings.finding import Refused
from crossfoot.model_source.findings import base_not_here, other_base
from crossfoot.written.adapter_folder import BASE_NAME, AdapterFolder, open_adapter
from crossfoot.written.model_facts import CONFIG_JSON, model_folder

_LEVELS_ABOVE = 4
"""From RUN_DIR/adapter: the run, its parent (runs/), and the folder that it was most likely started in."""


def chain_of(adapter: AdapterFolder) -> tuple[AdapterFolder, ...]:
    """The adapters that this one stands on, the first of them in front, and itself. Raises Refused (CF070,
    CF772).
    """
    if not adapter.merged_first:
        return (adapter,)
    try:
        noted = read_object(os.path.join(adapter.folder, BASE_NAME))
    except (OSError, Malformed):
        noted = {}
    before = adapter_as_it_was(adapter.merged_first, noted, adapter.path)
    return (*chain_of(before), adapter)


def adapter_as_it_was(path: str, noted: Mapping[str, object], who: str) -> AdapterFolder:
    """The adapter that was merged into a base before something was trained on it. noted: its identity then.
    who: that, in words. Raises Refused: CF070, CF772 where it is another one by now.
    """
    adapter = open_adapter(path)
    if {key: noted.get(key) for key in adapter.identity} != adapter.identity:
        why = f"{path}, which was merged into its base before, has changed since this one was trained"
        raise Refused(other_base(who, why, f"put {path} back as it was then"))
    return adapter


def base_of(adapters: tuple[AdapterFolder, ...]) -> str:
    """The model that a chain of adapters names as its base, as it is found now; "" where it names none."""
    first = adapters[0]
    return found_from(str(first.values.get("base_model_name_or_path") or ""), first.folder)


def found_from(path: str, folder: str) -> str:
    """A path, as it is where it names a model or a folder from here; a relative one that does not, from the
    folders that `folder` lies in, where just one of them has it.
    """
    if not path or os.path.isabs(path) or ":" in path or model_folder(path) is not None:
        return path
    found = _seen_from(path, folder)
    return found[0] if len(found) == 1 else path


def _seen_from(path: str, folder: str) -> list[str]:
    """The folders of this relative path, from `folder` and from those that it lies in."""
    found: dict[str, str] = {}
    above = Path(os.path.abspath(folder))
    for start in (above, *list(above.parents)[:_LEVELS_ABOVE]):
        if (candidate := start / path).is_dir():
            found.setdefault(os.path.realpath(candidate), str(candidate))
    return list(found.values())


def require_base(path: str, base: str, does: str, is_named: bool = False) -> Path:
    """The folder of a base model. is_named: on the command line. Raises Refused (CF769) where that of `path`
    is not here.
    """
    folder = model_folder(base) if base else None
    if folder is None or not (folder / CONFIG_JSON).is_file():
        meant = [] if not base or os.path.isabs(base) else _seen_from(base, path)
        raise Refused(base_not_here(path, base, does, meant, is_named))
    return folder
