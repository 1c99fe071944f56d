"""A wheel of this clone, and environments of their own to install it into, from PyPI."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.launching import ROOT

PIP_SECONDS = 1_200


def pip(python: str | Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m pip WORDS`, whatever came of it."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)


def need_pypi(folder: Path) -> None:
    """Skip, with pip's reason, where PyPI does not give even a small package."""
    asked = pip(sys.executable, "download", "--retries", "1", "--no-deps", "--dest", folder, "packaging")
    if asked.returncode:
        pytest.skip(f"PyPI cannot be reached: {(asked.stderr.strip() or '?').splitlines()[-1]}")


def build_wheel(folder: Path) -> Path:
    """The wheel of this clone."""
    built = pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("crossfoot-*.whl")
    return wheel


def new_environment(folder: Path, wheel: Path, constraints: Sequence[str] = ()) -> Path:
    """A new environment with this wheel, none of its extras, and what it needs; the folder of its scripts."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    bounds = folder / "constraints.txt"
    bounds.write_text("\n".join(constraints) + "\n", encoding="utf-8")
    installed = pip(scripts / "python", "install", "--quiet", "--constraint", bounds, wheel)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    return scripts
