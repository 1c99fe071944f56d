"""The entries of data.train: what they mean, what is wrong with them, and what plan and lock say of them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crossfoot.data.train_sources import files_of, place_of, train_files
from crossfoot.findings.finding import Refused
from crossfoot.index.build import ensure_index
from crossfoot.planning.checking import find_all
from crossfoot.planning.lock import make_lock
from crossfoot.planning.page import render_plan
from crossfoot.planning.plan import RunPlan
from crossfoot.planning.prepare import plan_checked, plan_written, read_and_check
from crossfoot.runs.changing import changes
from crossfoot.written.run_file import load_run
from support.launching import ROOT, write_samples

CONFIG = """
run: {name: mixed, seed: 3}
model: {path: "builtin:tiny", dtype: float32}
data:
  train: [a.jsonl]
batch: {micro_batch_size: 2, global_batch_size: 4}
lr: {reference: 1e-3}
train: {epochs: 2}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG, encoding="utf-8")
    Path("d/inside").mkdir(parents=True)
    for number, name in enumerate(("a", "d/b", "d/a", "d/inside/c", "d/.hidden")):
        write_samples(Path(f"{name}.jsonl"), 6, seed=number)
    Path("d/z.jsonl.gz").write_bytes(gzip.compress(Path("a.jsonl").read_bytes()))
    Path("d/README.md").write_text("what is here", encoding="utf-8")


def train(entries: Sequence[Any]) -> str:
    return f"data.train={json.dumps(entries)}"


def planned(entries: Sequence[Any], *words: str) -> RunPlan:
    checked = read_and_check("c.yaml", [train(entries), *words])
    checked.refuse()
    index = ensure_index(checked.run, train_files(checked.run.config.data), is_builder=True)
    return plan_checked(checked, index)


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("d", ["d/a.jsonl", "d/b.jsonl", "d/z.jsonl.gz"]),
        ("d/*.jsonl", ["d/a.jsonl", "d/b.jsonl"]),
        ("d/**/*.jsonl", ["d/a.jsonl", "d/b.jsonl", "d/inside/c.jsonl"]),
        ("d/[ab].jsonl", ["d/a.jsonl", "d/b.jsonl"]),
        ("a.jsonl", ["a.jsonl"]),
        ("none.jsonl", ["none.jsonl"]),
        ("none*.jsonl", ["none*.jsonl"]),
    ],
)
def test_an_entry_is_a_file_a_folder_or_a_pattern(path: str, files: list[str]) -> None:
    assert list(files_of(path, "sft")) == files


def test_a_file_of_that_very_name_is_no_pattern() -> None:
    write_samples(Path("d/[ab].jsonl"), 1)
    assert files_of("d/[ab].jsonl", "sft") == ("d/[ab].jsonl",)


def test_a_plain_source_is_its_path_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    run = load_run("c.yaml", [train([{"path": "a.jsonl", "weight": 1}, {"path": "~/d", "weight": 2}])])
    assert run.as_written.data.train[0] == "a.jsonl"
    second = run.config.data.sources[1]
    assert second.path == f"{Path.cwd()}/d" and run.as_written.data.sources[1].path == "~/d"
    assert run.as_written.model_dump(mode="json")["data"]["train"] == [
        "a.jsonl",
        {"path": "~/d", "name": None, "weight": 2, "max_samples": None},
    ]


def test_a_file_has_the_place_of_its_entry() -> None:
    text = CONFIG.replace("[a.jsonl]", "\n    - a.jsonl\n    - {path: d, weight: 2}")
    Path("c.yaml").write_text(text, encoding="utf-8")
    run = load_run("c.yaml")
    assert str(place_of(run, "a.jsonl")) == "c.yaml:6:7"
    assert str(place_of(run, "d/b.jsonl")) == "c.yaml:7:14"
    assert str(place_of(run, "other.jsonl")) == "other.jsonl"


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        ({"path": "a.jsonl", "wieght": 2}, "CF004", "the nearest key of a source is weight"),
        ({"weight": 2}, "CF006", "data.train[0].path is missing"),
        ({"path": "a.jsonl", "weight": 0}, "CF007", "data.train[0].weight must be more than 0, and is 0"),
        ({"path": "a.jsonl", "weight": 2000}, "CF007", "at most 1000"),
        ({"path": "a.jsonl", "max_samples": 0}, "CF007", "data.train[0].max_samples must be at least 1"),
        (["a.jsonl"], "CF007", "data.train[0] must be text"),
        ({"path": "a.jsnl", "weight": 2}, "CF501", "the nearest name there is a.jsonl"),
        ({"path": "D", "weight": 2}, "CF501", "the nearest name there is d"),
        ({"path": "a.jsonl", "weight": 0.05}, "CF512", "raise its weight to 0.167"),
        ({"path": "a.jsonl", "max_samples": 7}, "CF529", "write weight: 1.167 instead"),
    ],
)
def test_what_is_wrong_with_an_entry_is_one_finding(entry: Any, code: str, words: str) -> None:
    (finding,) = find_all("c.yaml", [train([entry])])
    assert finding.code == code
    assert words in " ".join((finding.title, finding.label, *finding.helps, *finding.notes))


