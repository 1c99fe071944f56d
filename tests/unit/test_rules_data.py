"""What is said about data, from a look at it: each bound from both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crossfoot.arithmetic.schedule import Schedule
from crossfoot.checks.registry import Facts
from crossfoot.checks.rules import run_static_rules
from crossfoot.data.look import DataLook, Leaks
from crossfoot.findings.finding import Finding
from crossfoot.written.model_facts import ModelFacts
from crossfoot.written.run_file import load_run

CONFIG = """\
run: {name: demo}
model: {path: builtin:tiny, dtype: float32}
data: {train: [a.json, b.json]}
batch: {micro_batch_size: 4, grad_accum_steps: 8}
lr: {reference: 1e-4}
train: {epochs: 1}
"""
GOOD = DataLook(is_indexed=False, is_whole=True, is_counted=True, records=1000, samples=1000)


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The findings of a look, or of a number of samples, under CONFIG with overrides."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)

    def _found(
        *overrides: str, num_samples: int = 0, positions: int | None = None, batch: int = 32, **look: object
    ) -> tuple[Finding, ...]:
        run = load_run("run.yaml", overrides)
        config = run.config
        schedule = Schedule(
            num_samples=num_samples or 3200,
            global_batch_size=batch,
            seed=1,
            last_step=config.data.last_step,
            epochs=config.train.epochs,
            max_steps=config.train.max_steps,
        )
        model = ModelFacts(260, False, positions, "llama")
        return run_static_rules(Facts(run, schedule=schedule, model=model, data=replace(GOOD, **look)))

    return _found


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


def test_good_data_is_passed_over(found) -> None:
    assert found() == ()
    assert found(is_indexed=True, longest_tokens=2000, longest_kept_tokens=512) == ()


def test_a_cut_is_said_from_one_percent_on(found) -> None:
    assert found(lost_share=0.0099, truncated_samples=9, longest_tokens=700) == ()
    (finding,) = found(lost_share=0.01, truncated_samples=9, longest_tokens=700, has_counted_all=True)
    assert (finding.code, finding.severity) == ("CF514", "warning")
    assert finding.label == "max_seq_len is not given: the default"
    assert finding.notes == ("longer than that: 9 of 1,000 records, the longest has 700 tokens",)
    assert finding.helps[0] == "set data.max_seq_len to 700: no answer is cut then"


def test_a_cut_of_some_records_promises_less(found) -> None:
    (finding,) = found(lost_share=0.02, longest_tokens=700, is_whole=False, is_counted=False)
    assert "about 2 %" in finding.title
    assert finding.helps[0].endswith("no answer of those counted is cut then")
    assert finding.notes[-1] == "tokens are estimated from the size of the texts"


def test_the_index_says_it_exactly(found) -> None:
    (finding,) = found(lost_share=0.02, longest_tokens=700, is_indexed=True, has_counted_all=True)
    assert finding.title == "2 % of the trained tokens are cut off: max_seq_len is 512"


def test_no_help_leads_beyond_the_models_positions(found) -> None:
    (finding,) = found(lost_share=0.02, longest_tokens=700, positions=600, has_counted_all=True)
    assert finding.helps[0] == "set data.max_seq_len to 600: the most that the model was made for"
    (finding,) = found(lost_share=0.02, longest_tokens=700, positions=512, has_counted_all=True)
    assert finding.helps == ("shorten the samples",)


def test_repeats_are_said_from_one_percent_on(found) -> None:
    assert found(repeated_samples=9) == ()
    assert codes(found(repeated_samples=10)) == ["CF515"]
    assert found(repeated_samples=1, samples=20, records=20) == (), "one slip"
    (finding,) = found(repeated_samples=3, is_whole=False, samples=200)
    assert "3 of the 200 records looked at repeat" in finding.title


def test_a_file_listed_twice_is_said_once(found) -> None:
    Path("link.json").symlink_to("a.json")
    for second in ("a.json", "./a.json", "link.json"):
        (finding,) = found(f"data.train=[a.json, {second}]", repeated_samples=500)
        assert (finding.code, finding.severity) == ("CF516", "warning")
        assert finding.title == f"{second} is listed twice"
    assert codes(found("data.validation=[c.json, c.json]")) == ["CF516"]
    assert len(found("data.train=[a.json, a.json, a.json]")) == 2


def test_validation_that_is_trained_on(found) -> None:
    assert codes(found("data.validation=[./b.json]", leaks=Leaks(100, 100))) == ["CF517"]
    assert found("data.validation=[c.json]", leaks=Leaks(0, 20)) == ()
    for few in (Leaks(1, 20), Leaks(2, 201)):
        assert [one.severity for one in found("data.validation=[c.json]", leaks=few)] == ["note"]
    (finding,) = found("data.validation=[c.json]", leaks=Leaks(2, 200, is_sure=True))
    assert finding.title == "2 of the 200 validation records are training records too"


def test_many_records_left_out_for_their_length(found) -> None:
    assert found("data.over_long=drop", over_long_records=9, has_counted_all=True) == ()
    (finding,) = found("data.over_long=drop", over_long_records=10, has_counted_all=True)
    assert finding.code == "CF576"
    assert finding.title == "10 of 1,000 records are left out: they have more than 512 tokens"


def test_an_epoch_smaller_than_a_batch(found) -> None:
    assert found(num_samples=32) == ()
    (finding,) = found(num_samples=31)
    assert finding.title == "a step has 32 samples, and an epoch only 31: every step trains 31"
    (finding,) = found("data.last_step=carry", num_samples=31)
    assert "a step holds samples more than once" in finding.title


def test_many_epochs(found) -> None:
    steps = ("train.epochs=null", "train.max_steps=200")
    assert found(*steps, num_samples=64) == (), "100 epochs"
    (finding,) = found("train.epochs=null", "train.max_steps=202", num_samples=64)
    assert (finding.code, finding.title) == ("CF519", "202 steps pass over the data 101 times")
    assert finding.helps == ("set train.max_steps to 6: 3 epochs",)
    assert found("train.epochs=500", num_samples=64) == (), "that is said in words"


@pytest.mark.parametrize("share", [0.005, 0.02])
def test_records_left_out(found, share: float) -> None:
    findings = found(rejected_records=int(1000 * share), rejected_example="a.json:3: no output")
    assert codes(findings) == (["CF522"] if share > 0.01 else [])
    assert all("a.json:3" in finding.notes[0] for finding in findings)


def test_a_tiny_last_step(found) -> None:
    assert found("train.epochs=2", num_samples=128 + 2, batch=64) == (), "one in 32"
    assert codes(found("train.epochs=2", num_samples=128 + 1, batch=64)) == ["CF523"]
    (finding,) = found("train.epochs=2", num_samples=128 + 1, batch=64)
    assert (finding.code, finding.severity) == ("CF523", "note")
    assert "carry" in finding.helps[0]
    (finding,) = found(num_samples=128 + 1, batch=64)
    assert finding.helps == ("set data.last_step to drop: an epoch then trains 128 of 129 samples",)
    assert found("train.epochs=2", "data.last_step=carry", num_samples=129, batch=64) == ()
    assert found("train.epochs=null", "train.max_steps=2", num_samples=129, batch=64) == (), "never reached"


def test_a_large_tail_that_is_dropped(found) -> None:
    assert found("data.last_step=drop", num_samples=32 * 9 + 31) == (), "a tenth of 319, almost"
    (finding,) = found("data.last_step=drop", num_samples=63)
    assert finding.title == "data.last_step drop leaves 31 of 63 samples out of every epoch"
    assert found("data.last_step=short", num_samples=63) == ()


def test_prompts_that_seem_to_fill_the_window(found) -> None:
    (finding,) = found(hopeless_records=3)
    assert (finding.code, finding.severity) == ("CF525", "warning")
    assert "stop the run" in finding.notes[-1]
    assert "leave them out" in found("data.bad_samples=skip", hopeless_records=3)[0].notes[-1]


def test_without_a_look_nothing_is_said_about_samples(tmp_path: Path, found) -> None:
    assert run_static_rules(Facts(load_run("run.yaml"))) == ()
