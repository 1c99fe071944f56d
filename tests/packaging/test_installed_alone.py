"""`pip install crossfoot` into an empty environment, without the extra: every pure verb answers as it does
here, and what trains says what to install. With the newest versions, and with the oldest that are allowed.

Takes two minutes for each of the two on a busy machine: pip and PyPI, half of it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import crossfoot
from crossfoot.extras import PACKAGES
from support.launching import ROOT, SCRIPTS, environment, plain, small_config
from support.pyproject import PROJECT
from support.wheel import build_wheel, need_pypi, new_environment, pip

pytestmark = pytest.mark.slow

SOON_SECONDS = 10.0
AGE = re.compile(r" *[\d:]+( s)? ago *")
"""In a page of watch: it is asked twice."""
TARGETS = ("local", "deepspeed", "slurm", "accelerate", "torchrun")


class Run(NamedTuple):
    """A small run that trained here: config, run folder, where it all lies."""

    config: Path
    run_dir: Path
    folder: Path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_pypi(tmp_path_factory.mktemp("asked"))
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    config = small_config(folder)
    trained = plain(ROOT / "train.py", config)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    return Run(config, folder / "run", folder)


@pytest.fixture(scope="module", params=("newest", "oldest"))
def scripts(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment that has crossfoot without extras."""
    bounds = oldest() if request.param == "oldest" else []
    if bounds and sys.version_info >= (3, 13):
        pytest.skip(
            "numpy has wheels for Python 3.13 from 2.1 on, which is newer than the oldest one allowed"
        )
    return new_environment(tmp_path_factory.mktemp("env"), wheel, bounds)


def oldest() -> list[str]:
    """`name==version` of the lowest versions that pyproject.toml allows."""
    needs = [Requirement(line) for line in PROJECT["dependencies"]]
    lowest = {one.name: next(s.version for s in one.specifier if s.operator == ">=") for one in needs}
    return [f"{name}=={version}" for name, version in lowest.items()]


