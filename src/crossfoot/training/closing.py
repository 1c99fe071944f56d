"""The end of a run: validation loss, what was trained, the receipt, what to do next, the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from crossfoot.checkpoints.findings import no_time
from crossfoot.checkpoints.store import CHECKPOINTS, list_checkpoints, newest_good
from crossfoot.data.saved_tokenizer import save_tokenizer
from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.formats import show
from crossfoot.ledger.entry import Cause
from crossfoot.ledger.findings import ledger_shared
from crossfoot.liveness.stopping import Stop
from crossfoot.models.findings import not_saved
from crossfoot.models.save import save_adapter
from crossfoot.output import say, tell
from crossfoot.phrases import after_steps, said_by
from crossfoot.planning.another_plan import another_plan
from crossfoot.processes import peak_memory
from crossfoot.receipts.index_check import held_against_index
from crossfoot.receipts.receipt import receipt_of_run, write_receipt
from crossfoot.receipts.receipt_page import render_receipt
from crossfoot.rendezvous.meeting_word import forget_words
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.rendezvous.rendezvous import RefusedTogether
from crossfoot.runs.attempts import (
    ATTEMPT_FILE,
    ENDING_FILE,
    LEDGER_FILE,
    RECEIPT_FILE,
    attempt_path,
    later_attempt,
)
from crossfoot.runs.dry_run import compare_with_dry_run, is_dry_run
from crossfoot.runs.ending import Ending, PeakMemory, write_ending
from crossfoot.runs.noise_scale import read_noise_scale
from crossfoot.runs.reader import read_run
from crossfoot.runs.result import result_path
from crossfoot.runs.resume_command import resume_command
from crossfoot.runs.validations import best_of, read_validations
from crossfoot.shell_words import called, joined, quoted_path
from crossfoot.training.build import Built
from crossfoot.training.findings import first_step_astray, unlearnable, weights_not_finite
from crossfoot.training.rank_job import RankJob
from crossfoot.training.saving import weights_are_finite

_REASONS = {
    Stop.NO_BETTER: ("patience", 0),
    Stop.ORPHANED: ("orphaned", 75),
    Stop.TERMINATED: ("signal", 75),
    Stop.INTERRUPTED: ("interrupt", 130),
    Stop.NOT_WRITABLE: ("fault", 1),
    Stop.NOT_AS_PLANNED: ("fault", 3),
    Stop.NOT_FINITE: ("fault", 1),
}

_URGENT = ("signal", "orphaned")
"""Reasons that leave no time for more than a checkpoint and the receipt."""


def close(work: RankJob, built: Built, steps_done: int, stop: Stop) -> int:
    """Close the run on all ranks together; rank 0 writes and speaks. Returns one exit code everywhere.

    steps_done: over all attempts. The ledger is drained. Raises Refused on all when another process has taken
    the run over: nothing is written then.
    """
    training, ranks = built.training, built.training.ranks
    _refuse_taken_over(work, ranks, training.step_recorder.finding)
    reason, exit_code = _how_it_ends(work, steps_done, stop)
    is_kept = not is_dry_run(work.plan.run.run_dir)  # of a dry run only its ledger and receipt are of use
    training.step_recorder.close()
    if built.progress is not None:
        built.progress.close()
    loss = _validation_loss(work, built, steps_done, stop) if exit_code == 0 and is_kept else None
    findings = [] if training.step_recorder.finding is None else [training.step_recorder.finding]
    is_finite = not is_kept or all(ranks.gather(weights_are_finite(built.model), bool))
    if reason != "fault" and is_kept and is_finite:
        findings += _last_checkpoint(work, built, reason, steps_done)
        if exit_code == 75 and ranks.is_first and newest_good(work.plan.run.run_dir)[0] is None:
            exit_code = 1
    elif training.step_hooks.finding is not None:
        findings.append(training.step_hooks.finding)
    if not findings and stop is Stop.NOT_FINITE:
        findings += unlearnable(training.step_recorder.unlearnable, is_finite)
    elif not findings and not is_finite:
        findings.append(weights_not_finite(steps_done))
    exit_code = exit_code if is_finite else 1
    if training.step_recorder.astray is not None:
        findings.append(first_step_astray(training.step_recorder.astray))
    saved = None
    is_disk_full = stop is Stop.NOT_WRITABLE and training.step_hooks.finding is None
    is_in_vain = reason in _URGENT or stop is Stop.NOT_AS_PLANNED
    if is_kept and is_finite and not is_disk_full and not is_in_vain:
        saved, problem = _save(work, built, steps_done)
        exit_code = 1 if saved is None else exit_code
        findings += problem
    if exit_code == 0 and is_kept and is_finite:  # all is saved: from here on nothing can be lost
        training.step_hooks.evaluate(steps_done)
        training.rank_monitor.phase("closing")
    memory = _peak_memory(training.engine.device, ranks)
    if ranks.is_first:
        run_dir = work.plan.run.run_dir
        forget_words(run_dir, attempt_path(run_dir, work.resume_point.attempt, ATTEMPT_FILE))
        ending = Ending(reason, steps_done, exit_code, work.steps, loss, saved, is_finite, memory)
        exit_code = _write_receipt(work, built, ending, findings)
    return int(ranks.gather(exit_code, int)[0])


def _peak_memory(device: torch.device, ranks: Ranks) -> PeakMemory:
    """Of the rank that held most since its process began; on a GPU what torch had allocated there."""
    if device.type == "cuda":
        most, name = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_name(device)
        own = PeakMemory(most, ranks.rank, "GPU", name)
    else:
        own = PeakMemory(peak_memory(), ranks.rank, "process")
    return max(ranks.gather(own, PeakMemory), key=lambda one: one.peak_bytes)


def _validation_loss(work: RankJob, built: Built, steps_done: int, stop: Stop) -> float | None:
    """Of the weights as they are; None without validation data."""
    if work.validation is None:
        return None
    if built.training.ranks.is_first and stop is not Stop.NO_BETTER:
        tell(f"validating on {work.validation.num_samples:,} samples ...")
    return built.training.step_hooks.validate(steps_done).loss


def _refuse_taken_over(work: RankJob, ranks: Ranks, found: Finding | None) -> None:
    """Refused on all ranks when a later attempt has begun, or the ledger has another writer (CF754)."""
    run_dir, attempt = work.plan.run.run_dir, work.resume_point.attempt
    if ranks.is_first and found is None and (later := later_attempt(run_dir, attempt)) is not None:
        found = ledger_shared(f"{run_dir}/{LEDGER_FILE}", (f"attempt {later} has begun, this is {attempt}",))
    found = ranks.gather(found, Finding | None)[0]
    if found is not None and found.code == "CF754":
        raise (Refused if ranks.is_first else RefusedTogether)(found)


def _how_it_ends(work: RankJob, steps_done: int, stop: Stop) -> tuple[str, int]:
    """A reason of `Ending`, and the exit code so far. A signal during the last step changes nothing."""
    if stop.ends and (steps_done < work.steps or stop > Stop.INTERRUPTED):
        return _REASONS[stop]
    return ("stop_after" if work.steps < work.plan.schedule.total_steps else "finished"), 0


def _last_checkpoint(work: RankJob, built: Built, reason: str, steps_done: int) -> list[Finding]:
    """Save what the run can be continued from; returns what stood in the way, the same on all ranks."""
    step_hooks = built.training.step_hooks
    if reason == "finished" and work.plan.run.config.checkpoint.every_steps is None:
        return []
    if reason in ("signal", "interrupt"):
        fits, takes, left = step_hooks.fits()
        if not fits:
            kept = newest_good(work.plan.run.run_dir)[0]
            return [no_time(steps_done, takes, left, kept.name if kept is not None else None)]
    step_hooks.save_last(steps_done)
    return [] if step_hooks.finding is None else [replace(step_hooks.finding, severity="warning")]


def _save(work: RankJob, built: Built, steps_done: int) -> tuple[str | None, list[Finding]]:
    """Save what was trained, all ranks together. Returns where, or None and why rank 0 could not."""
    config, ranks = work.plan.run.config, built.training.ranks
    folder = result_path(work.plan.run.run_dir, config.model_dump(mode="json"))
    problem = []

    try:
        save_adapter(
            built.model,
            folder,
            gather=built.loaded.zero_stage == 3,
            loaded=built.loaded,
            add_tokenizer=lambda destination: save_tokenizer(
                config, work.plan.run.index_dir, destination, work.index.header.template
            ),
        )
    except (OSError, SafetensorError) as error:
        what = "adapter" if config.lora else "model"
        problem.append(not_saved(what, folder, said_by(error), *_what_is_left(work, steps_done)))
    return (None if any(ranks.gather(bool(problem), bool)) else folder), problem


def _what_is_left(work: RankJob, steps_done: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(notes, helps) of a result that could not be saved: whether the weights are lost, and the ways out."""
    run = work.plan.run
    kept = newest_good(run.run_dir)[0]
    where = f"{run.run_dir}/{CHECKPOINTS}/{kept.name}" if kept is not None else ""
    crossfoot = called("crossfoot")
    go_on = resume_command(run.run_dir, run.path, crossfoot)
    if kept is not None and kept.step == steps_done:
        helps = (
            f"make room on that disk, and do the end of the run again: {go_on}",
            f"or write it to another disk: {crossfoot} export {quoted_path(run.run_dir)} OUT",
        )
        return (f"nothing is lost: the weights are in {where}",), helps
    note = f"no checkpoint holds the weights {after_steps(steps_done)}: they are lost with this process"
    helps = (
        f"make room on that disk, and train {'on from ' + where if kept is not None else 'again'}: {go_on}",
        "write checkpoints, so that the end of a run can be done again: checkpoint.every_steps",
    )
    return (note,), helps


