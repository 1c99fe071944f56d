"""What a load test has measured: from single answers to one document, which is written and compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from crossfoot.documents import Malformed, read_object, value_of
from crossfoot.findings.finding import Refused
from crossfoot.phrases import counted, reason_of
from crossfoot.serving.asking import MOST_FAILURES
from crossfoot.serving.load_findings import no_result

RESULT_FORMAT = 1
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
_MOST_LETTERS = 200
_MOST_REASONS = 5
_NEVER_SENT = f"never sent: the user had given up, after {MOST_FAILURES} failures in a row"


@dataclass(frozen=True)
class Stage:
    """So many users at once. requests: asked for, all of them; failed: of these. why: what went wrong -> how
    often. *_seconds: the percentiles PERCENTILES of whole answers, empty without one. tokens_per_second: of
    all users together.
    """

    users: int
    requests: int
    failed: int
    why: Mapping[str, int]
    seconds: float
    requests_per_second: float
    tokens_per_second: float
    first_token_seconds: tuple[float, ...]
    between_tokens_seconds: tuple[float, ...]
    answer_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Sample:
    """The server at one moment. at: seconds since the test began. cpu: cores in use. users: of the stage.
    memory_bytes: resident. gpu_percent, gpu_bytes: of the fullest GPU; None without nvidia-smi.
    """

    at: float
    users: int
    cpu: float
    memory_bytes: int
    gpu_percent: float | None = None
    gpu_bytes: int | None = None


@dataclass(frozen=True)
class LoadResult:
    """format: RESULT_FORMAT. name: that tells it from another one. plan: what was asked for. server: its
    process, "" where none was seen. passed: no request failed. begun: ISO 8601, in UTC. has_server_ended: in
    the middle of the test.
    """

    format: int
    name: str
    url: str
    model: str
    plan: Mapping[str, Any]
    server: str
    passed: bool
    stages: tuple[Stage, ...]
    samples: tuple[Sample, ...]
    begun: str = ""
    has_server_ended: bool = False

    @property
    def failed(self) -> int:
        """Requests."""
        return sum(stage.failed for stage in self.stages)

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(stage.requests for stage in self.stages)

    @property
    def why(self) -> Counter[str]:
        """What went wrong, in all stages."""
        return sum((Counter(stage.why) for stage in self.stages), Counter[str]())

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why requests failed, as sentences: what users were told first, what they did not even ask last."""
        why = sorted(self.why.items(), key=lambda one: (one[0] == _NEVER_SENT, -one[1]))
        said = [f"{counted(number, 'time')}: {reason}" for reason, number in why]
        if (more := len(said) - _MOST_REASONS) > 0:
            said[_MOST_REASONS - 1 : -1] = [f"{counted(more, 'other reason')}"]
        ended = ("the server's process has ended in the middle of the test",)
        return (*(ended if self.has_server_ended else ()), *said)

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_result(path: str) -> LoadResult:
    """What an earlier test has written. Raises Refused."""
    try:
        result = value_of(LoadResult, read_object(path))
    except (OSError, Malformed) as error:
        raise Refused(no_result(path, reason_of(error))) from error
    if result.format != RESULT_FORMAT:
        raise Refused(no_result(path, f"its format is {result.format}, and {RESULT_FORMAT} is read here"))
    return result


def told_apart(paths: Sequence[str], results: Sequence[LoadResult]) -> list[LoadResult]:
    """The results, read from these files. Where several have one name, what differs in the paths is added."""
    files = [Path(path).absolute().with_suffix("").parts for path in paths]
    named = []
    for file, result in zip(files, results, strict=True):
        others = [files[at] for at, one in enumerate(results) if one.name == result.name]
        if len(others) > 1:
            result = replace(result, name=f"{result.name} ({_what_differs(file, others)})")
        named.append(result)
    return named


def _what_differs(file: Sequence[str], files: Sequence[Sequence[str]]) -> str:
    """Of a path, without the parts that all of them begin and end with."""

    def shared(columns: Iterable[tuple[str, ...]]) -> int:
        return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))

    start = shared(zip(*files, strict=False))
    end = shared(zip(*(one[start:][::-1] for one in files), strict=False))
    return "/".join(file[start : len(file) - end]) or file[-1]


def stage_of(users: int, loops: int, seconds: float, answers: Sequence[Mapping[str, Any]]) -> Stage:
    """One stage. seconds: that it took. A request of which nothing is known has failed too."""
    requests = users * loops
    good = [one for one in answers if not one["error"]]
    why = Counter(str(one["error"])[:_MOST_LETTERS] for one in answers if one["error"])
    if lost := requests - len(answers):
        why[_NEVER_SENT] += lost
    span = max(seconds, 1e-9)
    return Stage(
        users,
        requests,
        requests - len(good),
        dict(why.most_common()),
        round(seconds, 3),
        round(len(good) / span, 3),
        round(sum(one["tokens"] for one in good) / span, 2),
        _percentiles(one["arrived"][0] for one in good if one["arrived"]),
        _percentiles(b - a for one in good for a, b in pairwise(one["arrived"])),
        _percentiles(one["seconds"] for one in good),
    )


def _percentiles(values: Iterable[float]) -> tuple[float, ...]:
    known = list(values)
    return tuple(round(float(each), 5) for each in np.percentile(known, PERCENTILES)) if known else ()


def at_percentile(values: Sequence[float], percentile: int) -> float | None:
    """One of a stage's percentiles; None without answers."""
    return values[PERCENTILES.index(percentile)] if values else None
