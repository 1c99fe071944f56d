"""A run is evaluated while it trains, and scores what `crossfoot evaluate` gives of its checkpoints later."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from crossfoot.cli import main
from crossfoot.environment.world import read_world
from crossfoot.evaluation.scorer import Scorer
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.rendezvous.rendezvous import RefusedTogether
from crossfoot.runs.evaluations import read_evaluations
from crossfoot.scores.item_log import ItemLog
from crossfoot.training.evaluations import ask_run
from crossfoot.training.rank_job import TrainOptions, make_rank_job
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of two subjects, with a worked example each."""
    lines = [
        {
            "subject": "ab"[number % 2],
            "question": f"{'which ' * (number % 4)}{number}?",
            "choices": [str(number), "水", "one or two"],
            "answer": number % 3,
            **({"split": "dev"} if number < 2 else {}),
        }
        for number in range(12)
    ]
    file = tmp_path_factory.mktemp("asked") / "questions.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return str(file)


@pytest.fixture
def evaluated(room: Room, questions: str) -> Callable[..., dict[str, Any]]:
    """Values of a run of two steps that is evaluated after each."""

    def values(**sections: Any) -> dict[str, Any]:
        asked = {"tasks": [questions], "every_steps": 1}
        return room.validated(
            **{
                "evaluation": asked,
                "lr": {"reference": 0.3},
                "train": {"max_steps": 2},
                "data": {},
                **sections,
            }
        )

    return values


def scores(run_dir: Path, step: int) -> bytes:
    return (run_dir / "evaluations" / f"step-{step:06d}" / "scores.jsonl").read_bytes()


def by_the_verb(run: Watched, questions: str, step: int, *words: str) -> bytes:
    out = run.run_dir.parent / f"verb-{step}"
    torch.set_float32_matmul_precision("highest")  # as a process of its own has it
    named = ["--tasks", questions, "--step", str(step), "--out", str(out), *words]
    assert main(["evaluate", str(run.run_dir), *named]) == 0
    return (out / "scores.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("dtype", "scorer"),
    [
        ("float32", "clean"),
        pytest.param("bfloat16", "clean", marks=pytest.mark.slow),
        pytest.param("float32", "alpaca2-text", marks=pytest.mark.slow),
    ],
)
def test_scores_are_those_of_the_checkpoint(
    evaluated: Callable[..., dict[str, Any]],
    trains: Callable[..., Watched],
    questions: str,
    dtype: str,
    scorer: str,
) -> None:
    """With all that training does otherwise: dropout, packed rows, another library for matrices."""
    run = trains(
        evaluated(
            model={"dtype": dtype, "gradient_checkpointing": True, "matmul": "medium"},
            lora={"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
            | {"dropout": 0.5},
            evaluation={"tasks": [questions], "every_steps": 1, "scorer": scorer},
        )
    )
    assert run.exit_code == 0, run
    for step in (1, 2):
        assert scores(run.run_dir, step) == by_the_verb(run, questions, step, "--scorer", scorer)
    assert scores(run.run_dir, 1) != scores(run.run_dir, 2)
    noted = read_evaluations(str(run.run_dir))
    assert [one.step for one in noted] == [1, 2] and noted[0].tasks[0].items == 10


class Killed(BaseException):
    """As by kill -9: nothing is written any more."""


class Interrupting:
    """Does something when so many items are written down, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> None:
        self.items, self._at, self._act = 0, at, act
        self._real = ItemLog.add
        monkeypatch.setattr(ItemLog, "add", lambda log, items: self._add(log, items))

    def _add(self, log: ItemLog, items: Sequence[Any]) -> None:
        self.items += 1
        if self.items == self._at:
            self._act()
        self._real(log, items)


def kill() -> None:
    raise Killed


def test_killed_in_an_evaluation_it_goes_on(
    evaluated: Callable[..., dict[str, Any]],
    trains: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At the first step, then by a signal at the same one; not an item is scored twice. What is evaluated is
    not disturbed: the weights are those of a run that nobody asks.
    """
    calm = trains(evaluated(evaluation={"tasks": []}), "calm")
    whole = trains(evaluated(), "whole")
    for one, two in zip(calm.after, whole.after, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        Interrupting(patched, 4, kill)
        trains(evaluated())
    with monkeypatch.context() as patched:
        seen = Interrupting(patched, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        stopped = trains(evaluated(), continues=True)
    assert stopped.exit_code == 75 and stopped.ledger[-1]["step"] == 0
    assert "warning[CF882]: the evaluation after 1 step is not finished" in capsys.readouterr().err
    rest = Interrupting(monkeypatch, 0, kill)
    run = trains(evaluated(), continues=True)
    assert run.exit_code == 0 and 3 + seen.items + rest.items == 20
    for step in (1, 2):
        assert scores(run.run_dir, step) == scores(whole.run_dir, step)


def test_an_evaluation_that_cannot_be_ends_no_run(
    evaluated: Callable[..., dict[str, Any]],
    trains: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*given: Any) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(Scorer, "logits", refuse)
    run = trains(evaluated())
    said = capsys.readouterr()
    assert run.exit_code == 0 and len(run.ledger) == 2 and "foots: yes" in said.out
    assert said.err.count("warning[CF882]") == said.err.count("note: CF878: out of") == 2
    assert not read_evaluations(str(run.run_dir))


def test_scores_of_other_weights_are_not_mixed(
    evaluated: Callable[..., dict[str, Any]], trains: Callable[..., Watched]
) -> None:
    """A step that is trained again comes to other weights: its scores lie beside those of the lost one."""
    first = trains(evaluated(checkpoint={"every_steps": None}))
    lost = scores(first.run_dir, 2)
    (first.run_dir / "attempt-001" / "ending.json").unlink()
    again = trains(
        evaluated(checkpoint={"every_steps": None}, lr={"reference": 0.1}),
        continues=True,
        allow=("lr.reference",),
    )
    assert again.exit_code == 0 and scores(again.run_dir, 2) == lost
    noted = read_evaluations(str(again.run_dir))
    assert [(one.step, one.attempt, one.folder) for one in noted] == [
        (1, 2, "evaluations/step-000001-2"),
        (2, 2, "evaluations/step-000002-2"),
    ]


def test_ranks_that_read_other_tasks_do_not_start(
    evaluated: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(json.dumps(evaluated(run={"name": "x", "dir": str(tmp_path / "run")})))
    work = make_rank_job(str(config), (), read_world({}), TrainOptions())

    class Two(Ranks):
        """The other rank has read no other thing, but of other files."""

        def gather(self, thing: Any, kind: Any) -> list[Any]:
            return [thing, "another digest" if isinstance(thing, str) else thing]

    asked = ask_run(work, Ranks(0, 1, None))
    assert asked is not None and len(asked.paper.questions) == 10
    with pytest.raises(RefusedTogether, match="CF883"):
        ask_run(work, Two(0, 2, None))
