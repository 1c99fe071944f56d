"""What is imported is declared, on the right side of the wall, and what is declared is imported. The version
stands in one place; constraints.txt names every package that is declared.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import crossfoot
from crossfoot.extras import NEEDED_BY, PACKAGES, install_command, refuse_missing
from crossfoot.findings.finding import Refused
from support.launching import ROOT
from support.pyproject import PROJECT

SOURCE = ROOT / "src" / "crossfoot"
BELOW_THE_WALL = {
    "training",
    "evaluation",
    "tuning",
    "generating",
    "probing",
    "merging",
    "models",
    "metering",
}
BELOW_THE_WALL |= {"rendezvous"}
"""Rooms that import what trains."""
DISTRIBUTIONS = {"ruamel": "ruamel.yaml", "xdist": "pytest-xdist"}
"""Packages whose name for import is not that for pip."""
ELSEWHERE = {
    "doctor/torch_questions.py": "its text is run by the python of the node that is asked",
    "serving/locust_users.py": "locust runs it, in a process of its own",
}
"""Files above the wall that import what trains, and why they may."""
LAST_RESORT = {"transformers"}
"""For a tokenizer that neither tokenizers nor sentencepiece reads: imported inside a function, and CF520 says
what to install.
"""
ASKED_FOR = {"liger-kernel"}
"""Never needed: imported inside a function, and CF597 says what to install."""


def _names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


EVERYWHERE = _names(PROJECT["dependencies"])
EXTRAS = {extra: _names(needs) for extra, needs in PROJECT["optional-dependencies"].items()}


def _imports(file: Path) -> Iterator[tuple[str, bool]]:
    """(distribution, whether it is imported inside a function) of every third-party import of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        else:
            continue
        for top in {module.partition(".")[0] for module in modules} - {"crossfoot", "__future__"}:
            if top not in sys.stdlib_module_names | {"tomllib"}:  # of Python 3.11's library
                yield canonicalize_name(DISTRIBUTIONS.get(top, top)), id(node) in inside


def _allowed(file: str, package: str, is_inside: bool) -> bool:
    room = file.partition("/")[0]
    if package in EVERYWHERE:
        return True
    if package in EXTRAS["harness"]:
        return file in ("evaluation/harness.py", "evaluation/harness_model.py")
    if room in BELOW_THE_WALL:
        return package in EXTRAS["train"] or (package in ASKED_FOR | EXTRAS["tune"] and is_inside)
    if room == "mirrors":
        return package in MIRRORED_TO and is_inside
    if package in EXTRAS["eval"]:
        return room == "tasks" and is_inside
    return file in ELSEWHERE or (package in LAST_RESORT and is_inside)


SOURCES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}


MIRRORED_TO = EXTRAS["tracking"] | EXTRAS["tensorboard"]
LOADED_BY = {"locust"}
"""Of the extra serve; the others of it are what transformers serve imports."""


def test_every_import_is_declared_on_its_side_of_the_wall() -> None:
    """A name here: declare the package in pyproject.toml, or import it below the wall."""
    assert not [
        f"{file} imports {package}"
        for file, path in SOURCES.items()
        for package, is_inside in _imports(path)
        if not _allowed(file, package, is_inside)
    ]


def test_what_is_declared_is_imported() -> None:
    imported = {package for path in SOURCES.values() for package, _ in _imports(path)}
    of_extras = EXTRAS["train"] | EXTRAS["tune"] | EXTRAS["eval"] | EXTRAS["harness"]
    assert EVERYWHERE | of_extras | MIRRORED_TO | ASKED_FOR | LOADED_BY == imported
    assert set(ELSEWHERE) <= set(SOURCES)


def test_what_tests_and_tools_import_is_declared() -> None:
    folders = (ROOT / "benchmarks", ROOT / "tools")
    modules = (*(ROOT / "tests").rglob("*.py"), *(path for folder in folders for path in folder.glob("*.py")))
    beside = {canonicalize_name(path.stem) for path in modules} | {"support"}
    declared = EVERYWHERE.union(beside, {"tomli"}, *EXTRAS.values())  # pytest brings tomli where it is needed
    assert not [
        f"{path.relative_to(ROOT)} imports {package}"
        for path in (*(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").glob("*.py"))
        for package, _ in _imports(path)
        if package not in declared
    ]


def test_the_table_of_extras_is_pyprojects() -> None:
    for extra, packages in PACKAGES.items():
        assert {canonicalize_name(name) for name in packages} == EXTRAS[extra]
    assert EXTRAS["test"] >= MIRRORED_TO, "the tests write what is shown by others"
    assert EXTRAS["test"] >= EXTRAS["serve"], "the tests start what serves and what loads"
    assert EXTRAS["test"] >= EXTRAS["tune"], "the tests search"
    assert EXTRAS["test"] >= EXTRAS["eval"], "the tests judge answers"


@pytest.mark.parametrize("verb", NEEDED_BY)
def test_a_verb_says_what_to_install(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_missing(verb)
    package = PACKAGES[NEEDED_BY[verb]][1]
    monkeypatch.setattr("crossfoot.extras.find_spec", lambda name: None if name == package else True)
    with pytest.raises(Refused) as refused:
        refuse_missing(verb)
    (finding,) = refused.value.findings
    assert finding.code == "CF017"
    assert finding.title == f"{verb} needs {package}, which is not installed"
    assert f"pip install 'crossfoot[{NEEDED_BY[verb]}]'" in finding.helps[0]
    assert refused.value.exit_code == 1
    refuse_missing("plan")


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", crossfoot.__version__)
    assert f"## {crossfoot.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_name_every_declared_package_in_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = [Requirement(line) for line in lines if line and not line.startswith("#")]
    by_name: dict[str, list[Requirement]] = {}
    for one in tested:
        by_name.setdefault(canonicalize_name(one.name), []).append(one)
    extras = PROJECT["optional-dependencies"].values()
    for wanted in map(Requirement, (*PROJECT["dependencies"], *(one for extra in extras for one in extra))):
        found = by_name.get(canonicalize_name(wanted.name), [])
        assert found, f"constraints.txt does not say which {wanted.name} was tested"
        for one in found:
            (version,) = (specifier.version for specifier in one.specifier)
            assert wanted.specifier.contains(version), f"{one} is not {wanted}"


def test_installing_is_said_with_the_command_of_the_readme() -> None:
    assert install_command("train") in (ROOT / "README.md").read_text(encoding="utf-8")
