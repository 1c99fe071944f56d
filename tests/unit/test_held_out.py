"""What data.validation holds out of the training data: a function of the contents, never trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossfoot.arithmetic.held_out import HeldOut, NothingLeft, hold_out
from crossfoot.cli import main
from crossfoot.data.look import Leaks
from crossfoot.findings.finding import Refused
from crossfoot.index import store
from crossfoot.index.build import ensure_index
from crossfoot.index.look import look_at
from crossfoot.index.show import shown_samples
from crossfoot.index.store import DataIndex
from crossfoot.planning.lock import make_lock
from crossfoot.planning.prepare import plan_written
from crossfoot.receipts.promised_held_out import trained_ids
from crossfoot.receipts.run_promise import refuse_broken_promise
from index_cases import ROWS, jsonl, written_run

WITH_DUPLICATES = [*ROWS, ROWS[3], ROWS[5], ROWS[3]]


def words(count: int, seed: int = 0) -> np.ndarray:
    """Digests of samples of which some say the same."""
    draw = np.random.Generator(np.random.Philox(key=seed))
    contents = draw.integers(0, 2**64, size=count, dtype=np.uint64)
    return np.concatenate([contents, draw.choice(contents, count // 3)])


@pytest.mark.parametrize("part", [1, 7, 99, 0.001, 0.05, 0.3, 0.99])
def test_what_is_held_out_is_a_function_of_the_contents(part: int | float) -> None:
    digests = words(100)
    held = hold_out(digests, part)
    contents = set(digests[held.validation].tolist())
    assert len(contents) == len(held.validation) == (part if isinstance(part, int) else np.ceil(part * 100))
    assert contents.isdisjoint(digests[held.training].tolist())
    assert held.duplicates == 133 - len(held.training) - len(held.validation)
    assert sorted({*digests[held.training].tolist(), *contents}) == sorted(set(digests.tolist()))
    shuffled = np.random.Generator(np.random.Philox(key=1)).permutation(digests)
    other = hold_out(shuffled, part)
    assert set(shuffled[other.validation].tolist()) == contents
    assert np.array_equal(trained_ids(digests, part), held.training), "the receipt works it out by itself"


def test_most_stay_where_the_data_grows() -> None:
    digests = words(1000)
    more = np.concatenate([digests, words(100, seed=2)])
    before, after = hold_out(digests, 50), hold_out(more, 50)
    kept = np.isin(more[after.validation], digests[before.validation])
    assert kept.sum() >= 40


def test_the_split_is_the_same_in_every_version() -> None:
    held = hold_out(np.arange(20, dtype=np.uint64), 5)
    assert held.validation.tolist() == [5, 11, 12, 16, 18]


@pytest.mark.parametrize("part", [100, 101, 0.9999])
def test_something_must_be_left_to_train_on(part: int | float) -> None:
    with pytest.raises(NothingLeft, match=r"of 100 different samples, and leaves none to train on"):
        hold_out(words(100), part)
    with pytest.raises(ValueError, match="of 100 different samples"):
        trained_ids(words(100), part)


def planned(folder: Path, validation: object) -> tuple[DataIndex, dict[str, Any]]:
    """The whole index and the lock of a run over these records."""
    train = jsonl(folder / "a.jsonl", *WITH_DUPLICATES)
    run = written_run(folder, [train], validation=validation)
    whole = ensure_index(run, [train], is_builder=True)
    plan, _ = plan_written(run.path, ())
    assert plan.index is not None
    return whole, make_lock(plan)


def test_plan_and_lock_know_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, lock = planned(tmp_path, 5)
    train, held = whole.parted(5)
    assert held is not None and held.held_out is not None and train.held_out is not None
    assert held.num_samples == 5 == lock["plan"]["held_out_samples"]
    assert lock["plan"]["held_out_duplicates"] == held.held_out.duplicates
    assert lock["plan"]["samples_per_epoch"] == train.num_samples
    assert not np.isin(train.digests, held.digests).any()
    for i in range(train.num_samples):
        ids, trained = train.sample(i)
        of_whole = int(train.held_out.training[i])
        assert np.array_equal(ids, whole.sample(of_whole)[0]) and len(trained) == train.lengths[i]
        assert train.place(i) == whole.place(of_whole)
    assert main(["plan", str(tmp_path / "run.yaml")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"samples held out for validation 5 {held.held_out.words} data.validation 5" in told
    assert main(["index", str(tmp_path / "run.yaml")]) == 0
    assert f"held out for validation: 5 {held.held_out.words}" in capsys.readouterr().out


def test_the_samples_shown_say_which_are_held_out(tmp_path: Path) -> None:
    whole, _ = planned(tmp_path, 5)
    held = whole.parted(5)[1]
    assert held is not None
    run = written_run(tmp_path, [str(tmp_path / "a.jsonl")], validation=5)
    shown = [one.splitlines()[0] for one in shown_samples(run, 15, colour=False)]
    told = [one.endswith("; held out for validation") for one in shown]
    assert told == [bool(np.isin(one, held.digests)) for one in whole.digests] and 5 <= sum(told) < 15


def test_a_share_is_the_same_run_as_that_number_of_it(tmp_path: Path) -> None:
    _, by_share = planned(tmp_path, 0.25)
    _, by_count = planned(tmp_path, 3)
    assert by_share["plan"] == by_count["plan"] and by_share["plan"]["held_out_samples"] == 3


def test_files_and_nothing_are_as_before(tmp_path: Path) -> None:
    whole, lock = planned(tmp_path, [])
    assert whole.parted(None) == (whole, None)
    assert lock["plan"]["held_out_samples"] is lock["plan"]["held_out_duplicates"] is None
    assert lock["plan"]["samples_per_epoch"] == len(WITH_DUPLICATES)


def test_a_plan_without_an_index_counts_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", *ROWS)], validation=0.25)
    plan, _ = plan_written(run.path, ())
    assert plan.estimated and plan.schedule.num_samples == 9
    assert main(["plan", run.path]) == 0
    assert "held out for validation" in capsys.readouterr().out


@pytest.mark.parametrize("is_indexed", [False, True])
def test_nothing_left_is_a_finding(tmp_path: Path, is_indexed: bool) -> None:
    train = jsonl(tmp_path / "a.jsonl", *WITH_DUPLICATES)
    run = written_run(tmp_path, [train], validation=12 if is_indexed else 15)
    if is_indexed:
        ensure_index(run, [train], is_builder=True)
    with pytest.raises(Refused) as refused:
        plan_written(run.path, ())
    (finding,) = refused.value.findings
    assert finding.code == "CF563" and finding.place == run.place("data.validation")


@pytest.mark.parametrize(
    ("value", "must_be", "help_"),
    [
        ("0", "at least 1", "leave it out, for no validation"),
        ("0.0", "more than 0", "leave it out, for no validation"),
        ("5.0", "less than 1", "write 0.05 if 5 % is meant: it is a share"),
        ("500.0", "less than 1", "write 500 if so many samples are meant"),
        ("5%", "a list of files, a share such as 0.05, or a number", "write data.validation=0.05"),
        (
            "a.jsonl",
            "a list of files, a share such as 0.05, or a number",
            "write 'data.validation=[a.jsonl]'",
        ),
    ],
)
def test_a_part_is_a_share_or_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, must_be: str, help_: str
) -> None:
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", *ROWS)])
    assert main(["plan", run.path, f"data.validation={value}"]) != 0
    said = capsys.readouterr().out
    assert f"must be {must_be}" in said and f"= help: {help_}\n" in said


def _of_other_samples(digests: np.ndarray, part: int | float) -> HeldOut:
    """As many, but not those."""
    return hold_out(digests[::-1], part)


def _duplicates_stay(digests: np.ndarray, part: int | float) -> HeldOut:
    held = hold_out(digests, part)
    every = np.arange(len(digests))
    return replace(held, training=np.setdiff1d(every, held.validation))


@pytest.mark.parametrize("mutant", [_of_other_samples, _duplicates_stay])
def test_a_split_that_trains_what_it_holds_out_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., HeldOut]
) -> None:
    """By the promise, which is worked out without the code that splits."""
    no_rates = np.zeros(0)
    whole, lock = planned(tmp_path, 5)
    refuse_broken_promise(lock, whole, no_rates, {})
    monkeypatch.setattr(store, "hold_out", mutant)
    _, other = planned(tmp_path, 5)
    with pytest.raises(Refused) as refused:
        refuse_broken_promise(other, whole, no_rates, {})
    assert refused.value.findings[0].code == "CF709"


def test_validation_that_is_held_out_is_never_a_leak(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "a.jsonl", *WITH_DUPLICATES)
    run = written_run(tmp_path, [train], validation=4)
    whole = ensure_index(run, [train], is_builder=True)
    assert look_at(run).leaks == look_at(run, whole).leaks == Leaks()
