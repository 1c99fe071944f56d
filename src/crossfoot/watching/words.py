"""The words that the page and the plain lines have in common."""

from __future__ import annotations

import shlex

from crossfoot.ledger.entry import NO_STEP, Cause
from crossfoot.phrases import clock, counted, step_name
from crossfoot.runs.attempts import Attempt
from crossfoot.runs.ending import AS_WISHED
from crossfoot.runs.resume_command import resume_command
from crossfoot.shell_words import quoted_path
from crossfoot.watching.state import AttemptView, RunState

HOW = {
    "finished": "finished",
    "stop_after": "stopped on purpose",
    "patience": "ended early",
    "signal": "stopped by a signal",
    "orphaned": "lost its launcher",
    "interrupt": "interrupted",
    "fault": "stopped on a fault",
    "starting": "starting",
    "running": "running",
    "silent": "no sign of life",
    "ended": "ended",
    "killed": "killed",
    "rank lost": "a rank was lost",
    "given up": "given up",
}
"""How an attempt ended, or what it does."""


def took(seconds: float) -> str:
    """`0.84 s`, `12 s`, `2:05`."""
    return f"{seconds:.2g} s" if seconds < 9.5 else clock(seconds)


def topology(attempt: Attempt) -> str:
    """`2 ranks on 1 node, DeepSpeed ZeRO-2`."""
    return f"{counted(attempt.world_size, 'rank')} on {counted(attempt.num_nodes, 'node')}, {engine(attempt)}"


def engine(attempt: Attempt) -> str:
    """`DeepSpeed ZeRO-2`, `accelerate`."""
    name = {"deepspeed": "DeepSpeed"}.get(attempt.engine, attempt.engine)
    return name if attempt.zero_stage is None else f"{name} ZeRO-{attempt.zero_stage}"


def lost_words(view: AttemptView) -> str:
    """`3 lost`, or nothing."""
    return f"{view.lost:,} lost" if view.lost else ""


def cause_words(cause: Cause) -> str:
    """`CF710 step 4, rank 1: ...`."""
    where = "the run" if cause.step == NO_STEP else step_name(cause.step)
    rank = "" if cause.rank is None else f", rank {cause.rank}"
    return f"{cause.code} {where}{rank}: {cause.message}"


def status_words(state: RunState) -> str:
    """What the run does at the moment, or how it ended."""
    if state.status == "silent":
        return f"no sign of life for {clock(state.silent_seconds)}"
    if state.status == "ended" and state.ending is not None:
        return HOW[state.ending.reason]
    if (silent := state.silent_ranks) and state.status != "killed":
        return f"{silent[0].who} is silent" if len(silent) == 1 else f"{len(silent):,} ranks are silent"
    if state.status == "running" and state.ranks:
        phases = {rank.phase for rank in state.ranks}
        shown = ("saving", "validating", "evaluating", "closing")
        return next((phase for phase in shown if phase in phases), "training")
    return "training" if state.status == "running" else state.status


def ended_words(state: RunState) -> str:
    """`stopped by a signal after 40 of 400 steps, 2026-11-29 12:28`; nothing of a run that goes on."""
    if state.status == "ended" and state.ending is not None:
        how, done, asked = HOW[state.ending.reason], state.ending.step, state.ending.planned_steps
    elif state.status == "killed":
        how, done, asked = HOW["killed"], state.done_steps, state.asked_steps or 0
    else:
        return ""
    of = f"{done:,} of {counted(asked, 'step')}" if asked else counted(done, "step")
    return f"{how} after {of}, {state.ended_at}"


def verdict_words(state: RunState) -> str:
    """The verdict of the moment, without its causes."""
    footed = state.footed
    if footed.findings:
        return "cannot be said"
    if footed.foots is None:
        return f"adding up, {footed.share:.0%} of the ledger" if footed.share < 1 else "adding up"
    receipt = footed.receipt
    if receipt is not None and state.status == "ended":
        if receipt.foots:
            return "yes"
        if receipt.foots_so_far:
            return f"not complete: {receipt.done_steps:,} of {receipt.asked_steps:,} steps, and those foot"
        return f"no, {counted(footed.cause_count, 'cause')}"
    if footed.foots and not state.done_steps:
        return "nothing to add up yet"
    return "yes" if footed.foots else f"no, {counted(footed.cause_count, 'cause')}"


def folded(command: str, width: int) -> list[str]:
    """A command on as many lines as it takes, which can be pasted as they are: only between its words, and
    with a backslash where one goes on.
    """
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        if lines[-1] and len(lines[-1]) + len(word) + len(" ") > width - len(" \\"):
            lines[-1] += " \\"
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines


def next_words(state: RunState) -> tuple[str, str] | None:
    """What to do next with a run that does not run, and the command for it; None when there is nothing."""
    go_on = resume_command(str(state.run_dir))
    if state.footed.foots is False and state.footed.causes:
        return "what a cause means", f"crossfoot explain {state.footed.causes[0].code}"
    if state.status == "silent":
        return "if nothing of it is alive, continue it", go_on
    if state.status == "killed":
        return "continue it", go_on
    if state.status == "ended" and state.ending is not None and not state.footed.findings:
        if state.result_missing:
            return "make it from the last checkpoint", go_on
        if state.ending.reason in AS_WISHED:
            return "the whole receipt", f"crossfoot receipt {quoted_path(state.run_dir)}"
        return "continue it", go_on
    return None
