"""What each answer is worth under the goal of a search."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
from collections.abc import Callable, Sequence

from crossfoot.data.prompts import Prompt
from crossfoot.findings.finding import Place, Refused
from crossfoot.phrases import counted, reason_of
from crossfoot.tasks.answers import ChrF, exact_match
from crossfoot.tuning.findings import command_failed, no_reference
from crossfoot.tuning.tuning_file import Goal

Judge = Callable[[Sequence[str], Sequence[int]], list[float]]
"""Answers and their tokens, in the order of the prompts -> what each is worth."""
_MOST_LINES = 3


def refuse_missing_references(goal: Goal, file: str, prompts: Sequence[Prompt]) -> None:
    """Refused (CF814) when a goal that needs references lacks one."""
    lacking = [prompt.place or Place(file) for prompt in prompts if prompt.reference is None]
    if goal.needs_references and lacking:
        raise Refused(no_reference(goal.measure, file, lacking, len(prompts)))


def judge_of(goal: Goal, prompts: Sequence[Prompt], place: Place) -> Judge:
    """place: of the command, for what is wrong with it. Of a goal that is timed nothing is judged here."""
    references = [prompt.reference or "" for prompt in prompts]

    def judged(answers: Sequence[str]) -> list[str]:
        return [answer.partition(goal.until)[0] if goal.until else answer for answer in answers]

    if goal.measure in ("exact_match", "chrf"):
        compare = exact_match if goal.measure == "exact_match" else ChrF()
        return lambda answers, tokens: list(map(compare, judged(answers), references))
    if goal.command is not None:
        command = _Command(goal.command, prompts, place)
        return lambda answers, tokens: command.judge(judged(answers), tokens)
    return lambda answers, tokens: list(map(float, tokens))


class _Command:
    """A user's program, started anew for each set of answers."""

    def __init__(self, command: str, prompts: Sequence[Prompt], place: Place) -> None:
        self._command, self._prompts, self._place = command, prompts, place

    def judge(self, answers: Sequence[str], tokens: Sequence[int]) -> list[float]:
        """Raises Refused (CF817)."""
        lines = [
            json.dumps(
                {
                    "prompt": prompt.text,
                    "answer": answer,
                    **({} if prompt.reference is None else {"reference": prompt.reference}),
                    "tokens": number,
                }
            )
            for prompt, answer, number in zip(self._prompts, answers, tokens, strict=True)
        ]
        try:
            words = shlex.split(self._command)
            given = "".join(f"{line}\n" for line in lines)
            done = subprocess.run(
                words, input=given, capture_output=True, text=True, errors="replace", check=False
            )
        except (OSError, ValueError) as error:
            raise self._refused(f"cannot be started: {reason_of(error)}") from error
        if done.returncode:
            raise self._refused(f"ended with code {done.returncode}", done.stderr)
        return self._numbers(done.stdout)

    def _numbers(self, said: str) -> list[float]:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        if len(lines) != len(self._prompts):
            answers = counted(len(self._prompts), "answer")
            raise self._refused(f"gave {counted(len(lines), 'line')} for {answers}", said)
        numbers = []
        for place, line in enumerate(lines, start=1):
            try:
                numbers.append(float(line))
            except ValueError as error:
                raise self._refused(f"gave no number in line {place}", line) from error
            if not math.isfinite(numbers[-1]):
                raise self._refused(f"gave {line} in line {place}, and a finite number is needed")
        return numbers

    def _refused(self, why: str, said: str = "") -> Refused:
        shown = [line[:200] for line in said.strip().splitlines()[-_MOST_LINES:]]
        return Refused(command_failed(self._command, why, self._place, shown))
