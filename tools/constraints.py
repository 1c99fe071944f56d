"""constraints.txt, from the environments in which all tests passed. One python of each is named:

    tools/constraints.py .venv/bin/python ../python3.10/.venv/bin/python > constraints.txt

Listed is everything that crossfoot and its extras bring, and the version that each environment has. Where
environments differ, a version holds from its Python on, up to the next one's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
HEAD = """\
# The exact versions that the tests ran with (Linux; CPU). Used by make: pip install -c constraints.txt
# An older Python takes the newest versions that still support it. What torch's CUDA build brings, torch pins.
# made by: tools/constraints.py, from environments with Python {pythons}"""
ASK = """
import importlib.metadata, json, re, sys
from packaging.requirements import Requirement

versions, seen, waiting = {}, set(), [Requirement(line) for line in json.loads(sys.argv[1])]
while waiting:
    wanted = waiting.pop()
    name = re.sub(r"[-_.]+", "-", wanted.name).lower()
    if name.startswith(("nvidia-", "cuda-")) or name == "triton":
        continue  # of torch's CUDA build, which pins them
    for extra in ("", *wanted.extras):
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            sys.exit(f"{sys.executable} has no {name}")
        versions[name] = found.version.partition("+")[0]
        for needed in map(Requirement, found.requires or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting.append(needed)
print(json.dumps([sys.version_info[:2], versions]))
"""
"""Run by each environment's own python: what is installed of the requirements and of all that they need."""
Environment = tuple[tuple[int, int], dict[str, str]]


def main(pythons: Sequence[str]) -> int:
    """Print the file."""
    if not pythons:
        print(__doc__, file=sys.stderr)
        return 2
    environments = sorted(_asked(python) for python in pythons)
    print(HEAD.format(pythons=" and ".join(_dotted(version) for version, _ in environments)))
    for name in sorted({name for _, versions in environments for name in versions}):
        print("\n".join(_lines(name, environments)))
    return 0


def _asked(python: str) -> Environment:
    command = [python, "-c", ASK, json.dumps(_declared())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    version, versions = json.loads(done.stdout)
    return (version[0], version[1]), versions


def _declared() -> list[str]:
    import tomllib  # the tool itself runs on 3.11 or newer

    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]


def _lines(name: str, environments: Sequence[Environment]) -> Iterator[str]:
    """One line for each version of a package, the newest Python's first. A package that an environment lacks
    is needed by the other Pythons only.
    """
    had = [(python, versions.get(name)) for python, versions in environments]
    starts = [place for place in range(len(had)) if place == 0 or had[place][1] != had[place - 1][1]]
    for place, until in reversed(list(zip(starts, [*starts[1:], len(had)], strict=True))):
        version = had[place][1]
        bounds = [
            *([f'python_version >= "{_dotted(had[place][0])}"'] if place else []),
            *([f'python_version < "{_dotted(had[until][0])}"'] if until < len(had) else []),
        ]
        if version is not None:
            yield f"{name}=={version}" + (f" ; {' and '.join(bounds)}" if bounds else "")


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
