"""Sources with weights: exact counts, and every sample of a source trained as often as another."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.arithmetic import epoch_order as order_module
from crossfoot.arithmetic.mixture import Mixture, Share, round_keys, samples_an_epoch, shares_of, shuffled
from crossfoot.arithmetic.schedule import Schedule, batches_sha256
from crossfoot.receipts.promised_mixture import PromisedSource, promised_sources, taken


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    samples = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    used = [draw(st.integers(1, count)) for count in samples]
    weights = [draw(st.sampled_from([1, 2, 0.5, 0.3, 2.5, 1 / 3, 7.25])) for _ in samples]
    shares = shares_of(samples, used, weights)
    more = (Share(share.first, share.samples, max(1, share.per_epoch)) for share in shares)
    return Mixture(tuple(more), draw(st.integers(0, 2**63 - 1)))


@given(mixtures(), st.integers(1, 5))
def test_each_source_is_taken_exactly_and_each_of_its_samples_alike(mixture: Mixture, epochs: int) -> None:
    numbers = np.arange(mixture.samples_per_epoch)
    counts: Counter[int] = Counter()
    in_pass: Counter[tuple[int, int]] = Counter()
    for epoch in range(epochs):
        ids = mixture.samples(epoch, numbers)
        counts.update(ids.tolist())
        in_pass.update(zip(ids.tolist(), mixture.passes(epoch, numbers).tolist(), strict=True))
        for share in mixture.shares:
            of_source = [counts[i] for i in range(share.first, share.first + share.samples)]
            assert sum(of_source) == (epoch + 1) * share.per_epoch
            assert max(of_source) - min(of_source) <= 1
    assert set(in_pass.values()) == {1}


@given(mixtures(), st.integers(0, 4), st.integers(1, 9))
def test_the_receipt_takes_the_same_samples(mixture: Mixture, epoch: int, stride: int) -> None:
    sources = [
        PromisedSource("", share.first, share.samples, share.samples, share.per_epoch, 1)
        for share in mixture.shares
    ]
    numbers = np.arange(mixture.samples_per_epoch)[::-stride]
    theirs = taken(sources, mixture.seed, epoch, numbers)
    assert theirs.tolist() == mixture.samples(epoch, numbers).tolist()


@given(mixtures(), st.integers(1, 17), st.sampled_from(["short", "drop", "carry"]), st.integers(1, 4))
def test_steps_are_the_epochs_cut_into_pieces(
    mixture: Mixture, batch: int, last_step: str, epochs: int
) -> None:
    """The schedule knows no topology; in small windows it makes the same steps."""
    per_epoch = mixture.samples_per_epoch
    terms = (per_epoch, min(batch, per_epoch), mixture.seed, last_step, epochs)
    whole = Schedule(*terms, mixture=mixture)  # type: ignore[arg-type]
    with mock.patch.object(order_module, "WINDOW_SAMPLES", 3):
        windows = Schedule(*terms, mixture=mixture)  # type: ignore[arg-type]
        steps = [windows.samples(k).tolist() for k in range(windows.total_steps)]
    assert steps == [whole.samples(k).tolist() for k in range(whole.total_steps)]
    stream = [
        sample
        for epoch in range(epochs)
        for sample in mixture.samples(
            epoch, order_module.epoch_order(per_epoch, mixture.seed, epoch)
        ).tolist()
    ]
    trained = [sample for step in steps for sample in step]
    if last_step != "drop":
        assert trained == stream
    assert whole.distinct_samples == len(set(trained))
    for k, step in enumerate(steps):
        pairs = list(zip(step, whole.passes_of(k).tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.integers(1, 9),
    st.sampled_from(["short", "drop", "carry"]),
)
def test_plain_sources_are_the_run_that_it_was(samples: list[int], batch: int, last_step: str) -> None:
    count = sum(samples)
    plain = Mixture(shares_of(samples, samples, [1.0] * len(samples)), 42)
    assert plain.is_plain
    terms = (count, min(batch, count), 42, last_step, 3)
    without = Schedule(*terms)  # type: ignore[arg-type]
    mixed = Schedule(*terms, mixture=plain)  # type: ignore[arg-type]
    assert batches_sha256(mixed) == batches_sha256(without)
    for k in range(without.total_steps):
        assert mixed.samples(k).tolist() == without.samples(k).tolist()
        assert mixed.passes_of(k).tolist() == without.passes_of(k).tolist()


@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.integers(0, 9))
def test_a_pass_is_a_permutation(samples: int, seed: int, passing: int) -> None:
    keys = np.array(round_keys(seed, 1, passing), dtype=np.uint64)
    found = shuffled(np.arange(samples), np.full(samples, samples), np.repeat(keys[:, None], samples, axis=1))
    assert sorted(found.tolist()) == list(range(samples))


def test_every_place_leads_anywhere() -> None:
    """Of 2,000 passes over 5 samples each place leads to each sample in about a fifth."""
    counts = np.zeros((5, 5), dtype=np.int64)
    for passing in range(2000):
        keys = np.array(round_keys(7, 0, passing), dtype=np.uint64)
        counts[np.arange(5), shuffled(np.arange(5), np.full(5, 5), np.repeat(keys[:, None], 5, axis=1))] += 1
    assert counts.min() > 300 and counts.max() < 500


def test_golden_mixture() -> None:
    """A run must be the same run on every machine and with every numpy: these numbers never change."""
    mixture = Mixture(shares_of([6, 5, 9], [6, 4, 9], [1, 2.5, 0.25]), 42)
    assert [(share.samples, share.per_epoch) for share in mixture.shares] == [(6, 6), (4, 10), (9, 2)]
    assert mixture.samples(0, np.arange(18)).tolist() == GOLDEN[0]
    assert mixture.samples(1, np.arange(18)).tolist() == GOLDEN[1]
    schedule = Schedule(18, 7, 42, "short", epochs=2, mixture=mixture)
    assert batches_sha256(schedule) == GOLDEN_SHA256


GOLDEN = [
    [0, 1, 2, 3, 4, 5, 9, 8, 7, 6, 8, 7, 6, 9, 6, 8, 19, 13],
    [0, 1, 2, 3, 4, 5, 7, 9, 8, 6, 7, 9, 6, 9, 7, 8, 11, 16],
]
GOLDEN_SHA256 = "dd6c18d67d591ca7498ed818203b66caadd3b6be113c0170c564e505194467e9"


@pytest.mark.parametrize(
    ("weight", "samples", "per_epoch"),
    [(0.1, 5, 1), (0.1, 4, 0), (2.5, 3, 8), (0.3, 10, 3), (1, 7, 7), (1000, 3, 3000), (0.145, 100, 15)],
)
def test_a_half_is_rounded_upwards_and_a_weight_is_what_its_digits_say(
    weight: float, samples: int, per_epoch: int
) -> None:
    assert samples_an_epoch(weight, samples) == per_epoch
    if per_epoch:
        lock = {
            "plan": {"sources": [{"name": "a", "files": 1, "samples": samples}]},
            "config": {"data": {"train": [{"path": "a", "weight": weight}]}},
        }
        assert promised_sources(lock)[0].per_epoch == per_epoch
