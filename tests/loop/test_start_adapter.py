"""Pre-training, then instruction tuning from its adapter: merged or continued, against plain peft."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
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
from support import plain_torch
from support.loop_room import Room
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

TABLES = ["embed_tokens", "lm_head"]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "alpha": 6, "target_modules": ["q_proj", "down_proj"], "modules_to_save": TABLES},
    "dora": {"r": 4, "alpha": 6, "dora": True, "scaling": "rslora", "target_modules": ["v_proj"]}
    | {"modules_to_save": TABLES},
}
BATCH = {"micro_batch_size": 2, "global_batch_size": 4}
IDS = torch.arange(1, 40).reshape(1, -1)


@pytest.fixture
def trained(request: pytest.FixtureRequest, room: Room, trains: Callable[..., Watched]) -> Watched:
    """A short pre-training run, on a table that grew."""
    kind, _ = request.getfixturevalue("case")
    texts = room.values["data"]["train"][0].replace("questions", "texts")
    values = room.config(
        lora=KINDS[kind],
        deepspeed=None,
        batch=BATCH,
        optimizer={"name": "adamw"},
        lr={"reference": 0.05},
        train={"max_steps": 3},
        data={"task": "pretrain", "train": [texts], "max_seq_len": 24},
    )
    seen = trains(values, "pt")
    assert seen.exit_code == 0
    return seen


def tuning(room: Room, before: Watched, use: str, **sections: Any) -> dict[str, Any]:
    """The run after it. model.adapter is the folder of the run that came before."""
    lora = json.loads(before.config.read_text(encoding="utf-8"))["lora"]
    return room.config(
        deepspeed=None,
        batch=BATCH,
        lr={"reference": 0.05},
        train={"max_steps": 3},
        checkpoint={"every_steps": 3},
        **{
            "lora": lora if use == "continue" else {"r": 2, "alpha": 4, "target_modules": "all-linear"},
            **sections,
            "model": {"adapter": str(before.run_dir), "adapter_use": use, **sections.get("model", {})},
        },
    )


def by_peft(values: dict[str, Any], *adapters: Path) -> Any:
    """The base under these adapters, one merged after the other, without any code of crossfoot."""
    model = AutoModelForCausalLM.from_pretrained(values["model"]["path"], dtype=torch.float32)
    model.resize_token_embeddings(plain_torch.PIECES, mean_resizing=False)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval()


def first_loss(values: dict[str, Any], room: Room, model: Any) -> float:
    """Mean cross entropy of the samples of the first step."""
    samples = room.samples(values)
    members = plain_torch.steps_of(values, len(samples))[0]
    return plain_torch.mean_loss(model, [samples[sample] for _, sample in members])


@pytest.mark.parametrize("case", [("lora", "merge"), ("dora", "continue")], ids=" ".join)
def test_it_begins_where_the_other_ended(
    case: tuple[str, str], room: Room, trained: Watched, trains: Callable[..., Watched], tmp_path: Path
) -> None:
    _, use = case
    values = tuning(room, trained, use)
    seen = trains(values, "sft")
    assert seen.exit_code == 0
    adapter = trained.run_dir / "adapter"
    wanted = first_loss(values, room, by_peft(values, adapter))
    assert seen.ledger[0]["loss"] == pytest.approx(wanted, abs=1e-5)
    assert json.loads((seen.run_dir / "receipt.json").read_text())["foots"] is True

    lock = json.loads((seen.run_dir / "plan.lock.json").read_text())
    assert set(lock["adapter"]) == {"config_sha256", "weights_sha256"}
    on = (adapter,) if use == "merge" else ()
    with torch.no_grad():
        logits = by_peft(values, *on, seen.run_dir / "adapter")(IDS).logits
        export(str(seen.run_dir), str(tmp_path / "again"))
        assert torch.equal(by_peft(values, *on, tmp_path / "again")(IDS).logits, logits)
        assert merge(str(seen.run_dir), str(tmp_path / "merged")) == 0
        alone = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(IDS).logits
        assert (alone - logits).norm() < 1e-6 * logits.norm()
    assert (seen.run_dir / "adapter" / "base.json").exists() is (use == "merge")
    assert told_by_the_page(seen.run_dir / "adapter", tmp_path) == pytest.approx(
        logits[0, -1].tolist(), rel=1e-3, abs=1e-4
    )


def told_by_the_page(adapter: Path, folder: Path) -> list[float]:
    """The logits of the model that the adapter's README loads, in a process without crossfoot."""
    page = (adapter / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    loads = code.split("\nwith torch.no_grad")[0]
    asks = f"import json, sys; ids = {IDS.tolist()}; told = model(torch.tensor(ids)).logits[0, -1].tolist()"
    script = folder / "page.py"
    script.write_text(f"{loads}\n{asks}\nprint(json.dumps(told))\n", encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    told: list[float] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("case", [("dora", "merge"), ("lora", "continue")], ids=" ".join)
def test_a_stopped_run_goes_on_bitwise_and_with_no_other_adapter(
    case: tuple[str, str], room: Room, trained: Watched, trains: Callable[..., Watched]
) -> None:
    _, use = case
    values = tuning(room, trained, use, optimizer={"name": "adamw"})
    whole = trains(values, "whole")
    first = trains(values, "parts", stop_after=1)
    second = trains(values, "parts", continues=True)
    after = [*first.after, *second.after]
    assert len(after) == len(whole.after) == 3
    assert all(torch.equal(whole.after[-1][name], after[-1][name]) for name in whole.start)

    other = trained.run_dir.with_name("other")
    shutil.copytree(trained.run_dir / "adapter", other)
    moved = tuning(room, trained, use, optimizer={"name": "adamw"}, model={"adapter": str(other)})
    stopped = trains(moved, "parts2", stop_after=1)
    assert stopped.exit_code == 0
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "lora_dropout": 0.5}))
    with pytest.raises(Refused) as refused:
        trains(moved, "parts2", continues=True)
    assert [each.code for each in refused.value.findings] == ["CF745"]


