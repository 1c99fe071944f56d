"""What a power cut may not take: a name in a folder is durable only when the folder is synced too."""

from __future__ import annotations

import os


def sync(path: str | os.PathLike[str]) -> None:
    """Make a written file, or the names in a folder, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
