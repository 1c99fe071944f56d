"""The packed layout on small numbers that a reader can count, and its balance on lengths as data has them."""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest

from crossfoot.arithmetic.batch import BatchPlan, Topology
from crossfoot.arithmetic.dealing import deal, even_out
from crossfoot.arithmetic.layout import PackedLayout, PaddedLayout, StepTooFull, refuse_full_steps
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.receipts import promised_slots as promised_slots_module
from crossfoot.receipts.promised_slots import promised_slots, slots_of_steps
from crossfoot.written.model_limits import work_per_token


def packed(ranks: int, accum: int, micro: int, per_token: int = 1_000_000) -> PackedLayout:
    """By tokens, nearly: attention is as good as free."""
    return PackedLayout(ranks, accum, micro, per_token, ranks)


def dealt(layout: PackedLayout | PaddedLayout, ids: list[int], lengths: list[int]) -> list[list[list[int]]]:
    """slots[rank][forward], ids in ascending order."""
    slots = layout.slots(np.array(ids, dtype=np.int64), np.array(lengths, dtype=np.int32))
    return [[sorted(slot.tolist()) for slot in rank] for rank in slots]


def test_the_longest_goes_first_into_the_emptiest_slot() -> None:
    # 9 | 7; then 5 -> 7+5, 4 -> 9+4, 2 -> 12+2: 14 | 13
    assert dealt(packed(2, 1, 3), [10, 11, 12, 13, 14], [4, 9, 5, 7, 2]) == [[[12, 13, 14]], [[10, 11]]]


def test_a_slot_takes_no_more_samples_than_it_may() -> None:
    # the emptiest slot has its two already
    assert dealt(packed(2, 1, 2), [1, 2, 3, 4], [90, 1, 1, 1]) == [[[1, 4]], [[2, 3]]]


def test_equal_ones_go_by_id() -> None:
    assert dealt(packed(3, 1, 1), [7, 3, 5], [4, 4, 4]) == [[[3]], [[5]], [[7]]]


def test_a_long_sample_costs_more_than_its_tokens() -> None:
    by_tokens, by_work = packed(2, 1, 9), packed(2, 1, 9, per_token=1)
    ids, lengths = list(range(5)), [40, 10, 10, 10, 10]
    assert dealt(by_tokens, ids, lengths) == [[[0]], [[1, 2, 3, 4]]]
    long_one, others = np.array([40]), np.array([10, 10, 10, 10])
    assert (long_one + long_one**2).sum() > 2 * (others + others**2).sum()
    assert dealt(by_work, ids, lengths) == [[[0]], [[1, 2, 3, 4]]]


def test_places_are_exchanged_until_slots_are_even() -> None:
    """Dealt alone, 8 7 6 5 4 would end as 8 + 5 + 4 and 7 + 6."""
    work, taken = [8, 7, 6, 5, 4], [1, 1, 1, 1, 1]
    slots = deal(work, taken, 2, 3)
    assert slots == [[0, 3, 4], [1, 2]]
    even_out(slots, work, taken, 3)
    assert sorted(sum([8, 7, 6, 5, 4][place] for place in slot) for slot in slots) == [15, 15]


def test_a_step_uses_as_few_forwards_as_hold_it() -> None:
    layout = packed(2, 4, 3)
    steps = [np.ones((1, size), dtype=np.int32) for size in (1, 6, 7, 12, 24)]
    assert [layout.forwards(step).tolist() for step in steps] == [[1], [1], [2], [2], [4]]
    slots = layout.slots(np.arange(7), np.ones(7, dtype=np.int32))
    assert [len(rank) for rank in slots] == [2, 2]
    with pytest.raises(ValueError, match="25 samples do not fit in 8 slots of 3"):
        layout.slots(np.arange(25), np.ones(25, dtype=np.int32))


def by_tokens(ranks: int, accum: int, tokens: int, per_token: int = 1_000_000) -> PackedLayout:
    return PackedLayout(ranks, accum, 1, per_token, ranks, tokens)


