"""The learning rate: unscaled, scaled wrongly, too far, twice, in two places; silence where it is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfoot.arithmetic.batch import Topology, solve_batch
from crossfoot.arithmetic.rate import plan_rate
from crossfoot.arithmetic.schedule import Schedule
from crossfoot.checks.registry import Facts
from crossfoot.checks.rules import run_static_rules
from crossfoot.findings.finding import Finding, Place
from crossfoot.written.overriding import Override
from crossfoot.written.run_file import load_run

CONFIG = """\
run: {name: demo}
model: {path: builtin:tiny, dtype: float32}
data: {train: [a.json]}
batch: {micro_batch_size: 4, grad_accum_steps: 8}
cluster: {num_nodes: 1, gpus_per_node: 2}
lr: {reference: 1e-4}
train: {max_steps: 100}
"""


@pytest.fixture
def facts_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Facts of CONFIG with overrides: 64 samples a step, 100 steps."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)

    def _facts(*overrides: str | Override) -> Facts:
        run = load_run("run.yaml", overrides)
        config, lr = run.config, run.config.lr
        topology = Topology(config.cluster.gpus_per_node or 1, config.cluster.num_nodes or 1)
        batch = solve_batch(topology, **config.batch_numbers)
        steps, size = config.train.max_steps or 1, batch.global_batch_size
        schedule = Schedule(steps * size, size, 0, "short", max_steps=steps)
        rate = plan_rate(
            reference=lr.reference,
            reference_batch=lr.reference_batch,
            rule=lr.rule,
            global_batch_size=batch.global_batch_size,
            schedule=lr.schedule,
            min_ratio=lr.min_ratio,
            total_steps=steps,
            warmup_steps=lr.warmup_steps,
            warmup_fraction=lr.warmup_fraction,
            warmup_samples=lr.warmup_samples,
        )
        return Facts(run, batch=batch, schedule=schedule, rate=rate)

    return _facts


@pytest.fixture
def found(facts_of):
    def _found(*overrides: str) -> dict[str, Finding]:
        findings = run_static_rules(facts_of(*overrides))
        assert len({finding.code for finding in findings}) == len(findings)
        return {finding.code: finding for finding in findings}

    return _found


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("lr.reference_batch=64", "lr.rule=linear"),
        ("lr.reference_batch=8", "lr.rule=sqrt"),
        ("lr.reference_batch=8", "lr.rule=linear", "optimizer.name=sgd"),
        ("lr.reference_batch=2", "lr.rule=sqrt"),  # 32 times: as far as was shown
        ("lr.reference_batch=10000", "lr.rule=sqrt"),  # towards smaller batches nothing is said
        ("lr.warmup_fraction=0.5",),
        ("lr.warmup_steps=1", "train.max_steps=1"),
        ("lr.warmup_fraction=0.03", "train.max_steps=1"),
        ("lr.reference=1e-2",),
        ("lr.reference=1", "optimizer.name=sgd"),
        ("lr.reference=5e-4", "lr.reference_batch=8", "lr.rule=sqrt"),
    ],
)
def test_nothing_is_said_about_a_rate_that_is_right(found, overrides: tuple[str, ...]) -> None:
    assert found(*overrides) == {}


def test_an_unscaled_rate_is_said_with_both_rules_numbers(found) -> None:
    finding = found("lr.reference_batch=8")["CF204"]
    assert finding.severity == "warning"
    assert "0.0001 was right at 8 samples a step, this run has 64" in finding.title
    assert finding.notes == ("linear (for sgd) would make it 0.0008, sqrt (for adamw) 0.0002828",)
    assert finding.helps[0] == "set lr.rule to sqrt: the peak is then 0.0002828"
    assert "lr.rule to linear" in found("lr.reference_batch=8", "optimizer.name=sgd")["CF204"].helps[0]


@pytest.mark.parametrize(("rule", "optimizer"), [("linear", "adamw"), ("sqrt", "sgd")])
def test_the_other_optimizers_rule(found, rule: str, optimizer: str) -> None:
    words = ("lr.reference_batch=8", f"lr.rule={rule}", f"optimizer.name={optimizer}")
    finding = found(*words)["CF205"]
    other = {"linear": "sqrt", "sqrt": "linear"}[rule]
    assert f"set lr.rule to {other}" in finding.helps[0]
    assert found(*words[:2], f"lr.rule={other}", words[2]) == {}


def test_a_rule_is_not_trusted_beyond_what_was_shown(found) -> None:
    finding = found("lr.reference_batch=1", "lr.rule=sqrt")["CF206"]
    assert "64 times" in finding.title
    assert any("assumed" in note for note in finding.notes)


@pytest.mark.parametrize(
    ("word", "steps", "repair"),
    [
        ("lr.warmup_fraction=1", 100, "lr.warmup_fraction=0.03"),
        ("lr.warmup_steps=51", 51, "lr.warmup_steps=3"),
        ("lr.warmup_samples=6400", 100, "lr.warmup_samples=192"),
    ],
)
def test_a_warmup_of_most_of_the_run(found, word: str, steps: int, repair: str) -> None:
    finding = found(word)["CF207"]
    assert f"{'whole run of 100' if steps == 100 else '51 of'}" in finding.title
    key, _, value = repair.partition("=")
    assert finding.helps[0].startswith(f"set {key} to {value}: 3 of 100 steps")
    assert found(repair) == {}
    assert (len(finding.helps) == 2) == ("fraction" in word), "one step may be meant"


def test_a_rate_that_a_script_overrides_is_in_two_files(facts_of) -> None:
    script = Override("lr.reference=2e-4", Place("go.sh", 3, 40, 17))
    for words, expected in (
        ((script,), 1),
        (("lr.reference=2e-4",), 0),
        ((Override("lr.reference=1e-4", script.place),), 0),
    ):
        findings = run_static_rules(facts_of(*words))
        assert [finding.code for finding in findings] == ["CF208"] * expected
        for finding in findings:
            assert finding.title == "two files state the rate: go.sh says 0.0002, the config 0.0001"
            assert str(finding.others[0][0]) == "run.yaml:6:17"


@pytest.mark.parametrize("number", ["8e-4", "0.0008", "2.83e-4", "2.828427e-4"])
@pytest.mark.parametrize("rule", ["linear", "sqrt"])
def test_scaled_by_hand_and_by_the_rule(tmp_path: Path, found, number: str, rule: str) -> None:
    text = CONFIG.replace("1e-4", f"1e-4, reference_batch: 8, rule: {rule}")
    Path("run.yaml").write_text(text)
    finding = found(f"lr.reference={number}")["CF209"]
    assert "0.0001 x 8" in finding.title or "0.0001 x 2.828" in finding.title
    assert str(finding.others[0][0]) == "run.yaml:6:17"
    assert "CF209" not in found("lr.reference=3e-4"), "a rate of its own"
    assert "CF209" not in found("lr.reference=1e-4"), "what the file says"
    assert "CF209" not in found(f"lr.reference={number}", "lr.rule=none")
    assert "CF209" not in found(f"lr.reference={number}", "lr.reference_batch=64")


def test_one_mistake_is_not_said_twice(found) -> None:
    Path("run.yaml").write_text(CONFIG.replace("1e-4", "2e-3, reference_batch: 8, rule: linear"))
    codes = set(found("lr.reference=1.6e-2"))
    assert codes == {"CF205", "CF209"}, "and not CF210: the peak is so high because it is scaled twice"


def test_a_rate_that_replaces_the_weights(found) -> None:
    finding = found("lr.reference=5e-3", "lr.reference_batch=8", "lr.rule=sqrt")["CF210"]
    assert "0.01414 (0.005, scaled by sqrt)" in finding.title
    assert "CF210" in found("lr.reference=1.1e-2")
