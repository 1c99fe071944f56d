"""The folder of a study: study.json says what was asked, and the runs lie below it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crossfoot import durable
from crossfoot.documents import Malformed, read_object
from crossfoot.findings.finding import Refused
from crossfoot.phrases import listed, reason_of
from crossfoot.runs.changing import FREE
from crossfoot.shell_words import unused_path
from crossfoot.studies.design import Asked, factor_word
from crossfoot.studies.findings import other_study
from crossfoot.written.config import Config

STUDY, STUDY_FORMAT = "study.json", 1
_LOCK = "study.lock"
_OF_THE_STUDY = ("run", "train", "validation")
"""Sections of the config that the study writes, or that change nothing."""
_GROWING = ("batches", "rates", "seeds")
"""Of these more may be asked than before: what is trained belongs to the larger study too."""


def asked_document(asked: Asked, config: Config) -> dict[str, Any]:
    """study.json: what was asked of which config. Where and how it is computed is left out."""
    return {
        "format": STUDY_FORMAT,
        "name": config.run.name,
        "batches": list(asked.batches),
        "rates": [factor_word(factor) for factor in asked.factors],
        "seeds": list(asked.seeds),
        "budget_samples": asked.budget_samples,
        "validations": asked.validations,
        "branch": asked.branch,
        "config": _compared(config),
    }


def _compared(config: Config) -> dict[str, Any]:
    """The keys that decide what the runs are, as they are written."""
    kept: dict[str, Any] = {}
    for section, value in config.model_dump(mode="json").items():
        if section in FREE or section in _OF_THE_STUDY:
            continue
        if isinstance(value, dict):
            value = {key: one for key, one in value.items() if f"{section}.{key}" not in FREE}
        kept[section] = value
    return kept


@contextmanager
def study_folder(folder: str, document: Mapping[str, Any]) -> Iterator[None]:
    """The folder, this process's alone while it is open. Raises Refused (CF826) where it holds another study
    or another command is at work in it; OSError.
    """
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, _LOCK), "ab") as lock:
        try:
            durable.lock(lock.fileno())
        except BlockingIOError as error:
            words = ["another command is at work in it"]
            raise Refused(other_study(folder, words, unused_path(folder))) from error
        refuse_other(folder, document)
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        if not (path := Path(folder, STUDY)).exists() or path.read_text(encoding="utf-8") != text:
            durable.replace(path, text)
        yield


def refuse_other(folder: str, document: Mapping[str, Any]) -> None:
    """Raises Refused (CF826), naming what differs with both values, where the folder holds another study, or
    something else. A study that asks for more batches, rates or seeds is no other one.
    """
    path = os.path.join(folder, STUDY)
    changed: list[str] = []
    if os.path.exists(path):
        try:
            before = read_object(path)
        except (OSError, Malformed) as error:
            changed.append(f"study.json: {reason_of(error)}")
        else:
            changed += _changes(before, json.loads(json.dumps(document)))
    elif os.path.isdir(folder) and (names := _foreign(folder)):
        changed.append(f"it holds no study, and {names[0]} is in it")
    if changed:
        raise Refused(other_study(folder, changed, unused_path(folder)))


def _foreign(folder: str) -> list[str]:
    names: list[str] = []
    with suppress(OSError):
        names = sorted(name for name in os.listdir(folder) if name != _LOCK)
    return names


def _changes(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """In words, what differs, key by key."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in (*now, *(key for key in before if key not in now)):
            inside = f"{path}.{key}" if path else key
            yield from _changes(before.get(key), now.get(key), inside.removeprefix("config."))
    elif path in _GROWING and isinstance(before, list) and isinstance(now, list):
        if left_out := [str(one) for one in before if one not in now]:
            yield f"{path} had {listed(left_out)} too"
    elif before != now:
        yield f"{path} was {json.dumps(before)}, and is {json.dumps(now)}"
