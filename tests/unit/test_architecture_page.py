"""docs/architecture.md and docs/receipts.md name rooms, files and functions that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.launching import ROOT
from support.pyproject import TOOL

SOURCE = ROOT / "src" / "crossfoot"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_rooms_are_listed_in_the_order_that_is_held() -> None:
    (rooms,) = [one for one in TOOL["importlinter"]["contracts"] if one["id"] == "rooms"]
    held = [room for layer in reversed(rooms["layers"]) for room in re.split(r" [|:] ", layer)]
    packages = [room for room in held if (SOURCE / room).is_dir()]
    listed = [
        room for row in PAGE.splitlines() if row.startswith("| `") for room in re.findall(r"`(\w+)/`", row)
    ]
    assert listed == packages
    assert set(packages) == {path.parent.name for path in SOURCE.glob("*/__init__.py")}


@pytest.mark.parametrize("page", ["architecture.md", "receipts.md"])
def test_every_file_that_is_named_is_there(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", text)
    assert named
    assert [name for name in named if not ((SOURCE / name).exists() or (ROOT / name).exists())] == []
    defined = "\n".join(path.read_text(encoding="utf-8") for path in Path(SOURCE).rglob("*.py"))
    functions = re.findall(r"`([a-z_]+)` in `", text) + re.findall(r"`([a-z]+_[a-z_]+)`(?:,|:|\))", text)
    assert [name for name in functions if not re.search(rf"\b{name}\b", defined)] == []
