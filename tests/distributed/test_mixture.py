"""A mixture of three sources is the same run on 1, 2 and 3 ranks, and goes on on another world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.launching import (
    ROOT,
    ledger,
    plain,
    receipt,
    short_tokenizer,
    small_config,
    warm_ranks,
    write_samples,
)

pytestmark = pytest.mark.distributed

PER_EPOCH = {"chat": 12, "news": 20, "code": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs folded into one process, on 3 ranks, and on 2 ranks until step 7 and then on 3."""
    folder = tmp_path_factory.mktemp("mixture")
    for number, (name, count) in enumerate((("chat", 12), ("news", 11), ("code", 9))):
        write_samples(folder / f"{name}.jsonl", count, seed=number)
    sources = [
        {"path": str(folder / "chat.jsonl"), "name": "chat"},
        {"path": str(folder / "news.jsonl"), "name": "news", "weight": 2.5, "max_samples": 8},
        {"path": str(folder / "code.jsonl"), "name": "code", "weight": 0.3},
    ]
    config = small_config(
        folder,
        tokenizer={"path": str(short_tokenizer(folder))},
        data={"train": sources, "last_step": "carry"},
        train={"epochs": 3, "max_steps": None},
    )
    alone = ("deepspeed=null", "cluster.num_nodes=1", "cluster.gpus_per_node=2")
    jobs: dict[int, list[dict[str, Any]]] = {
        0: [_job(folder, config, "one", *alone)],
        2: [{**_job(folder, config, "moved"), "stop_after": 7}],
        3: [_job(folder, config, "three"), {**_job(folder, config, "moved"), "continues": True}],
    }
    for ranks, mine in jobs.items():
        path = folder / f"jobs{ranks}.json"
        path.write_text(json.dumps(mine), encoding="utf-8")
        script = ROOT / "tests" / "support" / "many_runs.py"
        done = warm_ranks(ranks, script, path) if ranks else plain(script, path)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return folder


def _job(folder: Path, config: Path, name: str, *words: str) -> dict[str, Any]:
    return {"name": name, "config": str(config), "overrides": [f"run.dir={folder / name}", *words]}


def test_each_source_is_trained_equally_on_every_topology(runs: Path) -> None:
    lines = {name: ledger(runs / name) for name in ("one", "moved", "three")}
    assert [line["attempt"] for line in lines["moved"]] == [1] * 7 + [2] * 8
    for name, own in lines.items():
        assert [line["sources"] for line in own] == [line["sources"] for line in lines["one"]], name
        assert [line["samples_sha256"] for line in own] == [line["samples_sha256"] for line in lines["one"]]
        assert not sum(line["repeated_samples"] for line in own), name
        told = receipt(runs / name)
        assert told["foots"] is True, told["causes"]
        rows = {row["name"]: (row["planned"], row["real"]) for row in told["rows"]}
        for source, count in PER_EPOCH.items():
            assert rows[f"samples of {source}"] == (3 * count, 3 * count), name
