"""Every fault that a rank can commit is named, with its step, rank, forward and sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from crossfoot.arithmetic.schedule import Schedule
from crossfoot.ledger.entry import CAUSE_KINDS, MOST_CAUSES_OF_A_KIND, Cause, StepEntry, entry_of
from crossfoot.ledger.matching import DigestLookup
from crossfoot.ledger.reconcile import PlannedStep, Policies, remember
from crossfoot.ledger.witness import Lost, SegmentWitness, StepWitness, WitnessRows, pack
from ledger_cases import Data, digest_of, six_samples, with_segments, without_forward

SLOTS = [[[0, 1], [2]], [[3], [4]]]  # [rank][forward]; sample 5 (a twin of 2) is left for the next step
Fault = Callable[[list[StepWitness]], list[StepWitness]]


def run(fault: Fault, data: Data | None = None, slots: list[list[list[int]]] = SLOTS) -> StepEntry:
    data = data or six_samples()
    planned = data.plan(7, slots)
    return data.reconciler(len(slots)).step(planned, fault(data.obey(planned)))


def only(entry: StepEntry) -> Cause:
    assert [cause.kind for cause in entry.causes] == [entry.causes[0].kind], entry.causes
    assert entry.cause_count == 1
    return entry.causes[0]


def on(rank: int, change: Callable[[StepWitness], StepWitness]) -> Fault:
    return lambda told: [change(w) if w.rank == rank else w for w in told]


def test_an_undisturbed_step_has_no_cause_and_adds_up() -> None:
    entry = run(lambda told: list(reversed(told)))
    assert entry.causes == () and entry.cause_count == 0
    assert (entry.step, entry.epoch, entry.lr, entry.applied) == (7, 0, 2e-5, True)
    assert entry.planned_samples == entry.real_samples == entry.distinct_samples == 5
    assert entry.first_seen_samples == entry.planned_first_seen_samples == 5
    assert entry.repeated_samples == 0
    assert entry.planned_real_tokens == entry.real_tokens == 60
    assert entry.planned_trained_tokens == entry.trained_tokens == 35
    assert entry.planned_forwards == entry.real_forwards == 4
    assert entry.token_slots == 22 + 12 + 13 + 14
    assert entry.loss == 2.0 and entry.grad_norm == 1.5 and entry.seconds == 0.25
    assert entry.samples_sha256 == entry.planned_samples_sha256 and len(entry.samples_sha256) == 16
    columns = entry.per_rank.columns
    assert columns is not None
    assert (columns.rank, columns.samples, columns.forwards) == ((0, 1), (3, 2), (2, 2))


def test_a_step_takes_as_long_as_its_slowest_rank_and_as_many_tries() -> None:
    for rank in (0, 1):
        entry = run(on(rank, lambda w: replace(w, seconds=0.75, retries=2)))
        assert (entry.seconds, entry.retries, entry.causes) == (0.75, 2, ())


def test_a_backward_that_never_ran() -> None:
    cause = only(entry := run(on(0, lambda w: without_forward(w, 1))))
    assert (cause.step, cause.rank, cause.forward, cause.kind) == (7, 0, 1, "missing sample")
    assert cause.message.startswith("forward 1 of rank 0 was never differentiated")
    assert (cause.sample, cause.origin, cause.planned, cause.real) == (2, "data.json:3", 1, 0)
    assert (entry.real_samples, entry.real_forwards) == (4, 3)


def test_a_slot_that_was_emptied() -> None:
    entry = run(on(0, lambda w: with_segments(w, 0, lambda segments: ())))
    assert [(c.kind, c.rank, c.forward, c.sample) for c in entry.causes] == [
        ("missing sample", 0, 0, 0),
        ("missing sample", 0, 0, 1),
    ]


def test_a_slot_dropped_so_that_the_next_one_takes_its_number() -> None:
    def drop_first(w: StepWitness) -> StepWitness:
        return replace(w, forwards=(replace(w.forwards[1], forward=0),))

    causes = run(on(0, drop_first)).causes
    assert [(c.kind, c.rank, c.forward, c.sample) for c in causes] == [
        ("missing forward", 0, 1, None),
        ("missing sample", 0, 0, 0),
        ("missing sample", 0, 0, 1),
        ("other slot", 0, 0, 2),
    ]


@pytest.mark.lie("B3", "B6", answer="CF713")
def test_a_sample_trained_twice_in_its_own_slot_and_in_another() -> None:
    cause = only(entry := run(on(1, lambda w: with_segments(w, 0, lambda s: s + s))))
    assert (cause.kind, cause.rank, cause.forward, cause.sample) == ("trained twice", 1, 0, 3)
    assert entry.repeated_samples == 1 and entry.real_samples == 6 and entry.distinct_samples == 5
    extra = six_samples().segment(0)
    cause = only(run(on(1, lambda w: with_segments(w, 1, lambda s: (*s, extra)))))
    assert (cause.kind, cause.rank, cause.forward, cause.sample) == ("trained twice", 1, 1, 0)


def test_twins_are_matched_as_often_as_they_are_planned() -> None:
    twins = [[[2, 5]], [[0]]]
    assert run(lambda told: told, slots=twins).distinct_samples == 2 + 1
    twin = six_samples().segment(5)
    thrice = run(on(0, lambda w: with_segments(w, 0, lambda s: (*s, twin))), slots=twins)
    assert only(thrice).kind == "trained twice" and thrice.repeated_samples == 1
    once = run(on(0, lambda w: with_segments(w, 0, lambda s: s[:1])), slots=twins)
    assert only(once).kind == "missing sample" and once.real_samples == 2
    assert only(once).sample == 5


def test_a_sample_of_another_step() -> None:
    other = six_samples().segment(4)
    entry = run(
        on(0, lambda w: with_segments(w, 0, lambda s: (s[0], other))), slots=[[[0, 1], [2]], [[3], []]]
    )
    assert {(c.kind, c.rank, c.forward, c.sample) for c in entry.causes} == {
        ("not planned", 0, 0, 4),
        ("missing sample", 0, 0, 1),
    }


def test_a_sample_already_trained_in_this_epoch_and_in_the_last_one() -> None:
    data = six_samples()
    reconciler = data.reconciler(1)
    first = data.plan(0, [[[0, 1]]])
    assert reconciler.step(first, data.obey(first)).causes == ()
    second = data.plan(1, [[[3, 4]]])
    again = [with_segments(w, 0, lambda s: (s[0], data.segment(0))) for w in data.obey(second)]
    entry = reconciler.step(second, again)
    assert [(c.kind, c.sample) for c in entry.causes] == [("missing sample", 4), ("already trained", 0)]
    assert (entry.repeated_samples, entry.first_seen_samples, entry.planned_first_seen_samples) == (1, 1, 2)
    third = data.plan(2, [[[0, 1]]], epoch=1)
    entry = reconciler.step(third, data.obey(third))
    assert (entry.causes, entry.repeated_samples, entry.first_seen_samples) == ((), 0, 0)


def test_a_sample_trained_out_of_turn_is_named_again_when_its_turn_comes() -> None:
    data = six_samples()
    reconciler = data.reconciler(1)
    first, second = data.plan(0, [[[0]]]), data.plan(1, [[[1]]])
    early = [with_segments(w, 0, lambda s: (*s, data.segment(1))) for w in data.obey(first)]
    assert only(reconciler.step(first, early)).kind == "not planned"
    entry = reconciler.step(second, data.obey(second))
    assert only(entry).kind == "already trained" and entry.repeated_samples == 1


def test_a_carried_step_may_hold_one_sample_under_two_epochs() -> None:
    data = six_samples()
    reconciler = data.reconciler(1)
    step = data.plan(0, [[[0, 1], [0, 2]]])
    carried = replace(step, samples=np.array([1, 0, 0, 2]), sample_epochs=np.array([0, 0, 1, 1]))
    entry = reconciler.step(carried, data.obey(carried))
    assert (entry.causes, entry.repeated_samples, entry.distinct_samples) == ((), 0, 3)
    twice = data.plan(1, [[[1, 2]]])
    entry = reconciler.step(replace(twice, sample_epochs={1: 1, 2: 1}), data.obey(twice))
    assert entry.repeated_samples == 1 and only(entry).sample == 2
    with pytest.raises(ValueError, match="do not hold"):
        reconciler.step(replace(carried, samples=np.array([1, 0, 3, 2])), data.obey(carried))


def test_the_last_two_epochs_are_remembered() -> None:
    data = six_samples()
    reconciler = data.reconciler(1)
    told = []
    for step, (sample, epoch) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (0, 1), (0, 2)]):
        planned = data.plan(step, [[[sample]]], epoch=epoch)
        told.append(reconciler.step(planned, data.obey(planned)).repeated_samples)
    assert told == [0, 0, 0, 0, 1, 1]


def test_steps_of_an_earlier_attempt_count() -> None:
    data = six_samples()
    reconciler = data.reconciler(1)
    reconciler.mark_samples(np.array([0, 1]), np.array([0, 0]))
    again = data.plan(1, [[[1, 2]]])
    entry = reconciler.step(again, data.obey(again))
    assert entry.repeated_samples == entry.first_seen_samples == entry.planned_first_seen_samples == 1


def test_all_steps_of_earlier_attempts_are_remembered_without_their_slots() -> None:
    data = six_samples()
    schedule = Schedule(num_samples=6, global_batch_size=4, seed=3, last_step="carry", epochs=3)
    one, other = data.reconciler(1), data.reconciler(1, attempt=2)
    planned = []
    for step in range(schedule.total_steps):
        slots = [[[int(sample) for sample in schedule.samples(step)]]]
        of = {"samples": schedule.samples(step), "sample_epochs": schedule.passes_of(step)}
        planned.append(replace(data.plan(step, slots, epoch=int(schedule.passes_of(step)[0])), **of))
    told = [one.step(plan, data.obey(plan)) for plan in planned]
    assert {entry.attempt for entry in told} == {1}
    assert remember(other, lambda k: (schedule.samples(k), schedule.passes_of(k)), told[:3]) == 3
    for plan, before in zip(planned[3:], told[3:], strict=True):
        assert other.step(plan, data.obey(plan)) == replace(before, attempt=2)
    again = other.step(planned[-1], data.obey(planned[-1]))
    assert again.repeated_samples == again.planned_samples


SKIP = Policies("skip", "skip")


def skipping(fault: Fault, policies: Policies | None) -> StepEntry:
    data = six_samples()
    planned = data.plan(7, SLOTS)
    return data.reconciler(2, policies=policies).step(planned, fault(data.obey(planned)))


def not_finite(told: list[StepWitness]) -> list[StepWitness]:
    """Rank 1 meets a NaN; the norm is the whole model's, so no rank updates."""
    told = [replace(w, applied=False, lr=math.nan, grad_norm=math.nan, nonfinite=True) for w in told]
    return [told[0], replace(told[1], loss_sum=math.nan)]