def test_the_tables_grow_again_where_it_is_merged(
    room: Room, trains: Callable[..., Watched], tmp_path: Path
) -> None:
    """An adapter with a table that is smaller than the tokenizer's, and one of another tool's: pickled."""
    from peft import LoraConfig, get_peft_model

    values = room.config(deepspeed=None, batch=BATCH, lr={"reference": 0.05}, train={"max_steps": 1})
    base = AutoModelForCausalLM.from_pretrained(values["model"]["path"])
    base.resize_token_embeddings(258, mean_resizing=False)
    model = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=["q_proj"], modules_to_save=TABLES)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(str(tmp_path / "made"), safe_serialization=False)
    if not (tmp_path / "made" / "adapter_model.bin").exists():  # peft writes safetensors alone
        from safetensors.torch import load_file

        torch.save(
            load_file(tmp_path / "made" / "adapter_model.safetensors"), tmp_path / "made/adapter_model.bin"
        )
        (tmp_path / "made" / "adapter_model.safetensors").unlink()
    lora = {"r": 2, "modules_to_save": TABLES}
    model_section = {**values["model"], "adapter": str(tmp_path / "made"), "adapter_use": "merge"}
    seen = trains({**values, "model": model_section, "lora": lora}, "sft")
    assert seen.exit_code == 0

    plain = model.merge_and_unload().eval()
    for table in (plain.get_input_embeddings(), plain.get_output_embeddings()):
        old = table.weight.detach()
        table.weight = torch.nn.Parameter(torch.cat([old, old.mean(0, keepdim=True).repeat(2, 1)]))
    assert seen.ledger[0]["loss"] == pytest.approx(first_loss(values, room, plain), abs=1e-5)
