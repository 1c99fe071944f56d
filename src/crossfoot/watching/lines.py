"""A run told in plain lines, as it happens: for pipes, files and terminals that cannot do more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crossfoot import phrases
from crossfoot.liveness.heartbeats import doing
from crossfoot.output import visible_line
from crossfoot.phrases import after_steps, clock, counted, step_name, step_of
from crossfoot.runs.attempts import Attempt
from crossfoot.runs.ending import CUT_SHORT
from crossfoot.watching import words
from crossfoot.watching.state import AttemptView, RunState, speed_of

_SILENCE_SAID_AGAIN = 2.0
"""Silence is said again when it has lasted so many times as long."""
_MOST_CAUSES = 3


class Teller:
    """Told one state after the other, it gives the lines that are new. Of several new steps it tells the
    last.
    """

    def __init__(self) -> None:
        self._before: RunState | None = None
        self._step = (0, -1)
        self._silence_seconds = 0.0
        self._causes = -1
        self._findings: set[str] = set()

    def tell(self, state: RunState) -> list[str]:
        """The lines about what has happened since the last state."""
        lines = [] if self._before is not None else [self._title(state)]
        if self._before is None and state.branch is not None:
            lines.append(state.branch.words)
        lines += [*self._attempts(state), *self._step_line(state)]
        lines += [*self._checkpoint(state), *self._over(state, state.attempts[-1:])]
        lines += [*self._ranks(state), *self._silence(state), *self._verdict(state), *self._killed(state)]
        self._before = state
        return [visible_line(line) for line in lines]

    def end(self, state: RunState) -> list[str]:
        """The last lines about a run that has ended (then `state` has its receipt), or that was killed."""
        lines = [*self._over(state, state.attempts), *self._step_line(state), *self._verdict(state)]
        for taken in (state.validation, state.evaluation):
            if taken is not None and state.ending is not None and taken.step == state.ending.step:
                lines.append(taken.words)
        if state.noise is not None:
            lines.append(f"noise scale {state.noise.figures}")
        if state.result_missing:
            lines.append(f"missing: {state.result_missing}")
        if not state.footed.findings:
            so_far = "" if state.status == "ended" else " so far"
            lines.append(f"foots{so_far}: {words.verdict_words(state)}")
        if state.status == "ended" and (hint := words.next_words(state)) is not None:
            lines.append(": ".join(hint))
        return [visible_line(line) for line in lines]

    def _title(self, state: RunState) -> str:
        steps = "" if state.asked_steps is None else f"   {counted(state.asked_steps, 'step')} planned"
        lock = f"   lock {state.sha[:7]}" if state.sha else ""
        return f"{state.name}{lock}{steps}"

    def _known(self) -> dict[int, AttemptView]:
        return {view.number: view for view in (self._before.attempts if self._before is not None else ())}

    def _attempts(self, state: RunState) -> Iterator[str]:
        """Which have begun, and how all but the last have ended."""
        known = self._known()
        for view in state.attempts:
            old = known.get(view.number)
            if view.attempt is not None and (old is None or old.attempt is None):
                yield _began(view.attempt)
            elif view.attempt is None and old is None:
                yield f"attempt {view.number} is starting"
            if view is not state.attempts[-1]:
                yield from self._over(state, [view])

    def _over(self, state: RunState, attempts: Sequence[AttemptView]) -> Iterator[str]:
        """Attempts that have ended, and what they lost."""
        known = self._known()
        for view in attempts:
            old = known.get(view.number)
            before = (old.how, old.lost or 0) if old is not None else ("", 0)
            is_over = view.how not in ("starting", "running", "silent", "ended")
            if is_over and view.how != before[0]:
                yield _ended(view, state)
            if view.lost and view.lost != before[1]:
                yield f"attempt {view.number} lost {counted(view.lost, 'step')}"

    def _killed(self, state: RunState) -> Iterator[str]:
        was_killed = self._before is not None and self._before.status == "killed"
        if state.status == "killed" and not was_killed and (hint := words.next_words(state)) is not None:
            yield ": ".join(hint)

    def _checkpoint(self, state: RunState) -> Iterator[str]:
        saved, old = state.saved, self._before.saved if self._before is not None else None
        if saved is not None and (old is None or saved.step != old.step):
            yield (
                f"checkpoint {after_steps(saved.step)}   took {words.took(saved.seconds)}"
                f"   {phrases.size(saved.total_bytes)}"
            )
        was_writing = self._before.unfinished if self._before is not None else ()
        for save in state.unfinished:
            if not save.is_current and save not in was_writing:
                yield f"the save {after_steps(save.step)}, of attempt {save.attempt}, was cut off"
        known = [] if self._before is None else [self._before.validation, self._before.evaluation]
        for taken in (state.validation, state.evaluation):
            if taken is not None and taken not in known and state.status != "ended":
                yield f"{taken.words}   {after_steps(taken.step)}"

    def _step_line(self, state: RunState) -> Iterator[str]:
        last, speed = state.last, speed_of(state.recent)
        if last is None or (last.attempt, last.step) <= self._step:
            return
        for entry in state.recent:
            if entry.skipped and (entry.attempt, entry.step) > self._step:
                what = f": {entry.not_finite[0]}" if entry.not_finite else ""
                yield f"the update of {step_name(entry.step)} was left out on purpose ({entry.skipped}){what}"
        self._step = (last.attempt, last.step)
        line = f"{step_of(last.step, state.asked_steps)}   loss {last.loss:.4f}   lr {last.lr:.3e}"
        if speed is not None:
            line += f"   {speed.trained_tokens:,.0f} trained tokens/s"
        if state.left_seconds:
            line += f"   about {clock(state.left_seconds)} left"
        yield line

    def _ranks(self, state: RunState) -> Iterator[str]:
        before = self._before.ranks if self._before is not None else ()
        silent = {rank.rank for rank in before if rank.is_silent}
        for rank in state.ranks:
            if rank.is_silent and rank.rank not in silent:
                if rank.age_seconds is None:
                    yield f"{rank.who} has never been seen"
                    continue
                seen = doing(rank.phase, rank.step)
                yield f"{rank.who} is silent for {clock(rank.age_seconds)}, last seen {seen}"
            elif not rank.is_silent and rank.rank in silent:
                yield f"{rank.who} is back: {doing(rank.phase, rank.step)}"

    def _silence(self, state: RunState) -> Iterator[str]:
        if state.status != "silent":
            self._silence_seconds = 0.0
        elif state.silent_seconds >= _SILENCE_SAID_AGAIN * self._silence_seconds:
            self._silence_seconds = max(state.silent_seconds, 1.0)
            yield words.status_words(state)
            if (hint := words.next_words(state)) is not None:
                yield ": ".join(hint)

    def _verdict(self, state: RunState) -> Iterator[str]:
        footed = state.footed
        for finding in footed.findings:
            if finding.title not in self._findings:
                self._findings.add(finding.title)
                yield f"{finding.code} {finding.title}"
        if footed.foots is None or footed.findings:
            return
        count = 0 if footed.foots else max(1, footed.cause_count)
        if count != self._causes:
            if count:
                yield f"does not foot so far: {counted(count, 'cause')}"
                yield from (f"  {words.cause_words(cause)}" for cause in footed.causes[:_MOST_CAUSES])
            elif self._causes > 0:
                yield "foots so far again"
            self._causes = count


def _began(attempt: Attempt) -> str:
    where = f" from {attempt.from_checkpoint}" if attempt.from_checkpoint else ""
    begins = step_name(attempt.first_step)
    return f"attempt {attempt.attempt} began with {begins}{where}   {words.topology(attempt)}"


def _ended(view: AttemptView, state: RunState) -> str:
    line = f"attempt {view.number} {_PAST.get(view.how, words.HOW[view.how])}"
    if state.ending is not None and view is state.attempts[-1]:
        line += f" {after_steps(state.ending.step)} (exit code {state.ending.exit_code})"
    if state.ended_at and view is state.attempts[-1]:
        line += f", {state.ended_at}"
    return f"{line}: {view.why}" if view.why else line


_PAST = {
    **CUT_SHORT,
    "stop_after": "stopped on purpose",
    "killed": "was killed",
    "rank lost": "lost a rank",
    "given up": "was given up",
}
