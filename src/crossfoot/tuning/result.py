"""What a search leaves: tune.json, generation_config.json, and that in the folder of a model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossfoot import durable
from crossfoot.digests import sha256_of_file
from crossfoot.documents import Malformed, plain, read_object
from crossfoot.findings.finding import Refused
from crossfoot.generating.options import NAMES
from crossfoot.output import json_text
from crossfoot.phrases import reason_of
from crossfoot.tuning.deciding import Decision
from crossfoot.tuning.findings import not_into
from crossfoot.tuning.trials import Trial
from crossfoot.tuning.tuning_file import Goal
from crossfoot.written.model_ends import CONFIG, GENERATION

RESULT, RESULT_FORMAT = "tune.json", 1
MERGED = "merge.json"
"""What `crossfoot merge` leaves in a folder, with the sha256 of every file."""
_BEFORE = ".before"
_OF_ITS_MAKING = ("_from_model_config",)
"""Makes transformers take the model's own defaults instead."""


def result_document(
    goal: Goal, decision: Decision, trials: Sequence[Trial], effective: Mapping[str, Any]
) -> dict[str, Any]:
    """tune.json. effective: what transformers generates with under the chosen values."""

    def one(trial: Trial) -> dict[str, Any]:
        score = decision.scores[trial.number]
        return {"trial": trial.number, "values": dict(trial.values), "score": plain(score)}

    searched = [trial for trial in trials if not trial.is_final]
    return {
        "format": RESULT_FORMAT,
        "goal": goal.model_dump(exclude_none=True) | {"maximize": goal.is_maximized},
        "best": one(decision.chosen),
        "highest": one(decision.highest),
        "not_told_apart": [trial.number for trial in decision.alike],
        "trials": len(searched),
        "failed": sum(bool(trial.failed) for trial in searched),
        "generation_config": dict(effective),
        "dtype": decision.chosen.values.get("dtype"),
    }


def generation_config(
    own: Mapping[str, Any], effective: Mapping[str, Any], ends: Sequence[int]
) -> dict[str, Any]:
    """As transformers reads it: these values, and what the model's own file says besides. ends: ids of the
    tokens that ended an answer while it was measured; they end it from now on.
    """
    kept = {name: value for name, value in own.items() if name not in (*NAMES, *_OF_ITS_MAKING)}
    said = kept.get("eos_token_id")
    ids = list(
        dict.fromkeys([*(said if isinstance(said, list) else [said] if said is not None else []), *ends])
    )
    kept.setdefault("pad_token_id", ends[0])
    return {**kept, "eos_token_id": ids[0] if len(ids) == 1 else ids, **effective}


def own_file(folder: str) -> dict[str, Any]:
    """What generation_config.json of a folder says; nothing where there is none that can be read."""
    try:
        return read_object(os.path.join(folder, GENERATION))
    except (OSError, Malformed):
        return {}


def refuse_no_model(folder: str) -> None:
    """Refused (CF821) when nothing can be put into it."""
    if not os.path.isfile(os.path.join(folder, CONFIG)):
        raise Refused(not_into(folder, f"it has no {CONFIG}" if os.path.isdir(folder) else "it is no folder"))
    if not os.access(folder, os.W_OK):
        raise Refused(not_into(folder, "it may not be written to by this user"))


def put_into(folder: str, effective: Mapping[str, Any], ends: Sequence[int]) -> str:
    """Write generation_config.json of a model's folder; returns what was done, in words. The file that was
    there stays beside it. Raises Refused (CF821).
    """
    target = Path(folder, GENERATION)
    before = own_file(folder)
    values = generation_config(before, effective, ends)
    if values == before:
        return f"{target} has them already"
    try:
        aside = _set_aside(target)
        durable.replace(target, json_text(values) + "\n")
        _renew_digest(folder, target)
    except (OSError, Malformed) as error:
        raise Refused(not_into(folder, reason_of(error))) from error
    return f"{target}: written" + (f"; what it was is {aside.name}" if aside else "")


def _set_aside(target: Path) -> Path | None:
    """A copy of the file under a name that is free; None where there is none."""
    if not target.exists():
        return None
    aside, number = target.with_name(target.name + _BEFORE), 1
    while os.path.lexists(aside):
        number += 1
        aside = target.with_name(f"{target.name}{_BEFORE}-{number}")
    durable.replace(aside, target.read_bytes())
    return aside


def _renew_digest(folder: str, target: Path) -> None:
    """merge.json lists the sha256 of every file of a merged folder, of this one too."""
    account = Path(folder, MERGED)
    if not account.is_file():
        return
    values = read_object(account)
    if isinstance(digests := values.get("sha256"), dict):
        digests[target.name] = sha256_of_file(target)
        durable.replace(account, json.dumps(values, ensure_ascii=False, indent=2) + "\n")
