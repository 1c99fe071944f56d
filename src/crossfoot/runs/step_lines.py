"""Files of a run folder with a line for each thing that was done between two steps, appended by rank 0.

All attempts append to one file. What was lost with its steps and done again stands in it twice; the later
line counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from crossfoot.documents import Malformed, parse_object, plain, read_file


def append_line(path: str, document: Mapping[str, Any]) -> None:
    """Raises OSError. A line that a crash has torn is ended first, and stays unread."""
    line = json.dumps(plain(document)) + "\n"
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(line.encode())


def read_lines(path: str) -> Iterator[dict[str, Any]]:
    """None where there is no file. Lines that nobody can read are left out: what they said is lost, and no
    number of the run depends on it.
    """
    try:
        lines = read_file(path).splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield parse_object(line)
        except Malformed:
            continue
