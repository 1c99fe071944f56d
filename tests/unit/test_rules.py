"""The rules' odd corners: uneven batches, numbers from the command line, what is nobody's mistake; the
registry.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from crossfoot.arithmetic.rate import RateImpossible, plan_rate
from crossfoot.checks import registry
from crossfoot.checks.impossible import impossible_finding
from crossfoot.checks.registry import RULES, Facts, explain
from crossfoot.findings.codes import all_codes
from crossfoot.findings.finding import Finding, Refused
from crossfoot.ledger.entry import CAUSE_KINDS
from crossfoot.planning.checking import find_all
from crossfoot.planning.prepare import read_and_check
from crossfoot.written.run_file import load_run
from support.launching import write_samples
from support.model_folders import write_model

CONFIG = """\
run: {name: demo}
model: {path: builtin:tiny, dtype: float32}
data: {train: [a.json]}
batch: {micro_batch_size: 4, global_batch_size: 100}
cluster: {num_nodes: 1, gpus_per_node: 16}
lr: {reference: 1e-4}
train: {epochs: 1}
deepspeed: ds.json
"""


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    write_samples(Path("a.json"), 200)

    def _found(deepspeed: str, *overrides: str) -> tuple[Finding, ...]:
        Path("ds.json").write_text(deepspeed)
        return find_all("run.yaml", overrides)

    return _found


@pytest.mark.parametrize(
    "deepspeed",
    [
        "{}",
        '{"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}',
        '{"gradient_accumulation_steps": "auto"}',
        '{"train_batch_size": 128, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}',
        '{"gradient_clipping": 1, "bf16": {"enabled": "auto"}, "fp16": {"enabled": false, "loss_scale": 0}}',
        '{"gradient_clipping": "auto", "bf16": {}, "zero_optimization": {"stage": 0}}',
        '{"zero_optimization": {}}',
    ],
)
def test_what_is_nobodys_mistake(found, deepspeed: str) -> None:
    assert found(deepspeed) == ()


def test_an_uneven_batch_must_be_told_as_capacity(found) -> None:
    (finding,) = found('{"train_batch_size": 100}')
    assert finding.code == "CF101"
    assert finding.title == "train_batch_size says 100, but DeepSpeed must be told 128, what a step can hold"
    assert finding.notes[0] == "100 samples do not divide: 28 of 128 places stay empty"
    assert finding.others[0][1] == "4 x 2 x 16 x 1 = 128, which holds 100"
    assert finding.helps == ('write 128 (or "auto"); the batch stays 100',)


def test_each_way_out_of_cf101_is_a_way_out(found) -> None:
    (finding,) = found('{"train_batch_size": 192}')
    assert finding.helps[1] == "or set batch.global_batch_size to 192 to get 192: 4 x 3 x 16 = 192"
    assert found('{"train_batch_size": 192}', "batch.global_batch_size=192") == ()
    (finding,) = found('{"train_batch_size": 192}', "batch.grad_accum_steps=2")
    assert "batch.grad_accum_steps to 3 and batch.global_batch_size to 192" in finding.helps[1]
    (finding,) = found('{"train_batch_size": 100}', "batch.global_batch_size=128")
    assert len(finding.helps) == 1, "100 is no capacity on 16 GPUs: nothing in the config makes it one"


def test_a_number_from_the_command_line_is_shown_as_such(found) -> None:
    (finding,) = found('{"train_micro_batch_size_per_gpu": 4}', "batch.micro_batch_size=8")
    assert str(finding.others[0][0]) == "command line"
    assert finding.helps[1] == "or set batch.micro_batch_size to 4: 100 samples per optimizer step"


def test_both_precisions_on_is_a_contradiction_whatever_the_dtype(found) -> None:
    both = '{"bf16": {"enabled": true}, "fp16": {"enabled": true}, "zero_optimization": {"stage": 1}}'
    assert {finding.code for finding in found(both)} == {"CF305"}
    assert len(found(both, "model.dtype=bfloat16")) == 1


def test_the_alias_bfloat16_counts(found) -> None:
    assert [finding.code for finding in found('{"bfloat16": {"enabled": true}}')] == ["CF305"]


@pytest.mark.parametrize("number", ["0", "-4", "2.5", "true", "null", "[8]", "1e999", '"x"'])
@pytest.mark.parametrize("key", ["train_batch_size", "gradient_accumulation_steps"])
def test_no_batch_number_of_a_wrong_kind_passes(found, key: str, number: str) -> None:
    assert [finding.code for finding in found(f'{{"{key}": {number}}}')] == ["CF309"]


@pytest.mark.parametrize(
    ("key", "code"), [("train_batch_size", "CF101"), ("gradient_accumulation_steps", "CF103")]
)
def test_a_batch_number_is_that_number_however_it_is_written(found, key: str, code: str) -> None:
    for number in ('"7"', "7.0", "7"):
        assert [finding.code for finding in found(f'{{"{key}": {number}}}')] == [code]


@pytest.mark.parametrize(
    "deepspeed", ["{}", '{"zero_optimization": {}}', '{"zero_optimization": {"stage": 0}}']
)
def test_bfloat16_unsharded_is_refused_and_nothing_near_it(found, deepspeed: str) -> None:
    for optimizer in ("adamw", "sgd"):
        (finding,) = found(deepspeed, "model.dtype=bfloat16", f"optimizer.name={optimizer}")
        assert finding.code == "CF311"
    assert found(deepspeed) == ()
    assert found('{"zero_optimization": {"stage": 1}}', "model.dtype=bfloat16") == ()


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ('{"stage": 1, "offload_optimizer": {"device": "nvme"}}', 'offload_optimizer.device is "nvme"'),
        ('{"stage": 3, "offload_param": {"device": "nvme"}}', 'offload_param.device is "nvme"'),
        ('{"stage": 2, "offload_optimizer": "cpu"}', 'offload_optimizer is "cpu"'),
        ('{"stage": 3, "offload_param": {"device": "CPU"}}', 'offload_param.device is "CPU"'),
        (
            '{"stage": 2, "offload_optimizer": {"device": "cpu", "super_offload": true}}',
            "super_offload is true",
        ),
        (
            '{"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}',
            "offload_optimizer.ratio is 0.5",
        ),
    ],
)
def test_offloading_that_does_not_run_is_refused(found, block: str, shown: str) -> None:
    (finding,) = found(f'{{"zero_optimization": {block}}}')
    assert finding.code == "CF312"
    assert shown in finding.title


@pytest.mark.parametrize(
    "block",
    [
        '{"offload_optimizer": {"device": "none"}}',
        '{"offload_param": null}',
        '{"offload_param": {}}',
        '{"stage": 3, "offload_param": {"device": "auto"}}',
        '{"stage": 3, "offload_optimizer": {"device": null}}',
    ],
)
def test_no_offloading_is_nobodys_mistake(found, block: str) -> None:
    assert found(f'{{"zero_optimization": {block}}}') == ()


@pytest.mark.parametrize("stage", (0, 1, 2, 3))
def test_offloading_to_the_cpu_is_said_where_it_does_nothing(found, stage: int) -> None:
    for key, lowest in (("offload_optimizer", 1), ("offload_param", 3)):
        said = found(f'{{"zero_optimization": {{"stage": {stage}, "{key}": {{"device": "cpu"}}}}}}')
        assert [finding.code for finding in said] == ([] if stage >= lowest else ["CF330"]), key


def test_float16_needs_a_stage(found) -> None:
    assert (
        found('{"fp16": {"enabled": true}, "zero_optimization": {"stage": 1}}', "model.dtype=float16") == ()
    )
    (finding,) = found('{"fp16": {"enabled": true}}', "model.dtype=float16")
    assert finding.code == "CF311" and "float16" in finding.title


@pytest.mark.parametrize(
    "path", ["/no/such", "./no", "../no", "~/no-such-model", "a/b/c", "owner/", "run.yaml"]
)
def test_a_model_folder_that_is_not_there(found, path: str) -> None:
    (finding,) = found("{}", f"model.path={path}")
    assert (finding.code, str(finding.place), finding.unreadable) == ("CF541", "command line", True)


@pytest.mark.parametrize("path", ["builtin:tiny", "folder", "./folder", "folder/in/it"])
def test_a_folder_that_is_there_is_nobodys_mistake(found, path: str) -> None:
    for folder in ("folder", "folder/in/it"):
        write_model(Path(folder))
    assert found("{}", f"model.path={path}", "tokenizer.path=builtin:tiny") == ()


def test_everything_that_is_not_there_is_said_at_once(found) -> None:
    found('{"train_batch_size": 1}')
    Path("a.json").unlink()
    checked = read_and_check("run.yaml", ["data.validation=[b.json, c.md]", "tokenizer.path=./nowhere"])
    assert [finding.code for finding in checked.findings] == ["CF501", "CF101", "CF501", "CF501", "CF520"]
    with pytest.raises(Refused) as caught:
        checked.refuse()
    assert caught.value.findings == checked.findings, "config first, then other files, then the command line"
    checked = read_and_check("run.yaml", ["model.path=./nowhere"])
    assert [f.code for f in checked.findings] == ["CF501", "CF101", "CF541"], (
        "its tokenizer is not missed too"
    )


def test_the_rate_s_refusal_points_at_what_was_written(found) -> None:
    run = load_run("run.yaml", ["lr.rule=sqrt"])
    with pytest.raises(RateImpossible) as caught:
        plan_rate(
            reference=1e-4,
            reference_batch=None,
            rule="sqrt",
            global_batch_size=8,
            schedule="cosine",
            min_ratio=0.0,
            total_steps=10,
        )
    finding = impossible_finding(caught.value, run)
    assert (finding.code, str(finding.place)) == ("CF202", "command line")


def test_every_page_makes_findings_of_its_own_code() -> None:
    explain("CF101")
    causes = {code for code, _ in CAUSE_KINDS.values()}  # their pages are of that table
    assert causes < {row.code for row in all_codes()}
    for row in all_codes():
        if row.code in causes:
            continue
        code, function = row.code, row.constructor
        text = inspect.getsource(function)
        assert f'"{code}"' in text.split("def ", 1)[1] or code in RULES, function
        assert (function.__doc__ or "").startswith(f"{code}: "), function
        assert len((function.__doc__ or "").splitlines()) > 2, f"{code} has no page, only a title"


def test_a_rule_that_speaks_for_another_is_broken(monkeypatch: pytest.MonkeyPatch, found) -> None:
    def check(facts: Facts):
        """CF998: a rule."""
        yield Finding("CF999", "x")

    monkeypatch.setitem(registry.RULES, "CF998", registry.Rule("CF998", check))
    with pytest.raises(RuntimeError, match="CF998"):
        found("{}")
