"""The answers of a file of prompts: kept one by one as they come, written as a whole, in the file's order."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Any

from crossfoot import durable
from crossfoot.digests import sha256_of_document
from crossfoot.findings.finding import Refused
from crossfoot.generating.findings import answers_taken
from crossfoot.output import escaped
from crossfoot.phrases import counted, reason_of

PART = ".part"
"""Behind the name of the answers, until all are there."""
_NOT_IN_A_LINE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class AnswerFile:
    """OUT.part has a line for each answer so far, behind one that says of what they are; OUT is made of it
    at the end. A command that was killed goes on with it.
    """

    def __init__(self, out: str, made_of: Mapping[str, Any]) -> None:
        """made_of: all that decides the answers. Raises Refused (CF807)."""
        self._out, self._part = out, out + PART
        self._mark = sha256_of_document(made_of)
        self.answers: dict[int, dict[str, Any]] = {}
        if os.path.lexists(out):
            raise Refused(answers_taken(out, "is there already", "name a file that is not there yet"))
        try:
            whole = self._read()
            self._file: IO[str] = open(self._part, "a", encoding="utf-8")  # noqa: SIM115
            self._file.truncate(whole)
            if not whole:
                self._line({"answers_to": self._mark})
        except OSError as error:
            help_ = "name a file in a folder that is there and can be written to"
            raise Refused(answers_taken(out, f"cannot be written: {reason_of(error)}", help_)) from error

    def _read(self) -> int:
        """Take in the answers so far; returns the bytes of whole lines."""
        if not os.path.exists(self._part):
            return 0
        with open(self._part, "rb") as stream:
            lines = stream.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        if not whole:
            return 0
        try:
            first, *answers = [json.loads(line) for line in whole]
            self.answers = {one["index"]: one for one in answers}
            is_same = first["answers_to"] == self._mark
        except (ValueError, KeyError, TypeError):
            is_same = False
        if not is_same:
            why = f"was begun with other prompts, options or weights: {self._part}"
            raise Refused(answers_taken(self._out, why, "name another file, or remove that one"))
        return sum(map(len, whole))

    def add(self, answer: dict[str, Any]) -> None:
        """Keep one. Raises Refused (CF807)."""
        with self._writing():
            self._line(answer)
        self.answers[answer["index"]] = answer

    def _line(self, value: Mapping[str, Any]) -> None:
        self._file.write(line_of(value) + "\n")
        self._file.flush()

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
        with suppress(OSError):  # of a line that found the disk full; all others have been flushed
            self._file.close()


def line_of(value: Mapping[str, Any]) -> str:
    """A line of JSON: letters of all scripts as they are; what would end a line elsewhere as an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return _NOT_IN_A_LINE.sub(lambda found: escaped(found[0]), text)
