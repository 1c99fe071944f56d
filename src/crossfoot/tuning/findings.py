"""What can be wrong with a search for generation parameters: its file, its prompts, its trials."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted, listed

_SHOWN = 3
_TRIED = """echo '{"prompt": "1 + 1?", "answer": "2", "reference": "2", "tokens": 1}'"""
SMALLEST = {
    "model": "model: FOLDER",
    "prompts": "prompts: FILE.jsonl",
    "goal": "goal: exact_match",
    "parameters": "parameters: {do_sample: [false, true], temperature: {low: 0.2, high: 1.2}}",
    "low": "low: NUMBER",
    "high": "high: NUMBER",
}
"""What each key that must be there looks like."""


@rule_docs("CF810")
def not_a_tuning_file(path: str, place: Place, value: object) -> Finding:
    """CF810: the file for `crossfoot tune` holds no keys.

    It is YAML with the keys model, prompts, goal and parameters, and may have more (docs/tune.md):

        model: runs/demo
        prompts: questions.jsonl
        goal: exact_match
        parameters:
          do_sample: [false, true]
          temperature: {low: 0.2, high: 1.2}
    """
    what = "is empty" if value is None else f"is {'a list' if isinstance(value, list) else 'a single value'}"
    return Finding(
        "CF810",
        f"{path} {what}, and must have the keys model, prompts, goal and parameters",
        place=place,
        helps=("begin with model: FOLDER; docs/tune.md has an example",),
        unreadable=True,
    )


@rule_docs("CF811")
def unknown_tuning_key(name: str, place: Place, nearest: str | None, known: Sequence[str]) -> Finding:
    """CF811: a key that a file for `crossfoot tune` does not have.

    A key that is not understood would be a wish that is silently ignored. The parameters are those of
    transformers that are tuned here, and dtype.
    """
    return Finding(
        "CF811",
        f"{name} is not a key of a tuning file",
        place=place,
        notes=() if nearest else (f"known here: {', '.join(known)}",),
        helps=(f"the nearest is {nearest}" if nearest else f"remove {name}",),
    )


@rule_docs("CF812")
def tuning_key_missing(name: str, place: Place) -> Finding:
    """CF812: a key without which nothing can be tuned.

    `model`, `prompts`, `goal` and `parameters` must be there; a range has `low` and `high`; the goal
    `command` says which.
    """
    example = SMALLEST.get(name.rpartition(".")[2], "command: PROGRAM")
    return Finding("CF812", f"{name} is missing", place=place, helps=(f"add {example}",))


@rule_docs("CF813")
def senseless_range(name: str, why: str, place: Place, help_: str) -> Finding:
    """CF813: the values of a parameter are no range and no list to choose from.

    `{low: 0.2, high: 1.2}` is a range, `step: 0.1` in it makes a ladder of it, `log: true` tries small
    values as often as large ones. A list holds the values to choose from, each once; a single value is fixed.
    """
    return Finding("CF813", f"{name} {why}", place=place, helps=(help_,))


@rule_docs("CF814")
def no_reference(goal: str, file: str, places: Sequence[Place], total: int) -> Finding:
    """CF814: the goal compares answers with references, and prompts have none.

    `exact_match` and `chrf` need the right answer of every prompt: the record's last answer, in the forms
    that training reads (`output`, `completion`, the last turn of `messages`). A line of a .txt file has none.
    """
    shown = places[:_SHOWN]
    more = len(places) - len(shown)
    every = "every prompt" if len(places) == total else counted(len(places), "prompt")
    return Finding(
        "CF814",
        f"the goal {goal} needs a reference, and {every} of {file} "
        f"{'has' if len(places) in (1, total) else 'have'} none",
        place=shown[0],
        label="without an answer",
        others=tuple((place, "and here") for place in shown[1:]),
        notes=(f"{more:,} more are not shown here",) if more else (),
        helps=('give each its answer: {"prompt": TEXT, "completion": ANSWER}', "or choose the goal length"),
    )


@rule_docs("CF815")
def start_out_of_place(name: str, why: str, place: Place, help_: str) -> Finding:
    """CF815: a start value is not among the values that may be tried.

    Each entry of `start` is one trial, tried before all others. What it does not name is drawn. Its values
    lie within the ranges and lists of `parameters`.
    """
    return Finding("CF815", f"{name} {why}", place=place, helps=(help_,))


@rule_docs("CF816")
def nothing_to_choose(place: Place) -> Finding:
    """CF816: every parameter that has an effect has one value, so that there is nothing to choose.

    `crossfoot generate` answers with fixed parameters. A search needs two values of one parameter at least.
    """
    return Finding(
        "CF816",
        "parameters leaves nothing to choose: what has an effect has one value",
        place=place,
        helps=("give one of them a list or a range: do_sample: [false, true]",),
    )


@rule_docs("CF817")
def command_failed(command: str, why: str, place: Place, said: Sequence[str] = ()) -> Finding:
    """CF817: the command that judges answers did not do so.

    It gets one JSON object a line on its standard input, with prompt, answer, reference (where there is one)
    and tokens, and prints one number a line, in the same order. It is started without a shell, in the
    folder where crossfoot was started. Trials that are finished are kept.
    """
    return Finding(
        "CF817",
        f"{command} {why}",
        place=place,
        notes=tuple(f"it said: {line}" for line in said),
        helps=(f"try it alone: {_TRIED} | {command}", "mend it, and give the same command again"),
    )


@rule_docs("CF818")
def all_trials_failed(trials: int, reasons: Sequence[str]) -> Finding:
    """CF818: no trial could be measured, so that there is no best one.

    A trial fails when the model cannot answer with its parameters: no memory, or probabilities that are not
    finite (float16 has too few numbers for some models). Its reason stands in trials.jsonl.
    """
    distinct = list(dict.fromkeys(reasons))
    return Finding(
        "CF818",
        "the only trial failed" if trials == 1 else f"all {trials:,} trials failed",
        notes=tuple(distinct[:_SHOWN]),
        helps=("try other values, dtype: float32 first, in another folder (dir)",),
    )


@rule_docs("CF819")
def other_tuning(folder: str, changed: Sequence[str]) -> Finding:
    """CF819: the folder holds the trials of another search, or one that is at work.

    Trials are only comparable with the same model, prompts, goal, parameters, seed and versions. The one key
    that may change is `trials`: raise it, and the search goes on. Everything else is another search, and
    needs another folder.
    """
    return Finding(
        "CF819",
        f"{folder} cannot be gone on with: {listed(list(changed))}",
        helps=("name another folder: dir: FOLDER", "or put back what was changed"),
    )


@rule_docs("CF820")
def trials_damaged(path: str, line: int, why: str) -> Finding:
    """CF820: a line of trials.jsonl is not what `crossfoot tune` writes.

    A last line without its end, as a kill leaves it, is no damage: that trial is measured again.
    """
    return Finding(
        "CF820",
        f"trials.jsonl is damaged: {why}",
        place=Place(path, line),
        helps=("put the line back as it was; or begin anew in another folder: dir: FOLDER",),
        unreadable=True,
    )


@rule_docs("CF821")
def not_into(folder: str, why: str) -> Finding:
    """CF821: the best parameters cannot be written into the folder that was named.

    `--into` takes the folder of a model, as `crossfoot merge` makes one. Its generation_config.json is kept
    beside the new one.
    """
    return Finding(
        "CF821",
        f"the best parameters cannot be put into {folder}: {why}",
        helps=("name the folder of a model, with config.json, that you may write to",),
    )
