"""How the next token of each row is chosen, by that row alone: drawn with noise that is a function of seed,
item and place; ended by a text. And a look at the numbers that it is chosen by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from crossfoot.tasks.items import Decoding, Item


def draw_key(item: Item, seed: int) -> int:
    """Of all that is drawn for an item: 128 bits."""
    digest = hashlib.sha256(f"{seed}\n{item.task}\n{item.id}\ntext".encode()).digest()
    return int.from_bytes(digest[:16], "big")


def gumbel_noise(key: int, place: int, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Standard Gumbel noise [size] for the token at `place` of an answer, from 0. The highest of scores with
    it is each token's as often as the scores without it say.
    """
    raw = np.random.Philox(key=key, counter=place << 64).random_raw(size)
    uniform = ((raw >> np.uint64(11)) + 0.5) * 2.0**-53  # never 0, never 1
    found: np.ndarray[Any, np.dtype[np.float32]] = (-np.log(-np.log(uniform))).astype(np.float32)
    return found


class Draw(LogitsProcessor):  # type: ignore[misc]
    """Makes of the highest score one that is drawn. keys: of each row. width: places of the prompts."""

    def __init__(self, keys: Sequence[int], width: int) -> None:
        self._keys, self._width = keys, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Of the next token."""
        place, size = input_ids.shape[1] - self._width, scores.shape[-1]
        noise = {key: torch.from_numpy(gumbel_noise(key, place, size)) for key in set(self._keys)}
        return scores + torch.stack([noise[key] for key in self._keys]).to(scores.device)


class Watch(LogitsProcessor):  # type: ignore[misc]
    """Keeps a digest of all logits of one row for each of the first steps, and changes nothing."""

    def __init__(self, row: int, steps: int) -> None:
        self._row, self._steps = row, steps
        self.seen: list[bytes] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Before anything is done to them."""
        if len(self.seen) < self._steps:
            row = scores[self._row].nan_to_num().contiguous().cpu()
            self.seen.append(hashlib.sha256(row.view(torch.uint8).numpy().tobytes()).digest())
        return scores


class Until(StoppingCriteria):  # type: ignore[misc]
    """Ends a row whose answer holds one of the texts. text: of ids. width: places of the prompts."""

    def __init__(self, texts: Sequence[str], text: Callable[[Sequence[int]], str], width: int) -> None:
        self._texts, self._text, self._width = texts, text, width

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Whether each row is done."""
        said = map(self._text, input_ids[:, self._width :].tolist())
        done = [any(text in answer for text in self._texts) for answer in said]
        return torch.tensor(done, device=input_ids.device)


def processors(decoding: Decoding, keys: Sequence[int], width: int, watch: Watch) -> LogitsProcessorList:
    """In the order of transformers' `generate`; the highest then is taken. keys, width: as of `Draw`."""
    found = [watch]
    if decoding.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if not decoding.do_sample:
        return LogitsProcessorList(found)
    if decoding.temperature != 1.0:
        found.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k:
        found.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1.0:
        found.append(TopPLogitsWarper(decoding.top_p))
    return LogitsProcessorList([*found, Draw(keys, width)])
