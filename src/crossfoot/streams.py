"""stdout and stderr that cannot fail. Words are best effort: who reads them (`| head`, a `tee` that died, a
log on a full disk, a terminal that is gone or narrow) decides neither about a run nor about an exit code.

It holds for everything in the process: a library that prints or logs meets the same streams.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import re
import select
import stat
import sys
import time
from contextlib import suppress
from typing import TextIO

from crossfoot.output import escaped

ESCAPED = "crossfoot-escaped"
"""The error handler of our streams: what an encoding lacks is written as JSON writes it, so that JSON stays
JSON: `\\u6570`."""
_LEFT = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
_BLOCK_BYTES = select.PIPE_BUF
"""What a pipe that can be written takes at once, without waiting."""
_LOOK_SECONDS = 0.05
_STEERING = re.compile(
    "\x1b\\[[0-9;]*m|([\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069])"
)
"""A colour, or (group 1) a character that steers a terminal or turns the direction of a line."""


class Channel(io.RawIOBase):
    """A file descriptor whose writes take everything and never raise: what it refuses is lost, and counted.

    lost_bytes: so far. trouble: why the first of them were; None where the reader has left, who wants none,
    or does not read.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.lost_bytes = 0
        self.trouble: OSError | None = None
        self._patience_seconds: float | None = None
        self._descriptor = self._written = descriptor
        self._is_terminal = os.isatty(descriptor)
        self._has_left = self._is_stalled = False
        self._gap_bytes = 0

    @property
    def has_left(self) -> bool:
        """Whether nobody can read any more what is written: the other end of the pipe is closed, the terminal
        is gone.
        """
        if not self._has_left:
            self._has_left = bool(self._polled(0) & select.POLLERR)
        return self._has_left

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal, and still there."""
        return self._is_terminal and not self._has_left

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, block: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write a block, or lose what is left of it; returns its length."""
        whole = memoryview(block).cast("B")
        if not self._has_left:
            if self._gap_bytes:
                note = f"\n[crossfoot: {self._gap_bytes:,} bytes are missing here]\n".encode()
                if not self._deliver(memoryview(note)):
                    self._gap_bytes = 0
            left = self._deliver(whole)
            self.lost_bytes += left
            self._gap_bytes += left
        return len(whole)

    def do_not_wait(self, seconds: float) -> None:
        """From here on a reader that does not read is waited for so long.

        A pipe or a terminal gets a second descriptor for that, which does not block: the first one is shared
        with other processes, and so would be its flag.
        """
        self._patience_seconds = seconds
        with suppress(OSError):
            if self._is_terminal or stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
                flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK
                self._written = os.open(f"/proc/self/fd/{self._descriptor}", flags)

    def _deliver(self, rest: memoryview) -> int:
        """Returns how many bytes could not be written."""
        patience = self._patience_seconds
        deadline = None if patience is None or self._is_stalled else time.monotonic() + patience
        while rest:
            try:
                if patience is not None and not self._polled(0.0):
                    raise BlockingIOError
                rest = rest[os.write(self._written, rest[: None if patience is None else _BLOCK_BYTES]) :]
                self._is_stalled = False
            except BlockingIOError:  # or somebody who shares it has made it non-blocking
                self._is_stalled = patience is not None and (deadline is None or time.monotonic() > deadline)
                if self._is_stalled:
                    return len(rest)
                self._polled(_LOOK_SECONDS)
            except OSError as error:
                self._has_left = error.errno in _LEFT or (self._is_terminal and error.errno == errno.EIO)
                if not self._has_left and self.trouble is None:
                    self.trouble = error
                return len(rest)
        return 0

    def _polled(self, seconds: float) -> int:
        """poll's answer, 0 when it cannot be written within so many seconds."""
        poll = select.poll()
        poll.register(self._written, select.POLLOUT)
        answers = poll.poll(seconds * 1_000)
        return answers[0][1] if answers else 0


class Words(io.TextIOWrapper):
    """Text through a channel. What could steer a terminal is made visible, but colours; `terminal_of` is for
    what draws.
    """

    def write(self, text: str) -> int:
        """Write it; returns its length."""
        super().write(_STEERING.sub(lambda found: "\ufffd" if found[1] else found[0], text))
        return len(text)

    def channel(self) -> Channel:
        """What it writes to."""
        return getattr(self.buffer, "raw", self.buffer)  # type: ignore[arg-type]


class _Terminal(io.TextIOWrapper):
    """A further text layer over a buffer that is another stream's, and stays open with it."""

    def close(self) -> None:
        """Only what is written is handed on."""
        self.flush()


def open_streams() -> None:
    """Put such streams in the place of the interpreter's own stdout and stderr, once. A descriptor that was
    closed at the start becomes /dev/null: the next file that is opened must not get its number, and with it
    all that a library prints.
    """
    with suppress(LookupError):
        codecs.lookup_error(ESCAPED)
        if isinstance(sys.stdout, Words):
            return
    codecs.register_error(ESCAPED, _escaped)
    if sys.stdin is None:
        sys.stdin = open(_held(0), encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue  # a program around us has its own
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
        setattr(sys, name, _words(_held(descriptor), name, stream))


def terminal_of(stream: TextIO) -> TextIO:
    """The same stream for what draws on a terminal, such as rich: every character passes."""
    if not isinstance(stream, Words):
        return stream
    return _Terminal(stream.buffer, stream.encoding, ESCAPED, line_buffering=True, write_through=True)


def do_not_wait(seconds: float) -> None:
    """From here on a reader that does not read (a pager, a held terminal) is waited for so long, and then
    words are lost: other ranks wait for this one.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Words):
            stream.channel().do_not_wait(seconds)


def lost_words() -> OSError | None:
    """Why words of stdout were lost, as the system said it; None where none were, or the reader left."""
    stream = sys.stdout
    if not isinstance(stream, Words):
        return None
    stream.flush()
    trouble = stream.channel().trouble
    return None if trouble is None else OSError(trouble.errno, trouble.strerror, "stdout")


def is_read() -> bool:
    """Whether somebody can still read stdout."""
    return not (isinstance(sys.stdout, Words) and sys.stdout.channel().has_left)


def _words(descriptor: int, name: str, before: TextIO | None) -> Words:
    channel = Channel(descriptor, f"<{name}>")
    is_unbuffered = bool(getattr(before, "write_through", False))  # python -u
    return Words(
        channel if is_unbuffered else io.BufferedWriter(channel),  # type: ignore[type-var]
        encoding=before.encoding if before is not None else "utf-8",
        errors=ESCAPED,
        line_buffering=name == "stderr" or bool(getattr(before, "line_buffering", False)),
        write_through=is_unbuffered,
    )


def _held(descriptor: int) -> int:
    """The descriptor, with /dev/null behind it when it is closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened == descriptor:
            os.set_inheritable(descriptor, True)
        else:
            os.dup2(opened, descriptor)
            os.close(opened)
    return descriptor


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return escaped(error.object[error.start : error.end]), error.end
