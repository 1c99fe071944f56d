"""`crossfoot loadtest`: so many users at a server at once, and what it bears."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from crossfoot.data.prompts import read_prompts
from crossfoot.documents import Malformed, parse_object
from crossfoot.findings.finding import Refused
from crossfoot.findings.formats import show
from crossfoot.liveness.signals import restored, taken
from crossfoot.output import say, tell
from crossfoot.phrases import counted, reason_of
from crossfoot.serving.asking import ask
from crossfoot.serving.load_findings import no_result, no_server, not_loopback, requests_failed
from crossfoot.serving.load_page import load_page, load_table
from crossfoot.serving.load_result import (
    RESULT_FORMAT,
    LoadResult,
    Sample,
    Stage,
    read_result,
    stage_of,
    told_apart,
)
from crossfoot.serving.resources import ServerProcesses, gpus_now
from crossfoot.shell_words import joined

_PROMPTS = (
    "What is the capital of France?",
    "用一句话介绍长城。",
    "Write three tips for staying healthy.",
    "请把这句话翻译成英文：今天天气很好。",
    "Explain in simple words why the sky is blue.",
)
_USERS = Path(__file__).with_name("locust_users.py")
_LOOK_SECONDS = 0.5
_TELL_SECONDS = 10.0
_ANSWER_SECONDS = 10.0
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class LoadOptions:
    """users: at once, a stage each. ramp_up: seconds until all have begun. loops: requests of each user.
    model: None: the one that the server has. prompts: a file, None: five of our own. out: of the files that
    are written, without their endings. is_meant: to load another machine.
    """

    users: tuple[int, ...] = (10,)
    ramp_up: float = 1.0
    loops: int = 10
    max_tokens: int = 64
    timeout: float = 120.0
    model: str | None = None
    prompts: str | None = None
    out: str | None = None
    name: str | None = None
    is_completion: bool = False
    is_meant: bool = False


def loadtest(url: str, options: LoadOptions) -> int:
    """The verb; returns the exit code: 1 when a request failed. Raises Refused, and KeyboardInterrupt for
    every signal that ends a process: then nothing is written.
    """
    before = taken(_interrupt)
    try:
        return _loadtest(url, options)
    finally:
        restored(before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    tell("nothing is written")
    raise KeyboardInterrupt


def _loadtest(url: str, options: LoadOptions) -> int:
    url = _api(url)
    _refuse_others(url, options)
    prompts = _prompts(options.prompts)
    model = options.model or _only_model(url)
    base = {
        "url": url,
        "model": model,
        "prompts": prompts,
        "max_tokens": options.max_tokens,
        "timeout_seconds": options.timeout,
        "is_completion": options.is_completion,
        "headers": _key(),
        "parent": os.getpid(),
    }
    processes = ServerProcesses(urlsplit(url).port or 80)
    if not processes.words:
        tell("the server's process is not seen from here: its CPU and memory are not measured")
    with tempfile.TemporaryDirectory(prefix="crossfoot-loadtest-") as folder:
        tell("one answer that is not counted ...")
        if why := ask(base, prompts[0])["error"]:
            beside = () if options.is_completion else ("if it has no chat template: --completions",)
            raise Refused(no_server(url, f"the first request failed: {why}", *beside))
        samples: list[Sample] = []
        date, begun = datetime.now(timezone.utc), time.monotonic()
        stages = []
        for users in options.users:
            plan = {**base, "users": users, "loops": options.loops, "ramp_up_seconds": options.ramp_up}
            tell(f"{counted(users, 'user')}, {counted(options.loops, 'request')} each ...")
            stages.append(_Users(plan, Path(folder) / str(users)).run(processes, begun, samples))
    kept = {"users": options.users, "ramp_up_seconds": options.ramp_up, "loops": options.loops}
    kept |= {"max_tokens": options.max_tokens, "prompts": len(prompts)}
    result = LoadResult(
        format=RESULT_FORMAT,
        name=options.name or model,
        url=url,
        model=model,
        plan=kept,
        server=processes.words,
        passed=not any(stage.failed for stage in stages),
        stages=tuple(stages),
        samples=tuple(samples),
        begun=date.isoformat(timespec="seconds"),
        has_server_ended=processes.have_ended,
    )
    return _finish(result, options.out)


def compare(paths: Sequence[str], out: str | None) -> int:
    """Earlier tests on one page; returns the exit code. Raises Refused."""
    if len(paths) < 2:
        raise Refused(no_result(paths[0], "a comparison takes two or more"))
    if twice := [path for path, number in Counter(map(os.path.realpath, paths)).items() if number > 1]:
        raise Refused(no_result(twice[0], "it is named twice"))
    results = told_apart(paths, [read_result(path) for path in paths])
    page = _unused(out or "comparison", ".html")
    say(load_table(results))
    page.write_text(load_page(results), encoding="utf-8")
    say(f"\n{page}: the page")
    return 0


def _finish(result: LoadResult, out: str | None) -> int:
    document = _unused(out or "loadtest", ".json")
    page = document.with_suffix(".html")
    result.write(document)
    page.write_text(load_page([result]), encoding="utf-8")
    say(load_table([result]))
    say(f"\n{page}: the page; {document}: all numbers")
    if not result.passed:
        show([requests_failed(result.failed, result.requests, result.reasons)])
    return int(not result.passed)


def _unused(stem: str, ending: str) -> Path:
    """A file that is not there yet: stem, stem-2, ..."""
    stem = stem.removesuffix(ending)
    taken = any(os.path.lexists(stem + each) for each in (ending, ".html"))
    if not taken:
        return Path(stem + ending)
    number = 2
    while any(os.path.lexists(f"{stem}-{number}{each}") for each in (ending, ".html")):
        number += 1
    return Path(f"{stem}-{number}{ending}")


class _Users:
    """The users of one stage: a process of locust's."""

    def __init__(self, plan: Mapping[str, Any], answers: Path) -> None:
        self._plan = {**plan, "answers": str(answers)}
        self._answers = answers
        self._log = answers.with_suffix(".log")

    def run(self, processes: ServerProcesses, test_begun: float, samples: list[Sample]) -> Stage:
        """Until all have had their answers. Samples of the server are added meanwhile."""
        users, loops = self._plan["users"], self._plan["loops"]
        words = [sys.executable, "-m", "locust", "-f", str(_USERS), "--headless", "--only-summary"]
        words += ["--users", str(users), "--spawn-rate", str(users), "--loglevel", "CRITICAL"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
        environ["CROSSFOOT_LOADTEST"] = json.dumps(self._plan)
        quiet, told = subprocess.DEVNULL, time.monotonic()
        with (
            self._log.open("wb") as log,
            subprocess.Popen(
                words,
                env=environ,
                cwd=self._log.parent,  # locust reads settings where it stands
                stdin=quiet,
                stdout=quiet,
                stderr=log,
                start_new_session=True,
            ) as child,
        ):
            try:
                while child.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(_LOOK_SECONDS)
                    if (seen := processes.look()) is not None:
                        at = round(time.monotonic() - test_begun, 2)
                        samples.append(Sample(at, users, round(seen[0], 3), seen[1], *(gpus_now() or ())))
                    if time.monotonic() - told > _TELL_SECONDS:
                        told = time.monotonic()
                        tell(f"  {len(self._read()):,} of {users * loops:,} answered")
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if child.returncode:
            raise RuntimeError(f"locust ended with code {child.returncode}:\n{self._log.read_text()}")
        return self._stage(self._read())

    def _stage(self, answers: Sequence[Mapping[str, Any]]) -> Stage:
        first = min((one["at"] for one in answers), default=0.0)
        last = max((one["at"] + one["seconds"] for one in answers), default=0.0)
        return stage_of(self._plan["users"], self._plan["loops"], last - first, answers)

    def _read(self) -> list[dict[str, Any]]:
        with suppress(OSError):
            lines = self._answers.read_text(encoding="utf-8").splitlines(keepends=True)
            return [json.loads(line) for line in lines if line.endswith("\n")]
        return []


def _api(url: str) -> str:
    """Where the server's verbs are: the address with /v1. Raises Refused."""
    full = url if re.match(r"https?://", url) else f"http://{url}"
    try:
        parts = urlsplit(full)
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError as error:
        raise Refused(no_server(url, "it is no address such as http://127.0.0.1:8000")) from error
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else f'{path}/v1'}"