def test_two_entries_that_come_to_one_file_are_said() -> None:
    findings = find_all("c.yaml", [train(["d", "d/b.jsonl"])])
    assert [finding.code for finding in findings] == ["CF516"]
    assert findings[0].title == "d/b.jsonl is listed twice"


def test_plan_and_lock_tell_the_sources_apart() -> None:
    entries = [{"path": "a.jsonl", "weight": 0.5}, {"path": "d", "name": "folder", "max_samples": 10}]
    plan = planned(entries)
    assert plan.schedule.num_samples == 3 + 10
    numbers = make_lock(plan)["plan"]["sources"]
    assert [tuple(one.values()) for one in numbers] == [("a.jsonl", 1, 6, 6, 3), ("folder", 3, 18, 10, 10)]
    page = render_plan(plan)
    assert "folder    10 of 18       1         10   76.9 %" in page
    estimated, _ = plan_written("c.yaml", [train(entries), "data.index_dir=elsewhere"])
    assert estimated.schedule.num_samples == 13 and "left out" not in render_plan(estimated)
    assert estimated.schedule.mixture == plan.schedule.mixture


def test_the_table_of_the_page_is_that_of_the_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"(?m)^    source .*(?:\n    .*)+", page)
    monkeypatch.chdir(ROOT)
    entries = [
        "data/demo/zh.jsonl",
        {"path": "data/demo/en.jsonl", "name": "en", "weight": 2.5, "max_samples": 40},
    ]
    words = [train(entries), f"data.index_dir={tmp_path / 'index'}"]
    run = load_run("configs/demo.yaml", words)
    ensure_index(run, train_files(run.config.data), is_builder=True)
    plan, _ = plan_written("configs/demo.yaml", words)
    assert table in render_plan(plan)


def test_files_and_the_pattern_that_names_them_are_the_same_run() -> None:
    """Steps, index and layout; a lock tells apart what is written apart."""
    one, two = planned(["d/*.jsonl"]), planned(["d/a.jsonl", "d/b.jsonl"])
    assert one.schedule.mixture is None and two.schedule.mixture is None
    assert one.index is not None and two.index is not None and one.index.address == two.index.address
    assert (one.batches_sha256, one.layout_sha256) == (two.batches_sha256, two.layout_sha256)
    assert "sources" not in make_lock(one)["plan"]
    assert changes(make_lock(one), make_lock(two)) == ()


def test_another_weight_is_another_run() -> None:
    twice = {"path": "d", "name": "folder", "weight": 2}
    before = make_lock(planned(["a.jsonl", twice]))
    (change,) = changes(before, make_lock(planned(["a.jsonl", {**twice, "weight": 3}])))
    assert (change.key, change.before, change.now) == (
        "data.train",
        "folder: 36 an epoch",
        "folder: 54 an epoch",
    )
    renamed = make_lock(planned(["a.jsonl", {**twice, "name": "other"}]))
    assert changes(before, renamed) == ()


@pytest.mark.parametrize(
    "words", [(), ("batch.global_batch_size=[[0, 3], [20, 5]]", "batch.grad_accum_steps=null")]
)
def test_a_growing_batch_cuts_the_mixture(words: tuple[str, ...]) -> None:
    plan = planned(["a.jsonl", {"path": "d", "weight": 1.5}], *words)
    assert plan.schedule.scheduled_samples == 2 * (6 + 27)


def test_steps_by_tokens_count_the_tokens_of_the_mixture() -> None:
    words = ("batch.global_batch_size=null", "batch.grad_accum_steps=8", "batch.target_trained_tokens=60")
    plan = planned(["a.jsonl", {"path": "d", "weight": 1.5}], *words)
    assert plan.index is not None
    tokens = [
        int(plan.index.trained_tokens[plan.schedule.samples(k)].sum())
        for k in range(plan.schedule.total_steps)
    ]
    assert sum(count < 60 for count in tokens) <= 2 and min(tokens[:3]) >= 60


def test_two_names_are_one_too_many() -> None:
    with pytest.raises(Refused, match="CF528"):
        planned([{"path": "a.jsonl", "name": "x"}, {"path": "d", "name": "x"}])
