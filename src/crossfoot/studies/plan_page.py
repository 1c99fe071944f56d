"""A study on a terminal: its design, its size and what it sets in the config; and at its end its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from crossfoot.phrases import clock, counted, size
from crossfoot.planning.plan import RunPlan
from crossfoot.studies.design import Asked, RunDesign, Subject, factor_word
from crossfoot.studies.results import RunCost, StudyResults

_SET = (
    "every step is full; all batches see the same samples in the same order (data.last_step: carry)",
    "warm-up is {warmup} in all runs",
    "validated before the first step and about every {every:,} samples; no patience",
    "one checkpoint is kept; the adapters of all runs stay",
)
_FALLS = (
    "lr.schedule {schedule} ends with each run: losses compare at the end, after {budget:,} samples; a "
    "point before it belongs to a schedule that has not ended"
)


def plan_page(
    asked: Asked,
    subject: Subject,
    designs: Sequence[RunDesign],
    plans: Mapping[int, RunPlan],
    costs: Mapping[int, RunCost],
    begun: int,
) -> str:
    """plans: of one run of each batch. costs: of a batch, where a run here has measured it. begun: so many
    runs are there already.
    """
    return "\n".join(
        [
            f"{subject.name}: {counted(len(designs), 'run')}, {asked.budget_samples:,} samples each   "
            f"the config's own batch is {subject.batch:,}",
            "",
            *_table(asked, designs, plans, costs),
            "",
            *_total(designs, plans, costs),
            *([f"  begun       {begun:,} of them; what is trained stays, and counts above"] if begun else []),
            *_settings(asked, subject, plans),
        ]
    )


def _table(
    asked: Asked,
    designs: Sequence[RunDesign],
    plans: Mapping[int, RunPlan],
    costs: Mapping[int, RunCost],
) -> Iterator[str]:
    yield f"  {'batch':>7}{'steps':>9}{'samples':>10}{'tokens':>13}{'rate at x1':>12}   layout; rates; time"
    for batch, plan in plans.items():
        own = [run for run in designs if run.batch == batch]
        layout = plan.batch
        forwards = f"{layout.micro_batch_size} x {layout.grad_accum_steps} x {layout.topology.dp_degree}"
        rates = " ".join(dict.fromkeys(factor_word(run.factor) for run in own))
        peak = plan.rate.peak / float(asked.factors[0])
        tokens = tokens_of(plan)
        took = f"{clock(tokens / costs[batch].tokens_per_second)} a run" if tokens and batch in costs else ""
        said = "; ".join(filter(None, (forwards, rates, took)))
        shown = f"{tokens:,}" if tokens is not None else "?"
        yield (f"  {batch:>7,}{own[0].steps:>9,}{own[0].samples:>10,}{shown:>13}{peak:>12.4g}   {said}")


def tokens_of(plan: RunPlan) -> int | None:
    """Real tokens of a run; None before the data is tokenised."""
    return None if plan.expects is None else plan.expects["real_tokens"]


def _total(
    designs: Sequence[RunDesign], plans: Mapping[int, RunPlan], costs: Mapping[int, RunCost]
) -> Iterator[str]:
    samples, steps = sum(run.samples for run in designs), sum(run.steps for run in designs)
    tokens = [tokens_of(plans[run.batch]) for run in designs]
    whole = "" if None in tokens else f", {sum(filter(None, tokens)):,} tokens"
    yield f"  total       {samples:,} samples{whole} in {steps:,} steps"
    if costs and None not in tokens:
        mean = fmean(cost.tokens_per_second for cost in costs.values())
        speeds = [costs[run.batch].tokens_per_second if run.batch in costs else mean for run in designs]
        seconds = sum((one or 0) / speed for one, speed in zip(tokens, speeds, strict=True))
        yield f"  time        about {clock(seconds)}, one run after another, without starts and validations"
    else:
        yield "  time        not known before the first run"
    peak = max((cost.peak_bytes for cost in costs.values() if cost.peak_bytes), default=None)
    yield f"  memory      {f'at most {size(peak)} a rank' if peak else 'not known before the first run'}"


def _settings(asked: Asked, subject: Subject, plans: Mapping[int, RunPlan]) -> Iterator[str]:
    warmup = counted(subject.warmup_samples, "sample") if subject.warmup_samples else "none"
    values = {"warmup": warmup, "every": round(asked.budget_samples / asked.validations)}
    for line in _SET:
        yield f"  sets        {line.format(**values)}"
    schedule = next(iter(plans.values())).rate.schedule
    if schedule != "constant":
        yield f"  note        {_FALLS.format(schedule=schedule, budget=asked.budget_samples)}"
    if len(asked.factors) > 1:
        yield "  note        where the best rate is at the edge, up to 3 more are tried beyond it"


def results_table(results: StudyResults) -> str:
    """A line for each run."""
    lines = [f"  {'run':<20}{'batch':>7}{'peak rate':>12}{'validation loss':>17}   {'state':<12}foots"]
    for run in results.runs:
        loss = f"{run.points[-1].validation_loss:.4f}" if run.points else ""
        foots = "yes" if run.foots and run.same_samples else "no"
        lines.append(
            f"  {run.name:<20}{run.batch:>7,}{run.peak_rate:>12.4g}{loss:>17}   {run.state:<12}{foots}"
        )
    return "\n".join(lines)
