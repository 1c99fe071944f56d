"""The mistakes that can stand in a run config: one function, one code, one page of the manual each (CF001 to
CF009, CF105, CF106, CF110, CF201).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator

from crossfoot.findings.finding import Edit, Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted, listed
from crossfoot.written.known_keys import Suggestion
from crossfoot.written.shown import shown
from crossfoot.written.source import UnreadableText
from crossfoot.written.yaml_tree import BrokenYaml

COMMAND_LINE = "command line"


def in_file_order(findings: Iterable[Finding], config: str) -> tuple[Finding, ...]:
    """The run config's findings first, then those of other files, then those of the command line."""

    def order(finding: Finding) -> tuple[bool, bool, str, int, int, str]:
        place = finding.place or Place("")
        is_word = place.file == COMMAND_LINE
        return (is_word, place.file != config, place.file, place.line, place.column, finding.code)

    return tuple(sorted(findings, key=order))


@rule_docs("CF001")
def unreadable_config(error: UnreadableText) -> Finding:
    """CF001: the run config cannot be read as text.

    The file is absent, a folder, not an ordinary file, larger than 1 MiB, not UTF-8, or begins with a byte
    order mark (some editors write one; it is an invisible character in front of the first key). Nothing else
    can be checked before this is repaired, so it stands alone and the exit code is 2.
    """
    return Finding("CF001", error.title, place=error.place, helps=error.helps, unreadable=True)


@rule_docs("CF002")
def broken_yaml(error: BrokenYaml, fix: tuple[Edit, ...] = ()) -> Finding:
    """CF002: the run config is not YAML.

    Configs are YAML 1.2: `no` and `on` are words, `1e-4` is a number, and `:` followed by a space inside a
    value needs quotes. Tags (`!x`), merge keys (`<<`), a second document and aliases that contain themselves
    are refused.
    """
    return Finding(
        "CF002",
        f"the YAML cannot be read: {error.title}",
        place=error.place,
        notes=error.notes,
        helps=error.helps or ("repair the line that is marked; quote a value that holds : or #",),
        unreadable=True,
        fix=fix,
    )


@rule_docs("CF003")
def not_a_config(path: str, place: Place, value: object) -> Finding:
    """CF003: the run config holds no keys.

    It is empty, or has only comments, or is a list or a single value. A config is a mapping of sections:

        run:
          name: demo
    """
    what = "is empty" if value is None else f"is {'a list' if isinstance(value, list) else 'a single value'}"
    return Finding(
        "CF003",
        f"{path} {what}, and a run config is a mapping of sections",
        place=place,
        helps=("begin with run: and, indented below it, name: NAME",),
        unreadable=True,
    )


@rule_docs("CF004")
def unknown_key(
    path: str,
    place: Place,
    suggestion: Suggestion | None,
    siblings: tuple[str, ...] = (),
    fix: tuple[Edit, ...] = (),
    notes: tuple[str, ...] = (),
) -> Finding:
    """CF004: a key that no run config has.

    A key that is not understood would be a setting that is silently ignored, so it is an error. The help
    says where the same key belongs, what the word of another trainer is called here, or the nearest key.
    """
    known = () if suggestion or not siblings else (f"known here: {', '.join(siblings)}",)
    why = (suggestion.note,) if suggestion and suggestion.note else ()
    helps = (suggestion.help,) if suggestion else () if notes else (f"remove {path}",)
    if notes and not suggestion:
        known, helps = (), (f"write its keys where they belong, and remove {path}",)
    title = f"{path} is not a key of a run config"
    return Finding("CF004", title, place=place, notes=(*notes, *why, *known), helps=helps, fix=fix)


@rule_docs("CF005")
def duplicate_key(path: str, first: Place, second: Place) -> Finding:
    """CF005: the same key twice in one section.

    Most readers keep the last value without a word, so a person who edits the first one changes nothing.
    """
    return Finding(
        "CF005",
        f"{path} is written twice",
        place=second,
        label="again here",
        others=((first, "first here"),),
        helps=("remove one of the two",),
    )


_SMALLEST = {
    "run": "{name: NAME}",
    "model": "{path: FOLDER}",
    "data": "{train: [FILE]}",
    "batch": "{micro_batch_size: 1, global_batch_size: 16}",
    "lr": "{reference: 1.0e-4}",
    "train": "{epochs: 1}",
}
"""What each section that a run needs must have."""