def overflown(told: list[StepWitness]) -> list[StepWitness]:
    return [replace(w, applied=False, lr=math.nan, overflow=True) for w in told]


def test_a_step_left_out_on_purpose_is_skipped_and_no_fault() -> None:
    entry = skipping(not_finite, SKIP)
    assert (entry.skipped, entry.applied, entry.causes, entry.cause_count) == ("not finite", False, (), 0)
    assert entry.real_samples == entry.planned_samples == 5 and math.isnan(entry.loss)
    entry = skipping(overflown, SKIP)
    assert (entry.skipped, entry.applied, entry.causes) == ("overflow", False, ())
    scaled = skipping(
        lambda told: [replace(w, nonfinite=True, grad_norm=math.inf) for w in overflown(told)], SKIP
    )
    assert scaled.skipped == "overflow"
    hopeless = skipping(lambda told: [replace(w, overflow=True) for w in not_finite(told)], SKIP)
    assert hopeless.skipped == "not finite"
    infinite = skipping(
        lambda told: [replace(w, applied=False, nonfinite=True, grad_norm=math.inf) for w in told], SKIP
    )
    assert infinite.skipped == "not finite"


@pytest.mark.parametrize(
    ("fault", "policies"),
    [
        (not_finite, None),
        (not_finite, Policies("stop", "skip")),
        (overflown, None),
        (overflown, Policies("skip", "retry")),
        (lambda told: [replace(w, applied=False) for w in told], SKIP),
        (lambda told: [told[0], replace(told[1], applied=False, nonfinite=True)], SKIP),
        (lambda told: [], SKIP),
    ],
)
def test_an_update_that_no_policy_leaves_out_is_a_fault(fault: Fault, policies: Policies | None) -> None:
    entry = skipping(fault, policies)
    assert entry.skipped is None and not entry.applied
    assert {"update not applied", "missing witness"} & {cause.kind for cause in entry.causes}


