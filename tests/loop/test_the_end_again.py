"""The end of a run can be done again, and an adapter be had from any checkpoint: the same, byte for byte."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from crossfoot.findings.finding import Refused
from crossfoot.merging.merge import merge
from crossfoot.models.export import export
from crossfoot.receipts.receipt import receipt_of
from crossfoot.training import closing
from support import plain_torch
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

Trains = Callable[..., Watched]
STEPS = 3


@pytest.fixture
def values(room: Room) -> dict[str, Any]:
    """The tokenizer has more tokens than the model: its tables grow, and are in the checkpoint."""
    return room.config(
        lora={"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]}
        | {"modules_to_save": ["embed_tokens", "lm_head"]},
        cluster={"num_nodes": 1, "gpus_per_node": 1},
        batch={"micro_batch_size": 3, "global_batch_size": 5},
        lr={"reference": 0.01},
        checkpoint={"every_steps": 1, "keep": STEPS},
        train={"max_steps": STEPS},
    )


def files(folder: Path) -> dict[str, bytes]:
    """Names and bytes."""
    own = str(folder).encode()  # the README names the folder that it lies in
    return {path.name: path.read_bytes().replace(own, b"FOLDER") for path in folder.iterdir()}


def killed_at_the_end(run: Watched) -> None:
    """What a kill after the last checkpoint leaves."""
    shutil.rmtree(run.run_dir / "adapter")
    (run.run_dir / "receipt.json").unlink()
    (run.run_dir / "attempt-001/ending.json").unlink()


def logits(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits


def test_the_end_is_done_again_and_nothing_is_trained(values: dict[str, Any], trains: Trains) -> None:
    whole = trains(values)
    expected = files(whole.run_dir / "adapter")
    killed_at_the_end(whole)
    receipt = receipt_of(str(whole.run_dir))
    assert receipt.foots and receipt.result_missing is not None and "adapter" in receipt.result_missing
    again = trains(values, continues=True)
    assert (again.exit_code, again.forwards, len(again.ledger)) == (0, [], STEPS)
    assert files(again.run_dir / "adapter") == expected
    assert (again.run_dir / "receipt.json").exists()
    assert again.paper(2, "ending.json")["reason"] == "finished"
    assert receipt_of(str(again.run_dir)).result_missing is None


def test_an_adapter_that_could_not_be_saved_is_made_when_there_is_room(
    values: dict[str, Any],
    trains: Trains,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def full(*words: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(closing, "save_adapter", full)
        failed = trains(values)
    said = capsys.readouterr().out
    assert failed.exit_code == 1 and "error[CF740]" in said and "nothing is lost" in said
    assert "checkpoints/step-000003" in said and "lost with this process" not in said
    assert "could not be saved" in str(receipt_of(str(failed.run_dir)).result_missing)
    assert export(str(failed.run_dir), str(tmp_path / "out")) == 0
    again = trains(values, continues=True)
    assert (again.exit_code, again.forwards) == (0, [])
    assert files(again.run_dir / "adapter") == files(tmp_path / "out")

    with monkeypatch.context() as patched:
        patched.setattr(closing, "save_adapter", full)
        assert trains({**values, "checkpoint": {"every_steps": None}}, "other").exit_code == 1
    assert "no checkpoint holds the weights" in capsys.readouterr().out


def test_one_command_begins_goes_on_and_finds_the_run_finished(
    values: dict[str, Any], trains: Trains
) -> None:
    assert len(trains(values, is_repeated=True, stop_after=1).after) == 1
    assert len(trains(values, is_repeated=True).after) == STEPS - 1
    with pytest.raises(Refused) as refused:
        trains(values, is_repeated=True)
    assert ([one.code for one in refused.value.findings], refused.value.exit_code) == (["CF755"], 0)


def test_somebody_elses_file_in_the_adapter_outlives_the_next_one(
    values: dict[str, Any], trains: Trains
) -> None:
    stopped = trains(values, stop_after=2)
    (stopped.run_dir / "adapter/notes.txt").write_text("mine", encoding="utf-8")
    leftover = stopped.run_dir / ".adapter-abcd1234"  # of a save that was killed
    leftover.mkdir()
    trains(values, continues=True)
    (kept,) = stopped.run_dir.glob("adapter-replaced-*")
    assert (kept / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not leftover.exists() and "notes.txt" not in files(stopped.run_dir / "adapter")


def test_an_adapter_of_any_checkpoint_is_what_was_trained_by_then(
    room: Room, values: dict[str, Any], trains: Trains, tmp_path: Path
) -> None:
    run = trains(values)
    run_dir = str(run.run_dir)
    assert export(run_dir, str(tmp_path / "newest")) == 0
    assert files(tmp_path / "newest") == files(run.run_dir / "adapter")
    tokens = [1, *b"seven eight"]
    for step in range(1, STEPS + 1):
        out = tmp_path / f"out-{step}"
        assert export(run_dir, str(out), step) == 0
        base = AutoModelForCausalLM.from_pretrained(values["model"]["path"], dtype=torch.float32)
        base.resize_token_embeddings(260, mean_resizing=False)
        loaded = PeftModel.from_pretrained(base, str(out)).eval()
        trained = plain_torch.fresh_model(values)
        trained.load_state_dict(run.after[step - 1], strict=False)
        assert torch.equal(logits(loaded, tokens), logits(trained.eval(), tokens)), step


def test_a_run_without_lora_is_exported_as_a_model(
    room: Room, values: dict[str, Any], trains: Trains, tmp_path: Path
) -> None:
    values = {name: value for name, value in values.items() if name != "lora"}
    run = trains(values)
    assert export(str(run.run_dir), str(tmp_path / "out")) == 0
    assert files(tmp_path / "out") == files(run.run_dir / "model")
    with pytest.raises(Refused) as refused:
        merge(str(run.run_dir), str(tmp_path / "merged"))
    assert refused.value.findings[0].code == "CF759"


def test_what_cannot_be_exported_is_said(values: dict[str, Any], trains: Trains, tmp_path: Path) -> None:
    run = trains({**values, "checkpoint": {"every_steps": 1, "keep": 2}})
    run_dir, taken = str(run.run_dir), tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine", encoding="utf-8")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")

    def code(out: Path, step: int | None = None, folder: str = run_dir) -> tuple[str, str]:
        with pytest.raises(Refused) as refused:
            export(folder, str(out), step)
        (finding,) = refused.value.findings
        return finding.code, " ".join(finding.notes)

    assert code(taken)[0] == code(link)[0] == "CF757"
    assert code(tmp_path / "out", 1) == ("CF756", "good ones: after 2 steps and after 3 steps")
    assert code(tmp_path / "out", None, str(tmp_path / "nothing"))[0] == "CF040"
    newest = run.run_dir / "checkpoints/step-000003"
    (tensors,) = newest.glob("tensors-*")
    content = tensors.read_bytes()
    tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "step-000003: tensors" in code(tmp_path / "out", 3)[1]
    assert export(run_dir, str(tmp_path / "out")) == 0, "the newest good one is taken"
    assert list(taken.iterdir()) == [taken / "notes.txt"]
