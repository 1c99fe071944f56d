"""Of what scores are made, as the log says it: of two evaluations that differ in it none goes on with the
other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from crossfoot import __version__
from crossfoot.data.samples import Encoder
from crossfoot.documents import plain
from crossfoot.evaluation.rows import STEP
from crossfoot.rendezvous.devices import CPU
from crossfoot.scores.item_log import Origin
from crossfoot.tasks.questions import Windows


@dataclass(frozen=True)
class How:
    """dtype: that is computed in. quantization: of the base. device: the first one. windows: of texts, where
    there are any. seed: of what is drawn.
    """

    scorer: str
    dtype: str
    quantization: str
    device: str
    windows: Windows | None
    seed: int = 0


def origin_of(weights: str, model: str, encoder: Encoder, how: How) -> Origin:
    """weights: a digest that no others share. model: as it is called."""
    is_cpu = how.device == CPU
    name = torch.backends.cpu.get_cpu_capability() if is_cpu else torch.cuda.get_device_name(how.device)
    return Origin(
        weights=weights,
        scorer=how.scorer,
        seed=how.seed,
        dtype=how.dtype,
        device=f"{how.device.partition(':')[0]} {name}",
        torch=str(torch.__version__),
        options={
            "tokenizer": encoder.facts.fingerprint,
            "quantization": how.quantization,
            "padding": STEP,
            **({} if how.windows is None else plain(how.windows)),
        },
        model=model,
        crossfoot=__version__,
    )
