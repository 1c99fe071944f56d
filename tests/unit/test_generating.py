"""What is asked of a trained model, and how: options, prompts, templates, the file of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crossfoot.data.conversation import Turn
from crossfoot.data.prompts import Prompt, is_file, read_prompts
from crossfoot.data.templates import Template, built_in_of
from crossfoot.data.tokenizer import load_encoder
from crossfoot.findings.finding import Refused
from crossfoot.generating.answer_file import PART, AnswerFile
from crossfoot.generating.asking import Asking
from crossfoot.generating.options import FolderValues, read_folder_values, settle
from crossfoot.line_file import line_of

NOTHING = FolderValues()
CHATML = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def found(given: dict[str, Any], folder: FolderValues = NOTHING) -> list[tuple[str, str]]:
    return [(one.code, one.title) for one in settle(given, folder)[1]]


def test_greedy_is_the_default_and_the_folder_may_say_otherwise(tmp_path: Path) -> None:
    settings, _ = settle({}, NOTHING)
    assert settings.values == {"max_new_tokens": 256, "do_sample": False}
    assert "do_sample false (default)" in str(settings)
    says = {"do_sample": True, "top_p": 0.9, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(says))
    settings, findings = settle({"top_k": 7}, read_folder_values(str(tmp_path)))
    assert settings.values["top_p"] == 0.9 and settings.values["temperature"] == 1.0 and not findings
    assert "top_p 0.9 (generation_config.json)" in str(settings) and "top_k 7 (--top-k)" in str(settings)
    assert "seed 0 (default)" in str(settings)
    settings, findings = settle({"do_sample": False}, read_folder_values(str(tmp_path)))
    assert settings.values == {"max_new_tokens": 256, "do_sample": False} and not findings


def test_what_has_no_effect_is_said_once(tmp_path: Path) -> None:
    ((code, title),) = found({"top_p": 0.9, "temperature": 0.7, "seed": 3})
    assert (code, title) == ("CF801", "--temperature, --top-p, --seed have no effect: do_sample is false")
    assert not found({"top_p": 0.9, "do_sample": True, "seed": 3})
    (tmp_path / "generation_config.json").write_text('{\n "top_p": 0.95\n}')
    _, (finding,) = settle({}, read_folder_values(str(tmp_path)))
    assert finding.title == "top_p has no effect: do_sample is false" and finding.severity == "warning"
    assert finding.place is not None and finding.place.line == 2


@pytest.mark.parametrize(
    "given",
    [
        {"max_new_tokens": 0},
        {"top_p": 0.0, "do_sample": True},
        {"top_p": 1.5, "do_sample": True},
        {"top_p": float("nan"), "do_sample": True},
        {"top_k": -1, "do_sample": True},
        {"temperature": -1.0, "do_sample": True},
        {"temperature": 0.0, "do_sample": True},
        {"repetition_penalty": 0.0},
        {"num_beams": 0},
        {"batch_size": 0},
        {"seed": -1, "do_sample": True},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_an_error(given: dict[str, Any]) -> None:
    _, (finding,) = settle(given, NOTHING)
    assert finding.code == "CF800" and finding.severity == "error"
    if given.get("temperature") == 0:
        assert "--no-do-sample" in finding.helps[0]


def prompts_of(folder: Path, *records: Any, columns: dict[str, str] | None = None) -> list[Prompt]:
    file = folder / "asked.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return read_prompts(str(file), columns or {})


def test_the_forms_of_training_are_read_and_the_last_answer_is_left_out(tmp_path: Path) -> None:
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    told = {"from": "gpt", "value": "a"}
    asked = (Turn("user", "q"),)
    several = (*asked, Turn("assistant", "a"), Turn("user", "more"))
    cases: list[tuple[dict[str, Any], Prompt]] = [
        ({"prompt": "q"}, Prompt(asked)),
        ({"instruction": "q"}, Prompt(asked)),
        ({"instruction": "q", "output": ""}, Prompt(asked)),
        ({"instruction": "q", "input": "x", "output": "a"}, Prompt((Turn("user", "q\nx"),), "a")),
        ({"prompt": "q", "completion": "a"}, Prompt(asked, "a")),
        ({"messages": [user]}, Prompt(asked)),
        ({"messages": [user, answer]}, Prompt(asked, "a")),
        ({"messages": [user, answer, {"role": "user", "content": "more"}]}, Prompt(several)),
        ({"conversations": [{"from": "human", "value": "q"}, told]}, Prompt(asked, "a")),
        ({"text": "q"}, Prompt(asked)),
        ({"system": "s", "instruction": "q"}, Prompt((Turn("system", "s"), *asked))),
    ]  # fmt: skip
    assert prompts_of(tmp_path, *(record for record, _ in cases)) == [prompt for _, prompt in cases]
    renamed = prompts_of(tmp_path, {"question": "q", "a": "b"}, columns={"instruction": "question"})
    assert renamed == [Prompt(asked)]
    (tmp_path / "asked.txt").write_text("q\n\n中文\n", encoding="utf-8")
    assert [one.text for one in read_prompts(str(tmp_path / "asked.txt"), {})] == ["q", "中文"]
    (tmp_path / "asked.csv").write_text("instruction,output\nq,a\n", encoding="utf-8")
    assert read_prompts(str(tmp_path / "asked.csv"), {}) == [Prompt(asked, "a")]


def test_a_record_in_another_form_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        prompts_of(tmp_path, {"prompt": "q"}, {"question": "q"}, {"messages": []}, 7, {"prompt": ""})
    (finding,) = caught.value.findings
    assert finding.code == "CF803" and finding.title == "4 records ask nothing"
    assert (
        finding.place is not None and finding.place.line == 2 and finding.label.endswith("it has: question")
    )
    assert [place.line for place, _ in finding.others] == [3, 4]
    assert caught.value.exit_code == 2


def test_what_is_no_file_is_a_text_unless_it_has_the_name_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_file("Who are you?") and not is_file("What is in data.json")
    with pytest.raises(Refused, match="CF804"):
        is_file("prompts.jsonl")
    Path("prompts.jsonl").write_text("")
    assert is_file("prompts.jsonl")
    with pytest.raises(Refused, match="CF804"):
        read_prompts("prompts.jsonl", {})
    Path("prompts.md").write_text("q\n")
    with pytest.raises(Refused, match="CF804"):
        read_prompts("prompts.md", {})


def test_a_chat_template_of_ours_is_known_again() -> None:
    for system in (None, "", 'say "yes"\n{# 你 #}'):
        template = Template("alpaca2", system=system)
        for begins in (True, False):
            again = built_in_of(template.chat_template(begins=begins))
            assert again is not None and again.around_question == template.around_question
    assert built_in_of(CHATML) is built_in_of("") is None
    changed = Template("llama2").chat_template(begins=True).replace("[INST]", "[ASK]")
    assert built_in_of(changed) is None


@pytest.mark.parametrize("template", [Template("alpaca2"), Template("own", CHATML, special=("<s>", "</s>"))])
def test_a_prompt_has_the_ids_that_stood_before_the_answer_in_training(
    tmp_path: Path, template: Template
) -> None:
    from crossfoot.data.samples import Texts, coded_texts

    encoder = load_encoder("builtin:tiny", str(tmp_path))
    asking = Asking(encoder, template)
    turns = (Turn("user", "</s> 1"), Turn("assistant", "2"), Turn("user", "3"))
    whole = (*turns, Turn("assistant", "four"))
    (trained,) = coded_texts([Texts(0, 1, template.rendered(whole, [3]))], encoder)
    (ids,) = asking.ids([turns])
    first = trained.trained.index(1)
    assert list(trained.ids[:first]) == ids
    assert asking.end_ids == (2,) and trained.ids[first : first + 5] == [*trained.ids[first : first + 4], 2]
    assert asking.text(trained.ids[first : first + 5]) == "four"


def test_a_system_prompt_is_put_before_what_has_none(tmp_path: Path) -> None:
    encoder = load_encoder("builtin:tiny", str(tmp_path))
    asking = Asking(encoder, Template("alpaca2", system="be brief"))
    own, theirs = asking.ids([(Turn("user", "q"),), (Turn("system", "sing"), Turn("user", "q"))])
    assert "be brief" in asking.text(own) and "sing" in asking.text(theirs)
    assert "be brief" not in asking.text(theirs)
    with pytest.raises(Refused, match="CF806"):
        Asking(encoder, None).ids([(Turn("user", "q"), Turn("assistant", "a"), Turn("user", "q"))])


def test_answers_are_kept_as_they_come_and_written_in_order(tmp_path: Path) -> None:
    out = str(tmp_path / "answers.jsonl")
    with AnswerFile(out, {"seed": 1}) as file:
        file.add({"index": 1, "answer": "b"})
    with open(out + PART, "a") as torn:
        torn.write('{"index": 0, "ans')
    with pytest.raises(Refused, match="CF807"):
        AnswerFile(out, {"seed": 2})
    with AnswerFile(out, {"seed": 1}) as file:
        assert file.answers == {1: {"index": 1, "answer": "b"}}
        with pytest.raises(Refused, match=r"CF807.*written by another command"):
            AnswerFile(out, {"seed": 1})
        file.add({"index": 0, "answer": "中\u2028"})
        file.finish()
    lines = Path(out).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["answer"] for line in lines] == ["中\u2028", "b"] and "中" in lines[0]
    assert not Path(out + PART).exists()
    with pytest.raises(Refused, match="CF807"):
        AnswerFile(out, {"seed": 1})
    with pytest.raises(Refused, match="CF807"):
        AnswerFile(str(tmp_path / "no" / "folder.jsonl"), {})
    assert line_of({"a": "\ud800"}) == '{"a": "\\ud800"}'


def test_a_full_disk_keeps_the_answers_so_far(tmp_path: Path) -> None:
    out = str(tmp_path / "answers.jsonl")
    with pytest.raises(Refused) as told, AnswerFile(out, {}) as file:
        file.add({"index": 0})
        file._file._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
        file.add({"index": 1})
    (finding,) = told.value.findings
    assert finding.title == f"{out} cannot be written: no space left on device"
    assert finding.helps == (f"make room and give the same command again: 1 answer is kept in {out}{PART}",)
    with AnswerFile(out, {}) as file:
        assert list(file.answers) == [0]


def test_a_part_that_was_killed_in_its_first_line_begins_anew(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    Path(f"{out}{PART}").write_text('{"answers')
    with AnswerFile(str(out), {}) as file:
        file.add({"index": 0})
        file.finish()
    assert out.read_text() == '{"index": 0}\n'
