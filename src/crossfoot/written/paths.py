"""Paths as people write them: a leading ~ is somebody's home, in every key alike; what only a shell, Windows
or a browser would understand is said, before a folder of that name is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crossfoot.shell_words import quoted
from crossfoot.written.data_sources import SourceSection
from crossfoot.written.hub import MODELSCOPE

if TYPE_CHECKING:
    from crossfoot.written.config import Config

PATH_KEYS = (
    *(("run", "dir"), ("model", "path"), ("model", "adapter"), ("tokenizer", "path")),
    *(("data", "train"), ("data", "train", "path"), ("data", "validation"), ("data", "index_dir")),
    ("deepspeed",),
)
"""The keys of a config that hold a path, or a list of them."""
_VARIABLE = re.compile(
    r"\$(?:\{(?P<braced>[A-Za-z_]\w*)[^}]*\}|(?P<plain>[A-Za-z_]\w*))|%(?P<windows>[A-Za-z_]\w*)%", re.ASCII
)
_COMMAND = re.compile(r"\$\([^)]*\)|`[^`]*`")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)")
_HUB = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf-mirror\.com|(?P<modelscope>modelscope\.cn)/models)"
    r"/(?P<id>[\w.-]+/[\w.-]+)(?:/.*)?",
    re.ASCII,
)


@dataclass(frozen=True)
class PathFault:
    """Why a path cannot be meant as it stands. wanted: to follow "must be". helps: changes. instead: what it
    surely means, to be written in its place.
    """

    wanted: str
    helps: tuple[str, ...] = ()
    instead: str | None = None


def fault_of(path: str, keys: tuple[str, ...] = ()) -> PathFault | None:
    """What is wrong with the text of a path; None when it can be taken as it is. What exists by that very
    name is meant by it.
    """
    return None if os.path.lexists(path) else next(_faults(path, ".".join(keys)), None)


def at_home(path: str) -> str:
    """A path with a leading ~ or ~user replaced; one of a name that exists stays."""
    return path if not path.startswith("~") or os.path.lexists(path) else os.path.expanduser(path)


def with_homes(config: Config) -> Config:
    """The config with every leading ~ replaced. What is asked for and missing in it stays so."""
    homes: dict[str, Any] = {}
    for section, *key in PATH_KEYS:
        part = homes.get(section, config.__dict__.get(section))
        if not key and isinstance(part, str):
            homes[section] = at_home(part)
        elif key and part is not None and key[0] in part.__dict__:
            homes[section] = part.model_copy(update={key[0]: _at_home(part.__dict__[key[0]])})
    return config.model_copy(update=homes)


def _at_home(value: Any) -> Any:
    if isinstance(value, list):
        return [_at_home(one) for one in value]
    if isinstance(value, SourceSection):
        return value.model_copy(update={"path": at_home(value.path)})
    return at_home(value) if isinstance(value, str) else value


def _faults(path: str, key: str) -> Iterator[PathFault]:
    if path != (bare := path.strip()):
        yield PathFault("a path without blanks around it", (f"write {bare}",), bare)
    if (hub := _HUB.fullmatch(path)) and key in ("model.path", "tokenizer.path"):
        named = (MODELSCOPE if hub["modelscope"] else "") + hub["id"]
        yield PathFault("a folder or the id of a model, not its page", (f"write {named}",), named)
    if url := _URL.fullmatch(path):
        if url["scheme"].lower() == "file":
            rest = re.sub(r"^[^/]*(?=/)", "", url["rest"])
            yield PathFault("a path, not a URL", (f"write {rest}",), rest)
        yield PathFault("a path on this machine, not a URL", _fetching(path, key))
    if found := _VARIABLE.search(path) or _COMMAND.search(path):
        yield PathFault(f"a path without {found[0]} (variables are not filled in)", _filled(path, key))
    if path.startswith("~") and os.path.expanduser(path) == path:
        user = path.partition("/")[0][1:]
        why = f"no user {user} is known here" if user else "no home is known here"
        yield PathFault(f"a path without ~{user} ({why})", ("write the whole path",))
    if re.match(r"[A-Za-z]:[\\/]", path):
        is_made = key in ("run.dir", "data.index_dir")
        help_ = "name a folder" if is_made else "copy what is there to this machine, and name that"
        yield PathFault("a path of this machine, not of Windows", (help_,))
    if "\\" in path:
        slashes = re.sub(r"\\+", "/", path)
        yield PathFault("a path with / between its parts", (f"write {slashes}",), slashes)


def _fetching(url: str, key: str) -> tuple[str, ...]:
    if key in ("run.dir", "data.index_dir"):
        return ("name a folder on storage that every node sees",)
    if key in ("model.path", "tokenizer.path"):
        return ("fetch it to this machine first, and name its folder",)
    how = f": curl -fLO {quoted(url)}" if url.startswith(("http://", "https://")) else ""
    return (f"fetch the file to this machine first, and name it{how}",)


def _filled(path: str, key: str) -> tuple[str, ...]:
    """The path that a shell would make of it, and how to have it do that."""
    names = [name for found in _VARIABLE.finditer(path) for name in found.groups() if name]
    unset = [name for name in names if name not in os.environ]
    if not names or unset:
        return (f"write the whole path{f': {unset[0]} is not set here' if unset else ''}",)
    whole = _VARIABLE.sub(lambda found: os.environ[next(filter(None, found.groups()))], path)
    if key.startswith("data.train") or key.startswith("data.validation") or "$" not in path:
        return (f"write {whole}",)
    inside = re.sub(r'(["`\\])', r"\\\1", path)
    return (f"write {whole}", f'or let the shell fill it in, behind the config: {key}="{inside}"')
