"""The random word by which the ranks of one start know each other, and texts that are sealed with it.

Whoever reaches the meeting port can write there: the store has no password. So rank 0 puts a word into a file
that only the user can read, beside the run or in it, and says in the store what the file is called. A text
without the word's seal is a stranger's, and is not looked at.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from hashlib import sha256
from pathlib import Path

from crossfoot.documents import read_file

MOST_TEXT_BYTES = 16 << 20
"""What a rank says of itself: a line for each data file, weight file and source file."""
_ID = re.compile("[0-9a-f]{16}")
_WORD_BYTES = 32
_MAC_DIGITS = 64
_NONCE_DIGITS = 16


class MeetingWord:
    """The word, as one rank has it. Two ranks with the same word read each other's texts."""

    def __init__(self, word: bytes) -> None:
        self._word = word
        self._nonce = secrets.token_hex(_NONCE_DIGITS >> 1)

    def sealed(self, place: str, text: str) -> str:
        """A text as it is laid down in a place of the store; two processes never write the same."""
        return self._mac(place, self._nonce + text) + self._nonce + text

    def opened(self, place: str, raw: bytes) -> str | None:
        """The text that a rank has laid down there; None for what no rank of this start has written."""
        if len(raw) > MOST_TEXT_BYTES:
            return None
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            return None
        mac, rest = text[:_MAC_DIGITS], text[_MAC_DIGITS:]
        if len(rest) < _NONCE_DIGITS or not mac.isascii():
            return None
        return rest[_NONCE_DIGITS:] if hmac.compare_digest(mac, self._mac(place, rest)) else None

    def _mac(self, place: str, text: str) -> str:
        return hmac.new(self._word, f"{place}\0{text}".encode(), sha256).hexdigest()


def lonely_word() -> MeetingWord:
    """For a rank that waits for nobody."""
    return MeetingWord(secrets.token_bytes(_WORD_BYTES))


class WordFile:
    """Rank 0's files of the word: made when it is entered, gone when it is left. id: what others look for."""

    def __init__(self, run_dir: str) -> None:
        self._run_dir = run_dir
        self.id = secrets.token_hex(8)
        self.word = secrets.token_bytes(_WORD_BYTES)
        self._paths: list[Path] = []

    def __enter__(self) -> WordFile:
        # Where none can be written, nobody finds the word, and each who does not says so.
        for folder in _folders(self._run_dir):
            with contextlib.suppress(OSError):
                path = folder / _name(self.id)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                self._paths.append(path)
                with open(descriptor, "wb") as file:
                    file.write(self.word)
        return self

    def __exit__(self, *exception: object) -> None:
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink()


def find_word(run_dir: str, id: str) -> bytes | None:
    """The word of rank 0's file; None where it is not to be seen (yet), and for an id that is none."""
    if not _ID.fullmatch(id):
        return None
    for folder in _folders(run_dir):
        with contextlib.suppress(OSError):
            os.listdir(folder)  # a network file system asks its server anew what is in there
            path = folder / _name(id)
            word = read_file(path, most_bytes=_WORD_BYTES)
            if len(word) == _WORD_BYTES and not _may_be_planted(folder, path):
                return word
    return None


def forget_words(run_dir: str, before: str) -> None:
    """Remove the files that starts of this run which were killed have left: those older than the file
    `before`. A newer one is of a start that is under way.
    """
    with contextlib.suppress(OSError):
        limit = os.stat(before).st_mtime
        for path in Path(run_dir).glob(_name("*")):
            if path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)


def _name(id: str) -> str:
    return f".crossfoot-meeting-{id}"


def _folders(run_dir: str) -> list[Path]:
    """Where the word lies: in the run folder, or in what there is of its way, for ranks that share it; in
    this machine's own folder for the ranks beside rank 0, so that they can all say what differs before that.
    """
    folder = Path(os.path.abspath(run_dir))
    there = [one for one in (folder, *folder.parents) if one.is_dir()]
    return [*there[:1], Path(tempfile.gettempdir())]


def _may_be_planted(folder: Path, path: Path) -> bool:
    """Whether another user can have put the file there."""
    return bool(folder.stat().st_mode & stat.S_IWOTH) and path.lstat().st_uid != os.geteuid()
