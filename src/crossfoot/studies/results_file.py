"""results.json and costs.json in the folder of a study."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from crossfoot import durable
from crossfoot.documents import Malformed, plain, read_object, value_of
from crossfoot.findings.finding import Refused
from crossfoot.phrases import reason_of
from crossfoot.studies.findings import results_unreadable
from crossfoot.studies.results import COSTS, RESULTS, RESULTS_FORMAT, RunCost, StudyResults

Read = TypeVar("Read")


@dataclass(frozen=True)
class _Costs:
    costs: Mapping[str, RunCost] = field(default_factory=dict)


def write_results(folder: str, results: StudyResults) -> None:
    """Both files, each whole. Raises OSError."""
    facts = plain(replace(results, costs={}))
    del facts["costs"]
    for name, document in ((COSTS, {"costs": plain(results.costs)}), (RESULTS, facts)):
        text = json.dumps({"format": RESULTS_FORMAT, **document}, indent=1, allow_nan=False)
        durable.replace(os.path.join(folder, name), text + "\n")


def read_results(folder: str) -> StudyResults:
    """What `write_results` wrote; without costs where costs.json is not there. Raises Refused (CF577)."""
    results = _read(folder, RESULTS, StudyResults)
    if not os.path.exists(os.path.join(folder, COSTS)):
        return results
    return replace(results, costs=_read(folder, COSTS, _Costs).costs)


def _read(folder: str, name: str, kind: type[Read]) -> Read:
    path = os.path.join(folder, name)
    try:
        document = read_object(path)
        if document.get("format") != RESULTS_FORMAT:
            raise Malformed(f"its format is {document.get('format')!r}, this reads {RESULTS_FORMAT}")
        return value_of(kind, document)
    except OSError as error:
        raise Refused(results_unreadable(path, reason_of(error))) from error
    except Malformed as error:
        raise Refused(results_unreadable(path, str(error))) from error
