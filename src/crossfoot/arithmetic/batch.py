"""The batch equation, in exact integers: whatever is left out is solved, nothing is ever floored.

    capacity_samples = micro_batch_size x grad_accum_steps x dp_degree  >=  global_batch_size

`global_batch_size` is what the optimizer sees and is kept to the sample. The capacity is what DeepSpeed is
handed (it asserts train_batch_size = micro batch x accumulation x world). Where the two differ, some slots
hold one sample fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby

from crossfoot.arithmetic.impossible import Impossible, alternatives
from crossfoot.phrases import counted

MICRO = "batch.micro_batch_size"
TOKENS = "batch.micro_batch_tokens"
ACCUM = "batch.grad_accum_steps"
GLOBAL = "batch.global_batch_size"
TARGET = "batch.target_trained_tokens"
CAPACITY = "capacity_samples"
NOTHING_FIXED: Mapping[str, int] = {}

Thresholds = tuple[tuple[int, int], ...]
"""(from so many trained samples on, samples per optimizer step), the first from 0, ascending."""


def batches_in_words(batches: Thresholds) -> str:
    """`32`, and `32, then 64 from sample 20,000 on` where the batch changes."""
    return ", then ".join(
        f"{batch:,} from sample {first:,} on" if first else f"{batch:,}" for first, batch in batches
    )


def batches_from(before: Thresholds, later: Thresholds, samples: int) -> Thresholds:
    """What holds by `before` until so many samples are trained, and by `later` from there on; without pairs
    that change nothing.
    """
    holding = [batch for first, batch in later if first <= samples][-1]
    pairs = [pair for pair in before if pair[0] < samples]
    pairs += [(samples, holding), *(pair for pair in later if pair[0] > samples)]
    changing = [nth for nth, (_, batch) in enumerate(pairs) if not nth or batch != pairs[nth - 1][1]]
    return tuple(pairs[nth] for nth in changing)


def batches_written(batches: Thresholds) -> str:
    """As the config has them: `[[0, 4], [12, 8]]`, and `4` where the batch never changes."""
    if len(batches) == 1:
        return str(batches[0][1])
    return f"[{', '.join(f'[{first}, {batch}]' for first, batch in batches)}]"


def batch_behind(before: Thresholds, samples: int, batch: int) -> str:
    """The `path=value` word of a run that trained so many samples by `before`, and goes on with `batch`."""
    return f"{GLOBAL}={batches_written(batches_from(before, ((0, batch),), samples))}"


class BatchImpossible(Impossible):
    """The batch numbers contradict each other."""


def ceil_div(a: int, b: int) -> int:
    """The smallest integer q with q x b >= a, for b > 0, in exact integers."""
    quotient, rest = divmod(a, b)
    return quotient + (rest > 0)


GpusPerNode = int | tuple[int, ...]
"""One number for all nodes; where they differ, one for each node in order."""


def alike(gpus_by_node: Sequence[int]) -> GpusPerNode:
    """The one number when all nodes have the same, else all of them. No node: ValueError."""
    if not gpus_by_node:
        raise ValueError("a run needs a node")
    return gpus_by_node[0] if len(set(gpus_by_node)) == 1 else tuple(gpus_by_node)


def spread(ranks: int, num_nodes: int) -> tuple[int, ...]:
    """Ranks on each node, as equal as they can be, the larger shares first: 5 on 3 are 2, 2, 1."""
    share, more = divmod(ranks, num_nodes)
    return (share + 1,) * more + (share,) * (num_nodes - more)


def in_a_sum(gpus: GpusPerNode) -> str:
    """`8`, `2 + 1`, `8 + 8 + 4`, and `3 x 8 + 4` for 8, 8, 8, 4."""
    runs = [list(same) for _, same in groupby((gpus,) if isinstance(gpus, int) else gpus)]
    shown = (
        [f"{len(same)} x {same[0]:,}"] if len(same) > 2 else [f"{each:,}" for each in same] for same in runs
    )
    return " + ".join(chain.from_iterable(shown))


def counted_on_nodes(gpus: GpusPerNode, thing: str = "GPU") -> str:
    """`1 GPU`, `8 GPUs`, `2 + 1 GPUs`."""
    return counted(gpus, thing) if isinstance(gpus, int) else f"{in_a_sum(gpus)} {thing}s"


@dataclass(frozen=True)
class Topology:
    """Where a run is computed. gpus_per_node: GPUs, one rank each, on every node; for nodes that differ, one
    number for each of them in order. Numbers that are all alike become one. Not positive, or not as many
    as there are nodes: ValueError.
    """

    gpus_per_node: GpusPerNode
    num_nodes: int

    def __post_init__(self) -> None:
        gpus = self.gpus_per_node
        if not isinstance(gpus, int):
            if len(gpus) != self.num_nodes:
                raise ValueError(f"{len(gpus)} numbers of GPUs for {self.num_nodes} nodes")
            object.__setattr__(self, "gpus_per_node", alike(gpus))
        if min(self.num_nodes, gpus if isinstance(gpus, int) else min(gpus)) < 1:
            raise ValueError(f"{self.num_nodes} nodes with {in_a_sum(gpus)} GPUs cannot run anything")

    @property
    def is_even(self) -> bool:
        """Whether all nodes have the same number of GPUs."""
        return isinstance(self.gpus_per_node, int)

    @property
    def world_size(self) -> int:
        """Ranks of the run, one per GPU."""
        gpus = self.gpus_per_node
        return gpus * self.num_nodes if isinstance(gpus, int) else sum(gpus)

    def has_nodes_of(self, other: Topology) -> bool:
        """Whether the nodes are the same ones but for their order."""
        mine, theirs = (
            gpus if isinstance(gpus, int) else sorted(gpus)
            for gpus in (self.gpus_per_node, other.gpus_per_node)
        )
        return self.num_nodes == other.num_nodes and mine == theirs

    def in_words(self, thing: str = "GPU") -> str:
        """`2 nodes x 8 GPUs`; `2 nodes with 2 + 1 GPUs` where they differ."""
        joint = "x" if self.is_even else "with"
        return f"{counted(self.num_nodes, 'node')} {joint} {counted_on_nodes(self.gpus_per_node, thing)}"

    @property
    def dp_degree(self) -> int:
        """Ranks that hold different samples: world_size, as there is no tensor or sequence parallelism."""
        return self.world_size


@dataclass(frozen=True)
class BatchPlan:
    """Samples per optimizer step, and the slots that hold them. A batch above the capacity: ValueError.

    micro_batch_size: samples per GPU per forward, at most. grad_accum_steps: forwards per optimizer step and
    rank. global_batch_size: samples per optimizer step over all ranks, exact. solved: which of the three was
    left out and computed ("micro_batch_size", "grad_accum_steps" or "global_batch_size"), None when all three
    were given.

    micro_batch_tokens: where a slot is limited by tokens, so many. Then grad_accum_steps is the most that a
    step may use, and micro_batch_size, which makes the capacity, limits no slot.
    """

    micro_batch_size: int
    grad_accum_steps: int
    global_batch_size: int
    topology: Topology
    solved: str | None = None
    micro_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if min(self.micro_batch_size, self.grad_accum_steps, self.global_batch_size) < 1:
            raise ValueError(f"a batch plan of {self} is not positive")
        if self.global_batch_size > self.capacity_samples:
            raise ValueError(f"{self.global_batch_size} samples do not fit in {self.capacity_samples}")

    @property
    def capacity_samples(self) -> int:
        """Samples that one optimizer step can hold, over all ranks; what DeepSpeed calls train_batch_size."""
        return self.micro_batch_size * self.slots_per_step

    @property
    def slots_per_step(self) -> int:
        """Pairs of (rank, forward) in one optimizer step, over all ranks."""
        return self.topology.dp_degree * self.grad_accum_steps

    @property
    def is_uneven(self) -> bool:
        """True when slots are left unfilled in a full step, so that the capacity is not the batch."""
        return self.global_batch_size != self.capacity_samples

    def agrees(self, fixed: Mapping[str, int]) -> bool:
        """Whether no number of another file, by its name here, contradicts this batch."""
        own = {MICRO: self.micro_batch_size, ACCUM: self.grad_accum_steps, CAPACITY: self.capacity_samples}
        return all(own[name] == number for name, number in fixed.items())

    def fold(self) -> BatchPlan:
        """The same steps and slots for one process: ranks become forwards (grad_accum_steps x dp_degree)."""
        return replace(self, grad_accum_steps=self.slots_per_step, topology=Topology(1, 1))


def solve_batch(
    topology: Topology,
    *,
    micro_batch_size: int | None = None,
    grad_accum_steps: int | None = None,
    global_batch_size: int | None = None,
    micro_batch_tokens: int | None = None,
    max_seq_len: int = 1,
    fixed: Mapping[str, int] = NOTHING_FIXED,
) -> BatchPlan:
    """The plan for any two of the three numbers; the third is the smallest integer that holds the batch.

    All three are checked: a batch above the capacity is refused; one below it is accepted only if one
    accumulation step fewer would not hold it (so grad_accum_steps 1 is always accepted). Raises
    BatchImpossible, whose changes keep what is fixed elsewhere, and ValueError for what a config cannot say:
    fewer than two numbers, or not positive.
    The equation is DeepSpeed's (its docs, "Batch Size Related Parameters").

    micro_batch_tokens: in place of micro_batch_size, the tokens of a slot; max_seq_len: of a sample, at most.
    A slot surely holds micro_batch_tokens / max_seq_len samples, rounded down: that stands for
    micro_batch_size, unless the two other numbers say how many it is to hold on average.
    """
    if micro_batch_tokens is not None:
        surely, _rest = divmod(micro_batch_tokens, max_seq_len)
        micro_batch_size = max(1, surely) if None in (grad_accum_steps, global_batch_size) else None
    given = {
        key: value
        for key, value in ((MICRO, micro_batch_size), (ACCUM, grad_accum_steps), (GLOBAL, global_batch_size))
        if value is not None
    }
    if len(given) < 2 or min(given.values()) < 1:
        raise ValueError(f"no batch follows from {given}")
    whole = _complete(topology, given)
    if len(given) == 3 and not _accepts(topology, whole):
        raise _contradiction(topology, whole, fixed)
    solved = next((key.removeprefix("batch.") for key in (MICRO, ACCUM, GLOBAL) if key not in given), None)
    return BatchPlan(whole[MICRO], whole[ACCUM], whole[GLOBAL], topology, solved, micro_batch_tokens)


def _complete(topology: Topology, given: Mapping[str, int]) -> dict[str, int]:
    """All three numbers from at least two positive ones."""
    dp = topology.dp_degree
    whole = dict(given)
    if GLOBAL not in given:
        whole[GLOBAL] = given[MICRO] * given[ACCUM] * dp
    elif ACCUM not in given:
        whole[ACCUM] = ceil_div(given[GLOBAL], given[MICRO] * dp)
    elif MICRO not in given:
        whole[MICRO] = ceil_div(given[GLOBAL], given[ACCUM] * dp)
    return whole


def _accepts(topology: Topology, whole: Mapping[str, int]) -> bool:
    """Whether three given numbers agree: the capacity holds the batch, and no accumulation step is spare."""
    per_forward = whole[MICRO] * topology.dp_degree
    holds = whole[GLOBAL] <= per_forward * whole[ACCUM]
    # With one accumulation step the capacity of "one fewer" is 0, which holds no batch.
    return holds and whole[GLOBAL] > per_forward * (whole[ACCUM] - 1)


def _equation(topology: Topology, whole: Mapping[str, int]) -> str:
    """`4 x 4 x 16 = 256`, and `4 x 7 x 16 = 448 holds 440` when the batch is uneven."""
    capacity = whole[MICRO] * whole[ACCUM] * topology.dp_degree
    text = f"{whole[MICRO]} x {whole[ACCUM]} x {topology.dp_degree} = {capacity}"
    return text if capacity == whole[GLOBAL] else f"{text} holds {whole[GLOBAL]}"


def _single_changes(topology: Topology, given: Mapping[str, int], fixed: Mapping[str, int]) -> list[str]:
    """For each key: setting it alone to what the other two ask for, where that resolves everything. fixed:
    numbers of another file; a change that contradicts one is left out, where another does not.
    """
    changes, agreeing = [], []
    for key in (ACCUM, MICRO, GLOBAL):
        whole = _complete(topology, {other: value for other, value in given.items() if other != key})
        if _accepts(topology, whole):
            changes.append(f"set {key} to {whole[key]}: {_equation(topology, whole)}")
            if BatchPlan(whole[MICRO], whole[ACCUM], whole[GLOBAL], topology).agrees(fixed):
                agreeing.append(changes[-1])
    return agreeing or changes


def _contradiction(topology: Topology, whole: Mapping[str, int], fixed: Mapping[str, int]) -> BatchImpossible:
    """Three numbers of which one is wrong: the batch does not fit, or accumulation steps are spare."""
    capacity = whole[MICRO] * whole[ACCUM] * topology.dp_degree
    ranks = f"{topology.gpus_per_node} GPUs x {topology.num_nodes} nodes"
    if not topology.is_even:
        ranks = f"({in_a_sum(topology.gpus_per_node)}) GPUs"
    equation = f"{whole[MICRO]} samples x {whole[ACCUM]} forwards x {ranks} = {capacity} samples"
    changes = _single_changes(topology, whole, fixed)
    if whole[GLOBAL] > capacity:
        title = f"global_batch_size is {whole[GLOBAL]}, but a step holds only {capacity} samples"
        return BatchImpossible(title, (GLOBAL, MICRO, ACCUM), notes=(equation,), helps=alternatives(changes))
    needed = ceil_div(whole[GLOBAL], whole[MICRO] * topology.dp_degree)
    title = f"global_batch_size is {whole[GLOBAL]}, but the other batch numbers make {capacity}"
    note = f"{needed} of the {whole[ACCUM]} forwards already hold {whole[GLOBAL]} samples"
    return BatchImpossible(title, (GLOBAL, MICRO, ACCUM), notes=(equation, note), helps=alternatives(changes))
