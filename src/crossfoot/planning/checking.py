"""The verb check: everything that is wrong with a run, at once, from its files alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from crossfoot.arithmetic.batch import batches_in_words
from crossfoot.checks.launch.rules_files import out_of_sight
from crossfoot.checks.model_folder import has_weights_here
from crossfoot.checks.registry import Facts
from crossfoot.checks.rules_accept import accepted_for_nothing
from crossfoot.findings.finding import Finding, Refused
from crossfoot.phrases import counted
from crossfoot.planning.prepare import CheckedRun, existing_index, read_and_check, survey
from crossfoot.planning.several_starts import files_with_the_same_words, merged
from crossfoot.planning.start_conditions import Start, unmet
from crossfoot.runs.restarts import AUTO, is_started_again
from crossfoot.runs.run_folder import holds_run
from crossfoot.written.findings import in_file_order
from crossfoot.written.hub import said_beforehand
from crossfoot.written.launch.read import is_out_of_sight
from crossfoot.written.launch.statement import LaunchFile, with_named
from crossfoot.written.overriding import told_apart
from crossfoot.written.section import Unsure

NO_ENVIRONMENT: Mapping[str, str] = {}


@dataclass(frozen=True)
class Examined:
    """What a look at a run found. compared: when that is nothing, or is accepted, a line with the files and
    numbers that were held against each other.
    """

    findings: tuple[Finding, ...]
    compared: str = ""


def find_all(
    path: str, words: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> tuple[Finding, ...]:
    """All findings about a run, in file order. words: overrides and launch files. environ: of the job that
    this is in, if any. Raises only what is a defect of ours.
    """
    return examine_run(path, words, environ).findings


def examine_run(path: str, words: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Examined:
    """The same, with what was compared."""
    overrides, launch_files = told_apart(words)
    sharing = files_with_the_same_words(path, launch_files)
    examined = [_examine(path, overrides, files, environ) for files in sharing]
    if len(examined) == 1:
        return examined[0]
    found = merged([(files, each.findings) for files, each in zip(sharing, examined, strict=True)])
    return Examined(in_file_order(found, path), "\n".join(each.compared for each in examined))


def _examine(
    path: str, overrides: Sequence[str], launch_files: Sequence[str], environ: Mapping[str, str] | None
) -> Examined:
    """Launch files that may be held against the run together."""
    try:
        checked = read_and_check(path, overrides, launch_files=launch_files, environ=environ)
        found = unmet(Start(checked.run, _continues(checked, environ or NO_ENVIRONMENT)))
        checked = checked.and_found([*map(said_beforehand, found)])
        checked = survey(checked, existing_index(checked), look=True)
    except Refused as refused:
        return Examined(refused.findings)
    if not checked.has_error:
        in_vain = [*accepted_for_nothing(checked.facts, checked.findings)]
        checked = checked.and_found(in_vain) if in_vain else checked
    own = _without_other_runs(checked)
    found = tuple(_as_seen_from_here(each, launch_files) for each in own)
    if any(finding.accepted is None for finding in found):
        return Examined(found)
    files, what = ", ".join([path, *launch_files]), "nothing else" if found else "nothing"
    return Examined(found, f"{files}: {what} found ({', '.join(_compared(checked))})")


def _without_other_runs(checked: CheckedRun) -> Iterator[Finding]:
    """Of a launch file that starts another config only that is said: its numbers are of the other run. One
    that is not there may be a slip.
    """
    configs = {file.path: file.config for file in with_named(checked.facts.launch)}
    there = {path for path, config in configs.items() if config and os.path.exists(config.path)}
    others = {each.place.file for each in checked.findings if each.place and _names_another(each)} & there
    for each in checked.findings:
        if (
            _names_another(each)
            or not each.code.startswith("CF4")
            or not each.place
            or each.place.file not in others
        ):
            yield each


def _names_another(finding: Finding) -> bool:
    return finding.code == "CF461" and finding.severity == "error"


def _as_seen_from_here(finding: Finding, launch_files: Sequence[str]) -> Finding:
    """A note in place of an error, where a launch file names a path of the cluster for data or DeepSpeed."""
    spots = [place for place in (finding.place, *(place for place, _ in finding.others)) if place]
    named_at = next((place for place in spots if place.file in launch_files), None)
    path = finding.label.partition(": ")[0] if finding.code == "CF501" else spots[0].file if spots else ""
    if finding.code in _ABSENT and named_at is not None and is_out_of_sight(path):
        return out_of_sight(path, named_at)
    return finding


_ABSENT = ("CF501", "CF301")


def _continues(checked: CheckedRun, environ: Mapping[str, str]) -> bool:
    """Whether the start goes on with a run: a launch file says --continue (auto: and there is one), or SLURM
    or torchrun has started it again.
    """
    said = {word for file in checked.facts.launch for word in _continued(file)}
    if said - {AUTO}:
        return True
    try:
        return (AUTO in said and holds_run(checked.run.run_dir)) or is_started_again(checked.run, environ)
    except (Refused, Unsure):
        return False


def _continued(file: LaunchFile) -> Iterator[str]:
    """The word behind each --continue of a launch file; "" where there is none."""
    for command in file.commands:
        words = [argument.text for argument in command.arguments]
        for word, following in zip_longest(words, words[1:], fillvalue=""):
            option, equals, value = word.partition("=")
            if option == "--continue":
                yield value if equals else following


def _compared(checked: CheckedRun) -> Iterator[str]:
    """What a reader may rely on: numbers that were known, files that were there."""
    facts = checked.facts
    if facts.batch is not None:
        topology = facts.batch.topology
        yield counted(topology.num_nodes, "node")
        yield counted(topology.world_size, "GPU")
        written = facts.run.config.batch
        if written.target_trained_tokens is not None:
            yield f"steps of {written.target_trained_tokens:,} trained tokens"
        else:
            yield f"batch {batches_in_words(written.from_samples or ((0, facts.batch.global_batch_size),))}"
    yield from _data(facts)
    yield from _model(facts)
    if facts.deepspeed is not None:
        yield facts.deepspeed.path
    if any(file.kind == "environment" for file in facts.launch):
        yield "the variables of this job"


def _data(facts: Facts) -> Iterator[str]:
    look = facts.data
    if look is not None and look.is_whole:
        yield counted(look.records, "record")
    elif look is not None and facts.schedule is not None:
        yield f"about {counted(facts.schedule.num_samples, 'record')}, {look.records:,} of them read"


def _model(facts: Facts) -> Iterator[str]:
    if facts.model is not None:
        yield "model config"
    if has_weights_here(facts.run.config.model.path):
        yield "weights"
