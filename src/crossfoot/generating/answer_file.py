"""The answers of a file of prompts: kept one by one as they come, written as a whole, in the file's order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from crossfoot import durable
from crossfoot.digests import sha256_of_document
from crossfoot.documents import Malformed
from crossfoot.findings.finding import Refused
from crossfoot.generating.findings import answers_taken
from crossfoot.line_file import LineFile, line_of
from crossfoot.phrases import counted, reason_of

PART = ".part"
"""Behind the name of the answers, until all are there."""


class AnswerFile:
    """OUT.part has a line for each answer so far, behind one that says of what they are; OUT is made of it
    at the end. A command that was killed goes on with it.
    """

    def __init__(self, out: str, made_of: Mapping[str, Any]) -> None:
        """made_of: all that decides the answers. Raises Refused (CF807)."""
        self._out, self._part = out, out + PART
        first = {"answers_to": sha256_of_document(made_of)}
        if os.path.lexists(out):
            raise Refused(answers_taken(out, "is there already", "name a file that is not there yet"))
        others = answers_taken(
            out,
            f"was begun with other prompts, options or weights: {self._part}",
            "name another file, or remove that one",
        )
        try:
            self._file = LineFile(self._part, first)
        except Malformed as error:
            raise Refused(others) from error
        except BlockingIOError as error:
            why = "is being written by another command"
            raise Refused(answers_taken(out, why, "wait for it, or name another file")) from error
        except OSError as error:
            help_ = "name a file in a folder that is there and can be written to"
            raise Refused(answers_taken(out, f"cannot be written: {reason_of(error)}", help_)) from error
        if self._file.first != first or not all("index" in one for one in self._file.before.rest):
            self._file.close()
            raise Refused(others)
        self.answers: dict[int, dict[str, Any]] = {one["index"]: one for one in self._file.before.rest}

    def add(self, answer: dict[str, Any]) -> None:
        """Keep one. Raises Refused (CF807)."""
        with self._writing():
            self._file.append(answer)
        self.answers[answer["index"]] = answer

    def finish(self) -> None:
        """All are there. Raises Refused (CF807)."""
        with self._writing():
            self._file.close()
            durable.replace(self._out, "".join(f"{line}\n" for line in self.lines()))
        os.remove(self._part)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What is written inside may find the disk full; the answers so far stay."""
        try:
            yield
        except OSError as error:
            why = f"cannot be written: {reason_of(error)}"
            kept = counted(len(self.answers), "answer")
            are = "is" if len(self.answers) == 1 else "are"
            help_ = f"make room and give the same command again: {kept} {are} kept in {self._part}"
            raise Refused(answers_taken(self._out, why, help_)) from error

    def lines(self) -> Iterator[str]:
        """In the order of the prompts."""
        return (line_of(self.answers[index]) for index in sorted(self.answers))

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