def _write_receipt(work: RankJob, built: Built, ending: Ending, findings: list[Finding]) -> int:
    """Rank 0: ending.json, receipt.json, and then the words at the end. Returns the exit code.

    An ending that the disk does not take leaves a run that looks killed, and can be continued like one.
    """
    run_dir = work.plan.run.run_dir
    exit_code = ending.exit_code
    run = receipt = None
    refused: list[Finding] = []
    with _collecting(refused):
        write_ending(attempt_path(run_dir, work.resume_point.attempt, ENDING_FILE), ending)
    with _collecting(refused):
        run = read_run(run_dir)
        receipt = receipt_of_run(run, ending)
        if ending.reason not in _URGENT:
            receipt = held_against_index(receipt, run)
        exit_code = exit_code or receipt.exit_code
        write_receipt(str(Path(run_dir) / RECEIPT_FILE), receipt)
    if receipt is not None:
        say(f"\n{render_receipt(receipt)}")
        if (noise := read_noise_scale(run_dir)) is not None:
            say(f"noise scale: {noise.figures}")
        for mirror in built.mirrors:
            mirror.close(receipt.foots)
    findings = [*findings, *refused]
    agreement = None if run is None else compare_with_dry_run(run)
    if isinstance(agreement, Finding):
        findings.append(agreement)
    elif agreement:
        say(f"dry run: {agreement}")
    exit_code = exit_code or int(bool(refused))
    if findings:
        show(findings)
    _say_next(work, ending, exit_code, () if receipt is None else receipt.causes)
    return exit_code


