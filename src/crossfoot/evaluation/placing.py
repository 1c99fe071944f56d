"""Where a rank of an evaluation computes, and with how many threads."""

from __future__ import annotations

import os
import socket

import torch

from crossfoot.environment.threads import threads_of
from crossfoot.environment.world import World
from crossfoot.findings.finding import Refused
from crossfoot.generating.speaker import choose_device
from crossfoot.rendezvous.devices import CPU, CUDA, look_at_device
from crossfoot.rendezvous.findings import device_beyond


def place_of_rank(asked: str | None, world: World) -> str:
    """A device. asked: of a lone process any; several ranks have one each. On a CPU the threads are set: how
    many there are changes no number. Raises Refused.
    """
    device = choose_device(asked) if world.world_size == 1 or asked == CPU else _own(world)
    if device == CPU:
        torch.set_num_threads(threads_of(world, os.environ)[0])
    return device


def first_device(device: str) -> str:
    """Of a way to divide a model over all GPUs the first of them."""
    return device if device == CPU or device.startswith(CUDA) else CUDA


def _own(world: World) -> str:
    found = look_at_device(world.local_rank, os.environ)
    if found.kind != CUDA:
        return CPU
    if found.index is None:
        host, ranks = socket.gethostname(), world.local_world_size
        raise Refused(device_beyond(world.rank, host, world.local_rank, ranks, found.visible))
    return f"cuda:{found.index}"
