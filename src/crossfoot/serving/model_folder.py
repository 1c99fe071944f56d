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
from crossfoot.digests import sha256_of_file
from crossfoot.documents import Malformed, read_object
from crossfoot.findings.finding import Refused
from crossfoot.output import tell
from crossfoot.runs.attempts import run_lock_path
from crossfoot.runs.ending import read_lock
from crossfoot.runs.nearby import is_run, refuse_no_run
from crossfoot.serving.findings import not_served, nothing_to_serve
from crossfoot.written.adapter_folder import ADAPTER_CONFIG, ADAPTER_NAME, open_adapter
from crossfoot.written.model_facts import CONFIG_JSON, model_folder

MERGE_JSON = "merge.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
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
    name = os.path.basename(os.path.abspath(path))
    if is_run(path):
        return Served(name, _of_run(path, step))
    if step is not None:
        raise Refused(nothing_to_serve(path, "is no run, so that it has no steps", "leave out --step"))
    if os.path.isfile(os.path.join(path, ADAPTER_CONFIG)):
        return Served(name, _merged(path, _mark_of_adapter(path)))
    folder = model_folder(path)
    if folder is None:
        refuse_no_run(path, "serve")
        raise Refused(nothing_to_serve(path, "is not there"))
    _refuse_incomplete(path, folder)
    return Served(name, folder)


def _of_run(run_dir: str, step: int | None) -> Path:
    steps = {one.step: one for one in list_checkpoints(run_dir)}
    if not steps and step is None and os.path.isdir(saved := os.path.join(run_dir, ADAPTER_NAME)):
        return _merged(run_dir, _mark_of_adapter(saved))
    newest = max(steps, default=None) if step is None else step
    known = steps.get(newest) if newest is not None else None
    mark = "" if known is None else sha256_of_file(Path(known.folder) / MANIFEST_FILE)[:8]
    at = () if newest is None else ("--step", str(newest))
    is_whole = read_lock(run_lock_path(run_dir))["config"].get("lora") is None
    return _merged(run_dir, f"{newest}-{mark}", at, "export" if is_whole else "merge")


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
        raise Refused(nothing_to_serve(path, f"has no {CONFIG_JSON}"))
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise Refused(nothing_to_serve(path, "has no weights (*.safetensors)"))
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise Refused(nothing_to_serve(path, "has no tokenizer (tokenizer.json, tokenizer.model)"))
