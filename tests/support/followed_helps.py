"""Follows a help of a finding as its reader would: by an edit of the run config or of the DeepSpeed file.

Helps that name a change are written so that this module can read them: `set KEY to VALUE`, with `and KEY to
VALUE`, `and remove KEY` and `in the place of KEY` behind it; `remove KEY`; `write VALUE`, where the caret is.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from crossfoot.findings.finding import Edit, Finding, Place
from crossfoot.written.known_keys import is_known

CONFIG = "config.yaml"
_VALUE = r'(?P<value>\[[^\]]*\]|\{.*\}|"[^"]*"|[^\s,:;]+)'
_SET = re.compile(rf"(?P<key>[a-z_]\w*(?:\.\w+)?) to {_VALUE}")
_GONE = re.compile(r"(?:in the place of|and remove|^remove) (?P<key>\w+(?:\.\w+)*)")
_WRITE = re.compile(
    rf'write (?!the |it |names )(?:{_VALUE})(?: \(or "auto"\)| without quotes)?(?:$|[,;:]| to )'
)
_ENTRY = re.compile(rf'^write "?(?P<key>[a-z_]+)"?: {_VALUE}')


def follow(finding: Finding, help_: str, words: Sequence[str]) -> list[str] | None:
    """Edit the files of this folder as a help says; returns the words behind the config. None: the help is
    prose, and nothing was changed.
    """
    text = help_.removeprefix("or ").removeprefix("also ")
    found = _SET.finditer(text) if text.startswith("set ") else _ENTRY.finditer(text)
    sets = [(match["key"], match["value"]) for match in found if _names_a_key(match["key"])]
    gone = [match["key"] for match in _GONE.finditer(text)]
    changed = list(words)
    if sets or gone:
        is_here = text.endswith(" here")
        done = [_set(key, value, changed) for key, value in sets]
        done += [_remove(key, changed, is_here=is_here) for key in gone]
        return changed if all(done) else None
    if _ENTRY.match(text) or " lines" in finding.title:
        return None  # a key with its value, or one change of several
    if (match := _WRITE.match(text)) and finding.place is not None and _write(finding.place, match["value"]):
        return changed
    return None


def _names_a_key(word: str) -> bool:
    return "." in word or is_known((word,)) or word == "zero_optimization"


def apply(edits: Sequence[Edit]) -> None:
    """Make the edits of a fix, from the last to the first."""
    for edit in sorted(edits, key=lambda one: -one.start):
        text = Path(edit.file).read_text(encoding="utf-8")
        Path(edit.file).write_text(text[: edit.start] + edit.text + text[edit.end :], encoding="utf-8")


def _set(key: str, value: str, words: list[str]) -> bool:
    path = key.split(".")
    if any(word.startswith(f"{key}=") for word in words):
        words[:] = [f"{key}={value}" if word.startswith(f"{key}=") else word for word in words]
        return True
    if is_known(tuple(path)):
        config = _config()
        section = config if len(path) == 1 else config.get(path[0])
        if section is None:
            section = config[path[0]] = {}
        section[path[-1]] = YAML(typ="safe").load(value)
        return _save(config)
    for file in _deepspeed_files():
        values = json.loads(file.read_text(encoding="utf-8"))
        if path[0] in values or len(path) == 1:
            if any(not isinstance(values.get(name, {}), dict) for name in path[:-1]):
                return False
            _inside(values, path[:-1])[path[-1]] = json.loads(value)
            file.write_text(json.dumps(values), encoding="utf-8")
            return True
    return False


def _remove(key: str, words: list[str], *, is_here: bool) -> bool:
    """A key of the config, of the command line, or, by its last name, of the DeepSpeed file."""
    path, before = key.split("."), len(words)
    words[:] = [word for word in words if not word.startswith(f"{key}=")]
    if len(words) < before:
        return True
    if is_known(tuple(path)) and not is_here:
        config = _config()
        section = config if len(path) == 1 else config.get(path[0], {})
        return section.pop(path[-1], None) is not None and _save(config)
    for file in _deepspeed_files():
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if _drop(values, path[-1]):
            file.write_text(json.dumps(values), encoding="utf-8")
            return True
    return False


def _drop(values: Any, name: str) -> bool:
    if not isinstance(values, dict):
        return False
    return values.pop(name, None) is not None or any(_drop(one, name) for one in values.values())


def _write(place: Place, value: str) -> bool:
    """The value in the place of what the caret is under."""
    file = Path(place.file)
    if not place.column or file.suffix not in (".json", ".yaml"):
        return False
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    line, start = lines[place.line - 1], place.column - 1
    before = line[start : start + place.width]
    if before.startswith("[") and not value.startswith("["):
        return False  # one of its entries is meant
    if file.suffix == ".json" and before.startswith('"'):
        try:
            json.loads(value)
        except ValueError:
            value = json.dumps(value)
    lines[place.line - 1] = line[:start] + value + line[start + place.width :]
    file.write_text("".join(lines), encoding="utf-8")
    return True


def _config() -> dict[str, Any]:
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = True
    loaded: dict[str, Any] = yaml.load(Path(CONFIG).read_text(encoding="utf-8"))
    return loaded


def _save(config: dict[str, Any]) -> bool:
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(config, text)
    Path(CONFIG).write_text(text.getvalue(), encoding="utf-8")
    return True


def _deepspeed_files() -> list[Path]:
    named = _config().get("deepspeed")
    return [Path(named)] if isinstance(named, str) and Path(named).is_file() else []


def _inside(values: Any, path: Sequence[str]) -> Any:
    for key in path:
        values = values[key]
    return values
