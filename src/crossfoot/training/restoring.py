"""Load a checkpoint into any engine, stage and number of ranks; all ranks together.

Its every byte was compared with its checksum when it was chosen (`runs.resume`). Nothing is changed
before every name and shape was compared with the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import NoneType

import torch
from safetensors import SafetensorError
from torch import nn

from crossfoot.checkpoints.findings import not_readable, other_optimizer, other_shapes, other_tensors
from crossfoot.checkpoints.manifest import Manifest
from crossfoot.checkpoints.store import Checkpoint, checkpoint_in
from crossfoot.findings.finding import Finding, Refused
from crossfoot.models.start_values import START, stored_start
from crossfoot.models.stored import StoredTensors
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.training.engine import Engine
from crossfoot.training.saving import GivenUp, together
from crossfoot.training.state import MOMENTS, StateTensor, TrainedState, trained_state


def find_checkpoint(run_dir: str, name: str, ranks: Ranks) -> Checkpoint:
    """The checkpoint that was chosen, as this rank sees it. Raises Refused, on all, where one does not."""
    with _refusing(name):
        found: list[Checkpoint] = []
        together(ranks, lambda: found.append(checkpoint_in(run_dir, name)), bool)
    return found[0]


def find_start(checkpoint: Checkpoint, ranks: Ranks) -> dict[str, torch.Tensor]:
    """What the adapters began with, where the base depends on it. Raises Refused, on all, where a rank cannot
    read it.
    """
    found: dict[str, torch.Tensor] = {}

    def read() -> None:
        try:
            found.update(stored_start(checkpoint))
        except (SafetensorError, RuntimeError) as error:
            raise OSError(str(error)) from error

    with _refusing(checkpoint.name):
        together(ranks, read, NoneType)
    return found


def load_checkpoint(engine: Engine, model: nn.Module, checkpoint: Checkpoint, ranks: Ranks) -> None:
    """Set what `engine` trains, and what its optimizer keeps, to a checkpoint; all ranks together.

    model: what was given to the engine, without its loss. No forward is run and no step is taken; the rate is
    left alone. Raises Refused, the same on every rank: written for other tensors, shapes or another
    optimizer. Then nothing was changed; only when a file cannot be read any more after it was chosen, the
    state is a mixture, and must not be trained.
    """
    state = trained_state(engine, model)
    findings = list(_differences(state, checkpoint))
    if findings:
        raise Refused(findings)
    manifest = checkpoint.manifest
    state.make_moments(manifest.optimizer_step, manifest.odd_steps, _names_with_moments(state, manifest))
    if manifest.loss_scale is not None:
        engine.set_loss_scale(manifest.loss_scale)
    with StoredTensors(checkpoint) as stored:
        reader = _Reader(stored)
        for tensor in state.trained():
            state.write(tensor.name, tensor.moment, reader.tensor(tensor))
    with _refusing(checkpoint.name):
        together(ranks, reader.check, bool)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """What the disk refuses on any rank is Refused on all."""
    try:
        yield
    except GivenUp as given_up:
        rank, host, reason = given_up.failed[0]
        raise Refused(not_readable(what, f"rank {rank} on {host}", reason)) from given_up


def _names_with_moments(state: TrainedState, manifest: Manifest) -> set[str]:
    """The parameters for which the checkpoint has what the optimizer keeps."""
    return {
        name
        for name in state.shapes
        if state.moments
        and all(StateTensor(name, moment, ()).stored_name in manifest.tensors for moment in state.moments)
    }


def _differences(state: TrainedState, checkpoint: Checkpoint) -> Iterator[Finding]:
    """What of a checkpoint does not fit to what this run trains."""
    manifest, name = checkpoint.manifest, checkpoint.name
    if manifest.optimizer != state.optimizer_name:
        yield other_optimizer(name, manifest.optimizer, state.optimizer_name)
    moments = tuple(f".{moment}" for kept in (*MOMENTS.values(), (START,)) for moment in kept)
    saved = {stored for stored in manifest.tensors if not stored.endswith(moments)}
    lacking = [trained for trained in state.shapes if trained not in saved]
    if lacking:
        yield other_tensors(f"trained in this run and not in {name}", lacking)
    if unknown := sorted(saved - state.shapes.keys()):
        yield other_tensors(f"in {name} and not trained in this run", unknown)
    differing = [
        (trained, manifest.tensors[trained].shape, shape)
        for trained, shape in state.shapes.items()
        if trained in saved and manifest.tensors[trained].shape != shape
    ]
    if differing:
        yield other_shapes(name, differing)


class _Reader:
    """Reads whole tensors of a checkpoint. After an error it hands out zeros, so that no rank leaves a
    collective; `check` raises the error.
    """

    def __init__(self, stored: StoredTensors) -> None:
        self._stored = stored
        self._error: Exception | None = None

    def tensor(self, tensor: StateTensor) -> torch.Tensor:
        """float32, on the CPU; zeros where the checkpoint has none (a moment that was never made)."""
        value = None
        if self._error is None:
            try:
                value = self._stored.read(tensor.stored_name)
            except (OSError, MemoryError, SafetensorError, RuntimeError) as error:
                self._error = error if isinstance(error, (OSError, MemoryError)) else OSError(str(error))
        return torch.zeros(tensor.shape) if value is None else value.reshape(tensor.shape)

    def check(self) -> None:
        """Raises what went wrong on this rank."""
        if self._error is not None:
            raise self._error
