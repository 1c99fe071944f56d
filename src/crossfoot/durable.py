"""What a power cut may not take: a name in a folder is durable only when the folder is synced too."""

from __future__ import annotations

import os


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
