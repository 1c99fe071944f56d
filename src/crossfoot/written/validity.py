"""What a run config's tree is worth: the valid config, every mistake, and which keys nobody can rely on."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from crossfoot.arithmetic.batch import alike
from crossfoot.findings.finding import Edit, Finding, Place
from crossfoot.written.batch_findings import (
    batch_given_twice,
    target_without_capacity,
    thresholds_do_not_rise,
)
from crossfoot.written.config import Config
from crossfoot.written.edits import replacing
from crossfoot.written.findings import (
    COMMAND_LINE,
    accepted_without_reason,
    length_not_given_once,
    missing_key,
    nodes_differ,
    slot_limited_twice,
    too_few_batch_numbers,
    warmup_given_twice,
    wrong_value,
)
from crossfoot.written.known_keys import ACCEPT, TRAIN, is_known, sections, suggest
from crossfoot.written.meant_value import NOTHING
from crossfoot.written.paths import PATH_KEYS, fault_of
from crossfoot.written.shown import dotted
from crossfoot.written.source import Source
from crossfoot.written.unknown_keys import UnknownKeys
from crossfoot.written.wording import other_words, repairs, replacement, wanted
from crossfoot.written.yaml_tree import Keys, Spot, Tree, in_yaml

_EMPTY_IS_DEFAULT = frozenset(sections()) - {"lora", "deepspeed"}
"""Sections of which `name:` with nothing below means all defaults. `lora:` could mean two things, so it is
asked.
"""
_LIMITS = ("micro_batch_size", "micro_batch_tokens")
_STAND_INS: Mapping[Keys, Any] = {
    ("run", "name"): "unknown",
    ("model", "path"): "unknown",
    TRAIN: ["unknown"],
    ("batch",): {},
    ("lr", "reference"): 1.0,
    ("train",): {},
}
"""For what a config must have and this one has not; nobody sees them, because the keys are then unsure."""


@dataclass
class Validity:
    """config: None when the tree is beyond repair; else the keys in `unsure` are missing in it, and reading
    one raises `Unsure`.
    """

    config: Config | None = None
    findings: list[Finding] = field(default_factory=list)
    unsure: set[Keys] = field(default_factory=set)


def judge(tree: Tree, source: Source) -> Validity:
    """Validate a tree. With mistakes in it, what is left of the config is made all the same."""
    judged = Validity()
    judged.findings.extend(_fill_empty_sections(tree, judged.unsure))
    try:
        judged.config = Config.model_validate(tree.value)
    except ValidationError as error:
        _in_plain_words(error, tree, source, judged)
    _across_keys(tree, source, judged)
    _paths(tree, source, judged)
    if judged.config is None:
        judged.config = _what_is_left(tree.value, judged.unsure)
    if judged.config is not None:
        judged.config = _one_way_to_say_it(judged.config)
        _take_out(judged.config, judged.unsure)
    return judged


def _one_way_to_say_it(config: Config) -> Config:
    """With the number of nodes beside a list of GPUs, which is one number when all of them are alike, with a
    source of which only the path is said as that path, and with a batch that never changes as one number: the
    same plan is the same config.
    """
    gpus, batches = config.cluster.gpus_per_node, config.batch.from_samples
    said: dict[str, Any] = {}
    if isinstance(gpus, tuple):
        nodes = {"gpus_per_node": alike(gpus), "num_nodes": len(gpus)}
        said["cluster"] = config.cluster.model_copy(update=nodes)
    if "train" in config.data.__dict__:
        said["data"] = config.data.model_copy(update={"train": [one.shortest for one in config.data.sources]})
    if len(batches) == 1:
        said["batch"] = config.batch.model_copy(update={"global_batch_size": batches[0][1]})
    return config.model_copy(update=said)


def _take_out(config: Config, unsure: set[Keys]) -> None:
    """Remove keys from a config of our own; a section may be everybody's default, so it is copied first."""
    for path in unsure:
        values = config.__dict__
        if len(path) > 1 and path[0] in values and values[str(path[0])] is not None:
            values[str(path[0])] = values[str(path[0])].model_copy()
            values = values[str(path[0])].__dict__
        values.pop(str(path[len(path) - 1]), None)


def place_of(path: Keys, spots: Mapping[Keys, Spot], file: str) -> Place:
    """Where a value is written; without one where its section is, or the file. A section's place is its
    key.
    """
    while path and path not in spots:
        path = path[:-1]
    spot = spots.get(path) if path else None
    if spot is None:
        return Place(file)
    return spot.key if len(path) == 1 and spot.key is not None and path[0] != "deepspeed" else spot.value


def _what_is_left(values: Mapping[str, Any], unsure: set[Keys]) -> Config | None:
    """The config without its unknown and wrong keys, stand-ins where a key must be."""
    left = {
        name: copy.deepcopy(value)
        for name, value in values.items()
        if name in sections() and (name,) not in unsure
    }
    for name, value in left.items():
        if isinstance(value, dict):
            left[name] = {
                key: inner
                for key, inner in value.items()
                if is_known((name, key)) and (name, key) not in unsure
            }
    for path, value in _STAND_INS.items():
        section = left.setdefault(str(path[0]), {})
        if len(path) > 1 and isinstance(section, dict) and path[1] not in section:
            section[path[1]] = copy.deepcopy(value)
            unsure.add(path)
    if left.get("tokenizer") == {}:
        left["tokenizer"] = None
        unsure.add(("tokenizer",))
    try:
        return Config.model_validate(left)
    except ValidationError:
        return None