@contextmanager
def _collecting(findings: list[Finding]) -> Iterator[None]:
    """What is refused inside is kept for later."""
    try:
        yield
    except Refused as refused:
        findings.extend(refused.findings)


def _say_next(work: RankJob, ending: Ending, exit_code: int, causes: Sequence[Cause]) -> None:
    run = work.plan.run
    if exit_code in (75, 130) or (exit_code == 1 and ending.step < work.steps):
        _say_kept(work, ending)
    if exit_code == 0 and not is_dry_run(run.run_dir):
        crossfoot = called("crossfoot")
        say("next:")
        if ending.reason == "patience":
            _say_best(run.run_dir, ending.step, crossfoot)
        if ending.reason == "stop_after":
            say(f"  {resume_command(run.run_dir, run.path, crossfoot)}")
            say("      the steps that are left, on other machines too")
        say(f"  {crossfoot} receipt {quoted_path(run.run_dir)}")
        say("      the same receipt again, from the run's files")
        say(f"  {crossfoot} report {quoted_path(run.run_dir)}")
        say("      all of it as a page, with pictures")
        if changes := another_plan(work.plan):
            say(f"  {crossfoot} plan {quoted_path(run.path)} {joined((*run.overrides, *changes))}")
            say("      what would train with another batch, on another cluster")
    if exit_code == 3 and causes:
        say(f"what a cause means: {called('crossfoot')} explain {causes[0].code}")


def _say_best(run_dir: str, step: int, crossfoot: str) -> None:
    """How to get the weights of the lowest validation loss, where a checkpoint holds them."""
    best = best_of([one for one in read_validations(run_dir) if one.step <= step])
    kept = {checkpoint.step for checkpoint in list_checkpoints(run_dir)}
    if best is not None and best.step in kept and best.step != step:
        say(f"  {crossfoot} export {quoted_path(run_dir)} --step {best.step} OUT")
        say(f"      the weights of the lowest validation loss, {best.loss:.4f}")


def _say_kept(work: RankJob, ending: Ending) -> None:
    """What a run that stopped before its end leaves, and how it goes on."""
    run = work.plan.run
    checkpoint = newest_good(run.run_dir)[0]
    kept = [f"{run.run_dir}/{LEDGER_FILE}"]
    if checkpoint is not None:
        kept.append(f"{run.run_dir}/{CHECKPOINTS}/{checkpoint.name}")
    if ending.saved_path:
        kept.append(ending.saved_path)
    say(f"stopped after {ending.step:,} of {work.steps:,} steps; kept: {', '.join(kept)}")
    say("next:")
    say(f"  {resume_command(run.run_dir, run.path, called('crossfoot'))}")
    where = after_steps(checkpoint.step) if checkpoint is not None else "at the first step again"
    say(f"      the same run, going on {where}; on other machines too")
