"""`--lies-table FILE`: run only the fixtures of the table of lies; write it when every one of them passed.
`--dist loadscope`: `support.dealing` says what goes together.

No property fails for the time that an example takes: the machine may be busy. Every finding that crossfoot
makes in a test has a severity that the table of codes declares.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from support import accelerate_state
from support.severities import helpless, undeclared, watch_findings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

watch_findings()

# A shell without job control starts what it puts in the background deaf to these, and so would be all that a
# test starts: the signals that a test sends must arrive.
for number, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, action)

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

FAILED = pytest.StashKey[list[str]]()


@pytest.fixture(autouse=True)
def declared_and_helpful() -> Iterator[None]:
    undeclared.clear()
    helpless.clear()
    yield
    assert undeclared == [], "say the severity in the decorator of the function that makes the finding"
    assert helpless == [], "say what to do; a title states the fact, without a full stop"


@pytest.fixture(autouse=True)
def accelerate_forgotten() -> Iterator[None]:
    """Which test a worker runs next must not decide what it finds."""
    yield
    accelerate_state.forget()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lies-table", metavar="FILE", help="run the fixtures of docs/lies.md, and write it")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    if config.getoption("dist") != "loadscope":
        return None
    from support.dealing import ByWhatTheyShare

    return ByWhatTheyShare(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--lies-table"):
        return
    from support.lies import answers

    pages = {Path(answer.fixture).stem for answer in answers() if answer.kind == "check"}
    chosen = [item for item in items if item.get_closest_marker("lie") or _page_of(item) in pages]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _page_of(item: pytest.Item) -> str | None:
    """The code of a page in tests/findings/, of which an item is one half."""
    case = getattr(getattr(item, "callspec", None), "params", {}).get("case")
    return getattr(case, "code", None)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    target = session.config.getoption("--lies-table")
    if not target or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if exitstatus != 0 or skipped:
        print(f"\n{target} is not written: {skipped} fixtures were skipped, exit status {int(exitstatus)}")
        return
    from support.lies import table

    Path(target).write_text(table(), encoding="utf-8")
