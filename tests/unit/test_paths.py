"""One notation has one meaning in every key that holds a path, and what cannot be meant is refused before a
folder of that name is made.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crossfoot.cli import main
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.build import ensure_index
from crossfoot.planning.checking import find_all
from crossfoot.planning.lock import make_lock
from crossfoot.planning.prepare import plan_written
from crossfoot.written.resolved import dump_config
from crossfoot.written.run_file import RunFile, load_run
from support.launching import write_samples

CONFIG = """\
run: {name: t}
model: {path: "builtin:tiny", dtype: float32}
data: {train: [x.jsonl]}
batch: {micro_batch_size: 2, grad_accum_steps: 2}
cluster: {num_nodes: 1, gpus_per_node: 1}
lr: {reference: 1.0e-3}
train: {max_steps: 2}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.delenv("NOWHERE", raising=False)
    (tmp_path / "home").mkdir()
    Path("c.yaml").write_text(CONFIG)
    write_samples(Path("x.jsonl"), 8)


def run(*words: str) -> RunFile:
    return load_run("c.yaml", words)


def refused(*words: str) -> tuple[Finding, ...]:
    with pytest.raises(Refused) as error:
        run(*words)
    return error.value.findings


def test_a_home_is_the_same_in_every_key(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    config = run(
        *("run.dir=~/r", "model.path=~/m", "tokenizer.path=~/t", "data.train=[~/a.jsonl, b.jsonl]"),
        *("data.validation=[~/v.jsonl]", "data.index_dir=~/i", "deepspeed=~/ds.json"),
    )
    values = config.config
    assert (config.run_dir, config.index_dir) == (f"{home}/r", f"{home}/i")
    assert (values.model.path, values.tokenizer and values.tokenizer.path) == (f"{home}/m", f"{home}/t")
    assert values.data.train == [f"{home}/a.jsonl", "b.jsonl"]
    assert (values.data.validation, values.deepspeed) == ([f"{home}/v.jsonl"], f"{home}/ds.json")


def test_what_is_there_by_that_name_is_meant(tmp_path: Path) -> None:
    for name in ("~", "$SCRATCH", "a\\b", " x"):
        Path(name).mkdir()
        assert run(f'run.dir="{name}"'.replace("\\", "\\\\")).run_dir == name


def test_the_papers_of_a_run_mean_the_same_on_another_machine(tmp_path: Path) -> None:
    read = run("run.dir=~/r", "data.train=[x.jsonl]")
    ensure_index(read, read.config.data.train, is_builder=True)
    plan, _ = plan_written("c.yaml", ["run.dir=~/r"])
    assert make_lock(plan)["config"]["run"]["dir"] == "~/r"
    assert "dir: ~/r" in dump_config(plan.run.as_written)
    assert Path("home/.index").is_dir() and not Path("~").exists()


PATHS = (
    *("$SCRATCH/r", "${SCRATCH}/r", "${SCRATCH:-/x}/r", "r-$NOWHERE", "%SCRATCH%/r", "$(pwd)/r", "`pwd`/r"),
    *("~nobody-of-that-name/r", "a\\r", "C:\\r", "C:/r", " r", "r ", "r\u3000"),
    *("file:///r", "https://h/r", "s3://b/r"),
)
VERBS = ("plan", "check", "index", "train", "prove")
LISTS = ("data.train", "data.validation")
KEYS = ("run.dir", "model.path", "tokenizer.path", "data.index_dir", "deepspeed", *LISTS)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_cannot_be_meant_is_refused(path: str, key: str) -> None:
    text = "'" + path + "'"
    before = sorted(os.listdir())
    (finding,) = refused(
        f"{key}=[{text}]" if key.startswith("data.") and key != "data.index_dir" else f"{key}={text}"
    )
    assert finding.code == "CF007" and finding.helps
    assert finding.title.startswith(f"{key}")
    if key == "run.dir":
        assert {main([verb, "c.yaml", f"run.dir={text}"]) for verb in VERBS} == {1}
    assert sorted(os.listdir()) == before


def test_a_variable_that_is_set_is_shown_filled_in(tmp_path: Path) -> None:
    (finding,) = refused("run.dir=$SCRATCH/r")
    assert (
        finding.title
        == 'run.dir must be a path without $SCRATCH (variables are not filled in), and is "$SCRATCH/r"'
    )
    assert finding.helps == (
        f"write {tmp_path}/scratch/r",
        'or let the shell fill it in, behind the config: run.dir="$SCRATCH/r"',
    )
    assert refused("run.dir=$NOWHERE/r")[0].helps == ("write the whole path: NOWHERE is not set here",)
    assert run("run.name=a-$NOWHERE").config.run.name == "a-$NOWHERE", "a name is no path"


def test_every_wrong_path_is_named_at_once() -> None:
    found = refused(
        "run.dir=$A/r", "data.train=[$A/x, x.jsonl, 'b\\c']", "deepspeed=~nobody-of-that-name/d.json"
    )
    assert [finding.title.split()[0] for finding in found] == [
        "run.dir",
        "data.train[0]",
        "data.train[2]",
        "deepspeed",
    ]


def test_a_repair_keeps_the_rest_of_the_file() -> None:
    Path("c.yaml").write_text(
        CONFIG.replace("data: {train: [x.jsonl]}", "data:\n  train: ['.\\x.jsonl']  # mine")
    )
    assert main(["check", "c.yaml", "--fix"]) == 0
    assert "[./x.jsonl]  # mine" in Path("c.yaml").read_text()


def test_what_is_no_file(tmp_path: Path) -> None:
    Path("d").mkdir()
    Path("empty").mkdir()
    write_samples(Path("d/a.jsonl"), 1)
    helps = {
        "[empty]": "put data files into it (.json, .jsonl",
        "[tatsu-lab/alpaca]": "a data set of the hub is not fetched",
        "['d/*.json']": "correct the pattern",
        "['d/{a,b}.jsonl']": "make one entry of each",
    }
    for files, help_ in helps.items():
        (finding,) = find_all("c.yaml", [f"data.train={files}"])
        assert finding.code == "CF501" and help_ in finding.helps[0]
    (finding,) = find_all("c.yaml", ["data.validation=[d]"])
    assert finding.helps == ("name its files: d/a.jsonl",)


@pytest.mark.parametrize("words", [("receipt",), ("watch", "--once"), ("export", "r"), ("check",)])
def test_words_that_no_shell_has_read(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "$NOWHERE/r"]) == 2
    assert "without $NOWHERE" in capsys.readouterr().out
    assert not Path("$NOWHERE").exists()


def test_a_home_in_quotes_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    Path("home/c.yaml").write_text(CONFIG)
    assert main(["check", "~/c.yaml"]) == 0
    assert main(["check", "~/c.yaml", "~/hostfile"]) == 2
    assert f"{os.environ['HOME']}/hostfile does not exist" in capsys.readouterr().out
