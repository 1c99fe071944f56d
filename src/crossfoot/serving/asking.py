"""One question to a server that speaks as OpenAI's does, and when each token of its answer came."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

MOST_FAILURES = 5
"""A user gives up after so many failures in a row; what it has not asked counts as failed."""
_SAID = ("content", "reasoning_content", "tool_calls")


def ask(plan: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """One answer to a conversation (to go on with: to what is asked last): when it was asked for (by the
    clock), the seconds until each token came, and what went wrong.
    """
    arrived: list[float] = []
    at, begun = time.time(), time.monotonic()
    error, tokens = "", 0
    try:
        tokens = _stream(plan, messages, begun, arrived)
    except (OSError, http.client.HTTPException, ValueError) as problem:
        error = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return {
        "at": at,
        "seconds": time.monotonic() - begun,
        "arrived": [round(each, 5) for each in arrived],
        "tokens": tokens or len(arrived),
        "error": error,
    }


def _stream(
    plan: Mapping[str, Any], messages: Sequence[Mapping[str, str]], begun: float, arrived: list[float]
) -> int:
    """The tokens of the answer as the server counts them, 0 where it does not. Raises for anything but a
    whole answer.
    """
    url = urlsplit(plan["url"])
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=plan["timeout_seconds"])
    asked = {"prompt": messages[-1]["content"]} if plan["is_completion"] else {"messages": messages}
    body = {"model": plan["model"], "stream": True, "max_tokens": plan["max_tokens"], **asked}
    place = "completions" if plan["is_completion"] else "chat/completions"
    headers = {"Content-Type": "application/json", **plan["headers"]}
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
