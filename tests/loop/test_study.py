"""A small study, with runs that are started as the command starts them: killed and continued it ends as an
undisturbed one; a run with another order of samples is named; a diverged run is a result.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from crossfoot.cli import main
from crossfoot.ledger.entry import StepEntry
from crossfoot.runs.reader import read_run
from crossfoot.studies import running
from crossfoot.studies.results import StudyResults
from crossfoot.studies.results_file import read_results
from support import warm
from support.launching import ROOT, environment, folded_config, ledger, write_samples

pytestmark = pytest.mark.xdist_group("loop")

Spawned = Callable[[list[str], "Child"], None]


class Child:
    """A run of the study, started warm."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], log: str) -> None:
        with open(log, "ab") as file:
            self._program = warm.begin(words, environ, ROOT, file.fileno(), file.fileno())
        self.pid = self._program.pid

    def poll(self) -> int | None:
        return self._program.poll()

    def wait(self) -> int:
        return self._program.wait(120.0)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Power(BaseException):
    """The machine has gone, with all that ran on it."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    validation = write_samples(folder / "validation.jsonl", 5, seed=1)
    data = write_samples(folder / "data.jsonl", 40)
    return folded_config(
        folder,
        data={"train": [str(data)], "validation": [str(validation)], "max_seq_len": 64,
              "index_dir": str(folder / "index")},
        lr={"reference": 0.01, "warmup_steps": None, "warmup_fraction": 0.2},
    )  # fmt: skip


@pytest.fixture
def studies(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """study(name, *words, change=, after=): the exit code. change: of the words of a run that is started;
    after: what is done once it is.
    """
    alone = environment()
    for name in [name for name in os.environ if name not in alone]:  # what runs of this very process have set
        monkeypatch.delenv(name)
    for name, value in alone.items():
        monkeypatch.setenv(name, value)

    def run(
        name: str,
        *words: str,
        change: Callable[[list[str]], list[str]] = lambda words: words,
        after: Callable[[Child], None] = lambda child: None,
    ) -> int:
        def spawn(command: Sequence[str], environ: Mapping[str, str], log: str) -> Child:
            child = Child(change(list(command[2:])), environ, log)
            after(child)
            return child

        monkeypatch.setattr(running, "spawn", spawn)
        asked = ("--batches", "4,7", "--budget-samples", "28", "--validations", "4")
        return main(["study", str(config), *asked, "--out", str(tmp_path / name), *words])

    yield run


def test_killed_with_its_runs_it_ends_as_an_undisturbed_one(
    studies: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert studies("whole") == 0
    whole = read_results(str(tmp_path / "whole"))
    said = capsys.readouterr()
    assert "run 2 of 2: b0007-x1-s7" in said.err and "one seed" in said.out

    def kill(child: Child) -> None:
        run_dir = next((tmp_path / "killed").glob("b*"))
        while not (run_dir / "ledger.jsonl").exists() or len(ledger(run_dir)) < 3:
            assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        raise Power

    with pytest.raises(Power):
        studies("killed", after=kill)
    assert studies("killed") == 0
    for name in ("results.json", "study.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(list((tmp_path / "killed" / "b0004-x1-s7").glob("attempt-*"))) == 2
    page = (tmp_path / "whole" / "page.html").read_text(encoding="utf-8")
    assert "b0007-x1-s7" in page and (tmp_path / "whole" / "answer.json").exists()
    looks_like_a_study(whole)
    as_the_ledgers_say(whole, tmp_path / "whole")
    more = ["--batches", "4,7,14"]
    assert studies("killed", *more, "--plan") == 0 and studies("none", "--plan") == 0
    planned, before_any = capsys.readouterr().out.split(": 2 runs, ")
    assert (
        "3 runs, 28 samples each" in planned and "begun       2 of them" in planned and "a run\n" in planned
    )
    assert "not known before the first run" in before_any and not (tmp_path / "none").exists()
    assert read_results(str(tmp_path / "killed")).runs[2:] == (), "a plan trains nothing"
    assert studies("killed", *more) == 0, "the same question goes on, made larger"
    larger = read_results(str(tmp_path / "killed"))
    assert larger.foots and repr(larger.runs[:2]) == repr(whole.runs) and larger.runs[2].name == "b0014-x1-s7"
    assert "2 of 3 runs are there already" in capsys.readouterr().err


def looks_like_a_study(results: StudyResults) -> None:
    four, seven = results.runs
    assert results.foots and (four.state, seven.state) == ("done", "done")
    assert [(point.step, point.samples) for point in four.points] == [
        (0, 0),
        (2, 8),
        (4, 16),
        (6, 24),
        (7, 28),
    ]
    assert [(point.step, point.samples) for point in seven.points] == [
        (0, 0),
        (1, 7),
        (2, 14),
        (3, 21),
        (4, 28),
    ]
    assert four.points[0].validation_loss == seven.points[0].validation_loss, "the same fresh weights"
    assert four.points[-1].trained_tokens == seven.points[-1].trained_tokens, "the same samples"
    assert results.own_batch == 7 and results.samples_per_epoch == 40


def as_the_ledgers_say(results: StudyResults, folder: Path) -> None:
    for run in results.runs:
        lines = ledger(folder / run.name)
        last = lines[run.points[-2].step :]
        tokens = sum(line["trained_tokens"] for line in last)
        loss = sum(line["loss"] * line["trained_tokens"] for line in last) / tokens
        assert run.points[-1].training_loss == pytest.approx(loss, rel=1e-12)
        cost = results.costs[run.name]
        assert cost.seconds[-1] == pytest.approx(sum(line["seconds"] for line in lines))
        assert cost.seconds[0] == 0.0 and cost.tokens_per_second > 0


def test_a_run_with_another_order_is_named(
    studies: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other_seed(words: list[str]) -> list[str]:
        is_four = "batch.global_batch_size=4" in words
        return [word.replace("run.seed=7", "run.seed=8") if is_four else word for word in words]

    assert studies("other", change=other_seed) == 3
    four, seven = read_results(str(tmp_path / "other")).runs
    assert (four.foots, four.same_samples) == (True, False)
    assert (seven.foots, seven.same_samples) == (True, True)
    said = capsys.readouterr().out
    assert "CF828" in said and "in another order: b0004-x1-s7" in said
    assert studies("other") == 1, "next time the run is seen to be another one"
    said = capsys.readouterr().out
    assert "CF827" in said and "run.seed was 8, and is planned as 7" in said


def test_a_run_that_diverges_is_a_result_and_one_that_fails_is_none(
    studies: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_fast(words: list[str]) -> list[str]:
        wild = ["lr.reference=1e30", "optimizer.max_grad_norm=0", "lr.warmup_samples=null"]
        return [*words, *wild] if "batch.global_batch_size=4" in words else [*words, "--take-over=x"]

    assert studies("wild", change=too_fast) == 1
    said = capsys.readouterr()
    (four, seven) = read_results(str(tmp_path / "wild")).runs
    assert four.state == "diverged" and four.foots and four.same_samples
    assert (seven.state, seven.points, seven.foots) == ("unfinished", (), False)
    assert "b0004-x1-s7 diverged" in said.err
    assert "CF829" in said.out and "b0007-x1-s7 ended with exit code 2" in said.out
    assert "error[CF0" in said.err, "what it said is shown"


def test_all_runs_branch_off_one_checkpoint(
    studies: Callable[..., int], config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have its weights, a rate of their own, and the samples behind its own."""
    long, log = tmp_path / "long", tmp_path / "log"
    steady = ["lr.schedule=constant", "lr.warmup_fraction=null"]
    ends = ["train.epochs=null", "train.max_steps=3", "checkpoint.every_steps=2", f"run.dir={long}"]
    words = ["-m", "crossfoot", "train", str(config), *steady, *ends]
    assert Child(words, environment(), str(log)).wait() == 0, log.read_text()
    branching = [*steady, "--branch", f"{long}@2", "--budget-samples", "14", "--rates", "x2"]
    assert studies("branches", *branching) == 0, capsys.readouterr().out
    results = read_results(str(tmp_path / "branches"))
    assert results.foots and {run.points[0].step for run in results.runs} == {2}
    assert len({run.points[0].validation_loss for run in results.runs}) == 1
    own = {run.name: _own(tmp_path / "branches" / run.name) for run in results.runs}
    assert {name[:5]: [line.real_samples for line in lines] for name, lines in own.items()} == {
        "b0004": [4] * 4,
        "b0007": [7] * 2,
    }
    sevens = [
        line.samples_sha256 for name, lines in own.items() if name.startswith("b0007") for line in lines
    ]
    past = {line.samples_sha256 for line in read_run(str(long)).by_step()[:2]}
    assert len(set(sevens)) == 2 and past.isdisjoint(sevens)
    assert studies("seeds", *branching, "--seeds", "2") == 1
    assert "CF120" in capsys.readouterr().out
    shutil.rmtree(long / "checkpoints")
    assert studies("branches", *branching) == 0, "what has begun does not need it any more"
    assert studies("branches", *branching, "--batches", "4,7,14") == 2
    assert "CF756" in capsys.readouterr().out


def _own(run_dir: Path) -> list[StepEntry]:
    return [line for line in read_run(str(run_dir)).by_step() if line.step >= 2]
