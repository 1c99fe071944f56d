"""Several launch files in one check: each is held against the run that its own words make."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfoot.planning.checking import find_all
from launch_scripts import CONFIG

TWO = "deepspeed --hostfile hosts train.py config.yaml\n"
ONE = "deepspeed --num_gpus {} train.py config.yaml cluster.num_nodes=1 cluster.gpus_per_node=4\n"


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(
        CONFIG.replace("data/demo/zh.jsonl", "x.jsonl").replace("epochs", "max_steps")
    )
    record = '{"instruction": "a", "input": "", "output": "b"}\n'
    Path("x.jsonl").write_text(record * 200)
    Path("zero2.json").write_text('{"zero_optimization": {"stage": 2}}')
    Path("hosts").write_text("n1 slots=8\nn2 slots=8\n")
    Path("two.sh").write_text(TWO)
    Path("one.sh").write_text(ONE.format(4))


def launch_findings(*words: str) -> list[tuple[str, str, str]]:
    found = find_all("config.yaml", words)
    return [
        (each.code, each.severity, each.place.file if each.place else "")
        for each in found
        if each.code.startswith(("CF4", "CF1"))
    ]


def test_each_has_its_own_nodes_and_gpus() -> None:
    assert launch_findings("two.sh", "one.sh", "hosts") == []
    assert launch_findings("one.sh", "two.sh") == []


def test_one_that_starts_another_config() -> None:
    Path("other.sh").write_text(ONE.format(3).replace("config.yaml", "other.yaml"))
    said = launch_findings("two.sh", "other.sh")
    assert {("CF461", "error", "other.sh"), ("CF453", "error", "other.sh")} <= set(said), "it may be a slip"
    Path("other.yaml").write_text(Path("config.yaml").read_text())
    assert launch_findings("two.sh", "other.sh") == [("CF461", "error", "other.sh")]


def test_a_wrong_one_among_them() -> None:
    Path("wrong.sh").write_text(ONE.format(3))
    assert launch_findings("two.sh", "one.sh", "wrong.sh") == [("CF453", "error", "wrong.sh")]


def test_a_hostfile_that_fits_none_of_them() -> None:
    Path("others").write_text("n1 slots=6\nn2 slots=6\nn3 slots=6\n")
    codes = {(code, file) for code, _, file in launch_findings("two.sh", "one.sh", "others")}
    assert codes == {("CF452", "others"), ("CF453", "others")}
    Path("others").write_text("n1 slots=4\n")
    assert launch_findings("two.sh", "one.sh", "others") == []


def test_what_is_wrong_with_the_words_of_one() -> None:
    Path("one.sh").write_text(ONE.format(4).strip() + " batch.global_batch_size=999\n")
    assert launch_findings("two.sh", "one.sh") == [("CF104", "error", "one.sh")]


def test_what_is_wrong_elsewhere_names_the_file_whose_words_make_it_so() -> None:
    Path("x.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n' * 50)
    (finding,) = [each for each in find_all("config.yaml", ("two.sh", "one.sh")) if each.code == "CF518"]
    assert "so with the words of two.sh" in finding.notes


def test_data_of_the_cluster_is_a_note() -> None:
    Path("two.sh").write_text(TWO.strip() + " data.train=[/cluster/x.jsonl] deepspeed=/cluster/zero2.json\n")
    notes = [each for each in find_all("config.yaml", ("two.sh",)) if each.code != "CF030"]
    assert [(each.code, each.severity, each.unreadable) for each in notes] == [("CF455", "note", False)] * 2
