"""Save the trained state, all ranks together: each writes its share while the next tensor is gathered.

No rank leaves the others waiting: what fails on one is kept until all have passed every collective, and then
all give the save up.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from crossfoot.checkpoints import findings
from crossfoot.checkpoints.manifest import Damaged, Manifest, StoredTensor, WrittenFile, write_manifest
from crossfoot.checkpoints.store import Checkpoint, commit, newest_good, partial_folder, remove_partial
from crossfoot.checkpoints.tensor_file import DTYPE, TensorFile, bytes_of
from crossfoot.findings.finding import Finding
from crossfoot.phrases import reason_of
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.training.engine import Engine
from crossfoot.training.state import StateTensor, TrainedState, trained_state

T = TypeVar("T")

_WAITING_TENSORS = 2
"""Tensors that a rank holds for its writer, besides the one being written."""
_DISK = (OSError, MemoryError, Damaged)
"""What a save may fail of without the program being wrong."""


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint belongs to.

    plan_sha256: of this attempt's lock. attempt: 1-based. validation_loss: of exactly these weights, None
    when none was taken.
    """

    plan_sha256: str
    batches_sha256: str | None
    attempt: int
    validation_loss: float | None = None


@dataclass(frozen=True)
class Saved:
    """How a save went, the same on every rank: a checkpoint, or the finding that says why there is none.

    seconds: on rank 0, from the call to the rename or to giving up.
    """

    checkpoint: Checkpoint | None
    finding: Finding | None
    seconds: float


class GivenUp(Exception):
    """Something failed on these ranks (rank, host, reason); raised on all ranks alike."""

    def __init__(self, failed: Sequence[tuple[int, str, str]]) -> None:
        self.failed = tuple(failed)
        super().__init__("; ".join(f"rank {rank} on {host}: {reason}" for rank, host, reason in failed))


def weights_are_finite(model: nn.Module) -> bool:
    """Whether this rank's part of what is trained holds numbers only."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return all(bool(torch.isfinite(_own_part(one)).all()) for one in trained)


def _own_part(parameter: nn.Parameter) -> torch.Tensor:
    """What this rank holds of it. Under ZeRO-3 all parts are of one length; what the last ones have beyond
    the parameter's end is memory that nobody writes (deepspeed 0.19.8), and may be NaN.
    """
    part: torch.Tensor | None = getattr(parameter, "ds_tensor", None)
    if part is None:
        return parameter
    start = part.numel() * dist.get_rank(parameter.ds_process_group)
    return part[: max(0, int(parameter.ds_numel) - start)]


def save_checkpoint(
    engine: Engine, model: nn.Module, run_dir: str, step: int, facts: CheckpointFacts, ranks: Ranks
) -> Saved:
    """Write what is needed to continue after `step` steps; all ranks call it together, between two steps.

    model: what was given to the engine, without its loss. Written are the float32 values of what is trained
    and the optimizer's moments; the frozen base is not. A rank holds CPU copies of four of its own tensors at
    most, and under ZeRO one whole tensor on its device. A refusal of the disk on any rank is the finding of
    all, and what was written is cleared away; any other exception is raised.
    """
    started = time.monotonic()
    state = trained_state(engine, model)
    shares = share_out(state.tensors(), ranks.world_size)
    partial: Path | None = None
    try:
        folder = partial = _on_first(ranks, lambda: _make_folder(run_dir, step, facts.attempt), Path)
        writer = _start_writer(folder, shares, ranks.rank)
        try:
            for owner, tensor in _in_turn(shares):
                value = state.value(tensor)
                if owner == ranks.rank:
                    writer.put(tensor, value)
                del value
        except BaseException:
            writer.give_up()
            raise
        files = together(ranks, writer.close, WrittenFile | None)

        def name_it() -> Checkpoint:
            seconds = time.monotonic() - started
            manifest = _manifest(state, shares, files, step, facts, seconds)
            write_manifest(folder, replace(manifest, loss_scale=engine.loss_scale()))
            return commit(folder)

        checkpoint, finding = _on_first(ranks, name_it, Checkpoint), None
    except GivenUp as given_up:
        checkpoint, finding = None, None
        if ranks.is_first:
            if partial is not None:
                remove_partial(partial)
            finding = _not_written(run_dir, step, given_up)
    how = (finding, time.monotonic() - started)
    finding, seconds = ranks.gather(how, tuple[Finding | None, float])[0]
    return Saved(checkpoint, finding, seconds)


def share_out(tensors: Sequence[StateTensor], world_size: int) -> list[list[StateTensor]]:
    """Whose file each tensor goes to: of about equal size, the same on every rank. Some may have none."""
    shares: list[list[StateTensor]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for tensor in sorted(tensors, key=lambda one: (-bytes_of(one.shape), one.stored_name)):
        lightest = loads.index(min(loads))
        shares[lightest].append(tensor)
        loads[lightest] += bytes_of(tensor.shape)
    return shares


def together(ranks: Ranks, action: Callable[[], T], kind: Any) -> list[T]:
    """What `action`, in which there is no collective, returns on every rank, in rank order. kind: its type.

    Raises GivenUp on all ranks when the disk or the memory refused on any. Anything else that an action
    raises is raised on its rank, and as RuntimeError on the others.
    """
    result, problem = None, None
    try:
        result = action()
    except Exception as error:
        problem = error
    said = None if problem is None else (socket.gethostname(), _reason(problem), isinstance(problem, _DISK))
    outcomes = ranks.gather((result, said), tuple[kind | None, tuple[str, str, bool] | None])
    failed = [(rank, *outcome[1]) for rank, outcome in enumerate(outcomes) if outcome[1] is not None]
    if problem is not None and not isinstance(problem, _DISK):
        raise problem
    for rank, host, reason, is_disk in failed:
        if not is_disk:
            raise RuntimeError(f"rank {rank} on {host} failed: {reason}")
    if failed:
        raise GivenUp([(rank, host, reason) for rank, host, reason, _ in failed])
    return [cast(T, outcome[0]) for outcome in outcomes]


def _on_first(ranks: Ranks, action: Callable[[], T], kind: Any) -> T:
    """What `action`, which rank 0 alone runs, returned there; on every rank. Raises as `together`."""
    results = together(ranks, lambda: action() if ranks.is_first else None, kind)
    return cast(T, results[0])


class _Writer:
    """Writes one rank's file in a thread, so that the ranks' disks work while the next tensor is gathered.
    Nothing is raised before `close`.
    """

    def __init__(self, path: Path, tensors: Sequence[StateTensor]) -> None:
        self._path = str(path)
        self._tensors = [(tensor.stored_name, tensor.shape) for tensor in tensors]
        self._error: Exception | None = None
        self._written: WrittenFile | None = None
        self._queue: queue.Queue[tuple[str, torch.Tensor] | None] = queue.Queue(_WAITING_TENSORS)
        self._thread = threading.Thread(target=self._run, name="checkpoint writer", daemon=True)
        self._thread.start()

    def put(self, tensor: StateTensor, value: torch.Tensor) -> None:
        """Hand over the next tensor; waits while too many are waiting. It must not change before `close`."""
        if self._error is not None:
            return
        try:
            copy = value.to("cpu").contiguous()
        except Exception as error:
            self._error = error
            return
        self._queue.put((tensor.stored_name, copy))

    def close(self) -> WrittenFile | None:
        """The file as it is on the disk, None where this rank had nothing to write; raises what failed."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._written

    def give_up(self) -> None:
        """End the thread; the file stays unfinished."""
        self._error = self._error or GivenUp([])
        self._queue.put(None)

    def _run(self) -> None:
        file: TensorFile | None = None
        while (item := self._queue.get()) is not None:
            if self._error is None:  # after an error tensors are taken and dropped: nobody may wait for room
                try:
                    file = file or TensorFile(self._path, self._tensors)
                    file.write(item[0], item[1].numpy())
                except Exception as error:
                    self._error = error
        try:
            if file is not None and self._error is None:
                self._written = file.close()
        except Exception as error:
            self._error = error
        if file is not None and self._error is not None:
            file.abandon()


