"""`crossfoot tune` with a small model: trials, a stop in between, the end, what cannot be gone on with."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from crossfoot.cli import main
from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer
from crossfoot.generating.speaker import Speaker
from crossfoot.tuning.trials import TRIALS, Trial, TrialFile
from support.loop_room import Room

pytestmark = pytest.mark.xdist_group("loop")

TUNING = """\
model: {model}
prompts: {prompts}
goal: {goal}
parameters:
  do_sample: [false, true]
  temperature: {{low: 0.2, high: 1.5}}
  top_k: [0, 20]
  max_new_tokens: 6
  dtype: [float32, bfloat16]
start: [{{do_sample: true, temperature: 0.7}}]
trials: 5
repeats: 2
dir: {dir}
"""


@pytest.fixture
def tune(room: Room, tmp_path: Path) -> Callable[..., int]:
    """The verb, on a model that stands alone; results in tmp_path / dir."""
    model, prompts = tmp_path / "model", tmp_path / "q.jsonl"
    shutil.copytree(room.values["model"]["path"], model)
    for file in Path(write_tiny_tokenizer(str(tmp_path))).iterdir():
        shutil.copy(file, model)
    records = [{"prompt": f"{number} plus one?", "completion": "it is so"} for number in range(3)]
    prompts.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")

    def run(dir: str = "out", *words: str, goal: str = "chrf", trials: int = 5) -> int:
        text = TUNING.format(model=model, prompts=prompts, goal=goal, dir=tmp_path / dir)
        file = tmp_path / "tune.yaml"
        file.write_text(text.replace("trials: 5", f"trials: {trials}"), encoding="utf-8")
        return main(["tune", str(file), *words])

    return run


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Of trials.jsonl, without the times."""
    lines = [json.loads(line) for line in (folder / TRIALS).read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_a_search_that_was_stopped_ends_as_one_that_was_not(
    tune: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune("whole", trials=7) == 0
    capsys.readouterr()
    add = TrialFile.add

    def stopped(self: TrialFile, trial: Trial) -> None:
        if trial.number == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        add(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(TrialFile, "add", stopped)
        assert tune("twice") == 75
    told = capsys.readouterr().err
    assert f"go on with: crossfoot tune {tmp_path / 'tune.yaml'}" in told
    with (tmp_path / "twice" / TRIALS).open("ab") as file:
        file.write(b'{"number": 4, "values": {"do_s')
    assert tune("twice", trials=7) == 0
    assert "3 of 7 trials are there already" in capsys.readouterr().err
    assert lines_of(tmp_path / "twice") == lines_of(tmp_path / "whole")
    assert tune("twice", trials=7) == 0
    captured = capsys.readouterr()
    assert "loading" not in captured.err and "best: " in captured.out


def test_what_is_written(
    tune: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    before = (model / "generation_config.json").read_bytes()
    assert tune("out", "--into", str(model)) == 0
    result = json.loads((tmp_path / "out" / "tune.json").read_text(encoding="utf-8"))
    assert result["trials"] == 5 and result["failed"] == 0 and result["goal"]["measure"] == "chrf"
    for folder in (tmp_path / "out", model):
        read = GenerationConfig.from_pretrained(folder)
        assert {name: getattr(read, name) for name in result["generation_config"]} == result[
            "generation_config"
        ]
        assert read.eos_token_id == 2
    assert (model / "generation_config.json.before").read_bytes() == before
    assert "<svg" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    header, first, *others = lines_of(tmp_path / "out")
    assert header["format"] == 1 and first["values"]["temperature"] == 0.7
    assert len(first["scores"]) == 2 and len(first["scores"][0]) == len(first["answers"][0]) == 3
    assert first["answers"][0] != first["answers"][1], "each repeat has its own seed"
    for line in others:
        is_greedy = not line["values"]["do_sample"]
        assert ("temperature" in line["values"]) != is_greedy
        assert line["is_final"] or len(line["scores"]) == (1 if is_greedy else 2)
    assert tune("out", "--into", str(model)) == 0
    assert "has them already" in capsys.readouterr().out


def test_a_timed_goal_measures_the_best_in_turns(tune: Callable[..., int], tmp_path: Path) -> None:
    assert tune(goal="tokens_per_second", trials=3) == 0
    lines = lines_of(tmp_path / "out")[1:]
    assert [len(line["scores"]) for line in lines[:3]] == [2, 2, 2]
    finals = [line["number"] for line in lines if line["is_final"]]
    assert finals == [*finals[: len(finals) // 2]] * 2


def test_what_cannot_be_gone_on_with_is_named(
    tune: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune(trials=1) == 0
    assert tune(trials=1, goal="length") == 1
    assert "CF819" in (said := capsys.readouterr().out) and "goal is changed" in said

    def full(self: TrialFile, trial: Trial) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def broken(*words: object) -> None:
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")

    with monkeypatch.context() as patch:
        patch.setattr(TrialFile, "add", full)
        assert tune("full") == 1
    assert "no space left" in capsys.readouterr().out.lower()
    monkeypatch.setattr(Speaker, "answers", broken)
    assert tune("broken", trials=2) == 1
    assert "CF818" in (said := capsys.readouterr().out) and "all 2 trials failed" in said
    for word, code in (("model: ", "CF759"), ("prompts: ", "CF804")):
        file = tmp_path / "tune.yaml"
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(word, f"{word}{tmp_path}/absent/"), encoding="utf-8")
        assert main(["tune", str(file)]) == 2
        assert code in capsys.readouterr().out
        file.write_text(text, encoding="utf-8")