def test_an_update_of_what_is_not_finite_is_a_fault_under_any_policy() -> None:
    entry = skipping(lambda told: [replace(w, nonfinite=True, loss_sum=math.inf) for w in told], SKIP)
    assert entry.applied and entry.skipped is None
    assert [(cause.kind, cause.rank) for cause in entry.causes] == [("not finite", 0), ("not finite", 1)]


def test_other_faults_of_a_skipped_step_are_still_named() -> None:
    entry = skipping(lambda told: [without_forward(w, 1) for w in not_finite(told)], SKIP)
    assert entry.skipped == "not finite" and {c.kind for c in entry.causes} == {"missing sample"}


def test_two_samples_swapped_between_ranks() -> None:
    data = six_samples()

    def swap(told: list[StepWitness]) -> list[StepWitness]:
        return [
            with_segments(told[0], 1, lambda s: (data.segment(4),)),
            with_segments(told[1], 1, lambda s: (data.segment(2),)),
        ]

    entry = run(swap)
    assert [(c.kind, c.rank, c.forward, c.sample) for c in entry.causes] == [
        ("other slot", 0, 1, 4),
        ("other slot", 1, 1, 2),
    ]
    assert entry.samples_sha256 == entry.planned_samples_sha256


def test_a_lost_label_mask() -> None:
    lost = replace(six_samples().segment(1), digest=digest_of("all labels"), trained_tokens=10)
    cause = only(entry := run(on(0, lambda w: with_segments(w, 0, lambda s: (s[0], lost)))))
    assert (cause.kind, cause.rank, cause.forward, cause.sample) == ("label mask differs", 0, 0, 1)
    assert (cause.planned, cause.real, cause.origin) == (6, 10, "data.json:2")
    assert (entry.planned_trained_tokens, entry.trained_tokens) == (35, 39)
    assert entry.distinct_samples == 4


