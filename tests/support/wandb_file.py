"""What an offline run of Weights & Biases wrote down."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def wandb_rows(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(history rows, summary) of an offline wandb file: seven bytes, then LevelDB's log format in blocks of
    32 KiB. One that is still being written: what is whole of it.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = file.read_bytes(), 7, b""
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    while at + 7 <= len(content):
        if (left := -at % 32768) and left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        if at + 7 + length > len(content):
            break
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind not in (1, 4):  # a whole record, or the last part of one
            continue
        record, parts = Record.FromString(parts), b""
        changed = record.history.item if record.HasField("history") else record.summary.update
        values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in changed}
        if record.HasField("history"):
            rows.append(values)
        summary |= values if record.HasField("summary") else {}
    return rows, summary
