"""A folder that is made beside the place where it will be: whoever looks there finds one that is whole."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossfoot.durable import by_umask, lock


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """An empty folder beside the target, gone afterwards unless it got a name. Nobody clears it away as long
    as this process has it. Raises OSError.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def open_to_others(folder: Path) -> None:
    """Give a fresh temporary folder and its files the permissions that mkdir and open give, by the umask.

    mkdtemp and safetensors make what only its owner can read, on storage that a group shares.
    """
    for file in folder.iterdir():
        file.chmod(by_umask(0o666))
    folder.chmod(by_umask(0o777))


def clear_leftovers(target: Path) -> None:
    """Delete what earlier saves to this folder left beside it: the folder that made way, and those of saves
    that were killed. Of a folder that made way everything that the new one does not have is kept.
    """
    known = {path.name for path in target.iterdir()} if target.is_dir() else set()
    leftover = re.compile(rf"\.{re.escape(target.name)}-([a-z0-9_]{{8}})(-old)?")  # as mkdtemp names them
    for path in list(target.parent.iterdir()):
        matched = leftover.fullmatch(path.name)
        if matched is None or path.is_symlink() or not path.is_dir() or _is_in_use(path):
            continue
        if matched[2] and {file.name for file in path.iterdir()} - known:
            path.rename(target.with_name(f"{target.name}-replaced-{matched[1]}"))
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_in_use(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        lock(descriptor)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
