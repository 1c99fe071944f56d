"""What locust runs: users who ask a server, each one question after another, and note when every token came.

A locustfile, run in a process of its own (locust replaces Python's sockets by gevent's). The plan is the JSON
in CROSSFOOT_LOADTEST; each answer is a line of JSON in the file that it names.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

PLAN = json.loads(os.environ["CROSSFOOT_LOADTEST"])
_numbers = itertools.count()
_at_work = [0]
_gone = [0]


class AskingUser(User):
    """One who asks `loops` times. They begin evenly over the ramp-up, as JMeter's threads do."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._number = next(_numbers)

    @task
    def ask_all(self) -> None:
        """All loops of this user."""
        time.sleep(self._number * PLAN["ramp_up_seconds"] / PLAN["users"])
        for loop in range(PLAN["loops"]):
            number = self._number * PLAN["loops"] + loop
            _at_work[0] += 1
            seen = _ask(PLAN["prompts"][number % len(PLAN["prompts"])])
            seen |= {"user": self._number, "loop": loop, "at_work": _at_work[0]}
            _at_work[0] -= 1
            with open(PLAN["answers"], "a", encoding="utf-8") as file:
                file.write(json.dumps(seen) + "\n")
        _gone[0] += 1
        if _gone[0] == PLAN["users"] and self.environment.runner is not None:
            self.environment.runner.quit()
        raise StopUser


def _ask(prompt: str) -> dict[str, Any]:
    """One answer: when it was asked for (by the clock), the seconds until each token came, and what went
    wrong.
    """
    arrived: list[float] = []
    at, begun = time.time(), time.monotonic()
    error, tokens = "", 0
    try:
        tokens = _stream(prompt, begun, arrived)
    except (OSError, http.client.HTTPException, ValueError) as problem:
        error = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return {
        "at": at,
        "seconds": time.monotonic() - begun,
        "arrived": [round(each, 5) for each in arrived],
        "tokens": tokens or len(arrived),
        "error": error,
    }


def _stream(prompt: str, begun: float, arrived: list[float]) -> int:
    """The tokens of the answer as the server counts them, 0 where it does not. Raises for anything but a
    whole answer.
    """
    url = urlsplit(PLAN["url"])
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=PLAN["timeout_seconds"])
    asked = (
        {"prompt": prompt} if PLAN["is_completion"] else {"messages": [{"role": "user", "content": prompt}]}
    )
    body = {"model": PLAN["model"], "stream": True, "max_tokens": PLAN["max_tokens"], **asked}
    place = "completions" if PLAN["is_completion"] else "chat/completions"
    headers = {"Content-Type": "application/json", **PLAN["headers"]}
    try:
        connection.request("POST", f"{url.path.rstrip('/')}/{place}", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            said = response.read(500).decode("utf-8", "replace").strip()
            raise ValueError(f"HTTP {response.status} {response.reason}: {said}")
        return _read(response, begun, arrived)
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, begun: float, arrived: list[float]) -> int:
    is_whole, tokens = False, 0
    for line in response:
        if not line.startswith(b"data:"):
            continue
        now, text = time.monotonic() - begun, line[5:].strip()
        if text == b"[DONE]":
            is_whole = True
            break
        chunk = json.loads(text)
        if "error" in chunk:
            raise ValueError(f"the server says: {chunk['error']}")
        tokens = (chunk.get("usage") or {}).get("completion_tokens") or tokens
        for choice in chunk.get("choices") or ():
            if choice.get("text") or any((choice.get("delta") or {}).get(key) for key in _SAID):
                arrived.append(now)
            is_whole |= choice.get("finish_reason") is not None
    if not is_whole:
        raise ValueError("the answer broke off")
    return tokens


_SAID = ("content", "reasoning_content", "tool_calls")
