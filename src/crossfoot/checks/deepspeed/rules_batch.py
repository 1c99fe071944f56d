"""CF101 to CF103: the DeepSpeed file's three batch numbers against the plan."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.arithmetic.batch import BatchImpossible, BatchPlan, in_a_sum, solve_batch
from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.whole_numbers import whole_number
from crossfoot.findings.finding import Finding, Place
from crossfoot.phrases import counted, listed
from crossfoot.written.deepspeed_file import DeepSpeedFile

_OURS = ("micro_batch_size", "grad_accum_steps", "global_batch_size")


@rule("CF101")
def train_batch_size(facts: Facts) -> Iterator[Finding]:
    """CF101: `train_batch_size` in the DeepSpeed file is not what this run steps on.

    DeepSpeed asserts `train_batch_size = train_micro_batch_size_per_gpu x gradient_accumulation_steps x GPUs`
    and stops at start-up when it is not so. crossfoot owns the batch: leave the key out, write "auto", or
    write the number of samples that one step can hold. When the batch does not divide over the GPUs (100
    samples on 16), that capacity (112) is larger than the batch; DeepSpeed must be told the capacity, and the
    run still steps on exactly 100. "Which do I change, the flag or the JSON?": either; each help is one
    complete answer. (lies B2, B10, U5)
    """
    batch, deepspeed = facts.batch, facts.understood
    written = whole_number(deepspeed.get("train_batch_size")) if deepspeed else None
    if batch is None or deepspeed is None or written in (None, batch.capacity_samples) or written < 1:
        return
    capacity = batch.capacity_samples
    notes: tuple[str, ...] = ()
    if written == batch.global_batch_size:
        title = (
            f"train_batch_size says {written}, but DeepSpeed must be told {capacity}, what a step can hold"
        )
        notes = (
            f"{written} samples do not divide: {capacity - written} of {capacity} places stay empty",
            "DeepSpeed asserts train_batch_size = micro batch x accumulation x GPUs",
            f"the run still steps on exactly {written} samples, and its ledger counts them",
        )
        keep = f'write {capacity} (or "auto"); the batch stays {written}'
    else:
        steps = f"{'up to ' if _changes(facts) else ''}{batch.global_batch_size} samples"
        title = f"train_batch_size says {written}, but this run steps on {steps}"
        keep = f'write {capacity} (or "auto") to keep the batch that the run will really use'
        if batch.is_uneven:
            notes = (f"a step can hold {capacity} samples, and that is what DeepSpeed must be told",)
    yield Finding(
        "CF101",
        title,
        place=deepspeed.place("train_batch_size"),
        label=_stops(batch),
        others=_equation(facts, batch),
        notes=notes,
        helps=(keep, *_ways_to_get(facts, deepspeed, batch, written)),
        fix=deepspeed.replacing("train_batch_size", text=str(capacity)),
    )


@rule("CF102")
def train_micro_batch_size_per_gpu(facts: Facts) -> Iterator[Finding]:
    """CF102: `train_micro_batch_size_per_gpu` in the DeepSpeed file is not the run's micro_batch_size.

    crossfoot owns the batch and builds every forward itself, so another number here can only be wrong:
    DeepSpeed would stop, or count (and, under transformers, load) another batch than the one that trains.
    (lies B10, B14)
    """
    yield from _one_of_two(
        facts, "CF102", "train_micro_batch_size_per_gpu", "micro_batch_size", "samples per GPU per forward"
    )


@rule("CF103")
def gradient_accumulation_steps(facts: Facts) -> Iterator[Finding]:
    """CF103: `gradient_accumulation_steps` in the DeepSpeed file is not the run's grad_accum_steps.

    With another number here DeepSpeed would step after another number of forwards and divide the loss by it:
    the batch, the number of steps and the rate would all be others than planned. (lies B10, B14, J3)
    """
    yield from _one_of_two(
        facts, "CF103", "gradient_accumulation_steps", "grad_accum_steps", "forwards per optimizer step"
    )


def _changes(facts: Facts) -> bool:
    """Whether the batch is not one number for the whole run."""
    written = facts.run.config.batch
    return bool(written.from_samples) or written.target_trained_tokens is not None


def _one_of_two(facts: Facts, code: str, theirs: str, ours: str, meaning: str) -> Iterator[Finding]:
    deepspeed = facts.understood
    written = whole_number(deepspeed.get(theirs)) if deepspeed else None
    source = facts.batch or facts.run.config.batch
    planned: int | None = getattr(source, ours)
    if deepspeed is None or written is None or written < 1 or planned in (None, written):
        return
    key = f"batch.{ours}"
    if facts.run.is_written(key):
        others: tuple[tuple[Place, str], ...] = ((facts.run.place(key), f"{meaning}: {planned}"),)
    else:
        others = _equation(facts, facts.batch) if facts.batch else ()
    yield Finding(
        code,
        f"{theirs} says {written}, but this run plans {planned} {meaning}",
        place=deepspeed.place(theirs),
        label=_stops(facts.batch) if facts.batch else "",
        others=others,
        helps=(f'write {planned} (or "auto")', *_ways_to_set(facts, deepspeed, ours, written)),
        fix=deepspeed.replacing(theirs, text=str(planned)),
    )


def _stops(batch: BatchPlan) -> str:
    nodes = batch.topology.num_nodes
    count, what = (nodes, "node") if nodes > 1 else (batch.topology.world_size, "GPU")
    return f"DeepSpeed would stop here at start-up, on {counted(count, what)}"


def _equation(facts: Facts, batch: BatchPlan) -> tuple[tuple[Place, str], ...]:
    """`4 x 8 x 8 x 2 = 512` beside the first batch number that the config has, file before command line."""
    gpus, nodes = batch.topology.gpus_per_node, batch.topology.num_nodes
    ranks = (gpus, nodes) if isinstance(gpus, int) else (f"({in_a_sum(gpus)})",)
    factors = (batch.micro_batch_size, batch.grad_accum_steps, *ranks)
    text = f"{' x '.join(map(str, factors))} = {batch.capacity_samples}"
    if batch.is_uneven:
        text += f", which holds {batch.global_batch_size}"
    places = [facts.run.place("batch", key) for key in _OURS if facts.run.is_written("batch", key)]
    in_file = [place for place in places if place.line]
    return (((in_file or places)[0], text),) if places else ()


def _ways_to_get(facts: Facts, deepspeed: DeepSpeedFile, batch: BatchPlan, wanted: int) -> tuple[str, ...]:
    """The smallest change of the config with which a step holds exactly `wanted`, tried out before it is
    offered.
    """
    given = facts.run.config.batch_numbers
    micro, ranks = batch.micro_batch_size, batch.topology.dp_degree
    forwards, rest = divmod(wanted, micro * ranks)
    exact: dict[str, int] = {} if _changes(facts) else {"global_batch_size": wanted}
    if not rest:
        exact["grad_accum_steps"] = forwards
    choices = (("grad_accum_steps",), ("global_batch_size",), ("grad_accum_steps", "global_batch_size"))
    for keys in choices:
        if not all(key in given and key in exact for key in keys):
            continue
        try:
            solved = solve_batch(batch.topology, **{**given, **{key: exact[key] for key in keys}})
        except BatchImpossible:
            continue
        if solved.global_batch_size == wanted and solved.agrees(deepspeed.batch_numbers):
            changes = listed([f"batch.{key} to {exact[key]}" for key in keys])
            equation = f"{solved.micro_batch_size} x {solved.grad_accum_steps} x {ranks} = {wanted}"
            return (f"or set {changes} to get {wanted}: {equation}",)
    return ()


def _ways_to_set(facts: Facts, deepspeed: DeepSpeedFile, ours: str, wanted: int) -> tuple[str, ...]:
    """Setting our key to the file's number, where the batch then still solves; says what batch that is."""
    given = facts.run.config.batch_numbers
    if facts.batch is None or ours not in given or wanted < 1:
        return ()
    try:
        solved = solve_batch(facts.batch.topology, **{**given, ours: wanted})
    except BatchImpossible:
        return ()
    if not solved.agrees(deepspeed.batch_numbers):
        return ()
    return (f"or set batch.{ours} to {wanted}: {solved.global_batch_size} samples per optimizer step",)
