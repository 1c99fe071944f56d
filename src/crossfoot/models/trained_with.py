"""What a run was trained with, from its lock and its attempts: for whoever makes or asks its model later."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from crossfoot.data.templates import Template
from crossfoot.index.store import IndexDamaged, read_header
from crossfoot.receipts.run_promise import index_dirs
from crossfoot.runs.attempts import Attempt
from crossfoot.written.config import Config
from crossfoot.written.paths import with_homes


@dataclass(frozen=True)
class TrainedWith:
    """index_dir: where the index lies, or lay. template: of the index, None where that is gone."""

    config: Config
    index_dir: str
    template: Template | None


def trained_with(run_dir: str, lock: Mapping[str, Any], attempts: Sequence[Attempt]) -> TrainedWith:
    """What this lock of the run says, with the folder of its index as it is found now."""
    folders = index_dirs(run_dir, lock, attempts)
    index_dir = next(filter(os.path.isdir, folders), folders[0])
    template = None
    with suppress(IndexDamaged, KeyError, TypeError):
        template = read_header(os.path.join(index_dir, lock["index"]["address"])).template
    return TrainedWith(with_homes(Config.model_validate(lock["config"])), index_dir, template)