def _refuse_others(url: str, options: LoadOptions) -> None:
    host = urlsplit(url).hostname or ""
    try:
        found = {str(one[4][0]) for one in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise Refused(no_server(url, reason_of(error))) from error
    if not options.is_meant and not all(ipaddress.ip_address(one).is_loopback for one in found):
        raise Refused(not_loopback(url, joined(["crossfoot", "loadtest", url, "--yes"])))


def _only_model(url: str) -> str:
    """The model that a server names as its only one. Raises Refused."""
    request = urllib.request.Request(f"{url}/models", headers=_key())
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            models = parse_object(answer.read(_MOST_BYTES)).get("data")
    except (OSError, Malformed, http.client.HTTPException) as error:
        inner = getattr(error, "reason", None)  # of urllib's own: the system's
        why = reason_of(inner if isinstance(inner, OSError) else error)
        raise Refused(no_server(url, f"asked for its models: {why}")) from error
    names = [str(one.get("id")) for one in models or () if isinstance(one, dict)]
    if len(names) != 1:
        said = f"it has {counted(len(names), 'model')}"
        helps = [f"name one: --model {name}" for name in names[:5]] or ["name it: --model NAME"]
        raise Refused(no_server(url, said, *helps))
    return names[0]


def _key() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _prompts(path: str | None) -> list[list[dict[str, str]]]:
    """The messages of each."""
    if path is None:
        return [[{"role": "user", "content": text}] for text in _PROMPTS]
    return [prompt.messages for prompt in read_prompts(path, {})]