def test_a_slot_takes_so_many_tokens_and_any_number_of_samples() -> None:
    # 6 | 5; then 3 -> 5+3, 2 -> 6+2, and 1 each
    assert dealt(by_tokens(2, 1, 9), [0, 1, 2, 3, 4, 5], [6, 5, 3, 2, 1, 1]) == [[[0, 3, 5]], [[1, 2, 4]]]
    with pytest.raises(ValueError, match="6 samples do not fit in 2 slots of 8 tokens"):
        dealt(by_tokens(2, 1, 8), [0, 1, 2, 3, 4, 5], [6, 5, 3, 2, 1, 1])


def test_a_full_slot_is_passed_over_and_not_forgotten() -> None:
    """A slot with less work may have no room for this sample, and room for a later one."""
    # 6 tokens in one sample are more work than 7 in three: the third 2 finds no room beside those, 1 does
    layout = by_tokens(2, 1, 8, per_token=1)
    assert dealt(layout, [0, 1, 2, 3, 4, 5], [6, 3, 2, 2, 2, 1]) == [[[0, 4]], [[1, 2, 3, 5]]]


def test_a_step_uses_as_few_forwards_as_have_room_for_its_tokens() -> None:
    layout = by_tokens(2, 4, 10)
    steps = np.array([[5, 5, 5, 5], [6, 5, 5, 4], [6, 6, 6, 2], [10, 10, 10, 10]], dtype=np.int32)
    assert layout.forwards(steps).tolist() == [1, 1, 2, 2]  # 6 + 6 is above 10, though 20 are 2 x 10
    folded = layout.folded()
    assert folded.forwards(steps).tolist() == [2, 2, 4, 4]
    for step in steps:
        slots = layout.slots(np.arange(4), step)
        assert [len(rank) for rank in slots] == [layout.forwards(step[np.newaxis])[0]] * 2


def test_a_sample_that_no_slot_holds_is_no_endless_search() -> None:
    """The checks refuse such a config (CF109); a lock that was made up meets no check."""
    with pytest.raises(ValueError, match="11 tokens does not fit in a slot of 10"):
        dealt(by_tokens(2, 4, 10), [0, 1], [11, 2])
    dealing = by_tokens(2, 4, 10)
    with pytest.raises(ValueError, match="a sample has 11 tokens, and a slot 10"):
        slots_of_steps(dealing, np.array([[11, 2]], dtype=np.int32))


def crowded(accum: int, tokens: int, lengths: list[int]) -> str:
    """What is said of steps of 4 samples on 2 ranks; nothing where all fit."""
    batch = BatchPlan(8, accum, 4, Topology(2, 1), "micro_batch_size", tokens)
    schedule = Schedule(len(lengths), 4, 42, "short", epochs=1)
    try:
        refuse_full_steps(schedule, batch, by_tokens(2, accum, tokens), np.array(lengths, dtype=np.int32))
    except StepTooFull as error:
        return "\n".join([error.title, *error.notes, *error.helps])
    return ""


def test_a_step_that_needs_more_forwards_than_it_may_use_is_named() -> None:
    lengths = [9, 9, 9, 9, 1, 1, 1, 1]
    assert not crowded(2, 10, lengths)
    said = crowded(1, 10, lengths)
    assert "needs 2 forwards of 10 tokens, and grad_accum_steps allows 1" in said
    assert "set batch.grad_accum_steps to 2" in said
    tokens = int(said.rpartition("set batch.micro_batch_tokens to ")[2])
    assert not crowded(1, tokens, lengths)


def test_the_forwards_of_a_rank_add_up_evenly_too() -> None:
    """Slots in descending order go to the ranks there and back."""
    assert dealt(packed(2, 2, 1), [0, 1, 2, 3], [9, 7, 4, 1]) == [[[0], [3]], [[1], [2]]]


@dataclass(frozen=True)
class Dealing:
    """The lock's numbers as the receipt reads them, of one forward a rank."""

    dealt_ranks: int
    micro_batch_size: int
    micro_batch_tokens: int | None
    work_per_token: int | None = 3000

    @property
    def slots_per_step(self) -> int:
        return self.dealt_ranks


class NoExchanges:
    """Leaves the slots as they were dealt."""

    def __init__(self, chosen: np.ndarray, *_: object) -> None:
        self.chosen = chosen

    def done(self) -> np.ndarray:
        return self.chosen


