"""What a power cut may not take: a name in a folder is durable only when the folder is synced too."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""The file system has no such operation."""
_NO_FOLDER_SYNC = (*_NO_SYNC, errno.EBADF, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EIO)
"""What FUSE and object stores, and a folder that may not be listed, say besides. A disk that fails says EIO
for the files in it first, and there it counts."""


def sync(path: str | os.PathLike[str]) -> None:
    """Make a written file, or the names in a folder, durable, as far as the file system offers it. Raises
    OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (_NO_FOLDER_SYNC if os.path.isdir(path) else _NO_SYNC):
            raise


def sync_open(descriptor: int) -> None:
    """The same for a file that is open. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def lock(descriptor: int) -> None:
    """Keep an open file for this process until it is closed, where the file system can. Raises
    BlockingIOError where another process has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks


def rename(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename, over a file that has the name. A file server whose answer was lost is asked again, and then
    finds nothing to rename: it is done. Raises OSError.
    """
    try:
        os.replace(source, target)
    except FileNotFoundError:
        if os.path.lexists(source) or not os.path.lexists(target):
            raise


def by_umask(mode: int) -> int:
    """The rights that a new file or folder gets of those that are asked for."""
    mask = os.umask(0)
    os.umask(mask)
    return mode & ~mask


def replace(
    path: str | os.PathLike[str], content: str | bytes, *, mode: int | None = None, is_synced: bool = True
) -> None:
    """Write a file as a whole: a reader, and whoever comes after a crash, finds the old one or this one.

    content: text is written as UTF-8, its line ends as they are. mode: of the file, None as for any new one.
    is_synced: False for what is written again and again and need not outlive a power cut; a sync may wait
    for minutes on a busy disk. Raises OSError, which names `path`; nothing is left behind then.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if is_synced:
                file.flush()
                sync_open(file.fileno())
        rename(partial, target)
        if is_synced:
            sync(target.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            error.filename, error.filename2 = os.fspath(path), None
        raise


def rename_folder(partial: Path, target: Path, aside: Path) -> None:
    """Give a finished folder its name, all that is in it being on the disk before and after.

    A folder of that name makes way first, to `aside`: none can be renamed over a full one. Raises OSError.
    """
    _sync_all(partial)
    if target.exists():
        rename(target, aside)
    rename(partial, target)
    sync(target.parent)


def name_folder(partial: Path, target: Path) -> None:
    """The same for a name that is free, or an empty folder's. Raises OSError where something is in it."""
    _sync_all(partial)
    os.rename(partial, target)
    sync(target.parent)


def _sync_all(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        sync(path)


@contextmanager
def made(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder if need be, and those above it; of them, what is empty afterwards is gone again. Raises
    OSError.
    """
    missing = [path for path in (Path(folder), *Path(folder).parents) if not path.exists()]
    try:
        os.makedirs(folder, exist_ok=True)
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def prove_writable(folder: str | os.PathLike[str]) -> None:
    """Make a folder if need be and write a file in it; what was made is gone afterwards. Raises OSError."""
    with made(folder), tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"0")
