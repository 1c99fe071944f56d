"""A run, its adapter and plain transformers answer alike; a batch answers as its prompts one by one."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tokenizers.decoders import ByteLevel
from tokenizers.pre_tokenizers import ByteLevel as Alphabet
from transformers import AutoModelForCausalLM

from crossfoot.cli import main
from crossfoot.data.templates import Template
from crossfoot.data.tokenizer import load_encoder
from crossfoot.generating.asking import Asking
from crossfoot.generating.chat import Conversation
from crossfoot.generating.options import FolderValues, settle
from crossfoot.generating.speaker import Answer
from crossfoot.generating.streaming import Streamer
from crossfoot.models.export import export
from support import plain_torch
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

QUESTIONS = ("Hi?", "A much longer question, so that there is much to fill.", "你好", "one two three")
MOST = 12
PIECES = {4 + number: piece for number, piece in enumerate(sorted(Alphabet.alphabet()))}


@pytest.fixture
def run(room: Room, trains: Callable[..., Watched]) -> Watched:
    """Of a model whose tables grow to the tokenizer; it has learnt to say something."""
    return trains(
        room.config(
            lora={"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}
            | {"modules_to_save": ["embed_tokens", "lm_head"]},
            cluster={"num_nodes": 1, "gpus_per_node": 1},
            batch={"micro_batch_size": 3, "global_batch_size": 5},
            lr={"reference": 0.3},
            checkpoint={"every_steps": 1, "keep": 3},
            train={"max_steps": 3},
        )
    )


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    records = [{"instruction": one, "input": "", "output": "?"} for one in QUESTIONS]
    file.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return file


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """The answers to a file, by the verb."""

    def tell(model: Path, file: Path, *words: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        given = ["generate", str(model), "--prompts", str(file), "--max-new-tokens", str(MOST), *words]
        assert main(given) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return tell


def plain_answers(run: Watched, room: Room) -> list[str]:
    """By transformers and peft alone, one prompt at a time."""
    base = AutoModelForCausalLM.from_pretrained(room.values["model"]["path"], dtype=torch.float32)
    base.resize_token_embeddings(260, mean_resizing=False)
    model = PeftModel.from_pretrained(base, str(run.run_dir / "adapter")).eval()
    answers = []
    for question in QUESTIONS:
        text = plain_torch.PROMPT.format(question=question)
        ids = torch.tensor([[plain_torch.BEGIN, *plain_torch.tokens(text)]])
        with torch.no_grad():
            told = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=MOST,
                do_sample=False,
                eos_token_id=2,
                pad_token_id=2,
            )
        pieces = [PIECES[one] for one in told[0, ids.shape[1] :].tolist() if one in PIECES]
        answers.append(ByteLevel().decode(pieces))
    return answers


def test_run_adapter_export_and_plain_transformers_answer_alike(
    run: Watched, room: Room, prompts: Path, told: Callable[..., Any], tmp_path: Path
) -> None:
    answers = told(run.run_dir, prompts)
    assert [one["index"] for one in answers] == [0, 1, 2, 3]
    assert [one["prompt"] for one in answers] == list(QUESTIONS) and answers[0]["reference"] == "?"
    assert all(0 < one["tokens"] <= MOST for one in answers)
    words = [one["answer"] for one in answers]
    assert words == plain_answers(run, room)
    assert export(str(run.run_dir), str(tmp_path / "out")) == 0
    for model in (run.run_dir / "adapter", tmp_path / "out"):
        assert told(model, prompts) == answers
    assert told(run.run_dir, prompts, "--batch-size", "1") == answers
    assert told(run.run_dir, prompts, "--step", "3") == answers
    assert told(run.run_dir, prompts, "--step", "1") != answers


def test_a_run_without_an_adapter_speaks_by_its_last_checkpoint(
    run: Watched, prompts: Path, told: Callable[..., Any]
) -> None:
    answers = told(run.run_dir, prompts)
    shutil.rmtree(run.run_dir / "adapter")
    before = {path: path.stat().st_mtime_ns for path in run.run_dir.rglob("*")}
    assert told(run.run_dir, prompts) == answers
    assert {path: path.stat().st_mtime_ns for path in run.run_dir.rglob("*")} == before


def test_a_checkpoint_behind_what_was_saved_counts(
    room: Room, trains: Callable[..., Watched], prompts: Path, told: Callable[..., Any]
) -> None:
    """A run that was stopped, and saved; that went on, and was killed."""
    batch = {"micro_batch_size": 2, "global_batch_size": 4}
    steps = {"checkpoint": {"every_steps": 1, "keep": 3}, "train": {"max_steps": 2}}
    values = room.config(deepspeed=None, lora=BOTH, batch=batch, lr={"reference": 0.3}, **steps)
    run = trains(values, stop_after=1)
    early = told(run.run_dir, prompts)
    shutil.copytree(run.run_dir / "adapter", run.run_dir / "early")
    assert trains(values, continues=True).exit_code == 0
    late = told(run.run_dir, prompts)
    assert late == told(run.run_dir, prompts, "--step", "2") != early
    shutil.rmtree(run.run_dir / "adapter")
    (run.run_dir / "early").rename(run.run_dir / "adapter")
    (run.run_dir / "attempt-002" / "ending.json").unlink()
    assert told(run.run_dir, prompts) == late
    assert told(run.run_dir / "adapter", prompts) == early


def test_a_run_finds_its_base_from_elsewhere(
    room: Room,
    trains: Callable[..., Watched],
    prompts: Path,
    told: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its config names the model by a path from where it was started."""
    shutil.copytree(room.values["model"]["path"], tmp_path / "models" / "base")
    monkeypatch.chdir(tmp_path)
    batch = {"micro_batch_size": 2, "global_batch_size": 4}
    steps = {"checkpoint": {"every_steps": 1, "keep": 1}, "train": {"max_steps": 1}}
    named = {"model": {"path": "models/base"}, "lora": BOTH, "batch": batch, "lr": {"reference": 0.3}}
    run = trains(room.config(deepspeed=None, **named, **steps))
    answers = told(run.run_dir, prompts)
    (elsewhere := tmp_path / "else" / "where").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert told(run.run_dir, prompts) == told(run.run_dir, prompts, "--step", "1") == answers
    assert export(str(run.run_dir), "out") == 0
    assert told(Path("out"), prompts) == answers
    shutil.move(tmp_path / "models", tmp_path / "moved")
    for words in (["generate", str(run.run_dir), "--prompts", "Hi?"], ["export", str(run.run_dir), "again"]):
        assert main(words) == 2
        assert "[CF769]" in "".join(capsys.readouterr())
    base = ("--base", str(tmp_path / "moved" / "base"))
    assert told(run.run_dir, prompts, *base) == told(run.run_dir, prompts, "--step", "1", *base) == answers


