"""Tokenised by one process or by several, in chunks of any size: the same index byte for byte, and the same
words about the data. A worker that is lost is a finding, and none outlives who started it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pyarrow.parquet
import pytest

from crossfoot import processes
from crossfoot.findings.finding import Refused
from crossfoot.index import build, chunks, workers
from crossfoot.index.build import ensure_index
from crossfoot.index.chunks import chunks_of
from index_cases import GOOD, jsonl, written_run

SRC = Path(__file__).parents[2] / "src"


def rows(count: int) -> list[Any]:
    """Good records, and every kind of those that are left out, counted or told of."""
    odd: dict[int, Any] = {
        3: {**GOOD, "instruction": "字" * 200},
        4: {"instruction": "a"},
        5: 7,
        11: {**GOOD, "output": "a </s> b"},
        12: {**GOOD, "instruction": "[INST] c", "text": "[INST] c"},
        13: {**GOOD, "id": 9, "text": "once more"},
    }
    return [odd.get(i % 17, {"instruction": f"问 {i}", "output": "答" * (i % 7 + 1)}) for i in range(count)]


def files_in(folder: Path, task: str) -> list[str]:
    """A file of lines with blank ones between, a list, and a Parquet file of two row groups."""
    lines = [one if i % 5 else [one, "", " "] for i, one in enumerate(rows(60))]
    flat = [one for part in lines for one in (part if isinstance(part, list) else [part])]
    made = [jsonl(folder / "a.jsonl", *flat), str(folder / "b.json"), str(folder / "c.parquet")]
    Path(made[1]).write_text(json.dumps(rows(45), ensure_ascii=False, indent=1), encoding="utf-8")
    table = {"instruction": [f"q {i}" for i in range(40)], "output": ["r"] * 40, "text": ["t u v"] * 40}
    pyarrow.parquet.write_table(pyarrow.table(table), made[2], row_group_size=23)
    if task == "pretrain":
        made.append(str(folder / "d.txt"))
        Path(made[3]).write_text("one\n\n\u3000\ntwo </s>\r\nthree\n" * 20, encoding="utf-8")
    return made


def contents(folder: str) -> dict[str, bytes]:
    return {name: Path(folder, name).read_bytes() for name in sorted(os.listdir(folder))}


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def set_to(count: int, chunk_records: int) -> None:
        monkeypatch.setattr(build, "workers_for", lambda *_: count)
        monkeypatch.setattr(chunks, "CHUNK_RECORDS", chunk_records)

    return set_to


@pytest.mark.parametrize("task", ["sft", "pretrain"])
def test_the_same_index_whoever_tokenises(
    tmp_path: Path, worked: Callable[[int, int], None], task: str
) -> None:
    found = []
    files = files_in(tmp_path, task)
    for place, (count, chunk_records) in enumerate([(0, 1000), (0, 7), (1, 13), (2, 1), (5, 17)]):
        worked(count, chunk_records)
        (folder := tmp_path / str(place)).mkdir()
        run = written_run(folder, files, task=task, bad_samples="skip", max_seq_len=128)
        index = ensure_index(run, files, is_builder=True)
        found.append(contents(index.folder))
    assert all(one == found[0] for one in found[1:])
    header = json.loads(found[0]["header.json"])
    assert header["rejected_records"] > 0 and header["special_text_records"]["records"] > 0
    places = [
        (one["file_id"], one["number"]) for one in map(json.loads, found[0]["rejects.jsonl"].splitlines())
    ]
    assert places == sorted(places) and len(places) == header["rejected_records"]
    if task == "sft":
        assert header["template_records"]["records"] > 0 and header["unread_fields"]


def test_the_same_refusal_whoever_tokenises(tmp_path: Path, worked: Callable[[int, int], None]) -> None:
    path = jsonl(tmp_path / "a.jsonl", *rows(300), "broken")
    told = []
    for count in (0, 2):
        worked(count, 40)
        with pytest.raises(Refused) as refused:
            ensure_index(written_run(tmp_path, [path]), [path], is_builder=True)
        told.append(refused.value.findings)
    assert told[0] == told[1] and {"CF503", "CF506", "CF507", "CF509"} == {one.code for one in told[0]}


def test_a_chunk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1000)
    path = jsonl(tmp_path / "a.jsonl", *[{**GOOD, "output": "a" * n} for n in (1, 500, 500, 5000, 1)])
    parts = list(chunks_of([path, jsonl(tmp_path / "b.jsonl")]))
    assert [len(one.records) for one in parts] == [2, 1, 1, 1, 0]
    assert [one.before for one in parts] == [0, 2, 3, 4, 5]
    assert [(one.file_id, one.is_last) for one in parts][-2:] == [(0, True), (1, True)]


def test_small_data_needs_no_workers() -> None:
    per_worker = workers.WORKER_BYTES
    assert [workers.workers_for(size, 8) for size in (0, per_worker, 2 * per_worker, 99 * per_worker)] == [
        0,
        0,
        2,
        8,
    ]
    assert workers.workers_for(99 * per_worker, 1) == 0


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "it was killed (SIGKILL)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "it was ended by SIGTERM"),
        ("raise SystemExit(3)", "it ended with code 3"),
    ],
)
def test_a_lost_worker_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worked: Callable[[int, int], None], how: str, told: str
) -> None:
    worked(2, 1)
    monkeypatch.setattr(workers, "_START", how)
    path = jsonl(tmp_path / "a.jsonl", *[GOOD] * 20)
    run = written_run(tmp_path, [path])
    with pytest.raises(Refused) as refused:
        ensure_index(run, [path], is_builder=True)
    (finding,) = refused.value.findings
    assert finding.code == "CF562" and told in finding.label
    assert not [name for name in os.listdir(run.index_dir) if name.startswith(".building")]
    assert not psutil.Process().children()


def test_what_a_worker_raises_is_raised(tmp_path: Path, worked: Callable[[int, int], None]) -> None:
    worked(2, 1)
    path = jsonl(tmp_path / "a.jsonl", *[GOOD] * 20)
    recipe = workers.Recipe(
        str(tmp_path / "none"), str(tmp_path), "text", workers.Shape("sft", "alpaca2", 64)
    )
    with workers.Workers(recipe, 2) as started, pytest.raises(Refused, match="CF520"):
        list(started.parts(chunks_of([path])))
    assert not psutil.Process().children()


BUILD = """
import sys, time
from crossfoot.index import build, chunks
from crossfoot.written.run_file import load_run