def _say(scripts: Path, run: Run, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """`crossfoot WORDS` in the run's folder: of an environment with nothing of this clone on the path, or
    of this clone, with SCRIPTS.
    """
    environ = {**environment(), "COLUMNS": "110"}
    if scripts != SCRIPTS:
        environ.update(PATH=f"{scripts}:/usr/bin:/bin", PYTHONPATH="")
    command = [str(scripts / "crossfoot"), *map(str, words)]
    done = subprocess.run(command, cwd=run.folder, env=environ, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


def _same(scripts: Path, run: Run, *words: str | Path) -> str:
    """What a verb prints there, which is what it prints here."""
    there, here = (_say(folder, run, *words) for folder in (scripts, SCRIPTS))
    assert there.returncode == here.returncode == 0, there.stdout + there.stderr + here.stderr
    assert AGE.sub(" ago ", there.stdout) == AGE.sub(" ago ", here.stdout)
    return there.stdout


def test_the_wheel_is_typed_and_has_its_version(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name == f"crossfoot-{crossfoot.__version__}-py3-none-any.whl"
    data = {"py.typed", "checks/deepspeed/vocabulary.json", "reports/page.css"}
    assert {f"crossfoot/{name}" for name in data} <= set(names)
    assert not [name for name in names if not name.startswith("crossfoot")]


def test_nothing_that_trains_is_installed(scripts: Path) -> None:
    listed = json.loads(pip(scripts / "python", "list", "--format", "json").stdout)
    names = {canonicalize_name(one["name"]) for one in listed}
    assert "crossfoot" in names
    assert not names & {"datasets", *PACKAGES["train"], *PACKAGES["tracking"]}


def test_the_version_is_said(scripts: Path, run: Run) -> None:
    assert _same(scripts, run, "--version") == f"crossfoot {crossfoot.__version__}\n"


def test_explain(scripts: Path, run: Run) -> None:
    assert "train_batch_size" in _same(scripts, run, "explain", "CF101")
    assert _same(scripts, run, "explain", "--all") == (ROOT / "docs/findings.md").read_text(encoding="utf-8")


def test_check(scripts: Path, run: Run) -> None:
    new = "run.dir=another"
    assert "nothing found" in _same(scripts, run, "check", run.config, new)
    wrong = _say(scripts, run, "check", run.config, "batch.global_batch_size=70", "lr.shedule=cosine")
    here = _say(SCRIPTS, run, "check", run.config, "batch.global_batch_size=70", "lr.shedule=cosine")
    assert (wrong.returncode, wrong.stdout) == (1, here.stdout)
    assert _same(scripts, run, "check", run.config, new, "--format", "json") == "[]\n"


def _tokenizers(scripts: Path) -> str:
    ask = "from importlib.metadata import version; print(version('tokenizers'))"
    return subprocess.run([scripts / "python", "-c", ask], capture_output=True, text=True, check=True).stdout


def test_plan(scripts: Path, run: Run) -> None:
    """An index belongs to the version of the library that tokenised it: with another it is made anew, and
    test_index holds what comes of it.
    """
    if _tokenizers(scripts) != _tokenizers(SCRIPTS):
        assert "estimated: no index yet" in _say(scripts, run, "plan", run.config).stdout
        return
    assert "lock" in _same(scripts, run, "plan", run.config)
    assert json.loads(_same(scripts, run, "plan", run.config, "--json"))["estimated"] is False


def test_index(scripts: Path, run: Run) -> None:
    elsewhere = f"data.index_dir={scripts.parent / 'index'}"
    indexed = _say(scripts, run, "index", run.config, elsewhere)
    assert indexed.returncode == 0, indexed.stdout + indexed.stderr
    there = _say(scripts, run, "plan", run.config, elsewhere, "--json")
    here = _say(SCRIPTS, run, "plan", run.config, "--json")
    hashes = [json.loads(said.stdout)["batches_sha256"] for said in (there, here)]
    assert hashes[0] == hashes[1] is not None


def test_a_tokenizer_that_needs_transformers(scripts: Path, run: Run) -> None:
    folder = run.folder / "wordpiece"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("[UNK]\n[SEP]\na\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    done = _say(scripts, run, "index", run.config, f'tokenizer={{"path": "{folder}"}}')
    assert done.returncode == 2, done.stdout + done.stderr
    assert "CF520" in done.stdout
    assert "pip install 'crossfoot[train]'" in done.stdout


def test_receipt(scripts: Path, run: Run) -> None:
    assert "foots: yes" in _same(scripts, run, "receipt", run.run_dir)
    assert json.loads(_same(scripts, run, "receipt", run.run_dir, "--json"))["foots"] is True


def test_watch(scripts: Path, run: Run) -> None:
    assert "foots" in _same(scripts, run, "watch", run.run_dir, "--once", "--plain")


def test_doctor_says_what_is_missing(scripts: Path, run: Run) -> None:
    done = _say(scripts, run, "doctor", run.config)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "torch is not installed" in done.stdout
    assert "pip install 'crossfoot[train]'" in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_launch_renders(scripts: Path, run: Run, target: str) -> None:
    two_ranks = ("cluster.num_nodes=1", "cluster.gpus_per_node=2")
    words = ["launch", run.config, f"run.dir={run.folder / 'next'}", *two_ranks, "--to", target, "--print"]
    if target == "deepspeed":
        hosts = run.folder / "hosts"
        hosts.write_text("node1 slots=2\n", encoding="utf-8")
        words += ["--hostfile", hosts]
    done = _say(scripts, run, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "crossfoot train" in done.stdout or "train.py" in done.stdout


@pytest.mark.parametrize("verb", ("train", "prove"))
def test_what_trains_says_what_to_install(scripts: Path, run: Run, verb: str) -> None:
    began = time.monotonic()
    done = _say(scripts, run, verb, run.config, f"run.dir={run.folder / 'never'}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"error[CF017]: {verb} needs accelerate, deepspeed, peft" in done.stdout
    assert "pip install 'crossfoot[train]'" in done.stdout
    assert not (run.folder / "never").exists()
    assert time.monotonic() - began < SOON_SECONDS