def _fill_empty_sections(tree: Tree, unsure: set[Keys]) -> Iterator[Finding]:
    """`cluster:` with nothing below reads as null; it means the defaults, except for lora, where null has a
    meaning.
    """
    for name, value in tree.value.items():
        if value is not None or name not in sections():
            continue
        spot = tree.spots[(name,)]
        if name in _EMPTY_IS_DEFAULT and (name != "tokenizer" or spot.is_empty):
            tree.value[name] = {}
        elif spot.is_empty:
            unsure.add((name,))
            helps = {
                "lora": ("write lora: {} for the default adapter", "or lora: null for full fine-tuning"),
                "deepspeed": ("give a file", "or remove the line to run without DeepSpeed"),
            }[name]
            wants = "a section with keys" if name == "lora" else "the path of a JSON file"
            yield wrong_value(name, None, wants, spot.value, helps)


def _in_plain_words(error: ValidationError, tree: Tree, source: Source, judged: Validity) -> None:
    """A finding for each of pydantic's errors."""
    details = [one for one in error.errors(include_url=False) if one["loc"][:2] != ACCEPT]
    if len(details) < error.error_count():
        judged.unsure.add(ACCEPT)
        place = place_of(ACCEPT, tree.spots, source.path)
        judged.findings.append(accepted_without_reason(tree.value["checks"]["accept"], place))
    unknown = UnknownKeys(tree, source)
    extra = [each["loc"] for each in details if each["type"] == "extra_forbidden"]
    unknown.take(tuple(map(str, keys)) for keys in extra if keys[:2] != TRAIN)
    for keys in (keys for keys in extra if keys[:2] == TRAIN):
        unknown.take_of_source(keys)
        judged.unsure.add(TRAIN)
    judged.findings.extend(unknown.findings)
    judged.unsure.update(tuple(path.split(".")) for path in unknown.meant)
    for detail in details:
        keys = detail["loc"]
        if detail["type"] == "extra_forbidden":
            continue
        judged.unsure.add(keys[:2] if keys[0] != "deepspeed" else keys[:1])
        if detail["type"] == "missing" and not isinstance(keys[-1], int):
            if not unknown.may_hold(dotted(keys)):
                judged.findings.append(
                    missing_key(dotted(keys), place_of(keys[:-1], tree.spots, source.path))
                )
            continue
        judged.findings.append(_wrong_value(detail, tree, source))


def _wrong_value(detail: Mapping[str, Any], tree: Tree, source: Source) -> Finding:
    keys: Keys = detail["loc"]
    if keys[-1:] == ("[key]",):  # pydantic's word for a name in a mapping
        keys = keys[:-1]
    if keys[-1:] and isinstance(keys[-1], int) and detail["type"] == "missing":  # betas: [0.9]
        keys = keys[:-1]
        detail = {**detail, "type": "too_short", "ctx": {"min_length": 2}}
    spot = tree.spots.get(keys)
    place = spot.value if spot else place_of(keys, tree.spots, source.path)
    value = detail["input"]
    if isinstance(value, dict) and spot is not None and spot.key is not None:
        place = spot.key
    text, helps = replacement(detail), repairs(detail)
    if detail["type"] == "literal_error" and not helps:  # what is nearest may train otherwise
        helps = (f"{dotted(keys)} can be {wanted(detail)}",)
    fix: tuple[Edit, ...] = ()
    if text is not None and place.file == COMMAND_LINE:
        helps = (f"write {shlex.quote(f'{dotted(keys)}={text}')}",)
    elif text is not None and spot is not None and place.file == source.path:
        start = source.offset(place)
        written = source.text[start : start + place.width].strip("\"'")
        is_whole = not isinstance(value, str) or written == value  # and not the first of its lines
        if is_whole and source.text[start] not in "&*!|>":  # an anchor or a tag belongs to more than this
            fix = (replacing(source, place, text),)
    return wrong_value(dotted(keys), value, wanted(detail), place, helps, fix, other_words(detail))


def _paths(tree: Tree, source: Source, judged: Validity) -> None:
    """A finding for every path that cannot be meant as it stands."""
    wrong = frozenset(judged.unsure)
    for keys, spot in tree.spots.items():
        key = tuple(str(part) for part in keys if not isinstance(part, int))
        value: Any = tree.value
        for part in keys:
            value = value[part]
        fault = fault_of(value, key) if isinstance(value, str) and key in PATH_KEYS else None
        if fault is None or key in wrong:
            continue
        fix: tuple[Edit, ...] = ()
        if fault.instead is not None and spot.value.file == source.path:
            fix = (replacing(source, spot.value, in_yaml(fault.instead)),)
        judged.findings.append(wrong_value(dotted(keys), value, fault.wanted, spot.value, fault.helps, fix))
        judged.unsure.add(key)