@rule_docs("CF006")
def missing_key(path: str, place: Place) -> Finding:
    """CF006: a key or section without which no run can be planned.

    The place is the section that should hold it, or the file when a whole section is absent.
    """
    section, _, key = path.rpartition(".")
    if not section:
        return Finding(
            "CF006",
            f"the section {path} is missing",
            place=place,
            helps=(f"add {path}: {_SMALLEST[path]}",),
        )
    return Finding("CF006", f"{path} is missing", place=place, helps=(f"add {key}: below {section}:",))


@rule_docs("CF007")
def wrong_value(
    path: str,
    value: object,
    wanted: str,
    place: Place,
    helps: tuple[str, ...] = (),
    fix: tuple[Edit, ...] = (),
    notes: tuple[str, ...] = (),
) -> Finding:
    """CF007: a value of the wrong kind, or outside what is possible.

    Types are not guessed: `"8"` is text and not a number, `2.5` and `2.0` are no counts, `yes` is a word
    (YAML 1.2). Counts begin at 1.

    A path is taken as it stands, but for a leading `~` or `~user`, which is a home folder in every key alike.
    A variable that nobody has filled in (`$SCRATCH/run`), blanks around it, backslashes and URLs are refused
    before anything of that name is made; what is there under that very name is meant by it.
    """
    title = f"{path} must be {wanted}, and is {shown(value)}"
    helps = helps or (f"set {path} to {wanted}",)
    return Finding("CF007", title, place=place, notes=notes, helps=helps, fix=fix)


@rule_docs("CF008")
def bad_override(word: str, place: Place, fact: str, helps: tuple[str, ...] = ()) -> Finding:
    """CF008: a word after the config that is no override.

    An override is `path=value`: the path as in the config with dots, the value as in YAML. Examples:
    `batch.micro_batch_size=4`, `data.train=[a.json]`, `lora=null`, `batch.global_batch_size=null`. Quote the
    word for the shell when it has brackets or spaces. The last of two overrides of one path holds.
    """
    return Finding(
        "CF008",
        f"the override {shown(word)} {fact}",
        place=place,
        label="" if place.line else word,
        helps=helps or ("close what is opened in it, and quote the whole word for the shell",),
        unreadable=True,
    )


@rule_docs("CF038")
def accepted_without_reason(value: object, place: Place) -> Finding:
    """CF038: `checks.accept` names findings without the reason why each of them is right.

    Each is named by its code or name, and has its reason, on one line:

        checks:
          accept:
            CF514: long answers are cut on purpose

    On the command line: `'checks.accept.CF514=long answers are cut on purpose'`. The reason stands in the
    output and in the receipt, where somebody else reads it later.
    """
    entries = dict(_accepted_entries(value)) or {"CF514": ""}
    code, reason = next(iter(entries.items()))
    mapping = ", ".join(
        f"{key}: {json.dumps(why or _A_REASON, ensure_ascii=False)}" for key, why in entries.items()
    )
    word = shlex.quote(f"checks.accept.{code}={reason or _A_REASON}")
    return Finding(
        "CF038",
        f"checks.accept must give a reason for each finding, and is {shown(value)}",
        place=place,
        helps=(f"write accept: {{{mapping}}}, with your reasons", f"or on the command line: {word}"),
    )


_A_REASON = "why this is right"


def _accepted_entries(value: object) -> Iterator[tuple[str, str]]:
    """(code or name, reason, "" without) of whatever form somebody has thought of."""
    if isinstance(value, str) and value.strip():
        yield value.strip(), ""
    for one in value if isinstance(value, list) else ():
        if isinstance(one, dict) and isinstance(code := one.get("code", one.get("name")), str):
            reason = one.get("reason")
            yield code, reason if isinstance(reason, str) else ""
        else:
            yield from _accepted_entries(one)
    if isinstance(value, dict):
        yield from ((key, why.strip() if isinstance(why, str) else "") for key, why in value.items())


@rule_docs("CF009")
def length_not_given_once(places: tuple[tuple[Place, str, object], ...], section: Place) -> Finding:
    """CF009: a run has exactly one length, `train.epochs` or `train.max_steps`.

    With both, one of them would silently lose, and the learning rate's schedule would end elsewhere than the
    run.
    """
    if not places:
        return Finding(
            "CF009",
            "the run has no length: neither train.epochs nor train.max_steps is given",
            place=section,
            helps=(
                "set train.epochs to 1, or more: passes over the data",
                "or set train.max_steps to 1000, or another number: optimizer steps",
            ),
        )
    (first, key, value), (second, other, other_value) = places[:2]
    return Finding(
        "CF009",
        f"the run has two lengths: {key} {shown(value)} and {other} {shown(other_value)}",
        place=first,
        others=((second, "and here"),),
        helps=(f"remove train.{other} to train by {key}", f"or remove train.{key} to train by {other}"),
    )