def _make_folder(run_dir: str, step: int, attempt: int) -> Path:
    partial = partial_folder(run_dir, step, attempt)
    partial.mkdir(parents=True, exist_ok=True)  # its name is nobody else's, whatever a file server says
    return partial


def _start_writer(partial: Path, shares: Sequence[Sequence[StateTensor]], rank: int) -> _Writer:
    writers = sum(1 for share in shares if share)
    return _Writer(partial / f"tensors-{rank:05d}-of-{writers:05d}.safetensors", shares[rank])


def _in_turn(shares: Sequence[Sequence[StateTensor]]) -> list[tuple[int, StateTensor]]:
    """(owner, tensor) in the order of gathering: one for each rank, then the next for each, so that all write
    at the same time.
    """
    return [
        (owner, tensor)
        for row in zip_longest(*shares)
        for owner, tensor in enumerate(row)
        if tensor is not None
    ]


def _manifest(
    state: TrainedState,
    shares: Sequence[Sequence[StateTensor]],
    files: Sequence[WrittenFile | None],
    step: int,
    facts: CheckpointFacts,
    seconds: float,
) -> Manifest:
    steps, odd_steps = state.optimizer_steps()
    written = tuple(file for file in files if file is not None)
    return Manifest(
        step=step,
        plan_sha256=facts.plan_sha256,
        batches_sha256=facts.batches_sha256,
        attempt=facts.attempt,
        files=written,
        tensors={
            tensor.stored_name: StoredTensor(file.name, tensor.shape, DTYPE)
            for share, file in zip(filter(None, shares), written, strict=True)
            for tensor in share
        },
        optimizer=state.optimizer_name,
        optimizer_step=steps,
        odd_steps=odd_steps,
        validation_loss=facts.validation_loss,
        seconds=round(seconds, 3),
        written=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _not_written(run_dir: str, step: int, given_up: GivenUp) -> Finding:
    try:
        kept, _ = newest_good(run_dir)
    except OSError:
        kept = None
    who = ", ".join(f"rank {rank} on {host}" for rank, host, _ in given_up.failed)
    reason = given_up.failed[0][2]
    return findings.not_written(step, who, reason, run_dir, kept.name if kept is not None else None)


def _reason(error: Exception) -> str:
    return "out of memory" if isinstance(error, MemoryError) else reason_of(error)