def _across_keys(tree: Tree, source: Source, judged: Validity) -> None:
    """The rules that hold between keys: the run's length, the batch's numbers, the warm-up, the nodes."""
    length_keys = ("epochs", "max_steps")
    batch_keys = (*_LIMITS, "grad_accum_steps", "global_batch_size", "target_trained_tokens")
    warmup_keys = ("warmup_steps", "warmup_fraction", "warmup_samples")

    def judge_section(section: str, keys: tuple[str, ...], finding: Finding) -> None:
        judged.findings.append(finding)
        judged.unsure.update((section, key) for key in keys)

    length = _given(tree, "train", length_keys)
    if length is not None and len(length) != 1:
        place = place_of(("train",), tree.spots, source.path)
        judge_section("train", length_keys, length_not_given_once(length, place))
    for finding in _batch_findings(tree, source):
        judge_section("batch", batch_keys, finding)
    warmup = _given(tree, "lr", warmup_keys)
    if warmup is not None and len(warmup) > 1:
        judge_section("lr", warmup_keys, warmup_given_twice(warmup))
    cluster = _given(tree, "cluster", ("gpus_per_node", "num_nodes"))
    if cluster is not None and len(cluster) == 2:
        (listed_at, _, gpus), (place, _, nodes) = cluster
        if isinstance(gpus, list) and gpus and type(nodes) is int and 1 <= nodes != len(gpus):
            finding = nodes_differ(listed_at, len(gpus), place, nodes)
            judge_section("cluster", ("gpus_per_node", "num_nodes"), finding)
    for named in ("deepspeed", "run.dir", "data.index_dir"):
        judged.findings.extend(_named_nothing(tree, tuple(named.split(".")), source, judged.unsure))
    # What was wrong in one of them leaves the others without a meaning too.
    for section, keys in (("train", length_keys), ("batch", batch_keys), ("lr", warmup_keys)):
        if (section,) in judged.unsure or any((section, key) in judged.unsure for key in keys):
            judged.unsure.update((section, key) for key in keys)


def _batch_findings(tree: Tree, source: Source) -> Iterator[Finding]:
    """Numbers of the batch that contradict each other, or are too few."""
    batch = _given(tree, "batch", (*_LIMITS, "grad_accum_steps", "global_batch_size"))
    given = {one[1]: one for one in batch or ()}
    target = _given(tree, "batch", ("target_trained_tokens",))
    limits, samples = [given[key] for key in _LIMITS if key in given], given.get("global_batch_size")
    if len(limits) == 2:
        yield slot_limited_twice(*limits)
    elif target and samples:
        yield batch_given_twice(samples, target[0])
    elif target and len(given) < 2:
        yield target_without_capacity(target[0], batch or ())
    elif not target and batch is not None and len(batch) < 2:
        yield too_few_batch_numbers(batch, place_of(("batch",), tree.spots, source.path))
    yield from _thresholds(tree)


def _thresholds(tree: Tree) -> Iterator[Finding]:
    """The first pair of a list of batches that does not begin behind the one before it."""
    section = tree.value.get("batch")
    pairs = section.get("global_batch_size") if isinstance(section, dict) else None
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and pair for pair in pairs):
        return
    firsts = [pair[0] for pair in pairs]
    if not all(type(first) is int and first >= 0 for first in firsts):
        return
    for index, first in enumerate(firsts):
        if first <= firsts[index - 1] if index else first != 0:
            place = tree.spots["batch", "global_batch_size", index, 0].value
            yield thresholds_do_not_rise(place, index, firsts)
            return


def _named_nothing(tree: Tree, keys: Keys, source: Source, unsure: set[Keys]) -> Iterator[Finding]:
    """`None` is a word in YAML, and would be the name of a file; in quotes it is meant to be."""
    value: Any = tree.value
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    place = (
        tree.spots[keys].value
        if isinstance(value, str) and value.lower() in NOTHING and value != "~"
        else None
    )
    is_quoted = place and place.file == source.path and source.text[source.offset(place)] in "\"'"
    if place is not None and not is_quoted:
        unsure.add(keys)
        helps = ("write null, or leave the key out",)
        yield wrong_value(dotted(keys), value, "a path or null", place, helps)


def _given(tree: Tree, section: str, keys: tuple[str, ...]) -> tuple[tuple[Place, str, object], ...] | None:
    """(place, key, value) of each of `keys` that has a value; None when the section is absent, or when fewer
    than two are there and an unknown key may be the missing one: its own finding says so.
    """
    values = tree.value.get(section)
    if not isinstance(values, dict):
        return None
    unknown = [key for key in values if not is_known((section, key))]
    meant = [suggestion.path for key in unknown if (suggestion := suggest((section, key), set(values)))]
    given = tuple(
        (tree.spots[(section, key)].value, key, values[key]) for key in keys if values.get(key) is not None
    )
    may_be_misspelt = any(f"{section}.{key}" in meant for key in keys)
    return None if may_be_misspelt and len(given) < 2 else given
