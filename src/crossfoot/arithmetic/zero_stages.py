"""What a ZeRO stage moves between the ranks at every step, and what it holds on each of them.

The formulas are DeepSpeed 0.19.8's, as counted at torch.distributed (tests/distributed/test_bytes_moved.py),
and as found in memory there, not those of the ZeRO paper: its stage 2 hands whole gradients to an all-reduce
at every backward. Buckets and what a backward alone needs are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters. trained: what the optimizer updates. used: what a forward multiplies with. held:
    with the frozen originals of modules that are trained in full beside an adapter. packed: those of them
    that are kept in 4 or 8 bits, in packed_bytes with their scales.
    """

    trained: int
    used: int
    held: int
    packed: int = 0
    packed_bytes: int = 0


@dataclass(frozen=True)
class Widths:
    """Bytes of a parameter. weight: in the forward. reduced: of its gradient on the way. gradient: of its
    gradient while a step adds it up. states: of the optimizer. is_own_master: what is trained is float32.
    """

    weight: int
    reduced: int
    gradient: int
    states: int
    is_own_master: bool


@dataclass(frozen=True)
class StageCost:
    """Bytes per rank. reduced: gradients handed to a collective in a step. gathered: weights received from
    one in a step; on stage 3 at most, because small and recent ones are kept. gradient, state, master,
    weight: held from one forward of a step to the next. What a ring sends is about twice `reduced` on stages
    0 to 2 (all-reduce), once on stage 3.
    """

    stage: int
    reduced_bytes: int
    gathered_bytes: int
    gradient_bytes: int
    state_bytes: int
    master_bytes: int
    weight_bytes: int

    @property
    def moved_bytes(self) -> int:
        """Handed to collectives in one step."""
        return self.reduced_bytes + self.gathered_bytes

    @property
    def held_bytes(self) -> int:
        """Without activations and buffers."""
        return self.gradient_bytes + self.state_bytes + self.master_bytes + self.weight_bytes


def stage_cost(
    stage: int,
    parameters: Parameters,
    widths: Widths,
    *,
    forwards: int,
    ranks: int,
    recomputes: bool = False,
) -> StageCost:
    """One stage. forwards: of a step, on each rank. recomputes: gradient checkpointing gathers the weights a
    third time on stage 3.
    """
    trained = parameters.trained

    def share(count: int, from_stage: int) -> int:
        return -(-count // ranks) if stage >= from_stage else count

    gathered = trained * widths.weight if stage in (1, 2) else 0
    if stage == 3:
        gathered = forwards * (3 if recomputes else 2) * parameters.used * widths.weight
    has_master = stage > 0 or not widths.is_own_master
    return StageCost(
        stage=stage,
        reduced_bytes=trained * widths.reduced * (forwards if stage >= 2 else 1),
        gathered_bytes=gathered,
        gradient_bytes=_gradient_bytes(stage, trained, share(trained, 1), widths, forwards),
        state_bytes=share(trained, 1) * widths.states,
        master_bytes=share(trained, 1) * _FLOAT32_BYTES if has_master else 0,
        weight_bytes=share(parameters.held - parameters.packed, 3) * widths.weight + parameters.packed_bytes,
    )


def _gradient_bytes(stage: int, trained: int, share: int, widths: Widths, forwards: int) -> int:
    """Between two forwards. share: trained parameters of one rank. Stage 1 has, beside the sums, the last
    backward's gradients; in float32 those are the sums, and the rank's share of them is there twice more.
    """
    if stage >= 2:
        return share * widths.gradient
    whole = trained * widths.gradient
    if stage == 0:
        return whole
    if not widths.is_own_master:
        return whole + trained * widths.weight
    return whole + (2 * share * widths.gradient if forwards > 1 else 0)