def test_a_lost_label_mask_on_a_sample_of_another_step() -> None:
    stranger = replace(six_samples().segment(5), digest=1, trained_tokens=0)
    causes = run(
        on(1, lambda w: with_segments(w, 0, lambda s: (stranger,))), slots=[[[0], [1]], [[3], [4]]]
    ).causes
    assert {(c.kind, c.sample) for c in causes} == {("label mask differs", 2), ("missing sample", 3)}


def test_one_token_altered() -> None:
    altered = SegmentWitness(1, 2, 11, 6)  # as long as sample 1, which stands beside sample 0
    cause = only(run(on(0, lambda w: with_segments(w, 0, lambda s: (altered, s[0])))))
    assert (cause.kind, cause.rank, cause.forward, cause.sample) == ("tokens altered", 0, 0, 1)
    cut = SegmentWitness(1, 2, 3, 1)
    cause = only(run(on(1, lambda w: with_segments(w, 1, lambda s: (cut,)))))
    assert (cause.kind, cause.sample) == ("tokens altered", 4) and "3 tokens instead of 14" in cause.message
    cause = only(run(on(1, lambda w: with_segments(w, 1, lambda s: (*s, cut)))))
    assert (cause.kind, cause.sample, cause.origin) == ("tokens altered", None, None)


def test_counts_that_contradict_the_content() -> None:
    wrong = replace(six_samples().segment(3), trained_tokens=9)
    cause = only(run(on(1, lambda w: with_segments(w, 0, lambda s: (wrong,)))))
    assert (cause.kind, cause.planned, cause.real) == ("count differs", 8, 9)


@pytest.mark.lie("B5", answer="CF719")
def test_a_rate_one_percent_off() -> None:
    entry = run(lambda told: [replace(w, lr=w.lr * 1.01) for w in told])
    cause = only(entry)
    assert (cause.kind, cause.rank, cause.planned) == ("rate differs", None, 2e-5)
    assert "all 2 ranks" in cause.message and "+1 %" in cause.message
    assert entry.lr == 2e-5 * 1.01 and entry.planned_lr == 2e-5 and entry.wrong_rate_ranks == 2


