"""`crossfoot tune` without a model: its file, what it tries next, what is best, what it keeps and writes."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from crossfoot.arithmetic.means import difference, estimate
from crossfoot.data.conversation import Turn
from crossfoot.data.prompts import Prompt, read_prompts
from crossfoot.digests import sha256_of_file
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.tasks.answers import exact_match
from crossfoot.tuning.deciding import Decision, decide, decide_at_last, finalists
from crossfoot.tuning.judge import judge_of, refuse_missing_references
from crossfoot.tuning.page import tuning_page
from crossfoot.tuning.result import generation_config, put_into, refuse_no_model
from crossfoot.tuning.sampler import next_values
from crossfoot.tuning.space import Choice, Range, combinations, simplicity
from crossfoot.tuning.summary import summary
from crossfoot.tuning.trials import TRIALS, Trial, TrialFile
from crossfoot.tuning.tuning_file import Goal, TuningFile, read_tuning
from support.launching import ROOT

GOOD = """\
model: m
prompts: q.jsonl
goal: exact_match
parameters:
  do_sample: [false, true]
  temperature: {low: 0.2, high: 1.5}
"""
SPACE = {
    "temperature": Range(0.2, 1.5),
    "do_sample": Choice((False, True)),
    "top_k": Choice((0, 10)),
    "repetition_penalty": Choice((1.0,)),
}
EXACT, SHORT = Goal(measure="exact_match"), Goal(measure="length")


def read(folder: Path, text: str) -> TuningFile:
    file = folder / "tune.yaml"
    file.write_text(text, encoding="utf-8")
    return read_tuning(str(file))


def refused(folder: Path, text: str) -> tuple[Finding, ...]:
    with pytest.raises(Refused) as caught:
        read(folder, text)
    return caught.value.findings


def test_a_file_is_read(tmp_path: Path) -> None:
    more = "start:\n  - {do_sample: true, temperature: 1}\n  - {do_sample: false}\nseed: 3\n"
    file = read(tmp_path, GOOD + more)
    assert file.config.goal.measure == "exact_match" and file.config.goal.is_maximized
    assert file.space == {"do_sample": Choice((False, True)), "temperature": Range(0.2, 1.5)}
    assert file.start == ({"do_sample": True, "temperature": 1.0}, {"do_sample": False})
    assert file.folder == str(tmp_path / "tune") and not file.warnings
    assert not read(tmp_path, GOOD.replace("exact_match", "length")).config.goal.is_maximized


def test_the_shipped_example_is_right() -> None:
    file = read_tuning(str(ROOT / "configs" / "tune" / "smollm2.yaml"))
    prompts = read_prompts(str(ROOT / file.config.prompts), {})
    refuse_missing_references(file.config.goal, file.config.prompts, prompts)
    assert len(prompts) == 20 and not file.warnings


RANGE = "{low: 0.2, high: 1.5}"
WRONG: list[tuple[str, str, int, str]] = [
    ("", "CF810", 0, "is empty"),
    ("- a\n", "CF810", 1, "is a list"),
    ("a: [\n", "CF002", 0, "the YAML cannot be read"),
    (GOOD.replace("prompts:", "prompt:"), "CF811", 2, "prompt is not a key"),
    (GOOD + "trails: 5\n", "CF811", 7, "trails is not a key"),
    (GOOD.replace("temperature", "temprature"), "CF811", 6, "parameters.temprature is not a key"),
    (GOOD.replace("model: m\n", ""), "CF812", 0, "model is missing"),
    (GOOD.replace("exact_match", "exact"), "CF007", 3, "goal.measure must be exact_match, chrf"),
    (GOOD.replace("exact_match", "command"), "CF812", 3, "goal.command is missing"),
    (GOOD.replace("exact_match", "{measure: chrf, command: x}"), "CF007", 3, "goal.command must be left out"),
    (GOOD.replace(RANGE, "{low: 1.5, high: 0.2}"), "CF813", 6, "temperature goes from 1.5 down to 0.2"),
    (GOOD.replace(RANGE, "{low: 1, high: 1}"), "CF813", 6, "one value"),
    (GOOD.replace(RANGE, "{low: 1}"), "CF812", 6, "parameters.temperature.high is missing"),
    (GOOD.replace(RANGE, "{low: 1, hihg: 2}"), "CF811", 6, "hihg is not a key"),
    (GOOD.replace(RANGE, "{low: 1, high: 2, step: 3}"), "CF813", 6, "more than the whole range"),
    (GOOD.replace(RANGE, "{low: 1, high: 2, step: -1}"), "CF813", 6, "has the step -1"),
    (GOOD.replace(RANGE, "{low: 0, high: 2}"), "CF800", 6, "must be above 0 to sample with"),
    (GOOD.replace(RANGE, "{low: 0.1, high: 2, log: true, step: 0.1}"), "CF813", 6, "both step and log"),
    (GOOD.replace(RANGE, "[]"), "CF813", 6, "has no values to choose from"),
    (GOOD.replace(RANGE, "[0.5, 0.5]"), "CF813", 6, "has 0.5 twice"),
    (GOOD.replace(RANGE, "hot"), "CF007", 6, "must be a number"),
    (GOOD + "  top_k: {low: 0.5, high: 3}\n", "CF007", 7, "must be a whole number"),
    (GOOD + "  top_p: [0.5, 1.5]\n", "CF800", 7, "must be above 0 and at most 1"),
    (GOOD + "  dtype: {low: 1, high: 2}\n", "CF813", 7, "has no range"),
    (GOOD + "  dtype: int8\n", "CF007", 7, "must be float32, bfloat16 or float16"),
    (GOOD.replace("[false, true]", "[true]").replace(RANGE, "0.7"), "CF816", 4, "nothing to choose"),
    (GOOD + "start: [{top_p: 0.9}]\n", "CF815", 7, "top_p is no parameter of this search"),
    (GOOD + "start: [{temperature: 3.0}]\n", "CF815", 7, "temperature is 3, and may be 0.2 to 1.5"),
    (GOOD + "goal: chrf\n", "CF005", 7, "goal is written twice"),
    (GOOD.replace("goal: e", "goal：e"), "CF027", 3, "stands where YAML needs"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "line", "title"), WRONG, ids=[each[1] + each[3] for each in WRONG])
def test_what_is_wrong_is_named_with_its_line(
    text: str, code: str, line: int, title: str, tmp_path: Path
) -> None:
    (finding,) = refused(tmp_path, text)
    assert finding.code == code and title in finding.title and finding.helps
    assert finding.place is not None and (not line or finding.place.line == line)


def test_what_has_no_effect_is_said_and_never_tried(tmp_path: Path) -> None:
    text = (
        GOOD.replace("[false, true]", "false") + "  repetition_penalty: [1.0, 1.2]\n  length_penalty: 2.0\n"
    )
    first, second = read(tmp_path, text).warnings
    assert (first.code, first.title) == ("CF801", "temperature has no effect: do_sample is false")
    assert second.title == "length_penalty has no effect: num_beams is 1"
    (warning,) = read(tmp_path, GOOD + "start: [{do_sample: false, temperature: 0.7}]\n").warnings
    assert warning.code == "CF801" and warning.place is not None and warning.place.line == 7


def search(trials: int, seed: int = 0, known: int = 0, space: Any = None) -> list[Trial]:
    """Trials of which warmer ones are worse. known: so many come from an earlier search."""
    told: list[Trial] = search(known, seed, space=space) if known else []
    for number in range(len(told) + 1, trials + 1):
        start = {"do_sample": True, "temperature": 0.7} if number == 1 and space is None else None
        values = next_values(space or SPACE, told, start=start, seed=seed, is_maximized=True)
        if values is None:
            break
        score = 1 - values.get("temperature", 0.0) / 2
        told.append(Trial(number, values, ((score, score / 2),), (("a", "b"),), (2,), (0.5,)))
    return told


def test_only_what_has_an_effect_is_tried_and_nothing_twice() -> None:
    trials = search(20)
    assert len(trials) == 20
    assert trials[0].values["temperature"] == 0.7 and trials[0].values["do_sample"] is True
    for trial in trials:
        names = {"do_sample", "repetition_penalty"} | ({"temperature", "top_k"} if trial.samples else set())
        assert set(trial.values) == names
    assert sum(not trial.samples for trial in trials) == 1
    assert len({json.dumps(dict(trial.values)) for trial in trials}) == 20


def test_a_search_that_was_stopped_tries_what_it_would_have_tried() -> None:
    whole = search(14)
    for known in (1, 5, 13):
        assert search(14, known=known) == whole
    assert search(14, seed=1) != whole


def test_a_finite_space_is_tried_whole() -> None:
    finite = {**SPACE, "temperature": Choice((0.5, 1.0))}
    assert len(combinations(finite) or ()) == 5
    assert len(search(20, space={**finite})) == 5
    assert combinations(SPACE) is None


def test_ranges_keep_their_ends_and_read_well() -> None:
    assert Range(0.2, 1.5).rounded(0.73129) == 0.73
    assert Range(0.5, 1.0).rounded(0.95349) == 0.953
    assert Range(0.2, 1.5).rounded(1.4999) == 1.5
    assert Range(1e-4, 1.0, is_log=True).rounded(0.000123456) == 0.000123
    assert not Range(0, 5, is_whole=True).holds(2.5) and Range(0, 5, is_whole=True).holds(5)
    assert not Choice((0, 1)).holds(False)


def test_intervals_are_students() -> None:
    five = estimate([1, 2, 3, 4, 5])
    assert five.mean == 3 and five.high == pytest.approx(3 + 2.776 * math.sqrt(2.5) / math.sqrt(5))
    assert estimate([7]).low == -math.inf
    assert difference([1, 2, 3], [0, 1, 2]).low == 1 and not difference([1, 2, 3], [0, 1, 2]).holds_zero
    assert difference([2.0], [1.0, 3.0]).mean == 0
    hundred = estimate([0, 1] * 50)  # 1.984 is the table's value for 99
    assert hundred.high == pytest.approx(0.5 + 1.984 * math.sqrt(25 / 99) / 10, abs=1e-4)


def trial(number: int, scores: str, **values: Any) -> Trial:
    """scores: a digit for each prompt, repeats apart by a blank."""
    each = tuple(tuple(map(float, repeat)) for repeat in scores.split())
    answers = tuple(tuple("x" for _ in repeat) for repeat in each)
    return Trial(number, values, each, answers, (9,) * len(each), (1.0,) * len(each))


SAMPLED = {"do_sample": True, "temperature": 0.7}


def decided(*trials: Trial, goal: Goal = EXACT) -> Decision:
    found = decide(trials, goal)
    assert found is not None
    return found


def test_the_simplest_of_those_that_cannot_be_told_apart_is_taken() -> None:
    greedy, luckier = trial(1, "1101110111", do_sample=False), trial(2, "1111111110", **SAMPLED)
    worse, failed = trial(3, "0000010000", **SAMPLED), Trial(4, SAMPLED, failed="no memory")
    found = decided(greedy, luckier, worse, failed)
    assert found.highest is luckier and found.chosen is greedy and found.alike == (greedy,)
    assert set(found.scores) == {1, 2, 3}
    clear = decided(trial(1, "0100010000", do_sample=False), luckier)
    assert clear.chosen is luckier and not clear.alike
    fewest = decided(trial(1, "42", do_sample=False), trial(2, "99", **SAMPLED), goal=SHORT)
    assert fewest.highest.number == 1
    assert decide([failed], EXACT) is None
    assert simplicity({"do_sample": False}) < simplicity({"do_sample": False, "repetition_penalty": 1.1})


def test_the_luckiest_of_many_is_measured_once_more() -> None:
    longest = Goal(measure="length", direction="maximize")
    steady, lucky = trial(1, "88888888", **SAMPLED, top_k=7), trial(2, "98898889", **SAMPLED, top_k=8)
    first = decided(steady, lucky, trial(3, "11111111", **SAMPLED, top_k=9), goal=longest)
    assert first.highest is lucky and [one.number for one in finalists(first)] == [1, 2]
    finals = [replace(steady, is_final=True), replace(trial(2, "11211111", **SAMPLED), is_final=True)]
    last = decide_at_last(first, [steady, lucky, *finals], longest)
    assert last.highest.number == 1 and last.chosen.number == 1 and last.scores[2].mean == 1.125


def test_trials_are_kept_and_a_torn_line_is_measured_again(tmp_path: Path) -> None:
    made_of = {"config": {"seed": 0, "goal": "x"}, "prompts": "p", "own_values": {"top_k": 3}}
    with TrialFile(str(tmp_path), {**made_of, "prompts": "not measured yet"}):
        pass
    one, two = trial(1, "10", **SAMPLED), trial(2, "11", do_sample=False)
    with TrialFile(str(tmp_path), made_of) as file:
        file.add(one)
        file.add(two)
        with pytest.raises(Refused, match="another command is at work"):
            TrialFile(str(tmp_path), made_of)
    path = tmp_path / TRIALS
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with TrialFile(str(tmp_path), {**made_of, "own_values": {}}) as file:
        assert file.trials == [one] and file.made_of["own_values"] == {"top_k": 3}
        file.add(two)
    assert path.read_bytes() == whole
    for changed, words in (
        ({"config": {"seed": 1, "goal": "x"}}, "seed is changed"),
        ({"prompts": "q"}, "prompts are not the same"),
    ):
        with pytest.raises(Refused, match=words) as caught:
            TrialFile(str(tmp_path), {**made_of, **changed})
        assert caught.value.findings[0].code == "CF819"
    path.write_bytes(whole.replace(b'"number": 2', b'"number": "two"'))
    with pytest.raises(Refused) as caught:
        TrialFile(str(tmp_path), made_of)
    (finding,) = caught.value.findings
    assert finding.code == "CF820" and finding.place is not None and finding.place.line == 3


def prompts_of(*references: str | None) -> list[Prompt]:
    return [
        Prompt((Turn("user", "q"),), one, Place("q.jsonl", line)) for line, one in enumerate(references, 1)
    ]


def judged(answers: list[str], references: list[str], **goal: Any) -> list[float]:
    judge = judge_of(Goal(**goal), prompts_of(*references), Place("tune.yaml", 3))
    return judge(answers, [len(answer) for answer in answers])


def test_answers_are_judged() -> None:
    assert exact_match(' "Paris."\n', "paris") == 1.0 and exact_match("Paris, France", "Paris") == 0.0
    assert exact_match("北京。", "北京") == 1.0 and exact_match("ＰＡＲＩＳ", "paris") == 1.0
    assert judged(["Paris\nQ: more"], ["Paris"], measure="exact_match", until="\n") == [1.0]
    good, bad = judged(["the same words", "else"], ["the same words"] * 2, measure="chrf")
    assert good == 100 and bad < 20
    assert judged(["abc"], [""], measure="length") == [3.0]


COUNTS = "import json,sys; [print(len(json.loads(line)['answer'])) for line in sys.stdin]"


def test_a_command_judges_or_says_why_not(tmp_path: Path) -> None:
    def by(code: str) -> list[float]:
        command = shlex.join([sys.executable, "-c", code])
        return judged(["ab", "中文字"], ["", ""], measure="command", command=command)

    assert by(COUNTS) == [2.0, 3.0]
    for code, words in (
        ("raise SystemExit(3)", "ended with code 3"),
        ("print(1)", "gave 1 line for 2 answers"),
        ("print(1); print('good')", "gave no number in line 2"),
        ("print(1); print('nan')", "a finite number is needed"),
    ):
        with pytest.raises(Refused, match=words) as caught:
            by(code)
        assert caught.value.findings[0].code == "CF817"
    with pytest.raises(Refused, match="cannot be started"):
        judged(["a"], [""], measure="command", command=str(tmp_path / "absent"))


def test_prompts_without_a_reference_are_named() -> None:
    with pytest.raises(Refused) as caught:
        refuse_missing_references(EXACT, "q.jsonl", prompts_of("a", None, "b", None))
    (finding,) = caught.value.findings
    assert finding.code == "CF814" and "2 prompts of q.jsonl have none" in finding.title
    assert finding.place is not None and finding.place.line == 2 and finding.others[0][0].line == 4
    refuse_missing_references(SHORT, "q.jsonl", prompts_of(None))


OWN = {"_from_model_config": True, "eos_token_id": 2, "top_p": 0.9, "use_cache": True}
BEST = {"max_new_tokens": 24, "do_sample": True, "temperature": 0.7, "top_k": 10, "top_p": 1.0}


def test_generation_config_is_read_by_transformers(tmp_path: Path) -> None:
    values = generation_config(OWN, BEST, (2, 7))
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    read = GenerationConfig.from_pretrained(tmp_path)
    assert (read.temperature, read.top_k, read.top_p, read.eos_token_id) == (0.7, 10, 1.0, [2, 7])
    greedy = generation_config(OWN, {"do_sample": False, "max_new_tokens": 24}, (2,))
    assert "top_p" not in greedy and "_from_model_config" not in greedy and greedy["use_cache"] is True
    assert generation_config({}, BEST, (2, 7))["eos_token_id"] == [2, 7]


def test_what_a_folder_had_is_kept_beside(tmp_path: Path) -> None:
    file, merged = tmp_path / "generation_config.json", tmp_path / "merge.json"
    (tmp_path / "config.json").write_text("{}")
    file.write_text(json.dumps(OWN))
    merged.write_text(json.dumps({"proven": True, "sha256": {file.name: sha256_of_file(file), "x": "1"}}))
    refuse_no_model(str(tmp_path))
    assert "generation_config.json.before" in put_into(str(tmp_path), BEST, (2,))
    assert json.loads((tmp_path / "generation_config.json.before").read_text()) == OWN
    account = json.loads(merged.read_text())
    assert account == {"proven": True, "sha256": {file.name: sha256_of_file(file), "x": "1"}}
    assert "already" in put_into(str(tmp_path), BEST, (2,))
    put_into(str(tmp_path), {**BEST, "top_k": 11}, (2,))
    assert json.loads((tmp_path / "generation_config.json.before-2").read_text())["top_k"] == 10
    assert sorted(os.listdir(tmp_path))[1:4] == [f"{file.name}{end}" for end in ("", ".before", ".before-2")]
    for folder, words in ((tmp_path / "none", "it is no folder"), (tmp_path.parent, "it has no config.json")):
        with pytest.raises(Refused, match=words):
            refuse_no_model(str(folder))


def test_the_page_stands_alone_and_says_what_came_out(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD + "  top_k: [0, 10]\n")
    trials = [
        trial(1, "1101110111", do_sample=False),
        trial(2, "1111111110 1011111111", do_sample=True, temperature=0.7, top_k=0),
        trial(3, "0000010000 0000000000", do_sample=True, temperature=1.4, top_k=10),
        Trial(4, {"do_sample": True, "temperature": 1.5, "top_k": 10}, failed="<no memory>"),
    ]
    found = decided(*trials)
    page = tuning_page(file, found, trials, prompts_of(*["right"] * 10), {"do_sample": False})
    assert "http" not in page and "<script" not in page
    for words in ("Best: do_sample false (trial 1)", "&lt;no memory&gt;", "trial 2, sampling", "Over length"):
        assert words in page
    words = summary(file.config.goal, found, trials, 10)
    assert "trial 2 has the best mean, 0.90" in words and "trial 1 is simpler" in words
