"""What is said when ranks are lost: one function, one code, and its docstring is the manual page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from crossfoot.environment.findings import rank_lost
from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.liveness.heartbeats import Heartbeat, doing
from crossfoot.liveness.judging import LastSeen, Verdict
from crossfoot.phrases import step_name
from crossfoot.runs.resume_command import resume_command
from crossfoot.shell_words import quoted_path

_MOST_LISTED = 16
_MOST_NAMED = 4


def finding_of(verdict: Verdict, run_dir: str) -> Finding:
    """What a verdict says to a person."""
    if verdict.kind == "stuck":
        return no_progress(verdict, run_dir)
    if verdict.kind == "broken":
        return rank_lost(verdict.by, verdict.said, run_dir, [_stands(seen) for seen in verdict.everyone])
    return ranks_lost(verdict, run_dir)


@rule_docs("CF773")
def ranks_lost(verdict: Verdict, run_dir: str) -> Finding:
    """CF773: a rank is lost, and the run cannot go on without it.

    Every rank writes a small file into `RUN_DIR/heartbeat/` while it lives, and reads those of the others. A
    rank is lost when its process is gone, when its file has not changed for `faults.timeout_seconds` (its
    node is down or cut off, or the process is stopped), when it ended while the others still wait for it, or
    when it says of itself that it failed. It is named with its host and the step it was last seen in. All the
    others then end too, with exit code 1: whoever saw it first writes down
    what is said, so that all say the same.

    Clocks of hosts are not compared: what counts is that a file changes. A network file system may show a
    change a minute late, so a `faults.timeout_seconds` much below that would lose ranks that live. One call
    of a library that never lets go of the interpreter stops the heart as well, for as long as it lasts.
    """
    if len(verdict.lost) == 1:
        title = f"{verdict.lost[0].who} {_fate(verdict, verdict.lost[0])}"
    else:
        title = f"{len(verdict.lost)} ranks {_FATES[verdict.kind]}: {_by_host(verdict.lost)}"
    notes = [_last_seen(seen) for seen in verdict.lost[:_MOST_LISTED]]
    if verdict.said:
        notes.insert(0, f"it says: {verdict.said}" if verdict.kind == "failed" else verdict.said)
    notes += [
        _PROCESS[seen.state].format(seen.who, seen.pid) for seen in verdict.lost if seen.state in _PROCESS
    ]
    if verdict.kind != "failed":
        notes.append(f"noticed by {_named(verdict, verdict.by)}; all ranks end")
    hosts = sorted({seen.host for seen in verdict.lost if seen.host})
    where = f"; and the system log of {', '.join(hosts)}" if hosts and verdict.kind != "failed" else ""
    helps = [f"look for the last log lines of rank {_numbers(verdict.lost)}{where}", _go_on(run_dir)]
    if verdict.kind == "silent" and not verdict.said:
        helps.append("if it was only slow, raise faults.timeout_seconds")
    return Finding("CF773", title, notes=tuple(notes), helps=tuple(helps))


@rule_docs("CF774")
def no_progress(verdict: Verdict, run_dir: str) -> Finding:
    """CF774: all ranks live, and none has done anything for `faults.timeout_seconds`.

    Ranks wait for one another in every step, so one that hangs holds all of them; so does a network that is
    cut between nodes while the run folder is still reached. The rank that came least far is named, when one
    did, or that is busy with something while the others wait in a collective: they have done all that they
    can without it. Where each waits in a collective the network between them is the first suspect. For
    every rank the function is shown that it hangs in.

    Only steps are timed in this way, and a validation that says how far it is. Loading the model and writing
    a checkpoint take the time they take; there only the heartbeats count (CF773).
    """
    waited = f"for {verdict.seconds:,.0f} s"
    if verdict.lost:
        seen = verdict.lost[0]
        title = f"no rank has done anything {waited}; least far is {seen.who}, {doing(seen.phase, seen.step)}"
        if len(verdict.lost) > 1:
            title = f"no rank has done anything {waited}; least far are {_by_host(verdict.lost)}"
    else:
        title = f"no rank has done anything {waited}: each waits for the others"
    notes = [_stands(seen) for seen in verdict.everyone[:_MOST_LISTED]]
    if len(verdict.everyone) > _MOST_LISTED:
        notes.append(f"and {len(verdict.everyone) - _MOST_LISTED:,} more")
    hosts = {seen.host for seen in verdict.everyone}
    helps = ["if a step may take longer than that, raise faults.timeout_seconds"]
    if len(hosts) > 1:
        helps.insert(0, f"look at the network between {', '.join(sorted(hosts))}")
    if verdict.lost:
        helps.insert(0, f"look at what {verdict.lost[0].who} hangs in")
    return Finding("CF774", title, notes=tuple(notes), helps=(*helps, _go_on(run_dir)))


@rule_docs("CF775")
def folder_silent(who: str, run_dir: str, seconds: float, said: str) -> Finding:
    """CF775: the run folder has not answered for `faults.timeout_seconds`.

    The ledger, the checkpoints and the heartbeats of the ranks are there. A rank that cannot reach it knows
    nothing of the others, and they take it for lost; so it ends, with exit code 1. The storage is down, or
    this node is cut off from it.
    """
    return Finding(
        "CF775",
        f"the run folder {run_dir} has not answered {who} for {seconds:,.0f} s",
        notes=(f"the system says: {said}",) if said else ("a read or a write there does not return",),
        helps=("look at the storage, and at this node's way to it", _go_on(run_dir)),
    )


@rule_docs("CF776", "error", "warning")
def nobody_waits(who: str, why: str, run_dir: str) -> Finding:
    """CF776: a rank ends because its launcher is gone, or because a later attempt has taken the run over.

    A launcher (deepspeed, torchrun, accelerate, SLURM's step) hands on signals and says how its ranks ended.
    When it was killed and a rank of it still lives, that rank saves if it can, and ends: nobody could
    stop it any more, and it would hold its GPU. And a process that was stopped, and wakes up when the
    run has been continued by a later attempt, ends without writing: two attempts must not write to one run.
    """
    return Finding(
        "CF776",
        f"{who} ends: {why}",
        helps=(f"see where the run stands, and how to go on: crossfoot watch {quoted_path(run_dir)}",),
    )


_FATES = {"gone": "are gone", "silent": "are silent", "ended": "ended early", "failed": "failed"}
_PROCESS = {
    "gone": "{}: its process {} is gone",
    "stopped": "{}: its process {} is stopped, by a signal, a debugger or a suspended job",
}


def _fate(verdict: Verdict, seen: LastSeen) -> str:
    if verdict.kind == "failed":
        return f"failed{_in_step(seen)}"
    if verdict.kind == "ended":
        return f"ended{_in_step(seen)}, and the others wait for it"
    if verdict.kind == "gone":
        return f"is gone: it was last seen {_doing(seen)}"
    waited = f"silent for {max(verdict.seconds, seen.silent_seconds):,.0f} s"
    if not seen.host:
        return f"is lost: {waited}, and never seen in this attempt"
    return f"is lost: {waited}, last seen {_doing(seen)}"


def _last_seen(seen: LastSeen) -> str:
    if not seen.host:
        return f"{seen.who}: never seen in this attempt"
    inside = f", in {seen.where}" if seen.where else ""
    return f"{seen.who}: last seen {_doing(seen)}{inside}, {seen.silent_seconds:,.0f} s before"


def _stands(seen: LastSeen) -> str:
    if not seen.host:
        return _last_seen(seen)
    inside = f", in {seen.where}" if seen.where else ""
    silent = f", its heart silent for {seen.silent_seconds:,.0f} s" if seen.silent_seconds >= 1 else ""
    return f"{seen.who}: {_doing(seen)}{inside}, still for {seen.still_seconds:,.0f} s{silent}"


def _doing(seen: LastSeen) -> str:
    return doing(seen.phase, seen.step)


def _in_step(seen: LastSeen) -> str:
    is_in_one = seen.phase in ("training", "ended")
    return f" in {step_name(seen.step)}" if is_in_one else f", {_doing(seen)}"


def _named(verdict: Verdict, rank: int) -> str:
    return next((seen.who for seen in verdict.everyone if seen.rank == rank), f"rank {rank}")


def _by_host(lost: Sequence[LastSeen]) -> str:
    """`rank 4, 5 on node2`."""
    ordered = sorted(lost, key=lambda seen: (seen.host, seen.rank))
    return "; ".join(
        f"rank {_numbers(list(ranks))}{f' on {host}' if host else ', never seen'}"
        for host, ranks in groupby(ordered, key=lambda seen: seen.host)
    )


def _numbers(lost: Sequence[LastSeen]) -> str:
    shown = ", ".join(str(seen.rank) for seen in lost[:_MOST_LISTED])
    return shown if len(lost) <= _MOST_LISTED else f"{shown} and {len(lost) - _MOST_LISTED:,} more"


def _go_on(run_dir: str) -> str:
    return f"go on from the last checkpoint: {resume_command(run_dir)}"


@rule_docs("CF753", name="run-lives")
def run_lives(run_dir: str, config: str, attempt: int, ranks: Sequence[Heartbeat]) -> Finding:
    """CF753: a run is to be continued, and its last attempt is still at work.

    Its heartbeats say so: the process is there, or, on another machine, its file in heartbeat/ was written
    again while this one looked. Two attempts at once would throw each other's steps away. Let it run; or
    stop it where it runs, with SIGTERM or Ctrl-C, which saves a checkpoint, and continue then. A process that
    hangs and that you cannot reach any more can be put aside: with --take-over the new attempt begins, and
    the old one ends without writing as soon as it sees that.
    """
    shown = [f"rank {beat.rank} on {beat.host}, process {beat.pid}" for beat in ranks[:_MOST_NAMED]]
    more = len(ranks) - len(shown)
    return Finding(
        "CF753",
        f"attempt {attempt} at {run_dir} is still at work: {shown[0]}",
        notes=(*shown[1:], *((f"and {more:,} more",) if more else ())),
        helps=(
            f"look at it: crossfoot watch {quoted_path(run_dir)}",
            "or stop it there, which saves a checkpoint, and continue then",
            f"or put it aside: {resume_command(run_dir, config, more=('--take-over',))}",
        ),
    )
