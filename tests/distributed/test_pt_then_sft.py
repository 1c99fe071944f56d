"""docs/pt-then-sft.md, followed: the tuned run begins where the pre-trained model is, by plain peft."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from support import plain_torch
from support.launching import ROOT, SCRIPTS, environment, ledger, without_runs
from support.pages import Command, Console, follow_page

pytestmark = pytest.mark.distributed


def test_the_page_is_true(tmp_path: Path) -> None:
    clone = without_runs(tmp_path)
    surrounding = environment(ACCELERATE_USE_CPU="true", PATH=f"{SCRIPTS}:{os.environ['PATH']}")

    def run(block: Console) -> Mapping[Command, tuple[int, str]]:
        came = {}
        for command in block.commands:
            done = subprocess.run(
                ["bash", "-c", command.words], cwd=clone, env=surrounding, capture_output=True, text=True
            )
            came[command] = (done.returncode, done.stdout)
        return came

    follow_page(ROOT / "docs" / "pt-then-sft.md", clone, run)
    for name in ("pt", "sft", "sft2"):
        assert json.loads((clone / "runs" / name / "receipt.json").read_text())["foots"] is True

    lock = json.loads((clone / "runs" / "sft" / "plan.lock.json").read_text())
    tiny = next((clone / "runs" / ".index").rglob("config.json")).parent
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), clone / "runs/pt/adapter")
    lines = (ROOT / "data" / "demo" / "zh.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [(record, (record["instruction"], record["input"])) for record in map(json.loads, lines)]
    records = [{**record, "instruction": "\n".join(filter(None, words))} for record, words in asked]
    samples = plain_torch.instructions(records, 512)
    lock["config"]["batch"]["global_batch_size"] = lock["plan"]["global_batch_size"]
    first = plain_torch.steps_of(lock["config"], len(samples))[0]
    with torch.no_grad():
        loss = plain_torch.mean_loss(model.eval(), [samples[sample] for _, sample in first])
    for name in ("sft", "sft2"):
        assert ledger(clone / "runs" / name)[0]["loss"] == pytest.approx(loss, abs=1e-5)
