"""The pure parts of the oracle: made-up samples, norms and bounds, the names of mistakes, the page."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crossfoot.arithmetic.layout import Layout, PaddedLayout
from crossfoot.probing.compare import Comparison, group_of, label_of
from crossfoot.probing.diagnose import known_factor, mistakes, name_mistake, step_of
from crossfoot.probing.samples import SHORTEST_TOKENS, ProofBatch, proof_batch, samples_of
from crossfoot.probing.verdict import ProofSetup, render, to_json, verdict_of

LAYOUT = PaddedLayout(dp_degree=3, grad_accum_steps=2, micro_batch_size=2)


def _batch(layout: Layout, seed: int = 0, longest: int = 48) -> ProofBatch:
    return proof_batch(layout, vocabulary=100, longest=longest, seed=seed, rate=1.0)


def _layouts() -> list[Layout]:
    draw = random.Random(3)
    return [PaddedLayout(draw.randint(1, 6), draw.randint(1, 6), draw.randint(1, 5)) for _ in range(100)]


@pytest.mark.parametrize("layout", _layouts(), ids=str)
def test_slots_are_empty_and_uneven_wherever_there_is_room(layout: Layout) -> None:
    batch = _batch(layout)
    sizes = [len(ids) for forwards in batch.step.slots for ids in forwards]
    placed = np.sort(np.concatenate([ids for forwards in batch.step.slots for ids in forwards]))
    assert placed.tolist() == samples_of(batch.step).tolist()
    assert len(sizes) == layout.slots_per_step
    assert batch.empty_slots == (layout.slots_per_step > 1)
    assert len(batch.step.slots[-1][-1]) > 0, "a dropped tail would cost nothing"
    if layout.micro_batch_size > 1 and layout.slots_per_step > 2:
        assert {layout.micro_batch_size, layout.micro_batch_size - 1, 0} <= set(sizes)
    assert sum(sizes) < layout.slots_per_step * layout.micro_batch_size or sizes == [1]
    assert batch.step.trained_tokens == batch.index.trained_tokens[placed].sum()
    assert not set(samples_of(batch.before)) & set(placed)
    assert batch.before.lr == 0


def test_samples_are_uneven_and_none_trains_nothing() -> None:
    index = _batch(PaddedLayout(4, 8, 4)).index
    assert index.lengths.min() >= SHORTEST_TOKENS
    assert index.trained_tokens.min() == 1
    assert index.trained_tokens.max() > 30
    shares = index.trained_tokens / (index.lengths - 1)
    assert shares.max() == 1 and shares.min() < 0.1
    for i in range(index.num_samples):
        ids, trained = index.sample(i)
        assert ids.max() < 100
        assert trained[1:].sum() == index.trained_tokens[i]
    holes = [np.diff(index.sample(i)[1].astype(int)) for i in range(index.num_samples)]
    assert any((steps == -1).any() for steps in holes), "no mask has a hole in it"


def test_a_short_window_is_kept() -> None:
    assert _batch(LAYOUT, longest=2).index.lengths.max() == 2
    assert _batch(LAYOUT, longest=5).index.lengths.max() <= 5


def test_the_same_seed_is_the_same_proof_and_another_is_not() -> None:
    once, again, other = _batch(LAYOUT), _batch(LAYOUT), _batch(LAYOUT, seed=1)
    assert once.index.tokens.tolist() == again.index.tokens.tolist()
    assert once.index.digests.tolist() == again.index.digests.tolist()
    assert once.index.digests.tolist() != other.index.digests.tolist()


@pytest.mark.parametrize(
    ("name", "group"),
    (
        ("base_model.model.model.layers.11.self_attn.q_proj.lora_A.default.weight", "q_proj.lora_A"),
        ("base_model.model.model.embed_tokens.modules_to_save.default.weight", "embed_tokens"),
        ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head"),
        ("model.layers.0.input_layernorm.weight", "input_layernorm"),
        ("model.layers.0.self_attn.k_proj.bias", "k_proj"),
        ("model.norm.weight", "norm"),
        ("transformer.h.3.mlp.c_fc.weight", "c_fc"),
    ),
)
def test_a_group_is_the_name_without_layer(name: str, group: str) -> None:
    assert group_of(name) == group


def test_tied_tables_are_one_group_with_both_names() -> None:
    assert label_of(("model.embed_tokens.weight", "lm_head.weight")) == "embed_tokens, lm_head"


def _comparison(got: Any, reference: Any, bound: float = 1e-5) -> Comparison:
    comparison = Comparison(bound)
    comparison.add(["a.weight"], np.array(got, dtype=float), np.array(reference, dtype=float))
    return comparison


def test_the_relative_error_is_that_of_the_difference() -> None:
    sums = _comparison([3.0, 4.5], [3.0, 4.0]).groups["a"]
    assert sums.relative_error == pytest.approx(0.1)
    assert sums.factor == pytest.approx((9 + 18) / 25)
    doubled = _comparison([6.0, 8.0], [3.0, 4.0]).total
    assert (doubled.factor, doubled.error_beside_factor) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("got", "reference", "proven"),
    (
        ([1.0], [1.0], True),
        ([1.0 + 9e-6], [1.0], True),
        ([1.0 + 2e-5], [1.0], False),
        ([0.0], [0.0], False),
        ([0.0], [1.0], False),
        ([np.nan], [1.0], False),
        ([np.inf], [1.0], False),
        ([1.0], [np.nan], False),
    ),
)
def test_only_what_is_shown_is_proven(got: list[float], reference: list[float], proven: bool) -> None:
    comparison = _comparison(got, reference)
    assert comparison.is_proven is proven
    assert verdict_of(comparison, None, ()).exit_code == (0 if proven else 3)


def test_nothing_compared_is_not_proven() -> None:
    verdict = verdict_of(Comparison(1e-5), None, ())
    assert not verdict.proven
    assert verdict.finding is not None and verdict.finding.title == "nothing is trained"


def test_one_small_group_that_is_wrong_is_not_hidden_by_a_large_one() -> None:
    comparison = _comparison([1e6, 1e6], [1e6, 1e6])
    comparison.add(["b.weight"], np.array([2e-3]), np.array([1e-3]))
    assert comparison.total.relative_error < 1e-5
    assert comparison.unproven() == ["b"]
    assert not comparison.is_proven


def test_measured_rounding_widens_a_bound_up_to_a_limit() -> None:
    comparison = _comparison([1.1], [1.0])
    comparison.floors["a"], comparison.floors[""] = 0.01, 0.01
    assert comparison.bound_of("a") == pytest.approx(0.16)
    assert comparison.is_proven
    comparison.floors["a"] = 10.0
    assert comparison.bound_of("a") == 0.25
    assert comparison.bound_of("other") == 1e-5


def _known(layout: Layout = LAYOUT, accum: int = 2, dp: int = 3) -> Any:
    batch = _batch(layout)
    return step_of(batch.index, batch.before, batch.step, layout, accum, dp)


@pytest.mark.parametrize(
    ("factor", "name"),
    (
        (1 / 2, "1/grad_accum_steps (divided by accumulation twice"),
        (1 / 4, "1/grad_accum_steps^2"),
        (2, "grad_accum_steps (a sum over forwards"),
        (1 / 3, "1/dp_degree (the missing dp factor"),
        (3, "dp_degree (a sum over ranks"),
        (1 / 6, "1/(grad_accum_steps x dp_degree)"),
        (6, "grad_accum_steps x dp_degree"),
        (-1, "-1 (uphill)"),
    ),
)
def test_a_known_factor_has_its_name(factor: float, name: str) -> None:
    found = known_factor(factor * (1 + 1e-6), _known(), 1e-5)
    assert found is not None and found.startswith(name)


def test_an_unknown_factor_has_none_however_loose_the_bound() -> None:
    assert known_factor(0.7, _known(), 1e-5) is None
    assert known_factor(0.7, _known(), 0.25) is None
    assert known_factor(0.501, _known(), 1e-5) is None


def test_a_factor_of_two_mistakes_names_both() -> None:
    found = known_factor(0.5, _known(PaddedLayout(2, 2, 2), 2, 2), 1e-5)
    assert found is not None and "1/grad_accum_steps (" in found and "1/dp_degree (" in found


def _mistaken(step: Any, weights: Any, noise: float = 0.0) -> tuple[Comparison, Any]:
    """A comparison in which the engine gave the samples these weights; gradients of samples are random."""
    draw = np.random.default_rng(0)
    gradients = draw.normal(size=(step.tokens.size, 400)) * step.tokens[:, None] ** 0.5
    right = np.zeros(step.tokens.size)
    right[: step.count] = 1 / step.tokens[: step.count].sum()
    got = weights @ gradients
    got = got * (1 + noise * draw.normal(size=got.size))
    return _comparison(got, right @ gradients, 3e-2 if noise else 1e-5), gradients


@pytest.mark.parametrize("noise", (0.0, 8e-3), ids=("float32", "bfloat16"))
def test_every_mistake_of_weighting_is_told_from_the_others(noise: float) -> None:
    step = _known()
    bound = 3e-2 if noise else 1e-6
    first: dict[bytes, str] = {}
    for mistake in mistakes(step):
        first.setdefault(mistake.weights.tobytes(), mistake.name)
        comparison, gradients = _mistaken(step, mistake.weights, noise)
        name, notes = name_mistake(step, comparison, gradients, bound)
        assert name == first[mistake.weights.tobytes()]
        assert "fits with a relative error of" in notes[0]
    assert len(first) > 12


def test_a_mistake_times_a_known_factor_is_named_with_it() -> None:
    step = _known()
    weights = next(found.weights for found in mistakes(step) if found.name.startswith("mean of means"))
    comparison, gradients = _mistaken(step, weights / 3)
    name, _ = name_mistake(step, comparison, gradients, 1e-5)
    assert name is not None
    assert name.startswith("mean of means over forwards")
    assert "1/dp_degree" in name


def test_what_nobody_knows_is_measured_slot_by_slot() -> None:
    step = _known()
    weights = np.zeros(step.tokens.size)
    weights[: step.count] = 1 / step.tokens[: step.count].sum()
    weights[step.slots[1][1]] *= 1.7
    comparison, gradients = _mistaken(step, weights)
    name, notes = name_mistake(step, comparison, gradients, 1e-5)
    assert name is None
    assert len(notes) == 1
    assert notes[0].startswith("rank 1, forward 1: samples count 1.700")


def _setup() -> ProofSetup:
    return ProofSetup(
        name="demo", engine="deepspeed", launcher="torchrun", device="cpu", zero_stage=2, dtype="float32",
        trains="LoRA r=4", model="builtin:tiny as it is", micro_batch_size=2, grad_accum_steps=2,
        gpus_per_node=3, num_nodes=1, dp_degree=3, folded=False, capacity_samples=12, samples=9,
        trained_tokens=1234, fewest_tokens=1, most_tokens=40, empty_slots=1,
        slot_sizes=((4, 2), (1, 1), (1, 0)), rate=1024.0, said=("nothing",),
    )  # fmt: skip


def test_the_page_ends_on_the_verdict() -> None:
    page = render(_setup(), verdict_of(_comparison([1.0], [1.0]), None, ()))
    assert page.splitlines()[0] == "proof  demo   1 node x 3 GPUs, ZeRO-2, float32, LoRA r=4"
    assert page.splitlines()[-1] == "PROVEN"
    assert "slots: 4 of 2, 1 of 1, 1 empty" in page
    assert "1,234" in page
    assert max(map(len, page.splitlines())) <= 110


def test_a_page_that_is_not_proven_says_why_in_its_last_line() -> None:
    cause = known_factor(0.5, _known(), 1e-5)
    page = render(_setup(), verdict_of(_comparison([0.5], [1.0]), cause, ("a number",)))
    last = page.splitlines()[-1]
    assert last.startswith("NOT PROVEN: the gradient is off by 1/grad_accum_steps (divided by accumulation")
    assert "  a number" in page.splitlines()
    assert "crossfoot explain CF750" in page
    assert "not proven: 0.5 x the reference" in page


@pytest.mark.parametrize(
    ("got", "reference", "title"),
    (
        ([0.0], [0.0], "a group whose reference is zero shows nothing: a"),
        ([0.0], [1.0], "the engine changed nothing"),
        ([np.nan], [1.0], "a is not finite"),
        ([1.5], [1.0], "a is off by 5.0e-01"),
    ),
)
def test_a_title_states_the_fact(got: list[float], reference: list[float], title: str) -> None:
    finding = verdict_of(_comparison(got, reference), None, ()).finding
    assert finding is not None
    assert (finding.code, finding.title) == ("CF750", title)


def test_the_json_is_json_whatever_was_measured() -> None:
    for got, reference in (
        ([np.nan], [1.0]),
        ([1.0], [np.nan]),
        ([0.0], [0.0]),
        ([1.0], [1.0]),
        ([np.inf], [1.0]),
    ):
        verdict = verdict_of(_comparison(got, reference), None, ())
        assert render(_setup(), verdict)
        document = to_json(_setup(), verdict)
        told = json.loads(json.dumps(document, allow_nan=False))
        assert told["format"] == 1
        assert told["proven"] is (got == reference == [1.0])
        assert told["groups"][0]["name"] == "a"
        assert (told["finding"] is None) is told["proven"]


def test_the_accelerate_engine_has_no_stage() -> None:
    seen = replace(_setup(), engine="accelerate", zero_stage=None, folded=True)
    page = render(seen, verdict_of(_comparison([1.0], [1.0]), None, ()))
    assert page.splitlines()[0] == "proof  demo   1 node x 3 GPUs, accelerate, float32, LoRA r=4"
    assert "folded into one process: 6 forwards" in page
