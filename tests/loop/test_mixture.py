"""A run over three sources with weights: its papers count each of them, and a mixture that is altered at its
source is caught and named.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from crossfoot.arithmetic.mixture import Mixture
from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Refused
from crossfoot.receipts.receipt import receipt_of
from crossfoot.receipts.verdict import Receipt
from crossfoot.training import acquire
from crossfoot.training.rank_job import TrainOptions
from crossfoot.training.session import run
from support.launching import folded_config, ledger, write_samples

COUNTS = {"chat": 12, "news": 20, "code": 3}
"""Samples an epoch: 12 x 1, the first 8 x 2.5, 9 x 0.3."""


def mixed_config(folder: Path, **sections: Any) -> Path:
    """Two epochs over a file, a folder with a limit, and a pattern."""
    (folder / "news").mkdir()
    for number, (name, count) in enumerate((("chat", 12), ("news/1", 5), ("news/2", 6), ("code-1", 9))):
        write_samples(folder / f"{name}.jsonl", count, seed=number)
    train = [
        {"path": str(folder / "chat.jsonl"), "name": "chat"},
        {"path": str(folder / "news"), "name": "news", "weight": 2.5, "max_samples": 8},
        {"path": str(folder / "code-*.jsonl"), "name": "code", "weight": 0.3},
    ]
    data = {"train": train, "max_seq_len": 256, "index_dir": str(folder / "index")}
    return folded_config(folder, data=data, train={"epochs": 2, "max_steps": None}, **sections)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    mixed_config(folder)
    assert train(folder, "calm") == 0
    return folder


def train(folder: Path, name: str, *words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        words = (f"run.dir={folder / name}", *words)
        return run(str(folder / "config.yaml"), words, read_world({}), TrainOptions())


def rows(receipt: Receipt) -> dict[str, tuple[int, int]]:
    return {row.name: (row.planned, row.real) for row in receipt.rows}


def test_every_source_is_counted_in_lock_ledger_and_receipt(room: Path) -> None:
    receipt = receipt_of(str(room / "calm"))
    assert receipt.foots
    found = rows(receipt)
    for name, count in COUNTS.items():
        assert found[f"samples of {name}"] == (2 * count, 2 * count)
    lines = ledger(room / "calm")
    assert [line["epoch"] for line in lines] == [0] * 5 + [1] * 5
    tokens = [sum(line["sources"][place][1] for line in lines) for place in range(3)]
    assert [found[f"trained tokens of {name}"][1] for name in COUNTS] == tokens
    assert sum(tokens) == found["trained tokens"][1]
    plan = json.loads((room / "calm" / "plan.lock.json").read_text(encoding="utf-8"))["plan"]
    assert {one["name"]: one["samples_per_epoch"] for one in plan["sources"]} == COUNTS
    assert [(one["files"], one["samples"], one["used_samples"]) for one in plan["sources"]] == [
        (1, 12, 12),
        (2, 11, 8),
        (1, 9, 9),
    ]


def other_source(self: Mixture, epoch: int, numbers: Any, real: Any = Mixture.samples) -> Any:
    """The first sample of the second source is trained in place of the first one of all."""
    ids = real(self, epoch, numbers)
    ids[ids == 0] = self.shares[1].first
    return ids


def test_a_mixture_altered_at_its_source_is_refused_before_a_step(room: Path) -> None:
    with (
        mock.patch.object(Mixture, "samples", other_source),
        pytest.raises(Refused, match="CF709") as refused,
    ):
        train(room, "source")
    assert "batches_sha256" in " ".join(refused.value.findings[0].notes)
    assert not (room / "source").exists()


def test_a_sample_of_another_source_is_named_by_the_receipt(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acquire, "refuse_broken_promise", lambda *_: None)
    with mock.patch.object(Mixture, "samples", other_source):
        assert train(room, "trained") == 3
    assert "foots: no" in capsys.readouterr().out
    receipt = receipt_of(str(room / "trained"))
    found = rows(receipt)
    assert found["samples of chat"] == (24, 22) and found["samples of news"] == (40, 42)
    causes = [cause.message for cause in receipt.causes if cause.code == "CF738"]
    assert causes and all("1 fewer of chat, 1 more of news" in message for message in causes)


def test_one_plain_source_has_the_line_and_the_lock_that_it_had(room: Path) -> None:
    assert train(room, "plain", f"data.train=[{room / 'chat.jsonl'}]", "train.epochs=1") == 0
    plan = json.loads((room / "plain" / "plan.lock.json").read_text(encoding="utf-8"))["plan"]
    assert "sources" not in plan
    assert all("sources" not in line for line in ledger(room / "plain"))
