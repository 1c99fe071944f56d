"""What the command line of a study asks for, read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal, TypeVar

from crossfoot.findings.finding import Finding, Refused
from crossfoot.launch.job import LaunchOptions
from crossfoot.phrases import listed
from crossfoot.runs.restarts import AUTO
from crossfoot.studies.findings import no_batches, no_factors

Target = Literal["local", "accelerate", "slurm"]
VALIDATIONS = 12
Number = TypeVar("Number", int, Fraction)


@dataclass(frozen=True)
class StudyOptions:
    """What the command line asks for; None: not said. batches, rates: as they are written. plans_only: show
    the plan, start nothing. target_loss: until which steps are counted. partition and all behind it: SLURM's.
    """

    batches: str
    rates: str = "x1"
    seeds: int = 1
    budget_samples: int | None = None
    validations: int = VALIDATIONS
    branch: str | None = None
    target: Target = "local"
    at_once: int | None = None
    plans_only: bool = False
    out: str | None = None
    target_loss: float | None = None
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    cpus_per_task: int | None = None
    detach: bool = False

    @property
    def launch(self) -> LaunchOptions:
        """How each run is started by `crossfoot launch`."""
        return LaunchOptions(
            target=self.target,
            continued=AUTO,
            partition=self.partition,
            account=self.account,
            time=self.time,
            cpus_per_task=self.cpus_per_task,
            detach=self.detach,
        )

    @property
    def words(self) -> list[str]:
        """As a command has them, without what is the default, and without --plan and --detach."""
        words = ["--batches", self.batches]
        for one in fields(self)[1:]:
            value = getattr(self, one.name)
            if one.name not in ("plans_only", "detach") and value != one.default:
                option = "to" if one.name == "target" else one.name.replace("_", "-")
                words += [f"--{option}", str(value)]
        return words


def read_lists(options: StudyOptions) -> tuple[tuple[int, ...], tuple[Fraction, ...]]:
    """(batches, factors of the rate), each ascending. Raises Refused with what is wrong with either."""
    findings: list[Finding] = []
    batches: tuple[int, ...] = ()
    factors: tuple[Fraction, ...] = ()
    try:
        batches = batches_of(options.batches)
    except Refused as refused:
        findings.extend(refused.findings)
    try:
        factors = factors_of(options.rates)
    except Refused as refused:
        findings.extend(refused.findings)
    if findings:
        raise Refused(findings)
    return batches, factors


def batches_of(text: str) -> tuple[int, ...]:
    """`16,32,64`, ascending. Raises Refused (CF823)."""

    def wrong(title: str) -> Finding:
        return no_batches(title, "name two or more, each once: --batches 16,32,64,128")

    found = _numbers(text, _batch, "--batches", "a number of samples", wrong)
    if len(found) < 2:
        raise Refused(wrong(f"--batches names {found[0]:,} alone, and a study compares two or more"))
    return found


def factors_of(text: str) -> tuple[Fraction, ...]:
    """`x0.5,x1,x2`, ascending. Raises Refused (CF824)."""

    def wrong(title: str) -> Finding:
        return no_factors(title, "name factors of the rate, each once: --rates x0.5,x1,x2")

    return _numbers(text, _factor, "--rates", "a factor above 0", wrong)


def _numbers(
    text: str, read: Callable[[str], Number], option: str, what: str, wrong: Callable[[str], Finding]
) -> tuple[Number, ...]:
    """Numbers between commas, ascending, each once. Raises Refused with all that are wrong."""
    found: list[Number] = []
    findings = []
    for word in text.split(","):
        try:
            found.append(read(word.strip()))
        except (ValueError, ZeroDivisionError):
            findings.append(wrong(f"{option}: {word.strip() or 'nothing'} is not {what}"))
    twice = sorted({str(one) for one in found if found.count(one) > 1})
    if twice:
        findings.append(wrong(f"{option} names {listed(twice)} more than once"))
    if findings:
        raise Refused(findings)
    return tuple(sorted(found))


def _batch(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError(word)
    return number


def _factor(word: str) -> Fraction:
    factor = Fraction(word.removeprefix("x"))
    if factor <= 0 or "/" in word:
        raise ValueError(word)
    return factor
