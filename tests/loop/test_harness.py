"""lm-evaluation-harness asks crossfoot's scorer, and hears what its own model says, item by item."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from crossfoot.cli import main
from crossfoot.extras import missing_of
from crossfoot.tasks.harness_yaml import export_task
from crossfoot.tasks.items import Task
from crossfoot.tasks.prompts import requests_of
from crossfoot.tasks.reading import read_tasks

pytestmark = [
    pytest.mark.xdist_group("loop"),
    pytest.mark.skipif(
        bool(missing_of("harness")),
        reason="lm_eval is not installed: pip install -c constraints.txt -e '.[harness]'",
    ),
]

ROUNDING = 2e-4
"""By how much a log-probability may differ: a reused beginning, rows of another length (float32)."""
POSITIONS = 2048
QUESTIONS = (
    ("The capital of France is:  ", ("Paris", "a town by the sea", "Berlin, or Rome"), 0),
    ("The capital of France is:  ", ("nowhere", "Paris, of course, where else"), 1),
    ("Water is", ("wet", "dry as dust and stone", "a number"), 0),
    ("水是", ("湿的", "干的，像石头一样", "数"), 0),
)


@pytest.fixture(scope="module")
def exam() -> Task:
    (task,) = read_tasks(["exam"])
    return task


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, exam: Task) -> str:
    """Of 700 tokens, among them words with the blank before them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    words = [one.context for one in requests_of(exam, "clean", 2)]
    words += [f"{asked.rstrip()} {choice}" for asked, choices, _ in QUESTIONS for choice in choices]
    tokenizer.train_from_iterator(words * 2, trainer)
    folder = tmp_path_factory.mktemp("harness")
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the harness reads of local files is kept here, and nothing is asked of the network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


Answers = Mapping[tuple[str, int], Sequence[tuple[float, bool]]]
"""By task and number of the document: what each of its requests was answered."""


def by_the_harness(name: str, model: str, folder: Path, tasks: Sequence[str], **given: Any) -> Answers:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    import crossfoot.evaluation.harness_model  # noqa: F401

    told = simple_evaluate(
        name,
        model_args={"pretrained": model, "dtype": "float32", **given},
        tasks=list(tasks),
        device="cpu",
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    return {
        (task, one["doc_id"]): [answer[0] for answer in one["resps"]]
        for task, samples in told["samples"].items()
        for one in samples
    }


def assert_agree(ours: Answers, theirs: Answers) -> None:
    assert ours.keys() == theirs.keys()
    for key, told in theirs.items():
        mine = ours[key]
        if not isinstance(told[0], tuple | list):
            assert mine == pytest.approx(told, rel=1e-5)
            continue
        assert [one[0] for one in mine] == pytest.approx([one[0] for one in told], abs=ROUNDING)
        assert [one[1] for one in mine] == [one[1] for one in told]
        assert best(mine) == best(told)


def best(told: Sequence[tuple[float, bool]]) -> int:
    return max(range(len(told)), key=lambda choice: told[choice][0])


@pytest.mark.parametrize("scorer", ["clean", "clean-choices"])
def test_both_and_the_verb_agree_on_the_exam(
    scorer: str, exam: Task, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_task(exam, str(tmp_path / "exam"), scorer, 2)
    names = ("hf", "crossfoot")
    theirs, ours = (by_the_harness(name, model, tmp_path / "exam", ["crossfoot_exam"]) for name in names)
    assert len(ours) == 36
    assert_agree(ours, theirs)
    words = ["--tasks", "exam", "--shots", "2", "--scorer", scorer, "--out", str(tmp_path / "out")]
    assert main(["evaluate", model, "--dtype", "float32", *words]) == 0
    lines = map(json.loads, (tmp_path / "out" / "scores.jsonl").read_text(encoding="utf-8").splitlines())
    subjects = list(exam.subjects)
    for line in lines:
        before = [item.id for item in exam.items if item.subject == line["subject"]]
        assert line["subject"] in subjects
        told = theirs[f"crossfoot_exam_{line['subject']}", before.index(line["id"])]
        assert line["scores"] == pytest.approx([one[0] for one in told], abs=ROUNDING)
        assert line["answer"] == best(told)


def write_tasks(folder: Path, before: str = "") -> None:
    """Of other forms than ours, with the harness' own defaults. before: in front of each context."""
    folder.mkdir()

    def write(name: str, output_type: str, documents: Sequence[Mapping[str, Any]], *lines: str) -> None:
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(one) + "\n" for one in documents), encoding="utf-8")
        files = {"data_files": {"test": str(data)}}
        head = [f"task: {name}", "dataset_path: json", f"dataset_kwargs: {json.dumps(files)}"]
        body = ["test_split: test", f"output_type: {output_type}", *lines]
        (folder / f"{name}.yaml").write_text("\n".join([*head, *body]) + "\n", encoding="utf-8")

    choices = [{"asked": before + asked, "choices": all_, "gold": gold} for asked, all_, gold in QUESTIONS]
    words = ("doc_to_choice: choices", "doc_to_target: gold")
    write("of_choices", "multiple_choice", choices, "doc_to_text: asked", *words)
    ends = [{"asked": before + asked, "end": all_[gold]} for asked, all_, gold in QUESTIONS]
    ends.append({"asked": "", "end": "Water is wet"})
    write("of_ends", "loglikelihood", ends, "doc_to_text: asked", "doc_to_target: end")
    texts = [{"text": f"{asked} {' '.join(all_)} " * 3} for asked, all_, _ in QUESTIONS]
    write("of_texts", "loglikelihood_rolling", texts, 'doc_to_text: ""', "doc_to_target: text")
    how = 'generation_kwargs: {until: ["e", "\\n\\n"], max_gen_toks: 12, do_sample: false}'
    write("of_answers", "generate_until", ends[:-1], "doc_to_text: asked", "doc_to_target: end", how)
    beams = "generation_kwargs: {num_beams: 4}"
    write("of_beams", "generate_until", ends, "doc_to_text: asked", "doc_to_target: end", beams)


