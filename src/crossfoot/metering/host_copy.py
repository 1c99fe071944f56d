"""A tensor's value on its way to the CPU, so that nobody waits for a GPU."""

from __future__ import annotations

import numpy as np
import torch


class HostCopy:
    """A tensor's value on its way to the CPU; `numpy()` waits for it only if it has not arrived."""

    def __init__(self, tensor: torch.Tensor) -> None:
        tensor = tensor.detach()
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = tensor.clone()

    def numpy(self) -> np.ndarray:
        """The value as a numpy array on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        host = self._host.float() if self._host.dtype in (torch.bfloat16, torch.float16) else self._host
        value: np.ndarray = host.numpy()
        return value

    def number(self) -> float:
        """The value of a scalar."""
        return float(self.numpy())
