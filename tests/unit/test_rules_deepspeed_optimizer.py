"""CF306 and CF307: optimizer and scheduler blocks that agree, that do not, and that are others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossfoot.findings.finding import Finding
from deepspeed_checking import Look, deepspeed_findings

ZERO_1: dict[str, Any] = {"zero_optimization": {"stage": 1}}
AUTO = {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")}
OURS = {"lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    return deepspeed_findings(tmp_path, monkeypatch)


def optimizer(kind: str, **params: Any) -> dict[str, Any]:
    return {**ZERO_1, "optimizer": {"type": kind, "params": params}}


def scheduler(kind: str, **params: Any) -> dict[str, Any]:
    return {**ZERO_1, "scheduler": {"type": kind, "params": params}}


def only(findings: tuple[Finding, ...]) -> Finding:
    (finding,) = findings
    assert not finding.fix
    return finding


@pytest.mark.parametrize(
    "block",
    [
        AUTO,
        {"type": "AdamW", "params": OURS},
        {"type": "Adam", "params": {**OURS, "adam_w_mode": True}},
        {"type": "Adam", "params": {**OURS, "adam_w_mode": False}},  # without decay the two are one
        {"type": "AdamW", "params": {**OURS, "adam_w_mode": False, "torch_adam": True}},
        {"type": "adamw", "params": {"lr": "1e-4", "betas": ["0.9", 0.999], "eps": "1E-8"}},
        {"type": "FusedAdam", "params": {"lr": 0.000100000001}},
        {"type": "AdamW", "params": {}},
        {"type": "AdamW"},
        {"params": {"lr": 1e-4}},
        {"type": "auto", "params": {"max_grad_norm": 1.0}},
        {"type": 3, "params": {"lr": "${LR}", "betas": "auto", "weight_decay": True}},
        {},
    ],
)
def test_a_block_that_agrees_is_a_note(look: Look, block: dict[str, Any]) -> None:
    found = [finding for finding in look({**ZERO_1, "optimizer": block}) if finding.code == "CF306"]
    finding = only(tuple(found))
    assert (finding.severity, finding.title) == (
        "note",
        "nothing in the optimizer block differs from this run",
    )
    assert finding.notes == ("it is not handed over: crossfoot hands over its own optimizer",)


def test_the_rate_is_held_against_the_peak(look: Look) -> None:
    scaled = ("lr.rule=sqrt", "lr.reference_batch=8")
    assert only(look(optimizer("AdamW", lr=2e-4), *scaled)).severity == "note"
    finding = only(look(optimizer("AdamW", lr=1e-4), *scaled))
    assert finding.severity == "error"
    assert finding.title == "optimizer.params.lr says 0.0001, but the peak rate of this run is 0.0002"
    assert (
        finding.helps[1]
        == "or set lr.reference to 5e-05 (of which lr.rule makes 0.0001), to train as the block says"
    )
    assert only(look(optimizer("AdamW", lr=1e-4), *scaled, "lr.reference=5e-05")).severity == "note"
    assert only(look(scheduler("WarmupCosineLR", warmup_max_lr=2e-4), *scaled)).severity == "note"


@pytest.mark.parametrize(
    ("params", "helps"),
    [
        ({"lr": 2e-5}, "or set lr.reference to 2e-05"),
        ({"betas": [0.9, 0.95]}, "or set optimizer.betas to [0.9, 0.95]"),
        (
            {"eps": "1e-6", "weight_decay": 0.1},
            "or set optimizer.eps to 1e-06 and optimizer.weight_decay to 0.1",
        ),
        ({"max_grad_norm": 0.5}, "or set optimizer.max_grad_norm to 0.5"),
        ({"lr": 0.011}, None),
        ({"lr": 0}, None),
        ({"betas": [0.9, 1.5]}, None),
        ({"weight_decay": -1, "lr": 1e-5}, None),
    ],
)
def test_numbers_that_differ(look: Look, params: dict[str, Any], helps: str | None) -> None:
    finding = only(look(optimizer("AdamW", **params)))
    assert finding.severity == "error"
    first = 'write "auto" there, or remove the optimizer block: the run config decides'
    assert finding.helps == (first, *([f"{helps}, to train as the block says"] if helps else []))
    if helps:
        words = helps.removeprefix("or set ").split(" and ")
        changes = [word.replace(" to ", "=", 1).replace(", ", ",") for word in words]
        after = look(optimizer("AdamW", **params), *changes)
        assert {finding.severity for finding in after} == {"note"}


def test_both_numbers_and_both_places(look: Look) -> None:
    finding = only(look(optimizer("AdamW", lr=2e-5, weight_decay=0.1), "optimizer.weight_decay=0.2"))
    assert finding.title == "2 numbers of the optimizer block are not those of this run"
    assert finding.label == "2e-05, but the peak rate of this run is 0.0001"
    labels = [label for _, label in finding.others]
    assert labels == [
        "0.1, but optimizer.weight_decay is 0.2",
        "the peak rate of this run: 0.0001",
        "optimizer.weight_decay: 0.2",
    ]


@pytest.mark.parametrize(
    ("kind", "params", "named"),
    [
        ("Lamb", {"lr": 0.011, "max_coeff": 0.3}, "optimizer.type is Lamb"),
        ("OneBitAdam", {"lr": 4e-4, "freeze_step": 23000}, "optimizer.type is OneBitAdam"),
        ("Lion", {"lr": 1e-5}, "optimizer.type is Lion"),
        ("Muon", {"lr": 1e-2}, "optimizer.type is Muon"),
        ("SGD", {"lr": 0.1, "momentum": 0.9}, "optimizer.type is SGD"),
        ("AdamW", {"amsgrad": True}, "optimizer.params.amsgrad is true"),
        ("Adam", {"adam_w_mode": False, "weight_decay": 0.1}, "optimizer.params.adam_w_mode is false"),
    ],
)
def test_another_optimizer_is_named(look: Look, kind: str, params: dict[str, Any], named: str) -> None:
    finding = only(look(optimizer(kind, **params)))
    assert (finding.severity, finding.helps) == ("warning", ("remove the optimizer block",))
    assert finding.title.startswith(named) and "reference" not in str(finding)


def test_sgd_is_compared_with_sgd(look: Look) -> None:
    sgd = "optimizer.name=sgd"
    assert only(look(optimizer("SGD", lr=1e-4, momentum=0.0), sgd)).severity == "note"
    assert only(look(optimizer("SGD", lr=0.1), sgd)).severity == "error"
    assert "momentum is 0.9" in only(look(optimizer("SGD", lr=0.1, momentum=0.9), sgd)).title
    assert only(look(optimizer("AdamW", lr=0.1), sgd)).severity == "warning"


# ---- the schedule

WARMUP_AUTO = dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"), "auto")


@pytest.mark.parametrize(
    ("kind", "shape"), [("WarmupLR", "constant"), ("WarmupDecayLR", "linear"), ("WarmupCosineLR", "cosine")]
)
def test_shapes(look: Look, kind: str, shape: str) -> None:
    for params in ({}, WARMUP_AUTO, {"warmup_max_lr": 1e-4, "warmup_num_steps": "5", "warmup_min_lr": 0}):
        values = scheduler(kind, **params, total_num_steps="auto" if kind == "WarmupLR" else 100)
        assert only(look(values, f"lr.schedule={shape}", "lr.warmup_steps=5")).severity == "note"
    other = "linear" if shape == "cosine" else "cosine"
    finding = only(look(scheduler(kind, **WARMUP_AUTO), f"lr.schedule={other}"))
    assert finding.helps == ("remove the scheduler block", f"or set lr.schedule to {shape}")
    assert finding.severity == "warning"
    assert (
        finding.title
        == f"scheduler.type is {kind}, which is {shape} after the warm-up, and lr.schedule is {other}"
    )


@pytest.mark.parametrize(
    ("kind", "params", "named"),
    [
        ("OneCycle", {"cycle_max_lr": 1}, "scheduler.type is OneCycle, and lr.schedule is cosine"),
        ("WarmupCosineLR", {"warmup_min_lr": 1e-6}, "scheduler.params.warmup_min_lr is 1e-06"),
        ("WarmupCosineLR", {"warmup_type": "log", "warmup_num_steps": 5}, "scheduler.params.warmup_type is"),
    ],
)
def test_another_schedule_is_named(look: Look, kind: str, params: dict[str, Any], named: str) -> None:
    finding = only(look(scheduler(kind, **params), "lr.warmup_steps=5"))
    assert finding.severity == "warning" and finding.title.startswith(named)


@pytest.mark.parametrize(
    ("params", "words", "helps"),
    [
        ({"warmup_num_steps": 20}, (), "or set lr.warmup_steps to 20"),
        (
            {"warmup_num_steps": 20},
            ("lr.warmup_fraction=0.05",),
            "or set lr.warmup_steps to 20 in the place of lr.warmup_fraction",
        ),
        (
            {"warmup_num_steps": 20},
            ("lr.warmup_samples=100",),
            "or set lr.warmup_steps to 20 in the place of lr.warmup_samples",
        ),
        ({"warmup_num_steps": 60}, (), None),  # more than half of 100 steps
        ({"warmup_num_steps": 1000}, (), None),
        ({"warmup_num_steps": 2.5}, (), None),
        ({"total_num_steps": 500}, (), "or set train.max_steps to 500 in the place of train.epochs"),
        ({"total_num_steps": 20}, ("lr.warmup_steps=15",), None),
        (
            {"total_num_steps": 5000, "warmup_num_steps": 500, "warmup_max_lr": 2e-5},
            (),
            "or set lr.reference to 2e-05, lr.warmup_steps to 500 and train.max_steps to 5000 "
            "in the place of train.epochs",
        ),
        ({"cos_min_ratio": 0.1}, (), "or set lr.min_ratio to 0.1"),
    ],
)
def test_a_schedule_s_numbers(
    look: Look, params: dict[str, Any], words: tuple[str, ...], helps: str | None
) -> None:
    finding = only(look(scheduler("WarmupCosineLR", **params), *words))
    assert finding.severity == "error"
    assert finding.helps[1:] == ((f"{helps}, to train as the block says",) if helps else ())
    if helps and "train.max_steps" not in helps:
        after = only(look(scheduler("WarmupCosineLR", **params), *words, *followed(helps)))
        assert after.severity == "note", "a help is a complete answer"


def followed(helps: str) -> list[str]:
    """`KEY to VALUE in the place of OTHER` as overrides."""
    key, _, value = helps.removeprefix("or set ").partition(" to ")
    value, _, other = value.partition(" in the place of ")
    return [f"{key}={value}", *([f"{other}=null"] if other else [])]


def test_shape_and_numbers_are_mended_together(look: Look) -> None:
    values = scheduler("WarmupLR", warmup_num_steps=20)
    finding = only(look(values))
    assert finding.helps[1].startswith("or set lr.warmup_steps to 20 and lr.schedule to constant,")
    assert only(look(values, "lr.warmup_steps=20", "lr.schedule=constant")).severity == "note"
    assert len(only(look(values, "lr.min_ratio=0.1")).helps) == 1, "lr.min_ratio has no effect then"


def test_a_block_that_is_none_is_no_error(look: Look) -> None:
    for odd in ("AdamW", None, []):
        for block in ("optimizer", "scheduler"):
            found = look({**ZERO_1, block: odd})
            assert {finding.severity for finding in found} == {"note"}
