"""What train would refuse is what check says: one broken thing at a time, asked of both."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from crossfoot import extras
from crossfoot.cli import main
from crossfoot.data.look import WHOLE_BYTES
from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.build import ensure_index
from crossfoot.planning import start_conditions
from crossfoot.planning.checking import find_all
from crossfoot.runs.run_folder import make_folder
from crossfoot.training.rank_job import TrainOptions, make_rank_job
from crossfoot.written.model_tensors import promised_tensors
from crossfoot.written.run_file import load_run
from support.launching import write_samples
from support.model_folders import SMALL_LLAMA, write_model, write_safetensors, write_weights

CONFIG = """\
run: {name: demo}
model: {path: m, dtype: float32}
tokenizer: {path: builtin:tiny}
data: {train: [a.jsonl], bad_samples: skip}
batch: {micro_batch_size: 2, grad_accum_steps: 2}
cluster: {num_nodes: 1, gpus_per_node: 1}
lr: {reference: 1e-4}
train: {max_steps: 2}
"""
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 13476838592\n"
MODEL = Path("m")
WEIGHTS = MODEL / "model.safetensors"
Break = Callable[[], object]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    Path("run.yaml").write_text(CONFIG)
    write_samples(Path("a.jsonl"), 20)
    write_model(MODEL)


def config_json(**changes: object) -> None:
    values = {**json.loads((MODEL / "config.json").read_text()), **changes}
    (MODEL / "config.json").write_text(json.dumps(values))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def sharded(*absent: str) -> None:
    WEIGHTS.rename(MODEL / "one.safetensors")
    shards = {"model.norm.weight": "one.safetensors", **{name: name for name in absent}}
    (MODEL / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def adapter() -> None:
    (MODEL / "config.json").unlink()
    WEIGHTS.unlink()
    (MODEL / "adapter_config.json").write_text('{"base_model_name_or_path": "models/base"}')


def an_older_run() -> None:
    make_folder(load_run("run.yaml"))


def records(*lines: object) -> None:
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def head_is_missing() -> None:
    config_json(tie_word_embeddings=True)
    write_weights(MODEL)
    config_json(tie_word_embeddings=False)


def tokenizer_of(text: str) -> None:
    Path("tok").mkdir()
    Path("tok/tokenizer.json").write_text(text)


def exam_without_examples() -> None:
    Path("exams/test").mkdir(parents=True)
    Path("exams/test/law.csv").write_text("Question,A,B,C,D,Answer\nQ?,1,2,3,4,A\n")


def long_question() -> None:
    """Of more letters, each of which is a token, than the model has positions."""
    positions = SMALL_LLAMA["max_position_embeddings"]
    question = {"question": "x" * positions, "choices": ["1", "2"], "answer": 0}
    Path("mine.jsonl").write_text(json.dumps(question) + "\n")


def nothing() -> None:
    """The words alone are wrong."""


FLASH = "model.attention=flash_attention_2"
CASES: dict[str, tuple[Break, tuple[str, ...], str]] = {
    "an encoder": (lambda: config_json(model_type="bert"), (), "CF543"),
    "an encoder and a decoder": (lambda: config_json(model_type="bart"), (), "CF543"),
    "no language model": (lambda: config_json(model_type="vit", vocab_size=None), (), "CF543"),
    "no config.json": (lambda: (MODEL / "config.json").unlink(), (), "CF542"),
    "a broken config.json": (lambda: cut(MODEL / "config.json"), (), "CF542"),
    "a list for a config.json": (lambda: (MODEL / "config.json").write_text("[]"), (), "CF542"),
    "no model_type": (lambda: config_json(model_type=None), (), "CF542"),
    "an unknown model_type": (lambda: config_json(model_type="madeup"), (), "CF542"),
    "own code": (lambda: config_json(model_type="madeup", auto_map={"AutoConfig": "x.C"}), (), "CF542"),
    "a size that is none": (lambda: config_json(hidden_size="16"), (), "CF542"),
    "no weights": (WEIGHTS.unlink, (), "CF542"),
    "a shard that is missing": (lambda: sharded("two.safetensors"), (), "CF542"),
    "a cut file": (lambda: cut(WEIGHTS), (), "CF542"),
    "a file of something else": (lambda: WEIGHTS.write_text("<html>" * 9), (), "CF542"),
    "an empty file": (lambda: WEIGHTS.write_text(""), (), "CF542"),
    "a pointer for weights": (lambda: WEIGHTS.write_text(POINTER), (), "CF565"),
    "a pointer for config.json": (lambda: (MODEL / "config.json").write_text(POINTER), (), "CF565"),
    "a pointer for data": (lambda: Path("a.jsonl").write_text(POINTER), (), "CF565"),
    "a quantised base": (lambda: config_json(quantization_config={"quant_method": "gptq"}), (), "CF566"),
    "packed weights": (
        lambda: write_safetensors(WEIGHTS, {"model.layers.0.mlp.up_proj.qweight": (2, 2)}, "I32", 4),
        (),
        "CF566",
    ),
    "an adapter": (adapter, (), "CF567"),
    "a larger vocabulary": (lambda: config_json(vocab_size=261), (), "CF568"),
    "another width": (lambda: config_json(hidden_size=32), (), "CF568"),
    "empty tensors": (lambda: write_safetensors(WEIGHTS, {"model.norm.weight": (0,)}), (), "CF569"),
    "more layers": (lambda: config_json(num_hidden_layers=3), (), "CF544"),
    "a million layers": (lambda: config_json(num_hidden_layers=10**6), (), "CF542"),
    "fewer layers": (lambda: config_json(num_hidden_layers=1), (), "CF570"),
    "a head that is missing": (head_is_missing, (), "CF544"),
    "a path that is nowhere": (nothing, ("model.path=./nowhere",), "CF541"),
    "a path that no hub can have": (nothing, ("model.path=模型/甲",), "CF541"),
    "a folder that holds a run": (an_older_run, (), "CF011"),
    "a file for a run folder": (lambda: Path("f").write_text(""), ("run.dir=f",), "CF010"),
    "a run folder below a file": (lambda: Path("f").write_text(""), ("run.dir=f/run",), "CF012"),
    "an index folder below a file": (lambda: Path("f").write_text(""), ("data.index_dir=f/x",), "CF531"),
    "no wandb": (nothing, ("tracking.wandb=offline",), "CF013"),
    "no bitsandbytes": (nothing, ("model.quantization=int8", "lora.r=4"), "CF598"),
    "no flash attention": (
        nothing,
        (FLASH, "model.dtype=bfloat16"),
        "CF545",
    ),
    "Liger's kernels without Triton": (nothing, ("model.kernels=liger",), "CF597"),
    "flash attention in 32 bits": (nothing, (FLASH,), "CF545"),
    "records that are all bad": (lambda: records({"conversations": []}, {"x": 1}), (), "CF505"),
    "a tokenizer that is cut": (
        lambda: tokenizer_of('{"version": "1.0", '),
        ("tokenizer.path=tok",),
        "CF520",
    ),
    "a task that is not there": (nothing, ("evaluation.tasks=[mine.jsonl]",), "CF850"),
    "no exam": (nothing, ("evaluation.tasks=[ceval=exams]",), "CF851"),
    "an exam without worked examples": (exam_without_examples, ("evaluation.tasks=[cmmlu=exams]",), "CF861"),
    "a prompt that is too long": (long_question, ("evaluation.tasks=[mine.jsonl]",), "CF879"),
    "a pointer for a tokenizer": (lambda: tokenizer_of(POINTER), ("tokenizer.path=tok",), "CF520"),
}


def errors(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(finding.code, finding.title) for finding in findings if finding.severity == "error"]


@pytest.mark.parametrize("case", CASES)
def test_check_says_what_train_says(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks, words, code = CASES[case]
    breaks()
    absent = case.removeprefix("no ")
    if absent in ("wandb", "bitsandbytes"):
        monkeypatch.setattr(extras, "find_spec", lambda name: None if name == absent else find_spec(name))
    said = errors(find_all("run.yaml", words))
    assert code in [one for one, _ in said]
    with pytest.raises(Refused) as refused:
        make_rank_job("run.yaml", words, read_world({}), TrainOptions())
    assert errors(refused.value.findings) == said
    assert main(["check", "run.yaml", *words]) in (1, 2)


def test_what_is_whole_is_said_with_what_was_compared(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job.sh").write_text("torchrun --nproc-per-node 1 train.py run.yaml\n")
    before = sorted(Path().rglob("*"))
    assert main(["check", "run.yaml", "job.sh"]) == 0
    said = "run.yaml, job.sh: nothing found (1 node, 1 GPU, batch 4, 20 records, model config, weights)\n"
    assert capsys.readouterr().out == said
    assert sorted(Path().rglob("*")) == before, "check leaves nothing behind"
    assert make_rank_job("run.yaml", (), read_world({}), TrainOptions()).steps == 2


def test_a_model_that_is_whole_in_other_ways() -> None:
    shutil.move(WEIGHTS, MODEL / "one.safetensors")
    index = {"weight_map": {"model.norm.weight": "one.safetensors"}}
    (MODEL / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find_all("run.yaml") == ()
    config_json(tie_word_embeddings=True)
    assert find_all("run.yaml") == (), "its head may lie in the file all the same"
    config_json(tie_word_embeddings=False, auto_map={"AutoModelForCausalLM": "x.C"})
    said = [(one.code, one.severity) for one in find_all("run.yaml")]
    assert said == [("CF062", "note")], "transformers has a llama of its own"
    config_json(auto_map={"AutoConfig": "x.C"})
    config_json(model_type="bert", is_decoder=True)
    assert find_all("run.yaml") == ()


def test_tensors_beside_the_model_are_left_out_with_a_warning() -> None:
    shapes = promised_tensors(SMALL_LLAMA)
    assert shapes is not None
    write_safetensors(WEIGHTS, {**shapes, "vision.tower.weight": (3, 3)})
    assert [(one.code, one.severity) for one in find_all("run.yaml")] == [("CF570", "warning")]
    write_safetensors(WEIGHTS, {**shapes, "model.layers.0.self_attn.q_proj.bias": (16,)})
    assert [(one.code, one.severity) for one in find_all("run.yaml")] == [("CF570", "error")]


def test_a_run_that_is_continued_may_be_in_its_folder() -> None:
    an_older_run()
    Path("job.sh").write_text("torchrun --nproc-per-node 1 train.py run.yaml --continue runs/demo\n")
    assert find_all("run.yaml", ["job.sh"]) == ()
    shutil.rmtree("runs")
    assert [one.code for one in find_all("run.yaml", ["job.sh"])] == ["CF747"]


def test_what_cannot_be_known_where_nobody_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert find_all("run.yaml", ("tracking.wandb=online", FLASH, "model.dtype=bfloat16")) == ()


def test_an_index_that_is_there_needs_no_folder_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_index(load_run("run.yaml"), ["a.jsonl"], is_builder=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert find_all("run.yaml") == ()


def test_records_of_which_none_is_left_are_looked_for_in_a_large_file_too() -> None:
    bad = {"instruction": "x" * 1000}
    records(*[bad] * 3000)
    assert Path("a.jsonl").stat().st_size > WHOLE_BYTES
    assert "CF505" in [one.code for one in find_all("run.yaml")]
    records(*[bad] * 1501, {"instruction": "a", "output": "b"}, *[bad] * 1500)
    assert errors(find_all("run.yaml")) == []


def test_every_condition_is_asked_of_train_and_of_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(start: start_conditions.Start) -> tuple[Finding, ...]:
        return (Finding("CF012", "never"),)

    monkeypatch.setattr(start_conditions, "START_CONDITIONS", (never,))
    assert errors(find_all("run.yaml")) == [("CF012", "never")]
    with pytest.raises(Refused) as refused:
        make_rank_job("run.yaml", (), read_world({}), TrainOptions())
    assert errors(refused.value.findings) == [("CF012", "never")]


def test_allow_without_a_run_that_is_continued() -> None:
    options = TrainOptions(allow=("lr.reference",))
    with pytest.raises(Refused) as refused:
        make_rank_job("run.yaml", (), read_world({}), options)
    assert [code for code, _ in errors(refused.value.findings)] == ["CF031"]
    assert make_rank_job("run.yaml", (), read_world({}), replace(options, is_repeated=True)).steps == 2


def test_what_a_run_cannot_be_asked_is_said_by_plan_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "run.yaml", "evaluation.tasks=[mine.jsonl]"]) == 2
    assert "CF850" in capsys.readouterr().out
    assert main(["plan", "run.yaml", "evaluation.tasks=[exam]"]) == 0
