"""A task written for lm-evaluation-harness (0.4.13): YAML, and its items beside it, so that the harness asks
the same, character by character, and needs no network for it.

Each document holds what is asked, ready: `heading`, `asked`, `choices`, `gold`. A template would have to say
again what prompts.py says.
"""

from __future__ import annotations

import io
import json
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML

from crossfoot.durable import replace
from crossfoot.findings.finding import Refused
from crossfoot.output import say
from crossfoot.phrases import counted, reason_of
from crossfoot.shell_words import quoted_path
from crossfoot.tasks.findings import not_exported
from crossfoot.tasks.items import Item, Kind, Request, Task
from crossfoot.tasks.prompts import GENERATED, SCORERS, Wording, requests_of, wording_of
from crossfoot.tasks.reading import read_tasks

_PREFIX = "crossfoot_"
_MEAN = {"aggregation": "mean", "higher_is_better": True}
_LOSS = {"aggregation": "weighted_perplexity", "higher_is_better": False}
_ASKED: Mapping[Kind, Mapping[str, Any]] = {
    "choice": {
        "output_type": "multiple_choice",
        "description": "heading",
        "doc_to_text": "asked",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "fewshot_delimiter": "\n\n",
        "metric_list": [{"metric": "acc", **_MEAN}, {"metric": "acc_norm", **_MEAN}],
    },
    "generate": {
        "output_type": "generate_until",
        "doc_to_text": "asked",
        "doc_to_target": "reference",
        "generation_kwargs": {
            "until": list(GENERATED.until),
            "max_gen_toks": GENERATED.max_new_tokens,
            "do_sample": GENERATED.do_sample,
        },
        "metric_list": [
            {"metric": "exact_match", **_MEAN, "ignore_case": True, "ignore_punctuation": True},
        ],
    },
    "perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "asked",
        "metric_list": [
            {"metric": "word_perplexity", **_LOSS},
            {"metric": "byte_perplexity", **_LOSS},
            {"metric": "bits_per_byte", **_LOSS, "aggregation": "bits_per_byte"},
        ],
    },
}
"""What the YAML of a subject says of how it is asked: names of the fields of its documents, most of it."""
_FEWSHOT = {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}}


def export_task(task: Task, folder: str, scorer: str = "clean", shots: int | None = None) -> str:
    """Write it into a folder that is not there yet, or empty. Returns the command that evaluates it there.
    Raises Refused: CF861, CF864.
    """
    _refuse_unfit(task, folder, scorer)
    requests = requests_of(task, scorer, shots)
    try:
        os.makedirs(folder, exist_ok=True)
        for name, text in _files(task, requests, scorer, os.path.abspath(folder)).items():
            replace(os.path.join(folder, name), text)
    except OSError as error:
        raise Refused(
            not_exported(task.name, reason_of(error), "name a folder that can be written")
        ) from error
    return f"lm_eval --include_path {quoted_path(folder)} --tasks {_PREFIX}{_word(task.name)} --model hf"


def export_verb(given: Namespace) -> int:
    """`crossfoot evaluate --export FOLDER`: all tasks, each into a folder of its own in it. Returns the exit
    code. Raises Refused, before anything is written for what is wrong with any of them.
    """
    words = {"split": given.split, "subjects": given.subjects, "with_shots": given.shots != 0}
    tasks = read_tasks(given.tasks, **words)
    folders = [os.path.join(given.export, _word(task.name)) for task in tasks]
    for task, folder in zip(tasks, folders, strict=True):
        _refuse_unfit(task, folder, given.scorer)
    commands = [
        export_task(task, folder, given.scorer, given.shots)
        for task, folder in zip(tasks, folders, strict=True)
    ]
    say(f"{given.export}: {counted(len(commands), 'task')}")
    say("next:")
    for command in commands:
        say(f"  {command}")
    return 0


def _refuse_unfit(task: Task, folder: str, scorer: str) -> None:
    """Raises Refused (CF864)."""
    if SCORERS[scorer].asking != "loglikelihood" and task.kind == "choice":
        raise Refused(not_exported(task.name, f"the harness has no scorer {scorer}", "write --scorer clean"))
    answers = {"choice": "gold", "generate": "reference"}.get(task.kind)
    if answers and any(getattr(item, answers) is None for item in task.items):
        help_ = "export a split whose answers are known"
        raise Refused(not_exported(task.name, "its answers are hidden", help_))
    if os.path.isdir(folder) and os.listdir(folder):
        help_ = "name a folder that is not there yet"
        raise Refused(not_exported(task.name, f"{folder} holds files already", help_))


def _files(task: Task, requests: Sequence[Request], scorer: str, folder: str) -> dict[str, str]:
    """Their texts, by name: a group, and a task and its documents for each subject."""
    group = _PREFIX + _word(task.name)
    files: dict[str, str] = {}
    names = []
    wording = wording_of(task, scorer) if task.kind == "choice" else None
    by_subject: dict[str, list[Request]] = {}
    for request in requests:
        by_subject.setdefault(request.item.subject, []).append(request)
    for number, (subject, asked) in enumerate(by_subject.items()):
        name = f"{group}_{_word(subject)}"
        name += f"_{number}" if name in names else ""
        names.append(name)
        shots = task.shots.get(subject, ())[: asked[0].shots]
        files[f"{name}.jsonl"] = _lines(_document(request.item, wording) for request in asked)
        data = {"test": os.path.join(folder, f"{name}.jsonl")}
        if shots:
            files[f"{name}.dev.jsonl"] = _lines(_document(shot, wording) for shot in shots)
            data["dev"] = os.path.join(folder, f"{name}.dev.jsonl")
        config = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": data}}
        fewshot = {**_FEWSHOT, "num_fewshot": len(shots)} if shots else {}
        files[f"{name}.yaml"] = _yaml({**config, "test_split": "test", **_ASKED[task.kind], **fewshot})
    metrics = [
        {"metric": each["metric"], "aggregation": "mean", "weight_by_size": True}
        for each in _ASKED[task.kind]["metric_list"]
        if each["aggregation"] == "mean"
    ]
    listed = {"aggregate_metric_list": metrics} if metrics else {}
    files[f"{group}.yaml"] = _yaml({"group": group, "task": names, **listed})
    return files


def _document(item: Item, wording: Wording | None) -> dict[str, Any]:
    """wording: of a task of choices."""
    named: dict[str, Any] = {"id": item.id, "subject": item.subject}
    if wording is None:
        reference = {} if item.reference is None else {"reference": item.reference}
        return {**named, "asked": item.question, **reference}
    return {
        **named,
        "heading": wording.heading(item.subject),
        "asked": wording.question(item),
        "choices": list(wording.continuations(item)),
        "gold": item.gold,
    }


def _lines(documents: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)


def _yaml(config: Mapping[str, Any]) -> str:
    yaml = YAML()
    yaml.width = 1 << 20
    text = io.StringIO()
    yaml.dump(dict(config), text)
    return text.getvalue()


def _word(name: str) -> str:
    """A name without what the harness takes for a pattern or a list of names."""
    return re.sub(r"[^\w-]+", "_", name)
