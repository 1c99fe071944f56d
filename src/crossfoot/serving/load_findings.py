"""Why a load test is not begun, and why it has failed."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted


@rule_docs("CF840", name="address-of-others")
def not_loopback(url: str, again: str) -> Finding:
    """CF840: a load test would ask a server that is not on this machine.

    Many users at once are an attack where nobody expects them. Only addresses of this machine (127.0.0.1,
    localhost, ::1) are asked without being told that it is meant.
    """
    return Finding(
        "CF840",
        f"{url} is not on this machine",
        helps=(f"if the server is yours to load: {again}",),
    )


@rule_docs("CF841", name="no-server-there")
def no_server(url: str, why: str, *helps: str) -> Finding:
    """CF841: no server that speaks as OpenAI's does answers at this address.

    It is asked for its models first (GET /v1/models), then for one answer that is not counted. `crossfoot
    serve` starts a server and prints the address.
    """
    start = "start one: crossfoot serve RUN_DIR"
    return Finding("CF841", f"{url} cannot be tested: {why}", helps=helps or (start,), unreadable=True)


@rule_docs("CF842", name="requests-failed")
def requests_failed(failed: int, requests: int, reasons: Sequence[str]) -> Finding:
    """CF842: requests of a load test have failed, and so has the test.

    A request is answered when the stream came to its end: an HTTP error, an error inside the stream, a
    connection that is refused, breaks off or stays silent longer than --timeout is a failure. The percentiles
    are of the whole answers alone, so they flatter a server that has failed.
    """
    return Finding(
        "CF842",
        f"the load test has failed: {failed:,} of {counted(requests, 'request')} failed",
        notes=tuple(reasons),
        helps=("look at what the server itself says, mend it, and test with fewer users: --users 1",),
    )


@rule_docs("CF843", name="no-result-of-a-load-test")
def no_result(path: str, why: str) -> Finding:
    """CF843: what is to be compared was not written by a load test.

    `crossfoot loadtest URL` writes a JSON file and a page; `--compare` takes the JSON files of two or more
    tests.
    """
    return Finding(
        "CF843",
        f"{path} holds no load test: {why}",
        helps=("name the JSON files that crossfoot loadtest URL has written",),
        unreadable=True,
    )
