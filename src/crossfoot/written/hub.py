"""Models and tokenizers that are named by a hub's id: ORG/NAME of Hugging Face, modelscope:ORG/NAME.

They are looked for in the hub's cache on this machine, and a run never fetches them: compute nodes seldom
reach a hub, and where they do every rank would ask for the same files. Whoever starts a run fetches once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs

if TYPE_CHECKING:
    from crossfoot.written.run_file import RunFile

MODELSCOPE = "modelscope:"
_NAME = r"[A-Za-z0-9_-][\w.-]*"
_HUGGING_FACE_ID = re.compile(rf"{_NAME}(/{_NAME})?", re.ASCII)
_MODELSCOPE_ID = re.compile(rf"{MODELSCOPE}{_NAME}/{_NAME}", re.ASCII)


@dataclass(frozen=True)
class HubModel:
    """A model or tokenizer of a hub. path: as the config names it."""

    path: str

    @property
    def is_of_modelscope(self) -> bool:
        """Of modelscope.cn; else of huggingface.co, or what HF_ENDPOINT names."""
        return self.path.startswith(MODELSCOPE)

    @property
    def name(self) -> str:
        """As its hub calls it."""
        return self.path.removeprefix(MODELSCOPE)

    @property
    def fetching(self) -> str:
        """The command that fetches it into the cache."""
        command = "modelscope download --model" if self.is_of_modelscope else "hf download"
        return f"{command} {self.name}"

    @property
    def folder(self) -> Path | None:
        """Where its files lie in the cache; None when they are not here. Never asks the network."""
        if self.is_of_modelscope:
            return next((folder for folder in _modelscope_folders(self.name) if folder.is_dir()), None)
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self.name, cache_dir=_hf_cache(), local_files_only=True))
        except (HFValidationError, LocalEntryNotFoundError):
            return None

    @property
    def commit(self) -> str | None:
        """Of the files in the cache, 40 hex digits; ModelScope's has none."""
        folder = self.folder
        return None if folder is None or self.is_of_modelscope else folder.name

    @property
    def place_in_cache(self) -> Path:
        """The folder that fetching makes."""
        if self.is_of_modelscope:
            return next(_modelscope_folders(self.name))
        return Path(_hf_cache(), f"models--{self.name.replace('/', '--')}")


def hub_model(path: str) -> HubModel | None:
    """What a path names on a hub; None for a folder, and for what is no hub's id."""
    if looks_local(path) or not (_HUGGING_FACE_ID.fullmatch(path) or _MODELSCOPE_ID.fullmatch(path)):
        return None
    return HubModel(path)


def looks_local(path: str) -> bool:
    """A path that exists, or is written like one; a hub's id is name or owner/name."""
    is_written_so = path.startswith(("/", "./", "../", "~")) or path.endswith("/") or path.count("/") > 1
    return is_written_so or os.path.exists(path)


def hub_models(run: RunFile) -> Iterator[tuple[str, HubModel]]:
    """What the run takes from hubs, by the key that names it. Raises Unsure."""
    config = run.config
    paths = {"model.path": config.model.path}
    if config.tokenizer is not None:
        paths["tokenizer.path"] = config.tokenizer.path
    for key, path in paths.items():
        if (model := hub_model(path)) is not None:
            yield key, model


def not_here(run: RunFile) -> tuple[Finding, ...]:
    """The findings CF060 of a run: what it takes from hubs and is not in the cache. Raises Unsure."""
    missing = {model.path: key for key, model in reversed([*hub_models(run)]) if model.folder is None}
    return tuple(not_fetched(run.place(key), key, HubModel(path)) for path, key in missing.items())


def said_beforehand(finding: Finding) -> Finding:
    """A CF060 of a machine where nothing is started: the one that trains may have what is missing here."""
    return replace(finding, severity="warning", unreadable=False) if finding.code == "CF060" else finding


def commits_of(run: RunFile) -> dict[str, str]:
    """The commits of what is taken from hubs, by key, where it is here and its hub has commits."""
    found = {key: model.commit for key, model in hub_models(run)}
    return {key: commit for key, commit in found.items() if commit is not None}


def loadable(path: str) -> str:
    """By what transformers and peft load a model elsewhere: an id of Hugging Face, else its folder."""
    model, folder = hub_model(path), os.path.expanduser(path)
    if model is not None and model.is_of_modelscope:
        folder = str(model.folder or path)
    return os.path.abspath(folder) if os.path.isdir(folder) else path


@rule_docs("CF060", "error", "warning", name="not-fetched")
def not_fetched(place: Place, key: str, model: HubModel) -> Finding:
    """CF060: a model or tokenizer is named by its id on a hub, and is not in the cache of this machine.

    `ORG/NAME` is an id of huggingface.co, `modelscope:ORG/NAME` one of modelscope.cn. A run takes both from
    the hub's cache on its machine (HF_HOME, MODELSCOPE_CACHE) and never fetches: compute nodes seldom reach a
    hub, a start would hang there in retries, and every rank would ask for the same files. So it is fetched
    once, by the command in the finding, into a cache that all nodes see. A node that lacks it is refused
    before anything is loaded, and so are nodes with files of two commits; `crossfoot plan` and `check`, which
    start nothing, warn. Where huggingface.co cannot be reached, HF_ENDPOINT=https://hf-mirror.com is a mirror
    of it. A gated model (Llama, Gemma) needs `hf auth login` first.
    """
    where = model.place_in_cache
    mirror = (f"or through a mirror: HF_ENDPOINT=https://hf-mirror.com {model.fetching}",)
    if model.is_of_modelscope:
        mirror = ("the command is of a package: pip install modelscope",)
    return Finding(
        "CF060",
        f"the {key.partition('.')[0]} {model.path} is not in the cache of this machine",
        place=place,
        notes=(
            f"looked for in {where}",
            f"a run fetches nothing; all nodes must see the cache, and {_variable(model)} says where it is",
        ),
        helps=(f"fetch it once, where there is a network: {model.fetching}", *mirror),
        unreadable=True,
    )


def _variable(model: HubModel) -> str:
    name = "MODELSCOPE_CACHE" if model.is_of_modelscope else "HF_HOME"
    return name if os.environ.get(name) else f"{name} (not set)"


def _hf_cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _modelscope_folders(name: str) -> Iterator[Path]:
    """Where versions of the package put a model, the newest first."""
    cache = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
    yield cache / "models" / name.replace("/", "--") / "snapshots" / "master"
    owner, _, rest = name.partition("/")
    for folder in ("models", "hub/models", "hub", "."):
        yield cache / folder / owner / rest.replace(".", "___")
