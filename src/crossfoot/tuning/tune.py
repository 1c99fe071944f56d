"""`crossfoot tune`: trial after trial, then the best once more, then what is written."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from crossfoot import durable
from crossfoot.findings.finding import Refused
from crossfoot.liveness.stopping import Stopped, StopRequest
from crossfoot.output import json_text, say, tell
from crossfoot.phrases import clock, counted
from crossfoot.shell_words import joined
from crossfoot.tuning.deciding import Decision, decide, decide_at_last, finalists
from crossfoot.tuning.findings import all_trials_failed
from crossfoot.tuning.measuring import Subject, find_subject
from crossfoot.tuning.page import tuning_page
from crossfoot.tuning.result import (
    MERGED,
    RESULT,
    generation_config,
    own_file,
    put_into,
    refuse_no_model,
    result_document,
)
from crossfoot.tuning.sampler import next_values
from crossfoot.tuning.space import words_of
from crossfoot.tuning.summary import score_words, summary
from crossfoot.tuning.trials import Trial, TrialFile
from crossfoot.tuning.tuning_file import TuningFile
from crossfoot.written.model_ends import GENERATION

PAGE = "page.html"


def tune(file: TuningFile, into: str | None) -> int:
    """The verb; returns the exit code. into: a model's folder that gets the best parameters. Raises
    Refused.
    """
    if into is not None:
        refuse_no_model(into)
    subject = find_subject(file)
    if into is None and os.path.isfile(os.path.join(file.config.model, MERGED)):
        into = file.config.model
    try:
        with StopRequest(), TrialFile(file.folder, subject.made_of) as kept:
            subject.begin(kept.made_of["own_values"])
            searched = _search(subject, kept)
            decision = _decide(subject, kept, searched)
    except Stopped as stopped:
        again = joined(["crossfoot", "tune", file.path, *(["--into", into] if into else [])])
        tell(f"stopped: the trials that were finished are kept; go on with: {again}")
        return stopped.exit_code
    _write(subject, kept.trials, decision, into)
    return 0


def _search(subject: Subject, kept: TrialFile) -> list[Trial]:
    """All trials, of which some may be there already."""
    file, config = subject.file, subject.file.config
    done = [trial for trial in kept.trials if not trial.is_final]
    if done:
        tell(f"{len(done):,} of {counted(config.trials, 'trial')} are there already")
    begun, before = time.monotonic(), len(done)
    while len(done) < config.trials:
        start = file.start[len(done)] if len(done) < len(file.start) else None
        is_maximized = config.goal.is_maximized
        values = next_values(file.space, done, start=start, seed=config.seed, is_maximized=is_maximized)
        if values is None:
            tell(f"all {counted(len(done), 'set')} of values that differ are tried")
            break
        trial = subject.measure(len(done) + 1, values, range(subject.repeats_of(values)))
        kept.add(trial)
        done.append(trial)
        left = config.trials - len(done)
        ahead = (time.monotonic() - begun) / (len(done) - before) * left
        rest = f"; about {clock(ahead)} left" if left else ""
        tell(f"trial {trial.number} of {config.trials}: {_outcome(subject, trial)}; {words_of(values)}{rest}")
    return done


def _outcome(subject: Subject, trial: Trial) -> str:
    if trial.failed:
        return f"failed: {trial.failed}"
    goal = subject.file.config.goal
    return f"{goal.measure} {score_words(trial.score.within(*goal.bounds))}"


def _decide(subject: Subject, kept: TrialFile, searched: Sequence[Trial]) -> Decision:
    """The best, after it and those that may be as good were measured once more, in turns and with seeds that
    nobody was chosen by. Raises Refused (CF818).
    """
    goal, repeats = subject.file.config.goal, subject.file.config.repeats
    first = decide(searched, goal)
    if first is None:
        raise Refused(all_trials_failed(len(searched), [trial.failed for trial in searched]))
    best = finalists(first)
    varied = [trial for trial in best if goal.is_timed or trial.samples] if len(best) > 1 else []
    turns = [(repeat, trial) for repeat in range(repeats) for trial in varied]
    there = sum(1 for _ in takewhile(lambda trial: trial.is_final, reversed(kept.trials)))
    if turns[there:]:
        numbers = ", ".join(str(trial.number) for trial in varied)
        tell(
            f"measuring {'trials' if len(varied) > 1 else 'trial'} {numbers} once more, with other seeds ..."
        )
    for repeat, trial in turns[there:]:
        again = subject.measure(trial.number, trial.values, [repeats + repeat])
        kept.add(replace(again, is_final=True))
    finals = kept.trials[len(kept.trials) - len(turns) :] if turns else []
    return decide_at_last(first, [*searched, *finals], goal)


def _write(subject: Subject, trials: Sequence[Trial], decision: Decision, into: str | None) -> None:
    """The files, and the words. Raises OSError and Refused."""
    file, chosen = subject.file, decision.chosen
    effective, ends = subject.effective(chosen.values), subject.asking.end_ids
    whole = generation_config(own_file(subject.voice.base_folder), effective, ends)
    document = result_document(file.config.goal, decision, trials, effective)
    page = tuning_page(file, decision, trials, subject.prompts, effective)
    for name, text in ((GENERATION, json_text(whole)), (RESULT, json_text(document)), (PAGE, page)):
        durable.replace(os.path.join(file.folder, name), text + "\n")
    say(summary(file.config.goal, decision, trials, len(subject.prompts)))
    say(f"\n{os.path.join(file.folder, PAGE)}: the page; {GENERATION} and {RESULT} beside it")
    if dtype := chosen.values.get("dtype"):
        say(f"the precision is no part of {GENERATION}: --dtype {dtype}")
    if into is not None:
        say(put_into(into, effective, ends))
    else:
        words = joined(["crossfoot", "tune", file.path, "--into"])
        say(f"into the folder of a model: {words} FOLDER")