def test_a_rate_off_on_one_rank_only() -> None:
    entry = run(on(1, lambda w: replace(w, lr=w.lr * 1.01)))
    assert [(c.kind, c.rank) for c in entry.causes] == [("rate differs", 1), ("ranks disagree", None)]
    assert entry.lr != entry.planned_lr and entry.wrong_rate_ranks == 1


def test_a_rate_within_rounding_is_the_planned_one() -> None:
    assert run(lambda told: [replace(w, lr=w.lr * (1 + 1e-10)) for w in told]).causes == ()
    assert run(lambda told: [replace(w, lr=w.lr * (1 + 2e-9)) for w in told]).cause_count == 1
    assert run(lambda told: [replace(w, lr=math.nan) for w in told]).causes[0].kind == "rate differs"


def test_each_group_is_held_against_its_own_rate() -> None:
    data, own = six_samples(), {"lora_B": 3.2e-4, "lm_head": 2e-6}
    planned = replace(data.plan(0, [[[0], [1]], [[2], [3]]]), group_lrs=own)
    told = [replace(witness, group_lrs=own) for witness in data.obey(planned)]

    def booked(*witnesses: StepWitness) -> StepEntry:
        rows = np.stack([pack(witness, 100) for witness in witnesses])
        return data.reconciler(2).book(planned, WitnessRows(rows))

    entry = booked(*told)
    assert entry.causes == () and entry.group_lrs == entry.planned_group_lrs == own
    assert entry_of(entry.to_line()) == entry
    other = replace(told[1], group_lrs={**own, "lora_B": 3.2e-4 * 1.01})
    entry = booked(told[0], other)
    assert [(c.kind, c.rank) for c in entry.causes] == [("rate differs", 1), ("ranks disagree", None)]
    assert "of lora_B, planned 0.00032 (+1 %)" in entry.causes[0].message
    assert (entry.wrong_rate_ranks, entry.group_lrs, entry.lr) == (1, other.group_lrs, planned.lr)
    entry = booked(told[0], replace(told[1], group_lrs={"lora_B": own["lora_B"]}))
    assert "rank 1 stepped at rate nan of lm_head, planned 2e-06" in entry.causes[0].message
    unplanned = [replace(witness, group_lrs={**own, "other": 1.0}) for witness in told]
    assert "all 2 ranks stepped at rate 1.0 of other" in booked(*unplanned).causes[0].message


@pytest.mark.lie("B7", "B8", answer="CF720")
def test_a_wrong_token_weight() -> None:
    def mean_of_means(w: StepWitness) -> StepWitness:
        first = replace(w.forwards[0], token_weight=w.forwards[0].token_weight * 2)
        return replace(w, forwards=(first, *w.forwards[1:]))

    cause = only(entry := run(on(1, mean_of_means)))
    assert (cause.kind, cause.rank, cause.forward) == ("token weight differs", 1, 0)
    assert cause.planned == 2 / 35 and "2 times" in cause.message and entry.wrong_weight_forwards == 1
    nan = run(
        lambda t: [
            replace(w, forwards=tuple(replace(f, token_weight=math.nan) for f in w.forwards)) for w in t
        ]
    )
    assert nan.wrong_weight_forwards == 4


def test_an_empty_slot_weighs_nothing_but_must_run() -> None:
    slots = [[[0], [1]], [[3], []]]
    assert run(lambda told: told, slots=slots).causes == ()
    cause = only(run(on(1, lambda w: without_forward(w, 1)), slots=slots))
    assert (cause.kind, cause.rank, cause.forward) == ("missing forward", 1, 1)


def test_forwards_nobody_planned() -> None:
    def extra(w: StepWitness) -> StepWitness:
        return replace(w, forwards=(*w.forwards, replace(w.forwards[0], forward=2, segments=())))

    assert (only(run(on(1, extra))).kind, only(run(on(1, extra))).forward) == ("extra forward", 2)
    twice = run(on(1, lambda w: replace(w, forwards=(*w.forwards, w.forwards[1]))))
    assert {(c.kind, c.forward) for c in twice.causes} == {("extra forward", 1), ("trained twice", 1)}


