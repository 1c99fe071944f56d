"""Git LFS pointers: three lines of text that stand in a clone for a large file that was not fetched."""

from __future__ import annotations

import os

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.shell_words import quoted_path

_BEGINS = b"version https://git-lfs.github.com/spec/"


def is_pointer(path: str | os.PathLike[str]) -> bool:
    """Whether this ordinary file is a pointer. A file that cannot be opened is none."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(len(_BEGINS)) == _BEGINS
    except OSError:
        return False


def fetching(path: str) -> str:
    """The help: what brings the file itself."""
    return f"fetch the files: git -C {quoted_path(os.path.dirname(path) or '.')} lfs pull"


@rule_docs("CF565", name="git-lfs-pointer")
def lfs_pointer(place: Place | None, path: str) -> Finding:
    """CF565: a file is a git-lfs pointer: three lines of text in place of the file itself.

    A repository that keeps large files with git-lfs (the Hugging Face hub does) gives such pointers to a
    `git clone` where git-lfs is not installed, or when GIT_LFS_SKIP_SMUDGE was set. Said of model and
    tokenizer files and of data; a run config, a DeepSpeed file or a launch file that is one cannot be read.
    """
    return Finding(
        "CF565",
        "a file is a git-lfs pointer, not the file itself",
        place=place,
        label=path,
        helps=(fetching(path), "or fetch the file again from where it comes from"),
        unreadable=True,
    )
