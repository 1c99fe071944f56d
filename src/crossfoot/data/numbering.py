"""How the records of a data file are numbered, so that a person finds one: by line, by row, or by their place
in a JSON list, which may be one line.
"""

from __future__ import annotations

import codecs
import os
from typing import Literal

from crossfoot.data.packing import ENDING, open_bytes
from crossfoot.findings.finding import Place

Numbering = Literal["line", "record", "row"]
ROWS = (".parquet", ".csv", ".tsv")
"""Kinds of files of which the records are rows."""


def kind_of(path: str) -> str:
    """The ending that decides how a file is read, in small letters with its dot; .jsonl of a
    `a.jsonl.gz`.
    """
    return os.path.splitext(path.lower().removesuffix(ENDING))[1]


def is_json_list(path: str) -> bool:
    """Whether a file is one JSON list: named .json, and its first character that is not blank is [."""
    if kind_of(path) != ".json":
        return False
    with open_bytes(path) as stream:
        block = stream.read(1 << 16).removeprefix(codecs.BOM_UTF8)
        while block:
            if stripped := block.lstrip(b" \t\r\n"):
                return stripped.startswith(b"[")
            block = stream.read(1 << 16)
    return False


def numbering_of(path: str) -> Numbering:
    """Of a file that is there."""
    if kind_of(path) in ROWS:
        return "row"
    return "record" if is_json_list(path) else "line"


def record_place(file: str, numbering: Numbering, number: int) -> Place:
    """The place of a record by its number, from 1."""
    return Place(file, number) if numbering == "line" else Place(file, part=f"{numbering} {number:,}")
