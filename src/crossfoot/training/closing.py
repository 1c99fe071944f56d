"""The end of a run: validation loss, the adapter, the receipt, what to do next, the exit code."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from crossfoot.checks.render import render
from crossfoot.finding import Finding, Refused
from crossfoot.index.tokenizer import copy_tokenizer, tokenizer_path
from crossfoot.ledger.attempts import ENDING_FILE, LEDGER_FILE, RECEIPT_FILE
from crossfoot.ledger.book import read_book
from crossfoot.ledger.ending import Ending, write_ending
from crossfoot.ledger.receipt import make_receipt, write_receipt
from crossfoot.ledger.receipt_page import render_receipt
from crossfoot.planning.run_folder import ADAPTER_NAME, MODEL_NAME
from crossfoot.training.assignment import Assignment
from crossfoot.training.build import Built
from crossfoot.training.lora import save_adapter
from crossfoot.training.refusals import not_finite, not_saved
from crossfoot.training.stopping import Stop
from crossfoot.training.validation import validation_loss

_REASONS = {
    Stop.NO: ("finished", 0),
    Stop.TERMINATED: ("signal", 130),
    Stop.INTERRUPTED: ("interrupt", 130),
    Stop.NOT_WRITABLE: ("fault", 1),
    Stop.NOT_FINITE: ("fault", 1),
}


def close(work: Assignment, built: Built, steps_done: int, stop: Stop) -> int:
    """Close the run on all ranks together; rank 0 writes and speaks. Returns one exit code everywhere."""
    ranks, run = built.training.ranks, work.plan.run
    is_stopped_early = stop is not Stop.NO and steps_done < work.steps
    reason, exit_code = _REASONS[stop] if is_stopped_early or stop > Stop.INTERRUPTED else _REASONS[Stop.NO]
    if reason == "finished" and work.steps < work.plan.schedule.total_steps:
        reason = "stop_after"
    if built.progress is not None:
        built.progress.close()
    loss = None
    if work.validation is not None and exit_code == 0:
        micro = work.plan.batch.micro_batch_size
        if ranks.is_first:
            print(f"validating on {work.validation.num_samples:,} samples ...", file=sys.stderr, flush=True)
        loss = validation_loss(built.training.engine, work.validation, ranks, micro)
    finding = built.training.keeper.finding
    saved = None
    is_finite = stop is not Stop.NOT_FINITE or all(ranks.gather(_is_finite(built.model)))
    if finding is None and stop is Stop.NOT_FINITE:
        finding = not_finite(steps_done, str(Path(run.run_dir) / LEDGER_FILE))
        if not is_finite:
            note = "the trained weights are not finite either, so they were not saved"
            finding = replace(finding, notes=(*finding.notes, note))
    if stop is not Stop.NOT_WRITABLE and is_finite:
        saved = str(Path(run.run_dir) / (ADAPTER_NAME if run.config.lora else MODEL_NAME))
        problem = _save(work, built, saved)
        finding = finding or problem
        failed = any(ranks.gather(problem is not None))
        exit_code, saved = (1, None) if failed else (exit_code, saved)
    if ranks.is_first:
        ending = Ending(reason, steps_done, exit_code, work.steps, loss, saved)
        exit_code = _write_receipt(work, built, ending, finding)
    return int(ranks.gather(exit_code)[0])


def _is_finite(model: nn.Module) -> bool:
    """Whether this rank's part of what is trained holds numbers only."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return all(bool(torch.isfinite(getattr(part, "ds_tensor", part)).all()) for part in trained)


def _save(work: Assignment, built: Built, folder: str) -> Finding | None:
    """Save what was trained, all ranks together; the finding when rank 0 could not write it."""
    config = work.plan.run.config

    def add_tokenizer(destination: str) -> None:
        copy_tokenizer(tokenizer_path(config), work.plan.run.index_dir, destination)

    try:
        save_adapter(
            built.model,
            folder,
            gather=built.loaded.zero_stage == 3,
            loaded=built.loaded,
            add_tokenizer=add_tokenizer,
        )
    except (OSError, SafetensorError) as error:
        what = "adapter" if config.lora else "model"
        return not_saved(what, folder, getattr(error, "strerror", None) or str(error))
    return None


def _write_receipt(work: Assignment, built: Built, ending: Ending, finding: Finding | None) -> int:
    """Rank 0: ending.json, receipt.json, and the words at the end. Returns the exit code."""
    folder = Path(work.plan.run.run_dir)
    findings = [finding] if finding is not None else []
    exit_code = ending.exit_code
    try:
        lines = read_book(str(folder / LEDGER_FILE))
        receipt = make_receipt(work.lock, lines, ending, lines.torn)
        exit_code = exit_code or receipt.exit_code
        print(f"\n{render_receipt(receipt)}", flush=True)
        if built.mirror is not None:
            built.mirror.close(receipt.to_json())
        write_ending(str(folder / ENDING_FILE), ending)
        write_receipt(str(folder / RECEIPT_FILE), receipt)
    except Refused as refused:
        findings.extend(refused.findings)
        exit_code = exit_code or 1
    if findings:
        print(render(findings, colour=sys.stdout.isatty()), flush=True)
    _say_next(work, ending, exit_code)
    return exit_code


def _say_next(work: Assignment, ending: Ending, exit_code: int) -> None:
    run = work.plan.run
    if exit_code == 130 or (exit_code == 1 and ending.step < work.steps):
        print(
            f"stopped after {ending.step:,} of {work.steps:,} steps; kept: {run.run_dir}/ledger.jsonl", end=""
        )
        print(f" and {ending.adapter_path}" if ending.adapter_path else "")
    if exit_code == 0:
        crossfoot = _command()
        print("next:")
        print(f"  {crossfoot} receipt {run.run_dir}")
        print("      the same receipt again, from the run's files")
        print(f"  {crossfoot} plan {run.path} batch.global_batch_size=64 cluster.gpus_per_node=8")
        print("      what would train with another batch, on another cluster")
    if exit_code == 3:
        print(f"what a cause means: {_command()} explain CODE")
    sys.stdout.flush()


def _command() -> str:
    """How crossfoot is called from here: by its name where PATH has it, else by the path of its script."""
    script = Path(sys.executable).with_name("crossfoot")
    if shutil.which("crossfoot") or not script.exists():
        return "crossfoot"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)
