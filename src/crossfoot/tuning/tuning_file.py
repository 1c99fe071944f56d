"""The file that says what is tuned: model, prompts, goal, parameters; and what is wrong with it, with places.
Torch-free.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.tuning.findings import not_a_tuning_file, tuning_key_missing, unknown_tuning_key
from crossfoot.tuning.parameters import RANGE_KEYS, read_parameters, read_start
from crossfoot.tuning.space import KINDS, Space
from crossfoot.written.config_values import Count, Text
from crossfoot.written.findings import (
    broken_yaml,
    duplicate_key,
    in_file_order,
    unreadable_config,
    wrong_value,
)
from crossfoot.written.meant_value import nearest_word
from crossfoot.written.shown import dotted
from crossfoot.written.slip_findings import refuse_slips
from crossfoot.written.slips import Kind
from crossfoot.written.source import UnreadableText, read_source
from crossfoot.written.wording import wanted
from crossfoot.written.yaml_tree import BrokenYaml, Keys, Tree, read_tree

Measure = Literal["exact_match", "chrf", "length", "tokens_per_second", "command"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Goal(_Section):
    """What is wanted of the answers."""

    measure: Measure
    direction: Literal["maximize", "minimize"] | None = None
    """None: length is minimized, all else maximized."""
    command: Text | None = None
    """Of the measure command: a program and its words."""
    until: Annotated[str, Field(min_length=1)] | None = None
    """Only what an answer says before this text is judged."""

    @property
    def is_maximized(self) -> bool:
        """Whether more is better."""
        return (self.direction or ("minimize" if self.measure == "length" else "maximize")) == "maximize"

    @property
    def needs_references(self) -> bool:
        """Whether answers are held against the right ones."""
        return self.measure in ("exact_match", "chrf")

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that an answer can be worth."""
        least = -math.inf if self.measure == "command" else 0.0
        return least, {"exact_match": 1.0, "chrf": 100.0}.get(self.measure, math.inf)

    @property
    def is_timed(self) -> bool:
        """Whether it changes from one time to the next, also of greedy answers."""
        return self.measure == "tokens_per_second"


class TuningConfig(_Section):
    """The keys. step, base, template, system_prompt, device_map: as the options of `crossfoot generate`."""

    model: Text
    prompts: Text
    goal: Goal
    parameters: Annotated[dict[str, Any], Field(min_length=1)]
    start: list[dict[str, Any]] = Field(default_factory=list)
    trials: Annotated[int, Field(ge=1, le=10_000)] = 20
    repeats: Annotated[int, Field(ge=1, le=100)] = 3
    """Of each trial that samples or is timed, each with its own seed."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    batch_size: Count = 16
    dir: Text | None = None
    """Where trials and results go; None: beside this file, by its name."""
    step: Count | None = None
    base: Text | None = None
    template: Text | None = None
    system_prompt: str | None = None
    device_map: Text | None = None


@dataclass(frozen=True)
class TuningFile:
    """A file, read. space, start: of `parameters` and `start`, by names of transformers. warnings: what is
    odd about it.
    """

    path: str
    config: TuningConfig
    space: Space
    start: tuple[Mapping[str, Any], ...]
    tree: Tree
    warnings: tuple[Finding, ...] = ()

    @property
    def folder(self) -> str:
        """Where trials and results go."""
        return os.path.normpath(self.config.dir or os.path.splitext(self.path)[0])

    def place(self, *keys: str) -> Place:
        """Where a value is written; without one, the file."""
        return place_of(self.tree, keys, self.path)


def read_tuning(path: str) -> TuningFile:
    """Raises Refused with everything that is wrong with it, in the order of the file."""
    tree = _read(path)
    findings = [duplicate_key(dotted(keys), first, second) for keys, first, second in tree.duplicates]
    if isinstance(measure := tree.value.get("goal"), str):
        tree.value["goal"] = {"measure": measure}
        tree.spots["goal", "measure"] = tree.spots["goal",]
    config: TuningConfig | None = None
    try:
        config = TuningConfig.model_validate(tree.value)
    except ValidationError as error:
        findings += _in_plain_words(error, tree, path)
    space, found = read_parameters(tree, path)
    start, found_of_start = read_start(tree, path, space)
    findings += [*_of_goal(tree, path), *found, *found_of_start]
    if config is None or any(finding.severity == "error" for finding in findings):
        raise Refused(in_file_order(findings, path))
    return TuningFile(path, config, space, start, tree, in_file_order(findings, path))


def place_of(tree: Tree, keys: Keys, path: str) -> Place:
    """Where a value is written, else its section, else the file."""
    while keys and keys not in tree.spots:
        keys = keys[:-1]
    return tree.spots[keys].value if keys else Place(path)


def _read(path: str) -> Tree:
    try:
        source = read_source(path)
    except UnreadableText as error:
        raise Refused(unreadable_config(error)) from error
    refuse_slips(source, _kind_of)
    try:
        tree = read_tree(source)
    except BrokenYaml as error:
        raise Refused(broken_yaml(error)) from error
    if not isinstance(tree.value, dict) or not tree.value:
        where = tree.spots[()].value if tree.spots else Place(path)
        raise Refused(not_a_tuning_file(path, where, tree.value or None))
    return tree


def _kind_of(name: str) -> Kind | None:
    """What a key of this name holds."""
    if name in ("goal", "parameters"):
        return "section"
    if name in KINDS or name == "start":
        return "list"
    known = (*TuningConfig.model_fields, *Goal.model_fields, *RANGE_KEYS)
    return "text" if name in known else None


def _of_goal(tree: Tree, path: str) -> Iterator[Finding]:
    """The command of the goal is there exactly where it is asked."""
    goal = tree.value.get("goal")
    if not isinstance(goal, dict):
        return
    place = place_of(tree, ("goal", "measure"), path)
    if goal.get("measure") == "command" and goal.get("command") is None:
        yield tuning_key_missing("goal.command", place)
    elif goal.get("command") is not None and goal.get("measure") not in ("command", None):
        where = place_of(tree, ("goal", "command"), path)
        helps = ("write measure: command, or leave the command out",)
        yield wrong_value("goal.command", goal["command"], f"left out with {goal['measure']}", where, helps)


def _in_plain_words(error: ValidationError, tree: Tree, path: str) -> Iterator[Finding]:
    details = error.errors(include_url=False)
    known = {
        one["loc"]: tuple((Goal if len(one["loc"]) > 1 else TuningConfig).model_fields) for one in details
    }
    unknown = [one["loc"] for one in details if one["type"] == "extra_forbidden"]
    meant = {keys: nearest_word(str(keys[-1]), known[keys]) for keys in unknown}
    for detail in details:
        keys: Keys = detail["loc"]
        name, spot = dotted(keys), tree.spots.get(keys)
        place = spot.value if spot else place_of(tree, keys, path)
        if keys in meant:
            where = spot.key if spot and spot.key else place
            yield unknown_tuning_key(name, where, meant[keys], known[keys])
        elif detail["type"] != "missing":
            yield wrong_value(name, detail["input"], wanted(detail), place, _choices_near(detail))
        elif keys[-1] not in meant.values():
            yield tuning_key_missing(name, place)


def _choices_near(detail: Mapping[str, Any]) -> tuple[str, ...]:
    if detail["type"] != "literal_error" or not isinstance(detail["input"], str):
        return ()
    choices: Sequence[str] = str(detail["ctx"]["expected"]).split("'")[1::2]
    near = nearest_word(detail["input"], choices)
    return (f"the nearest is {near}",) if near else ()