@pytest.mark.parametrize(
    ("ranks", "micro", "tokens", "size"), [(30, 4, None, 105), (80, 5, None, 400), (80, 1, 650, 320)]
)
def test_the_receipt_exchanges_what_the_plan_does(
    ranks: int, micro: int, tokens: int | None, size: int
) -> None:
    """Long tails, so that many exchanges are tried; more slots than are looked at for one."""
    draw = np.random.default_rng(ranks)
    shape = 12, size
    lengths = np.clip(draw.lognormal(4.7, 0.7, shape), 24, 512).astype(np.int32)
    lengths[::2] -= lengths[::2] % 8  # many pairs are as good as one another
    ids = np.argsort(draw.random(shape), axis=1)
    dealing = Dealing(ranks, micro, tokens)
    layout = PackedLayout(ranks, 1, micro, 3000, ranks, micro_batch_tokens=tokens)
    promised = promised_slots(dealing, ids, lengths, ranks)
    with mock.patch.object(promised_slots_module, "_Exchanges", NoExchanges):
        assert (promised != promised_slots(dealing, ids, lengths, ranks)).any(), "there were none"
    for row, (own, long) in enumerate(zip(ids, lengths, strict=True)):
        for rank, (forward,) in enumerate(layout.slots(own, long)):
            assert sorted(own[promised[row] == rank]) == sorted(forward)


def test_one_process_for_all_ranks_holds_the_same_slots() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 500, 90).astype(np.int32)
    wide = PackedLayout(4, 3, 8, 50, 4)
    narrow = PackedLayout(1, 12, 8, 50, 4)
    for size in (90, 50, 3):
        ids = draw.permutation(90)[:size]
        runs = [slot.tolist() for slot in wide.runs(ids, lengths[ids])]
        (only_rank,) = narrow.slots(ids, lengths[ids])
        assert [slot.tolist() for slot in only_rank] == runs
        step = lengths[ids][np.newaxis]
        assert narrow.forwards(step) == 4 * wide.forwards(step)


def realistic(count: int) -> np.ndarray:
    """Heavy-tailed token lengths as instruction data has them: median about 120, cut at 400."""
    return np.clip(np.random.default_rng(3).lognormal(4.8, 0.6, count), 12, 400).astype(np.int32)


@pytest.mark.parametrize(("ranks", "micro", "most"), [(8, 8, 1.02), (16, 4, 1.03)])
def test_the_fullest_rank_is_hardly_above_the_mean_over_an_epoch(ranks: int, micro: int, most: float) -> None:
    lengths = realistic(6400)
    layout = PackedLayout(ranks, 1, micro, 50_408, ranks)
    fullest = mean = 0.0
    schedule = Schedule(6400, 64, 42, "short", epochs=1)
    for step in range(schedule.total_steps):
        ids = schedule.samples(step)
        work = [
            float(sum(50_408 * n + n * n for n in lengths[slot].tolist()))
            for slot in layout.runs(ids, lengths[ids])
        ]
        fullest += max(work)
        mean += sum(work) / ranks
    assert fullest / mean < most


def test_the_digest_knows_the_rule_and_what_it_is_applied_to() -> None:
    schedule = Schedule(37, 16, 42, "short", epochs=2)
    lengths = np.array([(7 * i) % 13 + 1 for i in range(37)], dtype=np.int32)
    layouts = [packed(3, 2, 3), packed(2, 3, 3), packed(3, 2, 4), packed(3, 2, 3, 50)]
    layouts += [PackedLayout(1, 6, 3, 1_000_000, 3)]
    layouts += [PackedLayout(3, 2, 3, 1_000_000, 3, tokens) for tokens in (50, 60)]
    digests = {layout.sha256(schedule, lengths) for layout in layouts}
    assert len(digests) == 7
    assert layouts[0].sha256(schedule, lengths[::-1].copy()) not in digests
    assert layouts[0].sha256(Schedule(37, 16, 43, "short", epochs=2), lengths) not in digests


def test_the_work_of_a_token_follows_from_the_shape() -> None:
    llama = {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008, "vocab_size": 32000}
    assert work_per_token(llama) == 50_408
    assert work_per_token({"hidden_size": 64}) is None
