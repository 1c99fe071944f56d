"""`pip install crossfoot` beside LLaMA-Factory or axolotl, as they are pinned on PyPI: none of their versions
changes. Resolved only; nothing is installed.

Some minutes, most of them pip's for the other framework. pip may download what it resolves: torch is pinned
to the tests' version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.pyproject import PROJECT
from support.wheel import build_wheel, need_pypi, pip

pytestmark = pytest.mark.slow

TORCH = "torch==2.13.0"
OURS_ALONE = {"crossfoot", *(canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"])}
Versions = dict[str, str]


def resolved(folder: Path, *wanted: str | Path) -> Versions:
    """Package -> version: what pip would install into an empty environment."""
    report = folder / "report.json"
    words = ("install", "--quiet", "--dry-run", "--ignore-installed", "--report", report)
    done = pip(sys.executable, *words, *wanted)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [one["metadata"] for one in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return {canonicalize_name(one["name"]): one["version"] for one in found}


@pytest.mark.parametrize("other", ("llamafactory==0.9.5", "axolotl==0.19.0"))
def test_no_version_of_the_other_changes(other: str, tmp_path: Path) -> None:
    need_pypi(tmp_path / "asked")
    before = resolved(tmp_path, other, TORCH)
    pins = tmp_path / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in before.items()), encoding="utf-8")
    after = resolved(tmp_path, build_wheel(tmp_path / "dist"), "--constraint", pins)
    assert {name: after[name] for name in after.keys() & before.keys()} == {
        name: before[name] for name in after.keys() & before.keys()
    }
    assert "torch" not in after
    brought = after.keys() - before.keys()
    print(
        f"{other}: {len(before)} packages stay; new: {', '.join(f'{n} {after[n]}' for n in sorted(brought))}"
    )
    assert brought <= OURS_ALONE | {"ruamel-yaml-clib"}