TASKS = ("of_choices", "of_ends", "of_texts")
LONG = "many words of which the first are lost " * 8


def of_few_positions(model: str, folder: Path) -> str:
    """The same with 64."""
    folder.mkdir()
    for file in Path(model).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**values, "max_position_embeddings": 64}))
    return str(folder)


def test_both_agree_on_tasks_of_other_forms_for_any_budget(model: str, tmp_path: Path) -> None:
    write_tasks(tmp_path / "own")
    theirs = by_the_harness("hf", model, tmp_path / "own", TASKS)
    ours = by_the_harness("crossfoot", model, tmp_path / "own", TASKS)
    assert len(ours) == 3 * len(QUESTIONS) + 1
    assert_agree(ours, theirs)
    assert by_the_harness("crossfoot", model, tmp_path / "own", TASKS, budget=1) == ours


def test_contexts_beyond_the_positions_are_cut_alike_and_said(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = of_few_positions(model, tmp_path / "small")
    write_tasks(tmp_path / "own", before=LONG)
    theirs, ours = (by_the_harness(name, small, tmp_path / "own", TASKS) for name in ("hf", "crossfoot"))
    assert_agree(ours, theirs)
    assert "warning[CF886]" in capsys.readouterr().err


def test_the_command_line_knows_it_and_says_what_it_does_not_do(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossfoot.evaluation import harness

    write_tasks(tmp_path / "own")
    words = ["--model", "crossfoot", "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu"]

    def run(task: str) -> tuple[int, str]:
        monkeypatch.setattr(
            "sys.argv", ["harness", *words, "--include_path", str(tmp_path / "own"), "--tasks", task]
        )
        code = harness.main()
        told = capsys.readouterr()
        return code, told.out + told.err

    code, told = run("of_choices")
    assert code == 0 and "|of_choices|" in told and "acc_norm" in told
    code, told = run("of_beams")
    assert code == 1 and "error[CF885]: of_beams asks for generated texts with num_beams" in told


@pytest.mark.parametrize("before", ["", LONG], ids=["short", "cut"])
def test_both_say_the_same_greedily(model: str, tmp_path: Path, before: str) -> None:
    """Also with contexts that are cut to leave room for the answer. A text that ends an answer is no part of
    it.
    """
    write_tasks(tmp_path / "own", before)
    small = of_few_positions(model, tmp_path / "small")
    theirs, ours = (
        by_the_harness(name, small, tmp_path / "own", ["of_answers"]) for name in ("hf", "crossfoot")
    )
    said = [one for (one,) in theirs.values()]
    assert ours == theirs and len(said) == len(QUESTIONS)
    assert len(set(said)) > 1 and not any("e" in one for one in said)


def test_what_is_drawn_for_a_text_is_its_own(model: str) -> None:
    from lm_eval.api.instance import Instance

    from crossfoot.evaluation.harness_model import HarnessModel

    how = {"until": [], "max_gen_toks": 6, "do_sample": True, "temperature": 2.0, "top_k": 40}

    def asked(number: int) -> Instance:
        return Instance("generate_until", {}, (f"What is {number}?", how), 0, ("task", number, 1))

    def said(*numbers: int, seed: int = 0) -> list[str]:
        harness = HarnessModel(model, dtype="float32", device="cpu", seed=seed)
        return harness.generate_until([asked(number) for number in numbers])

    one, two, again = said(1, 2, 1)
    assert len({one, two, again}) == 3, "the same request again is another draw"
    assert said(2, *range(3, 30), 1)[::28] == [two, one]
    assert said(1, seed=1) != [one]
