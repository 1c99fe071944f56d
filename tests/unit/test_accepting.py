"""`checks.accept`: accepted on purpose, counted, counting against nothing, and making no other plan."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from crossfoot.checks.registry import import_rule_docs
from crossfoot.cli import main
from crossfoot.findings.codes import all_codes, find_code
from crossfoot.findings.finding import Acceptance, Finding, Place, Refused
from crossfoot.findings.formats import formatted
from crossfoot.index.verified import verified_index
from crossfoot.planning.checking import find_all
from crossfoot.planning.lock import make_lock
from crossfoot.planning.prepare import plan_checked, read_and_check
from crossfoot.runs.attempts import accepted_findings
from support.launching import write_samples

CONFIG = """\
run: {name: job}
model: {path: builtin:tiny}
data: {train: [a.jsonl]}
batch: {micro_batch_size: 2, grad_accum_steps: 2}
cluster: {num_nodes: 1, gpus_per_node: 2}
lr: {reference: 1e-4, schedule: constant, min_ratio: 0.1}
train: {epochs: 1}
"""
WHY = "the floor is for later"
BY_CODE = f"checks.accept.CF030={WHY}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    write_samples(Path("a.jsonl"), 40)


def weights(*words: str) -> list[tuple[str, str]]:
    return [(finding.code, finding.counts_as) for finding in find_all("run.yaml", words)]


def test_a_warning_is_accepted_by_code_or_name_in_the_file_or_on_the_command_line() -> None:
    assert weights() == [("CF030", "warning")]
    assert weights(BY_CODE) == weights(f"checks.accept.cf030={WHY}") == [("CF030", "accepted")]
    assert weights(f"checks.accept={{wish-without-effect: {WHY}}}") == [("CF030", "accepted")]
    with Path("run.yaml").open("a") as file:
        file.write(f"checks:\n  accept:\n    CF030: {WHY}\n")
    (finding,) = find_all("run.yaml")
    assert finding.accepted == Acceptance(WHY, Place("run.yaml", 10, 12, len(WHY)))
    assert weights("checks.accept={}") == [("CF030", "warning")]


def test_what_is_accepted_is_counted_and_counts_against_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def check(*words: str) -> tuple[int, str]:
        code = main(["check", "run.yaml", *words])
        return code, capsys.readouterr().out

    assert check("--strict")[0] == 1
    code, text = check("--strict", BY_CODE)
    assert code == 0 and f"  = reason: {WHY} (command line)\n\n1 accepted\n" in text
    assert text.startswith("accepted[CF030]: lr.min_ratio 0.1 has no effect")
    assert text.splitlines()[-1].startswith("run.yaml: nothing else found (1 node, 2 GPUs, ")
    (told,) = json.loads(check("--format", "json", BY_CODE)[1])
    assert (told["severity"], told["accepted"]["reason"]) == ("warning", WHY)
    assert json.loads(check("--format", "json")[1])[0]["accepted"] is None
    assert check("--format", "github", BY_CODE)[1].startswith("::notice file=run.yaml,line=6,")
    assert "accepted[CF030] lr.min_ratio 0.1 has no effect" in check("--format", "concise", BY_CODE)[1]
    assert main(["plan", "run.yaml", BY_CODE]) == 0
    assert f"  = reason: {WHY} (command line)\n\n1 accepted\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "value",
    [
        "[CF030]",
        "CF030",
        "{CF030: }",
        "{CF030: '  '}",
        "{CF030: 7}",
        "{CF030: [a]}",
        f"[{{code: CF030, reason: {WHY}}}]",
        f"[{{CF030: {WHY}}}]",
        "",
        "[]",
    ],
)
def test_without_a_reason_nothing_is_accepted_and_the_repair_can_be_pasted(value: str) -> None:
    Path("run.yaml").write_text(f"{CONFIG}checks: {{accept: {value}}}\n")
    found = {finding.code: finding for finding in find_all("run.yaml")}
    assert found.keys() == {"CF030", "CF038"} and found["CF030"].counts_as == "warning"
    in_file, typed = found["CF038"].helps
    repaired = in_file.removeprefix("write ").removesuffix(", with your reasons")
    Path("run.yaml").write_text(f"{CONFIG}checks: {{{repaired}}}\n")
    code = "CF514" if value in ("", "[]") else "CF030"
    assert (code, "accepted") in weights() or code == "CF514"
    Path("run.yaml").write_text(CONFIG)
    (word,) = shlex.split(typed.removeprefix("or on the command line: "))
    assert word.startswith(f"checks.accept.{code}=") and not {"CF038"} & {one for one, _ in weights(word)}
    assert (WHY in word) is (WHY in value)


def test_a_code_that_is_none_and_one_that_nobody_can_accept() -> None:
    found = find_all("run.yaml", ["checks.accept={30: a, CF101: b, CF720: c, CF705: d, CF401: e}"])
    said = [(finding.code, finding.title.split(":")[0]) for finding in found]
    assert said == [
        ("CF030", "lr.min_ratio 0.1 has no effect"),
        ("CF036", "checks.accept names 30, and no finding has that code or name"),
        ("CF037", "CF101 (train-batch-size) cannot be accepted"),
        ("CF037", "CF720 (token-weight-differs) cannot be accepted"),
        ("CF037", "CF705 (last-line-torn) cannot be accepted"),
        ("CF037", "CF401 (library-unusable) cannot be accepted"),
    ]
    assert "CF030" in found[1].helps[0]


def test_an_error_stays_one_though_its_warning_is_accepted() -> None:
    Path("run.yaml").write_text(f"{CONFIG}deepspeed: ds.json\nchecks: {{accept: {{CF316: x}}}}\n")
    Path("ds.json").write_text('{"learning_rate": 3}')
    (finding,) = [one for one in find_all("run.yaml") if one.code == "CF316"]
    assert finding.counts_as == "error" and "run.yaml:9:26, where it is a warning" in finding.notes[-1]


def test_what_is_accepted_is_not_repaired(capsys: pytest.CaptureFixture[str]) -> None:
    text = '{"zero_optimization": {"stage": 2, "stage3_gather_16bit_weights_on_model_save": true}}'
    Path("ds.json").write_text(text)
    words = ("check", "run.yaml", "--fix", "lr.min_ratio=0", "deepspeed=ds.json")
    assert main([*words, "checks.accept.CF325=an old file"]) == 0
    assert "accepted[CF325]" in capsys.readouterr().out and Path("ds.json").read_text() == text
    assert main([*words]) == 0 and Path("ds.json").read_text() != text


def test_one_that_accepts_nothing_is_a_note() -> None:
    assert weights(BY_CODE, "lr.min_ratio=0") == [("CF039", "note")]
    assert weights(BY_CODE, "lr.min_ratio=0", "lr.reference=no")[0][0] != "CF039", "not all was looked at"
    assert weights("lr.min_ratio=0", "checks.accept.CF477=x") == [], "only a launch file can have it"


def test_the_plan_is_the_same_and_says_why_it_is_right() -> None:
    def lock(*words: str) -> str:
        checked = read_and_check("run.yaml", words)
        index = verified_index(checked.run, checked.run.config.data.train)
        return str(make_lock(plan_checked(checked, index))["sha256"])

    assert lock() == lock(BY_CODE)


def test_errors_can_be_accepted_only_where_training_would_be_what_was_planned() -> None:
    import_rule_docs()
    assert [row.code for row in all_codes() if "error" in row.acceptable] == ["CF554"]
    assert "checks.accept" in find_code("CF554").page
    assert all(not row.acceptable for row in all_codes() if row.family == "CF7")


def test_many_of_one_code_are_one_line_and_one_paper() -> None:
    why = Acceptance("as it is", Place("run.yaml", 3))
    found = [Finding("CF514", f"file {n}", severity="warning", accepted=why) for n in range(3)]
    text = formatted(found, "text")
    assert text == "accepted[CF514]: file 0 (and 2 more)\n  = reason: as it is (run.yaml:3)\n\n3 accepted"
    (paper,) = accepted_findings([*found, Finding("CF515", "x", severity="note")])
    assert (paper.code, paper.title, paper.reason) == ("CF514", "file 0", "as it is")
    assert Refused(found).exit_code == 0