@pytest.mark.lie("B16", answer="CF722")
def test_updates_that_were_not_applied() -> None:
    entry = run(lambda told: [replace(w, applied=False, lr=math.nan) for w in told])
    assert (only(entry).kind, only(entry).rank, entry.applied) == ("update not applied", None, False)
    assert (only(run(on(1, lambda w: replace(w, applied=False)))).rank) == 1
    overflow = run(lambda told: [replace(w, applied=False, nonfinite=True, loss_sum=math.inf) for w in told])
    assert [c.kind for c in overflow.causes] == ["update not applied", "not finite", "not finite"]
    assert overflow.loss == math.inf


def test_witnesses_that_are_missing_or_wrong() -> None:
    silent = run(lambda told: told[:1])
    assert [(c.kind, c.rank) for c in silent.causes] == [
        ("missing witness", 1),
        ("missing sample", 1),
        ("missing sample", 1),
    ]
    assert only(run(on(1, lambda w: replace(w, step=6)))).kind == "wrong witness"
    assert run(lambda told: [*told, told[1]]).causes[0].kind == "wrong witness"
    assert run(lambda told: [*told, replace(told[1], rank=2)]).causes[0].kind == "wrong witness"
    assert run(lambda told: []).applied is False
    cut = run(on(0, lambda w: replace(w, lost=Lost(0, 1, 5, 4, 5))))
    assert only(cut).kind == "witness cut" and cut.real_samples == 6 and cut.trained_tokens == 39


def test_a_wholly_wrong_step_does_not_make_an_endless_line() -> None:
    data = Data(list(range(60)), [9] * 60, [3] * 60)
    strange = [SegmentWitness(i, i, 9, 3) for i in range(30)]
    entry = run(on(0, lambda w: with_segments(w, 0, lambda s: tuple(strange))), data, [[list(range(30))]])
    assert entry.cause_count == 30 and len(entry.causes) == MOST_CAUSES_OF_A_KIND
    assert entry_of(entry.to_line()) == entry


def test_a_step_without_targets() -> None:
    data = Data([0, 1], [5, 5], [0, 0])
    entry = run(lambda told: told, data, [[[0], [1]]])
    assert [(one.kind, one.code) for one in entry.causes] == [("nothing trained", "CF780")]
    assert math.isnan(entry.loss)


def test_a_plan_that_contradicts_the_index_is_our_fault() -> None:
    data = six_samples()
    planned = data.plan(0, [[[0]]])
    with pytest.raises(ValueError, match="trained tokens"):
        data.reconciler(1).step(replace(planned, trained_tokens=4), data.obey(planned))
    with pytest.raises(ValueError, match="2 ranks"):
        data.reconciler(1).step(data.plan(0, [[[0]], [[1]]]), [])
    with pytest.raises(ValueError, match="index arrays"):
        three, two = np.zeros(3, dtype=np.uint64), np.zeros(2, dtype=np.int32)
        type(data.reconciler(1))(three, three, two, two, dp_degree=1)


def test_an_entirely_empty_step() -> None:
    entry = run(lambda told: told, slots=[[[]], [[]]])
    assert entry.causes == () and entry.planned_samples == 0


def test_codes_are_unique_and_of_the_run_time_family() -> None:
    codes = [code for code, _ in CAUSE_KINDS.values()]
    assert len(set(codes)) == len(codes) and all(code.startswith("CF7") for code in codes)
    with pytest.raises(ValueError, match="not a kind"):
        Cause(0, None, None, "gremlins", "")


def test_a_digest_leads_to_all_its_samples() -> None:
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 2**63, 50_000, dtype=np.uint64)
    digests[[7, 4_000, 49_999]] = np.uint64(2**64 - 1)
    lookup = DigestLookup(digests)
    assert lookup.ids(2**64 - 1).tolist() == [7, 4_000, 49_999]
    assert lookup.ids(int(digests[123])).tolist() == [123]
    assert lookup.ids(1).size == 0


def test_planned_step_counts_empty_forwards() -> None:
    assert PlannedStep(0, 0, 1.0, 0, [[np.zeros(0, dtype=np.int64)] * 3] * 2).forwards == 6