build.workers_for = lambda *_: 2
chunks.CHUNK_RECORDS = 1
run = load_run(sys.argv[1], [])
print("begins", flush=True)

def progress(done, _):
    if done == 3:
        print("reading", flush=True)
        while True:  # no single wait: a signal just before a read that blocks is not heard until it returns
            time.sleep(0.01)

build.ensure_index(run, list(run.config.data.train), is_builder=True, progress=progress)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_the_builder(tmp_path: Path, number: signal.Signals) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[GOOD] * 50)
    builder = subprocess.Popen(
        [sys.executable, "-c", BUILD, written_run(tmp_path, [path]).path],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert builder.stdout is not None
    assert [builder.stdout.readline() for _ in range(2)] == ["begins\n", "reading\n"]
    started = psutil.Process(builder.pid).children(recursive=True)
    assert len(started) == 2
    builder.send_signal(number)
    builder.wait(60)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive


def test_usable_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of what the affinity, the control groups and SLURM say."""
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(processes, "_CGROUPS", tmp_path)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"), raising=False)
    own = tmp_path / "proc" / "self" / "cgroup"
    own.parent.mkdir(parents=True)
    own.write_text("0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "step" / "cpu.max").write_text("max 100000\n")
    assert processes.usable_cores() == 16
    (tmp_path / "job" / "cpu.max").write_text("650000 100000\n")
    assert processes.usable_cores() == 6
    own.write_text("4:cpu,cpuacct:/slurm\n3:cpuset:/slurm\n")
    (group := tmp_path / "cpu,cpuacct" / "slurm").mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("50000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert processes.usable_cores() == 1
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert processes.usable_cores() == 4
