"""Commands that a person is told to type: pasted into a shell, each word reaches the program as meant."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path


def quoted(word: str | os.PathLike[str]) -> str:
    """A word as a shell reads it back. Whatever is written in crossfoot's output of another's name, path or
    value inside a command goes through here.
    """
    return shlex.quote(os.fspath(word))


def plain_or_quoted(name: str) -> str:
    """A name inside a value of YAML."""
    return name if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) else json.dumps(name)


def path_word(path: str | os.PathLike[str]) -> str:
    """A path as a program reads it back: `./` before what would be an option, or somebody's home."""
    text = os.fspath(path)
    return f"./{text}" if text.startswith(("-", "~")) else text


def quoted_path(path: str | os.PathLike[str]) -> str:
    """A path as a word of a command."""
    return quoted(path_word(path))


def joined(words: Iterable[str]) -> str:
    """Many words."""
    return " ".join(map(quoted, words))


def unused_path(path: str) -> str:
    """The first of PATH-2, PATH-3, ... under which there is nothing yet."""
    return next(each for n in itertools.count(2) if not os.path.lexists(each := f"{path}-{n}"))


def called(program: str) -> str:
    """How a program of this python's environment is called from here: by its name where PATH leads to it,
    else by its path.
    """
    name = os.path.basename(program)
    own, found = Path(sys.executable).with_name(name), shutil.which(name)
    if not own.exists() or (found is not None and Path(found).parent == own.parent):
        return name
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)
