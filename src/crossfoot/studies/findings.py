"""What can be wrong with a study: what is asked for, its folder, its runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import listed
from crossfoot.shell_words import quoted_path
from crossfoot.written.findings import COMMAND_LINE


@rule_docs("CF822")
def batch_not_planned(batch: int, errors: Sequence[Finding], others: Sequence[int]) -> Finding:
    """CF822: a batch of a study cannot be planned.

    Every run of a study is an ordinary run: what `crossfoot check` finds in it forbids it. Most often a
    DeepSpeed file has a number for `train_batch_size` where "auto" is needed, the batch is more than the
    samples of the data or of the budget, or the steps leave no room for the warm-up. All such batches are
    named before anything starts.
    """
    helps = [help_ for error in errors for help_ in error.helps[:1]]
    if len(others) > 1:
        helps.append(f"{'or ' if helps else ''}leave it out: --batches {','.join(map(str, others))}")
    return Finding(
        "CF822",
        f"a batch of {batch:,} cannot be planned: {errors[0].title}",
        place=errors[0].place,
        notes=tuple(f"{error.code}: {error.title}" for error in errors[1:]),
        helps=tuple(dict.fromkeys(helps)),
    )


@rule_docs("CF823")
def no_batches(title: str, help_: str, place: Place | None = None) -> Finding:
    """CF823: there are no batches to compare.

    A study compares two batches or more: numbers of samples per optimizer step, each named once, around that
    of the config. The config's own must be one number too, not one that changes or that follows from tokens.
    """
    return Finding("CF823", title, place=place or Place(COMMAND_LINE), helps=(help_,))


@rule_docs("CF824")
def no_factors(title: str, help_: str) -> Finding:
    """CF824: what is given with --rates are no factors.

    `--rates x0.5,x1,x2` trains every batch at half the rate that the config's rule gives for it, at that
    rate, and at twice the rate: numbers above 0, each once. Where the best of two or more is the smallest or
    the largest, the study goes on beyond it by itself, three times at most.
    """
    return Finding("CF824", title, place=Place(COMMAND_LINE), helps=(help_,))


@rule_docs("CF825")
def no_validation_data(place: Place) -> Finding:
    """CF825: a study needs validation data, and the config names none.

    Batches are compared by the loss on data that no run trains on. `data.validation` takes files, or a share
    or a number of the training samples, which are then held out of all runs.
    """
    return Finding(
        "CF825",
        "a study compares validation losses, and data.validation is empty",
        place=place,
        helps=("hold out a part of the training data: data.validation=0.05", "or name files of its own"),
    )


@rule_docs("CF826")
def other_study(folder: str, changed: Sequence[str], another: str) -> Finding:
    """CF826: the folder of the study cannot be gone on with.

    study.json says what the study in it was asked: config, batches, rates, seeds, budget. The same command
    goes on with it, and so does one that asks for more batches, rates or seeds; runs of another budget, or of
    another config, would not belong together. Where and how the runs are computed (cluster, DeepSpeed file,
    layout, micro batch) may change.
    """
    return Finding(
        "CF826",
        f"{folder} cannot be gone on with: {listed(list(changed))}",
        place=Place(COMMAND_LINE),
        helps=(
            f"give this study a folder of its own: --out {quoted_path(another)}",
            "or ask what was asked before, or for more batches, rates or seeds, and it goes on",
        ),
    )


@rule_docs("CF827")
def run_changed(run_dir: str, changed: Sequence[str], aside: str) -> Finding:
    """CF827: a run in the folder of a study is not the run that the study planned.

    Its lock has other values: it was trained by another command, or its files come from elsewhere. Its
    losses would be compared with those of runs that differ in more than the batch.
    """
    return Finding(
        "CF827",
        f"{run_dir} is not the run that the study planned: {listed(list(changed))}",
        place=Place(run_dir),
        helps=(f"put it aside, and the study trains it: mv {quoted_path(run_dir)} {quoted_path(aside)}",),
    )


@rule_docs("CF828")
def study_does_not_foot(folder: str, not_footing: Sequence[str], other_samples: Sequence[str]) -> Finding:
    """CF828: a study does not foot.

    It foots when the receipt of every run does, and when every step of every run held the samples that the
    one order of the study has there. A run that does not foot was not what was planned; one with other
    samples cannot be compared with the rest.
    """
    notes = [f"its receipt does not foot: {name}" for name in not_footing]
    notes += [f"trained other samples, or in another order: {name}" for name in other_samples]
    return Finding(
        "CF828",
        f"the study in {folder} does not foot",
        place=Place(folder),
        notes=tuple(notes),
        helps=tuple(
            f"look at the run: crossfoot receipt {quoted_path(os.path.join(folder, name))}"
            for name in dict.fromkeys([*not_footing, *other_samples])
        ),
    )


@rule_docs("CF829")
def run_failed(run_dir: str, exit_code: int, log: str, again: str) -> Finding:
    """CF829: a run of a study ended before its last step, and not because it was asked to.

    What it said is the end of its log, and is shown. The other runs are not touched by it: they are trained,
    and count. The same command tries the run again, from its last checkpoint.
    """
    return Finding(
        "CF829",
        f"{run_dir} ended with exit code {exit_code}",
        place=Place(log),
        helps=(f"mend what it says, and go on: {again}",),
    )


@rule_docs("CF577")
def results_unreadable(path: str, why: str) -> Finding:
    """CF577: the results of a study cannot be read.

    results.json and costs.json in its folder are written by `crossfoot study` from the folders of its runs.
    The same command writes them anew.
    """
    return Finding(
        "CF577",
        f"the results of the study cannot be read: {why}",
        place=Place(path),
        helps=("write them anew: give the command of the study again",),
        unreadable=True,
    )
