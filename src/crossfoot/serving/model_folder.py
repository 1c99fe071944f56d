"""Which folder is served: a model as it is, or what a run or an adapter becomes when it is merged, once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossfoot.checkpoints.manifest import MANIFEST_FILE
from crossfoot.checkpoints.store import list_checkpoints
from crossfoot.data.tokenizer import VOCABULARIES
from crossfoot.digests import sha256_of_file
from crossfoot.documents import Malformed, read_object
from crossfoot.findings.finding import Refused
from crossfoot.model_source.findings import no_model
from crossfoot.model_source.source import find_named, refuse_missing_base
from crossfoot.model_source.trained_run import read_trained_run
from crossfoot.output import tell
from crossfoot.serving.findings import not_served
from crossfoot.written.adapter_folder import open_adapter
from crossfoot.written.model_facts import CONFIG_JSON, model_folder

MERGE_JSON = "merge.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_SETTINGS = "tokenizer_config.json"


class NotMade(Exception):
    """A merge or an export ended with this exit code; it has said why."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(code)


@dataclass(frozen=True)
class Served:
    """name: of the model, as requests give it. folder: with everything that a server loads."""

    name: str
    folder: Path

    @property
    def has_chat_template(self) -> bool:
        """Whether a server can make one text of the messages of a chat."""
        if any((self.folder / name).is_file() for name in _TEMPLATES):
            return True
        try:
            return bool(read_object(self.folder / _SETTINGS).get("chat_template"))
        except (OSError, Malformed):
            return False


def served_model(path: str, step: int | None) -> Served:
    """What `path` names, merged when it is a run or an adapter and has not been merged before. Raises Refused
    and NotMade.
    """
    here = find_named(path, "serve", step)
    if here.kind == "run":
        folder = _of_run(path, step)
    elif here.kind == "adapter":
        folder = _merged(path, _mark_of_adapter(path))
    else:
        folder = model_folder(path) or Path(path)
        _refuse_incomplete(path, folder)
    return Served(os.path.basename(os.path.abspath(path)), folder)


def _of_run(run_dir: str, step: int | None) -> Path:
    steps = {one.step: one for one in list_checkpoints(run_dir)}
    run = read_trained_run(run_dir)
    if not steps and step is None and (saved := run.saved) is not None:
        return _merged(run_dir, _mark_of_adapter(saved)) if run.config.lora else Path(saved)
    newest = max(steps, default=None) if step is None else step
    known = steps.get(newest) if newest is not None else None
    mark = "" if known is None else sha256_of_file(Path(known.folder) / MANIFEST_FILE)[:8]
    at = () if newest is None else ("--step", str(newest))
    return _merged(run_dir, f"{newest}-{mark}", at, "merge" if run.config.lora else "export")


def _mark_of_adapter(path: str) -> str:
    identity = json.dumps(open_adapter(path).identity, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def _merged(source: str, mark: str, options: Sequence[str] = (), verb: str = "merge") -> Path:
    """The folder beside the source that holds the merged model; made when it is not there. mark: of what is
    merged, part of the folder's name: of another adapter there is another folder.
    """
    folder = Path(f"{os.path.abspath(source)}-merged-{mark}")
    shown = os.path.relpath(folder)
    if not folder.is_dir():
        refuse_missing_base(source, "serve")
        tell(f"making a model of {source}, kept in {shown} ...")
        # in a process of its own: torch and what it has loaded go with it, and the server has the memory
        words = [sys.executable, "-m", "crossfoot", verb, source, shown, *options]
        code = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode
        if code not in (0, 3):
            raise NotMade(code)
    else:
        tell(f"{shown}: made before, and served again")
    _refuse_incomplete(shown, folder)
    if (folder / MERGE_JSON).is_file() and read_object(folder / MERGE_JSON).get("proven") is False:
        raise Refused(not_served(shown))
    return folder


def _refuse_incomplete(path: str, folder: Path) -> None:
    if not (folder / CONFIG_JSON).is_file():
        raise Refused(no_model(path, "serve", f"has no {CONFIG_JSON}"))
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise Refused(no_model(path, "serve", "has no weights (*.safetensors)"))
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise Refused(no_model(path, "serve", "has no tokenizer (tokenizer.json, tokenizer.model)"))
