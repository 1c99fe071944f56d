"""The page: one screen about a run, at most 80 columns wide, in which nothing moves but the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Group
from rich.text import Text

from crossfoot import phrases
from crossfoot.ledger.entry import StepEntry
from crossfoot.liveness.heartbeats import step_words
from crossfoot.output import visible_line
from crossfoot.phrases import after_steps, clock, counted, step_name
from crossfoot.watching import words
from crossfoot.watching.state import AttemptView, RankView, RunState, UnfinishedView, speed_of

WIDTH = 80
_LABEL, _VALUE = 15, 14
_BAR, _TREND = 24, 24
_MOST_ATTEMPTS, _MOST_CAUSES, _MOST_RANKS, _MOST_HOSTS = 5, 3, 8, 8
_MOST_HOST_LETTERS = 20
_STEPS_A_BLOCK = (1, 2, 5, 10)
_BLOCKS = "▁▂▃▄▅▆▇█"
_TONES = {
    "silent": "bold yellow",
    "starting": "cyan",
    "running": "cyan",
    "ended": "bold",
    "killed": "bold yellow",
}


def make_page(state: RunState, width: int = WIDTH, plain_letters: bool = False) -> Group:
    """The page. plain_letters: for a terminal that has ASCII only."""
    width = min(width, WIDTH)
    rows = [*_head(state, width), *_numbers(state, plain_letters), Text(), *_verdict(state), Text()]
    rows += [*_attempts(state), *_ranks(state)]
    for row in rows:
        row.no_wrap = True
        row.truncate(width, overflow="ellipsis")
        row.rstrip()
    if (hint := words.next_words(state)) is not None:
        command = Text(command_lines(hint[1], width), no_wrap=True, overflow="ignore")
        rows += [Text(), _row("next", hint[0]), command]
    return Group(*rows)


def command_lines(command: str, width: int) -> str:
    """A command below its label; wider than the page only where one word is."""
    return "\n".join(f"{' ' * _LABEL}{line}" for line in words.folded(command, width - _LABEL))


def _head(state: RunState, width: int) -> Iterator[Text]:
    tone = _TONES["silent" if state.silent_ranks and state.status != "killed" else state.status]
    status = Text(visible_line(words.status_words(state)), style=tone)
    if state.status == "ended" and state.footed.receipt is not None:
        status.stylize("green" if state.exit_code == 0 else "red")
    lock = f"   lock {state.sha[:7]}" if state.sha else ""
    name = Text(visible_line(state.name), style="bold")
    name.truncate(max(8, width - len(lock) - status.cell_len - 3), overflow="ellipsis")
    left = Text.assemble(name, (lock, "dim"))
    yield Text.assemble(left, " " * max(3, width - left.cell_len - status.cell_len), status)
    yield Text()


def _row(label: str, *parts: str | tuple[str, str] | Text) -> Text:
    return Text.assemble((f"  {label:<{_LABEL - 2}}", "dim"), *parts)


def _value(text: str) -> Text:
    """The first number of a row, and the room up to the next."""
    return Text.assemble((text, "bold"), " " * max(2, _VALUE - len(text)))


def _numbers(state: RunState, plain_letters: bool) -> Iterator[Text]:
    """Rows that are always there, so that nothing jumps when the first number comes."""
    last, speed = state.last, speed_of(state.recent)
    asked = "?" if state.asked_steps is None else f"{state.asked_steps:,}"
    done = f"{state.done_steps:,} of {asked}"
    yield _row("step", _value(done), *_progress(state, plain_letters))
    trend = Text() if plain_letters else _trend(state.recent)
    yield _row("loss", _value("-" if last is None else f"{last.loss:.4f}"), trend)
    yield _row("rate", _value("-" if last is None else f"{last.lr:.3e}"))
    yield _row("validation", *_validation(state))
    if state.noise is not None:
        yield _row("noise scale", state.noise.figures)
    if (scored := state.evaluation) is not None:
        yield _row("evaluation", f"{scored.words}   {after_steps(scored.step)}")
    if speed is None:
        yield _row("speed", "-")
        yield _row("")
    else:
        trained = (f"{speed.trained_tokens:,.0f}", "bold")
        yield _row("speed", trained, f" trained tokens/s   {speed.real_tokens:,.0f} real tokens/s")
        samples = f"{speed.samples:,.1f}" if speed.samples < 100 else f"{speed.samples:,.0f}"
        yield _row(
            "",
            f"{samples} samples/s   {words.took(speed.step_seconds)} a step   {speed.padding:.1%} padding",
        )
    yield _row("checkpoint", *_saved(state))


def _progress(state: RunState, plain_letters: bool) -> Iterator[str | tuple[str, str]]:
    if not state.asked_steps:
        return
    share = min(1.0, state.done_steps / state.asked_steps)
    full = math.floor(share * _BAR)
    yield (("#" if plain_letters else "━") * full, "cyan")
    yield (("-" if plain_letters else "─") * (_BAR - full), "dim")
    yield f"  {math.floor(share * 100):>3d} %"
    if state.left_seconds is not None and state.done_steps < state.asked_steps:
        yield f"   about {clock(state.left_seconds)} left"


def _trend(entries: Sequence[StepEntry]) -> Text:
    """The last losses as small blocks, each the mean of so many steps that all fit, the newest on the right;
    and how the loss moved over them.
    """
    if len(entries) < 2:
        return Text()
    each = next((n for n in _STEPS_A_BLOCK if len(entries) <= n * (_TREND - 1)), _STEPS_A_BLOCK[-1])
    groups = groupby(entries, key=lambda entry: divmod(entry.step, each)[0])
    means = [_mean([entry.loss for entry in group]) for _, group in groups][-_TREND:]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    blocks = (_BLOCKS[round((mean - low) * scale)] if math.isfinite(mean) else "!" for mean in means)
    edge = min(10, max(1, divmod(len(entries), 4)[0]))
    move = _mean([entry.loss for entry in entries[-edge:]]) - _mean([entry.loss for entry in entries[:edge]])
    return Text("".join(blocks).ljust(_TREND) + f"  {move:+.3f} in {counted(len(entries), 'step')}")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _validation(state: RunState) -> Iterator[str | Text]:
    newest, best = state.validation, state.best_validation
    if newest is None or best is None:
        yield "-"
        return
    yield _value(f"{newest.loss:.4f}")
    yield after_steps(newest.step)
    if best.step != newest.step:
        yield f"   best {best.loss:.4f} {after_steps(best.step)}"
    else:
        yield f"   perplexity {newest.perplexity:.4g}   {newest.next_token_accuracy:.1%} right"


def _saved(state: RunState) -> Iterator[str | tuple[str, str] | Text]:
    saved = state.saved
    yield _value("none yet" if saved is None else after_steps(saved.step))
    if saved is not None:
        ago = "" if saved.age_seconds is None else f"{clock(saved.age_seconds)} ago   "
        yield f"{ago}took {words.took(saved.seconds)}   "
    if state.unfinished:
        save = state.unfinished[-1]
        yield _unfinished(save)
    elif saved is not None:
        yield phrases.size(saved.total_bytes)


def _unfinished(save: UnfinishedView) -> str | tuple[str, str]:
    where = after_steps(save.step)
    return (f"saving {where}", "cyan") if save.is_current else f"cut off {where}"


def _verdict(state: RunState) -> Iterator[Text]:
    footed, receipt = state.footed, state.footed.receipt
    tone, steps = "dim", ""
    if footed.findings or (receipt is not None and footed.foots and not receipt.foots):
        tone = "yellow"
    elif footed.foots and state.done_steps:
        tone, steps = "bold green", f"   {counted(state.done_steps, 'step')}"
        steps += f", {footed.skipped:,} of them skipped" if footed.skipped else ""
    elif footed.foots is False:
        tone = "bold red"
    yield _row("foots so far" if receipt is None else "foots", (words.verdict_words(state), tone), steps)
    for cause in footed.causes[:_MOST_CAUSES]:
        yield _row("", visible_line(words.cause_words(cause)))
    if footed.cause_count > _MOST_CAUSES:
        yield _row("", f"and {footed.cause_count - _MOST_CAUSES:,} more")
    for finding in footed.findings[:_MOST_CAUSES]:
        yield _row("", visible_line(f"{finding.code} {finding.title}"))
    if state.result_missing:
        yield _row("missing", (visible_line(state.result_missing), "yellow"))
    if ended := words.ended_words(state):
        yield _row("ended", ended)


def _attempts(state: RunState) -> Iterator[Text]:
    shown = state.attempts[-_MOST_ATTEMPTS:]
    hidden = state.attempts[: len(state.attempts) - len(shown)]
    label = "attempts"
    if state.branch is not None:
        yield _row("branched", state.branch.words.removeprefix("branched "))
    if hidden:
        lost = sum(view.lost or 0 for view in hidden)
        yield _row(label, f"{counted(len(hidden), 'earlier one')}, {lost:,} lost")
        label = ""
    widest = max((len(str(view.number)) for view in shown), default=1)
    places = [_place(view) for view in shown]
    columns = max(map(len, places), default=0)
    for view, place in zip(shown, places, strict=True):
        parts = [words.HOW[view.how], words.lost_words(view)]
        how = ", ".join(part for part in parts if part)
        tone = "yellow" if view.how in ("silent", "killed", "rank lost", "given up", "fault") else ""
        yield _row(label, f"{view.number:>{widest}}   {place:<{columns}}   ", (how, tone))
        if view.why and view is shown[-1]:
            yield _row("", (" " * (widest + 3) + visible_line(view.why), "yellow"))
        label = ""


def _place(view: AttemptView) -> str:
    if view.attempt is None:
        return f"from {step_name(0)}" if view.written else "getting ready"
    begins = f"from {step_name(view.attempt.first_step)}"
    return f"{begins}   {counted(view.attempt.world_size, 'rank')}, {words.engine(view.attempt)}"


@dataclass(frozen=True)
class _RankRow:
    """Some ranks of one host: the cells of their row, and the one whose beat is oldest."""

    cells: tuple[str, str, str, str]
    oldest: RankView


def _ranks(state: RunState) -> Iterator[Text]:
    """A row for each rank; of many ranks one for each host, and one for each that is silent."""
    ranks, hidden = state.ranks, 0
    rows = [_rank_row([rank]) for rank in ranks]
    if len(ranks) > _MOST_RANKS:
        well = sorted((rank for rank in ranks if not rank.is_silent), key=lambda rank: (rank.host, rank.rank))
        hosts = [list(group) for _, group in groupby(well, key=lambda rank: rank.host)]
        hidden = max(0, len(hosts) - _MOST_HOSTS)
        silent = [[rank] for rank in ranks if rank.is_silent][:_MOST_RANKS]
        rows = [_rank_row(group) for group in [*hosts[:_MOST_HOSTS], *silent]]
    columns = [max((len(row.cells[i]) for row in rows), default=0) for i in range(4)]
    for row, label in zip(rows, ["ranks", *[""] * len(rows)], strict=False):
        cells = (f"{cell:<{width}}   " for cell, width in zip(row.cells, columns, strict=True))
        yield _row(label, *cells, _beat(row.oldest))
    if hidden:
        yield _row("", f"and {counted(hidden, 'more host')}, all alive")


def _rank_row(ranks: Sequence[RankView]) -> _RankRow:
    """The phase and the step are those of the rank that is least far."""
    oldest = max(ranks, key=lambda rank: rank.age_seconds or 0.0)
    behind = min(ranks, key=lambda rank: (rank.step, rank.rank))
    host = visible_line(behind.host) or "-"
    if len(host) > _MOST_HOST_LETTERS:
        host = f"{host[: _MOST_HOST_LETTERS - 3]}..."
    phase, step = (behind.phase or "-", step_words(behind.phase, behind.step) or "-")
    return _RankRow((_numbers_of(ranks), host, phase, step), oldest)


def _beat(rank: RankView) -> tuple[str, str]:
    if rank.phase == "ended":
        return ("ended", "dim")
    if rank.age_seconds is None:
        return ("never seen", "bold yellow")
    if rank.is_silent:
        return (f"silent for {clock(rank.age_seconds)}", "bold yellow")
    if rank.where:
        return (f"stands in {visible_line(rank.where)}", "yellow")
    return (f"{clock(rank.age_seconds)} ago", "")


def _numbers_of(ranks: Sequence[RankView]) -> str:
    """`0-7`, `0-3,5`."""
    numbers = [rank.rank for rank in ranks]
    pieces = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        pieces.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(pieces)