@rule_docs("CF105")
def too_few_batch_numbers(given: tuple[tuple[Place, str, object], ...], section: Place) -> Finding:
    """CF105: a batch needs two of its three numbers.

    `micro_batch_size x grad_accum_steps x GPUs = global_batch_size`: any two of the three decide the batch on
    a given number of GPUs, and the third follows. With one alone crossfoot would have to choose the second,
    and the run would have a batch that nobody wrote down. Most configs give `global_batch_size`, the samples
    of an optimizer step over all GPUs, and `micro_batch_size`, as many as one GPU's memory holds at once, or
    in its place `micro_batch_tokens`, the tokens that it holds.
    """
    note = "micro_batch_size x grad_accum_steps x GPUs = global_batch_size: the third follows from two"
    if not given:
        return Finding(
            "CF105",
            "no batch number is given, and two of the three are needed",
            place=section,
            notes=(note,),
            helps=(
                "set batch.global_batch_size (samples per step) and batch.micro_batch_size (samples per GPU)",
            ),
        )
    place, key, value = given[0]
    other = "micro_batch_size" if key == "global_batch_size" else "global_batch_size"
    meaning = "samples per GPU per forward" if other == "micro_batch_size" else "samples per optimizer step"
    return Finding(
        "CF105",
        f"batch.{key} is given alone ({shown(value)}), and two of the three batch numbers are needed",
        place=place,
        notes=(note,),
        helps=(f"also set batch.{other}: {meaning}",),
    )


@rule_docs("CF110")
def slot_limited_twice(samples: tuple[Place, str, object], tokens: tuple[Place, str, object]) -> Finding:
    """CF110: `batch.micro_batch_size` and `batch.micro_batch_tokens` are both given.

    They say the same thing in two units: what one forward of one GPU holds, in samples or in tokens. With
    both, one of them would have no meaning.
    """
    return Finding(
        "CF110",
        f"a forward is limited twice: micro_batch_size {shown(samples[2])}, micro_batch_tokens "
        f"{shown(tokens[2])}",
        place=tokens[0],
        others=((samples[0], "and here"),),
        helps=(
            "remove batch.micro_batch_size: a forward holds so many tokens",
            "or remove batch.micro_batch_tokens: a forward holds so many samples",
        ),
    )


@rule_docs("CF106", name="node-counts-differ")
def nodes_differ(listed_at: Place, nodes_listed: int, num_nodes_at: Place, num_nodes: int) -> Finding:
    """CF106: `cluster.gpus_per_node` lists another number of nodes than `cluster.num_nodes` says.

    A list has one number of GPUs for each node, in order: `gpus_per_node: [2, 1]` is a node with 2 GPUs and
    one with 1. It says the number of nodes by itself, so `num_nodes` is best left out beside it.
    """
    wrong, entries = f"{num_nodes:,}", f"{counted(nodes_listed, 'node')}"
    return Finding(
        "CF106",
        f"gpus_per_node lists {entries}, but num_nodes says {wrong}",
        place=num_nodes_at,
        others=((listed_at, entries),),
        helps=("remove num_nodes: the list says it", f"or list {wrong} numbers, one for each node"),
    )


@rule_docs("CF201")
def warmup_given_twice(given: tuple[tuple[Place, str, object], ...]) -> Finding:
    """CF201: at most one of lr.warmup_steps, lr.warmup_fraction and lr.warmup_samples.

    They say the same thing in three units; two of them contradict each other as soon as the data or the batch
    changes.
    """
    first = given[0]
    keys = [key for _, key, _ in given]
    return Finding(
        "CF201",
        f"the warm-up is given {'twice' if len(given) == 2 else 'three times'}: "
        + listed([f"{key} {shown(value)}" for _, key, value in given]),
        place=first[0],
        others=tuple((place, "and here") for place, _, _ in given[1:]),
        helps=(f"keep one of {listed([f'lr.{key}' for key in keys])} and remove the rest",),
    )
