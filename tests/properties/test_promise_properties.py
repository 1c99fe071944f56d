"""What the receipt works out from a lock's numbers, against what the loop is told: two codes, one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crossfoot.arithmetic import schedule as told
from crossfoot.arithmetic.layout import Layout, PackedLayout, PaddedLayout
from crossfoot.arithmetic.mixture import Mixture, Share
from crossfoot.arithmetic.rate import RateImpossible, plan_rate
from crossfoot.ledger.measured import measured_of, samples_sha256, slots_of, slots_sha256
from crossfoot.ledger.seen_samples import LedgerSource, counted_by_source
from crossfoot.ledger.witness import ForwardWitness, SegmentWitness, StepWitness
from crossfoot.receipts import promise, promised_sets
from crossfoot.receipts.promise_audit import is_promised
from crossfoot.receipts.promised_mixture import PromisedSource
from crossfoot.receipts.promised_sets import Terms

LR: dict[str, Any] = {
    "reference": 1e-4,
    "reference_batch": 8,
    "rule": "sqrt",
    "schedule": "cosine",
    "min_ratio": 0.1,
    "warmup_steps": 3,
    "warmup_fraction": None,
    "warmup_samples": None,
}


LONGEST = 8
"""Tokens of a sample, at most."""


@dataclass(frozen=True)
class Data:
    """Samples of random content, length and masks; some are equal."""

    digests: Any
    lengths: Any
    trained_tokens: Any
    file_ids: Any = None


def data_of(num_samples: int, seed: int, sources: Sequence[PromisedSource] = ()) -> Data:
    draw = np.random.default_rng(seed)
    return Data(
        draw.integers(0, 3 * num_samples, num_samples).astype(np.uint64) << np.uint64(40),
        draw.integers(2, LONGEST, num_samples, endpoint=True).astype(np.int32),
        draw.integers(1, 5, num_samples).astype(np.int32),
        # two files a source, the second of which has most of it
        np.repeat(
            np.arange(2 * len(sources)), [n for s in sources for n in (min(1, s.samples), s.samples - 1)]
        ),
    )


@st.composite
def any_sources(draw: st.DrawFn) -> tuple[PromisedSource, ...]:
    """Most often none: then an epoch is every sample once."""
    sources: list[PromisedSource] = []
    for number in range(draw(st.sampled_from([0, 0, 1, 2, 3]))):
        samples = draw(st.integers(1, 30))
        used = draw(st.integers(1, samples))
        per_epoch = draw(st.sampled_from([used, 2 * used]) | st.integers(1, 60))
        first = sum(source.samples for source in sources)
        sources.append(PromisedSource(f"s{number}", first, samples, used, per_epoch, files=2))
    return tuple(sources)


@st.composite
def any_terms(draw: st.DrawFn) -> Terms:
    sources = draw(any_sources())
    samples = sum(one.per_epoch for one in sources) or draw(st.integers(1, 60))
    batch, seed = draw(st.integers(1, 20)), draw(st.integers(0, 5))
    pairs, target = (), None
    by = draw(st.sampled_from(["one batch", "batches", "tokens"]))
    if by == "batches":
        firsts = [0, *sorted(draw(st.sets(st.integers(1, 100), max_size=3)))]
        pairs = tuple((first, draw(st.integers(1, batch))) for first in firsts)
        batch = max(size for _, size in pairs)
    elif by == "tokens":
        target = draw(st.integers(1, 40))
        batch = min(target, 60)  # a sample has at least one trained token
    last_step = draw(st.sampled_from(["short", "drop", "carry"]))
    tokens_of = data_of(sum(one.samples for one in sources) or samples, seed).trained_tokens
    enough = int(tokens_of.sum()) if not sources else samples
    assume(last_step != "drop" or (samples >= batch and enough >= (target or 0)))
    ranks, forwards = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    by_epochs = draw(st.booleans())
    work_per_token = draw(st.sampled_from([None, 1, 50]))
    tokens = draw(st.none() | st.integers(LONGEST, 5 * LONGEST)) if work_per_token else None
    return Terms(
        num_samples=samples,
        global_batch_size=batch,
        micro_batch_size=-(-batch // (ranks * forwards)),
        grad_accum_steps=forwards if tokens is None else batch,
        dp_degree=ranks,
        dealt_ranks=ranks,
        work_per_token=work_per_token,
        seed=seed,
        last_step=last_step,
        epochs=draw(st.integers(1, 3)) if by_epochs else None,
        max_steps=None if by_epochs else draw(st.integers(1, 15)),
        lr=LR,
        micro_batch_tokens=tokens,
        batch_from_samples=pairs,
        target_trained_tokens=target,
        trained_tokens=tokens_of,
        sources=sources,
    )


def schedule_of(terms: Terms) -> told.Schedule:
    shares = tuple(Share(source.first, source.used, source.per_epoch) for source in terms.sources)
    return told.Schedule(
        num_samples=terms.num_samples,
        global_batch_size=terms.global_batch_size,
        seed=terms.seed,
        last_step=terms.last_step,  # type: ignore[arg-type]
        epochs=terms.epochs,
        max_steps=terms.max_steps,
        batch_from_samples=terms.batch_from_samples,
        target_trained_tokens=terms.target_trained_tokens,
        trained_tokens=terms.trained_tokens,
        mixture=Mixture(shares, terms.seed) if shares else None,
    )


def layout_of(terms: Terms) -> Layout:
    places = (terms.dp_degree, terms.grad_accum_steps, terms.micro_batch_size)
    if terms.work_per_token is None:
        return PaddedLayout(*places)
    return PackedLayout(*places, terms.work_per_token, terms.dealt_ranks, terms.micro_batch_tokens)


@given(any_terms(), st.sampled_from([(1 << 23, 1 << 20), (5, 7)]))
def test_every_step_is_what_the_loop_is_told(terms: Terms, at_once: tuple[int, int]) -> None:
    """at_once: samples that the receipt holds, which change nothing."""
    band, block = at_once
    with (
        mock.patch.object(promised_sets, "_BAND_SAMPLES", band),
        mock.patch.object(promised_sets, "_BLOCK_SAMPLES", block),
    ):
        hold_every_step(terms)


def hold_every_step(terms: Terms) -> None:
    schedule, data = schedule_of(terms), data_of(terms.data_samples, terms.seed, terms.sources)
    layout = layout_of(terms)
    assert promised_sets.total_steps(terms) == schedule.total_steps
    assert promised_sets.batches_sha256(terms) == told.batches_sha256(schedule)
    assert promise.layout_sha256(terms, data) == layout.sha256(schedule, data.lengths)
    steps = list(promise.promised_steps(terms, data, 0, schedule.total_steps))
    assert [step.step for step in steps] == list(range(schedule.total_steps))
    seen: set[int] = set()
    for step in steps:
        ids = schedule.samples(step.step)
        fresh = set(ids.tolist()) - seen
        seen |= fresh
        assert (step.samples, step.first_seen_samples) == (ids.size, len(fresh))
        assert step.real_tokens == int(data.lengths[ids].sum())
        assert step.trained_tokens == int(data.trained_tokens[ids].sum())
        assert step.samples_sha256 == samples_sha256(data.digests[ids])
        slots = layout.slots(ids, data.lengths[ids])
        told_so = obedient(slots, data)
        assert step.forwards == sum(map(len, slots))
        assert step.slots_sha256 == slots_sha256(slots_of(told_so))
        per_rank = measured_of(told_so).per_rank
        assert (step.ranks, step.ranks_sha256) == (per_rank.ranks, per_rank.sha256)
        sources = [LedgerSource(source.first + source.samples) for source in terms.sources]
        assert step.sources == counted_by_source(sources, ids, data.trained_tokens)
    sums = promise.promised_sums(terms, data)
    forwards = [block.each(lambda ids: layout.forwards(data.lengths[ids])) for block in schedule.blocks()]
    assert sums["distinct_samples"] == schedule.distinct_samples == len(seen)
    assert sums["forwards"] == sum(step.forwards for step in steps)
    assert sums["forwards"] == int(np.concatenate(forwards).sum()) * layout.dp_degree


def obedient(slots: list[list[Any]], data: Data) -> list[StepWitness]:
    """What ranks say that do as they are told."""
    ranks = []
    for rank, forwards in enumerate(slots):
        segments = [
            tuple(
                SegmentWitness(
                    0, *(int(column[i]) for column in (data.digests, data.lengths, data.trained_tokens))
                )
                for i in reversed(ids)
            )
            for ids in forwards
        ]
        seen = tuple(ForwardWitness(number, 2, 1.0, own) for number, own in enumerate(segments))
        ranks.append(StepWitness(rank, 0, seen, 1e-4, True, 1.0, 1.0, 0.1, False, 0))
    return ranks


@given(any_terms(), st.integers(0, 12), st.integers(0, 12))
def test_a_part_of_the_run_is_that_part_of_the_whole(terms: Terms, first: int, size: int) -> None:
    data = data_of(terms.data_samples, terms.seed, terms.sources)
    whole = list(promise.promised_steps(terms, data, 0, promised_sets.total_steps(terms)))
    assert list(promise.promised_steps(terms, data, first, first + size)) == whole[first : first + size]


@given(
    steps=st.integers(1, 3000),
    batch=st.integers(1, 2000),
    rule=st.sampled_from(["none", "linear", "sqrt"]),
    shape=st.sampled_from(["cosine", "linear", "constant", "wsd", "cosine_with_restarts"]),
    own=st.fixed_dictionaries(
        {
            "cycles": st.integers(1, 12),
            "decay_fraction": st.sampled_from([0.0, 0.07, 0.1, 0.2, 0.5, 1.0]),
            "decay_shape": st.sampled_from(["linear", "sqrt", "cosine"]),
        }
    ),
    floor=st.sampled_from([0.0, 0.1, 1.0]),
    warmup=st.sampled_from(
        [{}, {"warmup_steps": 3}, {"warmup_fraction": 0.07}, {"warmup_samples": 1000}, {"warmup_fraction": 1}]
    ),
)
def test_every_rate_is_what_the_loop_is_told(
    steps: int,
    batch: int,
    rule: Any,
    shape: Any,
    own: dict[str, Any],
    floor: float,
    warmup: dict[str, Any],
) -> None:
    lr = {**LR, "warmup_steps": None, "rule": rule, "schedule": shape, "min_ratio": floor, **own, **warmup}
    try:
        plan = plan_rate(**lr, global_batch_size=batch, total_steps=steps)
    except RateImpossible:
        return
    terms = Terms(10, batch, batch, 1, 1, 1, None, 0, "carry", None, steps, lr)
    rates, peak, warm = promise.promised_rates(terms)
    assert warm == plan.warmup_steps and peak == pytest.approx(plan.peak, rel=1e-14)
    assert all(is_promised(plan.at(k), rates[k], peak) for k in range(steps))
    highest = int(rates.argmax())
    assert not is_promised(plan.at(highest) * (1 + 3e-9), rates[highest], peak)


@pytest.mark.parametrize(
    "own",
    [
        {"schedule": "cosine_with_restarts", "cycles": 7},
        *(
            {"schedule": "wsd", "decay_fraction": 0.3, "decay_shape": one}
            for one in ("linear", "sqrt", "cosine")
        ),
    ],
    ids=lambda own: "-".join(map(str, own.values())),
)
def test_each_shape_is_what_the_loop_is_told(own: dict[str, Any]) -> None:
    lr = {**LR, **own}
    plan = plan_rate(**lr, global_batch_size=8, total_steps=101)
    rates, peak, _ = promise.promised_rates(Terms(10, 8, 8, 1, 1, 1, None, 0, "carry", None, 101, lr))
    assert all(is_promised(plan.at(k), rates[k], peak) for k in range(101))
    assert plan.at(100) < 0.2 * peak


def test_the_end_of_a_long_cosine_is_no_fault_and_ten_times_the_rate_is() -> None:
    lr = {**LR, "min_ratio": 0.0}
    plan = plan_rate(**lr, global_batch_size=8, total_steps=2_000_000)
    rates, peak, _ = promise.promised_rates(Terms(10, 8, 8, 1, 1, 1, None, 0, "carry", None, 2_000_000, lr))
    for step in (1_999_999, 1_999_998, 1_000_000):
        assert is_promised(plan.at(step), rates[step], peak)
    assert not is_promised(10 * plan.at(1_999_999), rates[1_999_999], peak)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plan": {}}, "does not say what it plans"),
        ({"config": []}, "does not say what it plans"),
        ({"plan": {"samples_per_epoch": "many"}}, "positive integer"),
        ({"plan": {"dp_degree": 0}}, "positive integer"),
        ({"config": {"train": {"epochs": 1, "max_steps": 2}}}, "epochs and max_steps"),
    ],
)
def test_a_lock_without_a_plan_has_no_terms(change: dict[str, Any], words: str) -> None:
    lock: dict[str, Any] = {
        "plan": dict.fromkeys(("samples_per_epoch", "global_batch_size", "micro_batch_size"), 4)
        | dict.fromkeys(("grad_accum_steps", "dp_degree"), 1),
        "config": {
            "run": {"seed": 1},
            "data": {"last_step": "short"},
            "train": {"epochs": 1, "max_steps": None},
            "lr": LR,
        },
    }
    assert promised_sets.terms_of(lock).num_samples == 4
    for section, value in change.items():
        lock[section] = {**lock[section], **value} if isinstance(value, dict) and value else value
    with pytest.raises(ValueError, match=words):
        promised_sets.terms_of(lock)