def test_sampling_follows_the_seed_and_answers_are_continued(
    run: Watched, prompts: Path, told: Callable[..., Any], tmp_path: Path
) -> None:
    drawn = ("--do-sample", "--temperature", "5.0", "--batch-size", "2")
    answers = told(run.run_dir, prompts, *drawn, "--seed", "1")
    assert told(run.run_dir, prompts, *drawn, "--seed", "1") == answers
    assert told(run.run_dir, prompts, *drawn, "--seed", "2") != answers
    out = tmp_path / "answers.jsonl"
    told(run.run_dir, prompts, *drawn, "--seed", "1", "--out", str(out))
    lines = out.read_text(encoding="utf-8")
    assert [json.loads(line) for line in lines.splitlines()] == answers


class Echo:
    """Answers "ok", and keeps what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.asking = Asking(load_encoder("builtin:tiny", str(folder)), Template("llama2"))
        self.settings = settle({"max_new_tokens": 9}, FolderValues())[0]
        self.asked: list[str] = []

    def answers(self, batch: list[list[int]], limit: int, seed: int, streamer: Streamer) -> list[Answer]:
        self.asked.append(self.asking.text(batch[0]))
        ids = self.asking.encoder.encode(["ok"])[0]
        for value in (batch[0], *([one] for one in ids), [2]):
            streamer.put(torch.tensor(value))
        streamer.end()
        return [Answer(tuple(ids), "end")]


def test_chat_keeps_the_history_and_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    echo = Echo(tmp_path)
    chat = Conversation(echo, window=60)  # type: ignore[arg-type]
    chat.answer("one")
    chat.answer("two")
    assert echo.asked[-1] == "[INST] one [/INST]ok[INST] two [/INST]"
    chat.answer("three")
    assert echo.asked[-1] == "[INST] two [/INST]ok[INST] three [/INST]"
    assert "its 1 oldest round is left out" in capsys.readouterr().err
    assert chat.order("/system sing") and not chat.order("/sing")
    chat.answer("four")
    assert echo.asked[-1] == "[INST] <<SYS>>\nsing\n<</SYS>>\n\nfour [/INST]"
    chat.answer("much too long " * 9)
    assert len(echo.asked) == 4 and "longer than the 60 tokens" in capsys.readouterr().err


def test_chat_reads_lines_where_there_is_no_terminal(
    run: Watched, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi?\n\n/reset\nHi?\n/exit\nHi?\n"))
    capsys.readouterr()
    assert main(["chat", str(run.run_dir), "--max-new-tokens", "5"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_mistakes_are_said_before_anything_is_loaded(
    run: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def code(*words: str, prompts: str = "Hi?") -> str:
        assert main(["generate", *words, "--prompts", prompts]) > 0
        told = capsys.readouterr()
        assert "loading" not in told.err
        return (told.out + told.err).partition("[CF")[2][:3]

    assert code(str(run.run_dir), "--top-p", "2", "--do-sample") == "800"
    assert code(str(run.run_dir), prompts="Hi? " * 2000) == "808"
    assert code(str(run.run_dir), "--device-map", "cuda:99") == "809"
    assert code(str(run.run_dir), "--device-map", "gpu") == "809"
    assert code(str(run.run_dir), "--template", "no.jinja") == "806"
    assert code(str(run.run_dir), "--step", "99") == "756"
    assert code("nowhere") == "759"
    assert code(str(tmp_path)) == "759"
    shutil.copytree(run.run_dir / "adapter", "alone")
    values = json.loads(Path("alone/adapter_config.json").read_text())
    Path("alone/adapter_config.json").write_text(json.dumps({**values, "base_model_name_or_path": "gone"}))
    assert code("alone") == "769"


BOTH = {"r": 4, "alpha": 8, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
KINDS: dict[str, dict[str, Any]] = {
    "DoRA": {"lora": {**BOTH, "dora": True}},
    "PiSSA": {"lora": {**BOTH, "init": "pissa"}},
    "rows of tables": {"lora": {**BOTH, "modules_to_save": [], "trainable_token_indices": "new"}},
    "a whole model": {},
    "of texts": {"lora": BOTH, "data": {"task": "pretrain", "max_seq_len": 24}},
    "bfloat16": {"lora": BOTH, "model": {"dtype": "bfloat16"}},
    "nf4 in bfloat16": {"lora": BOTH, "model": {"dtype": "bfloat16", "quantization": "nf4"}},
    "nf4": {"lora": BOTH, "model": {"quantization": "nf4"}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_answers_by_what_it_saved_as_by_its_checkpoint(
    kind: str, room: Room, trains: Callable[..., Watched], prompts: Path, told: Callable[..., Any]
) -> None:
    sections = copy.deepcopy(KINDS[kind])
    if "data" in sections:
        questions = room.values["data"]["train"][0]
        sections["data"]["train"] = [questions.replace("questions", "texts")]
        prompts.write_text('{"text": "red"}\n{"text": "月山水。月山水"}\n', encoding="utf-8")
    common = {"batch": {"micro_batch_size": 2, "global_batch_size": 4}, "lr": {"reference": 0.3}}
    steps = {"checkpoint": {"every_steps": 1, "keep": 2}, "train": {"max_steps": 2}}
    run = trains(room.config(deepspeed=None, **common, **steps, **sections))
    assert run.exit_code == 0
    answers = told(run.run_dir, prompts)
    assert told(run.run_dir, prompts, "--step", "2") == answers
    assert told(run.run_dir, prompts, "--step", "1") != answers or kind == "rows of tables"
