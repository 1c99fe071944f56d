"""`crossfoot watch`: the page or the lines, again and again, until the run has ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live

from crossfoot.findings.formats import show
from crossfoot.output import say, tell
from crossfoot.phrases import size
from crossfoot.streams import is_read, terminal_of
from crossfoot.watching.lines import Teller
from crossfoot.watching.page import command_lines, make_page
from crossfoot.watching.state import RunState
from crossfoot.watching.watcher import Watcher
from crossfoot.watching.words import next_words

REFRESH_SECONDS = 1.0
_CATCHING_UP_SECONDS = 0.05
_LONG_LEDGER_BYTES = 10_000_000
KILLED_SECONDS = 60.0
"""A run that was killed is waited for so long: a launcher or a scheduler may start it again."""


def watch(run_dir: str, *, once: bool = False, plain: bool = False) -> int:
    """Show a run; returns the exit code. Raises Refused (CF040) when there is none.

    once: as it is now, and leave. plain: lines even on a terminal. Ctrl-C leaves with 0: the run goes on.
    """
    watcher = Watcher(run_dir)
    console = Console(file=terminal_of(sys.stdout), highlight=False)
    with suppress(KeyboardInterrupt):
        if once:
            return _show_once(watcher, console)
        is_page = sys.stdout.isatty() and not console.is_dumb_terminal and not plain
        return _show_page(watcher, console) if is_page else _tell(watcher)
    return 0


def _show_once(watcher: Watcher, console: Console) -> int:
    state = watcher.look()
    if not watcher.is_caught_up or state.status == "ended":
        _say_it_takes_long(watcher)
    while not watcher.is_caught_up and state.status != "ended" and not state.footed.findings:
        state = watcher.look()
    if state.status == "ended":
        state = watcher.settle(state)
    console.print(_page(state, console), crop=False)  # a word of a command may be wider
    return _close(state)


def _show_page(watcher: Watcher, console: Console) -> int:
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        state = watcher.look()
        live.update(_page(state, console), refresh=True)
        if not is_over(state):
            for state in _looks(watcher):
                live.update(_page(state, console), refresh=True)
        state = watcher.settle(state) if state.status == "ended" else state
        live.update(_page(state, console), refresh=True)
    hint = next_words(state)
    if hint is not None and _is_cut(command_lines(hint[1], console.width), console):
        say(hint[1])
    return _close(state)


def _is_cut(text: str, console: Console) -> bool:
    return max(map(cell_len, text.splitlines())) > console.width


def _tell(watcher: Watcher) -> int:
    teller = Teller()
    state = watcher.look()
    _print(teller.tell(state))
    if not is_over(state):
        for state in _looks(watcher):
            _print(teller.tell(state))
    state = watcher.settle(state) if state.status == "ended" else state
    _print(teller.end(state))
    return _close(state)


def _looks(watcher: Watcher) -> Iterator[RunState]:
    """One state a second until the run is over or nobody reads; more often while an old ledger is still
    being added up.
    """
    while is_read():
        time.sleep(REFRESH_SECONDS if watcher.is_caught_up else _CATCHING_UP_SECONDS)
        state = watcher.look()
        yield state
        if is_over(state):
            return


def is_over(state: RunState) -> bool:
    """Whether nothing more will be seen of it."""
    return state.status == "ended" or (state.status == "killed" and state.silent_seconds > KILLED_SECONDS)


def _say_it_takes_long(watcher: Watcher) -> None:
    """On stderr: some ten thousand lines can be added up in a second, or a few thousand of many ranks."""
    if watcher.ledger_bytes > _LONG_LEDGER_BYTES and sys.stderr.isatty():
        tell(f"adding up a ledger of {size(watcher.ledger_bytes)} ...")


def _page(state: RunState, console: Console) -> Group:
    return make_page(state, console.width, console.options.ascii_only)


def _print(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _close(state: RunState) -> int:
    """The exit code; what stood in the way of a verdict is said in full."""
    if state.footed.findings:
        say()
        show(state.footed.findings)
    return state.exit_code
