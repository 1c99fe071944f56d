"""The forward: rows behind a shared prefix, each padded by its own length alone, and what is read of it.

What a row gives must not depend on the rows beside it. So its padding is on the right, where no token looks;
positions and mask are given and equal for all rows; every product of matrices has rows in multiples of 16;
and the logits of the last places alone are computed, a multiple of 16 too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from transformers import Cache

from crossfoot.evaluation.rows import Row, Shape
from crossfoot.evaluation.shared_prefix import empty_cache, is_shareable, shared
from crossfoot.generating.speaker import Speaker
from crossfoot.tasks.items import Decoding
from crossfoot.tasks.questions import Ids

_FILL = 0
"""The id of padding: any will do."""


@dataclass(frozen=True)
class Prefix:
    """tokens: of it. cache: its keys and values, for any number of rows; None: there are none."""

    tokens: int
    cache: Cache | None


@dataclass(frozen=True)
class Letters:
    """The tokens of the letters, and how the logits are processed before they are compared."""

    alone: Ids
    behind: Ids
    decoding: Decoding


@dataclass(frozen=True)
class Found:
    """Of a choice. values: the log-probability of each token of a continuation, or the score of a letter.
    is_greedy: each token of the continuation was the likeliest.
    """

    values: tuple[float, ...]
    is_greedy: bool = False

    @property
    def total(self) -> float:
        """Of all its tokens."""
        return math.fsum(self.values)


class Scorer:
    """A loaded model, asked row by row or many rows at a time."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        model = speaker.model
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        self.config = base.config
        self.dtype = next(one.dtype for one in model.parameters() if one.is_floating_point())
        self._takes = inspect.signature(base.forward).parameters
        self.shares_prefix = is_shareable(empty_cache(base.config)) and not getattr(
            base, "_is_stateful", False
        )

    @property
    def end_ids(self) -> Ids:
        """Tokens that end an answer."""
        return self._speaker.asking.end_ids

    def text(self, ids: Sequence[int]) -> str:
        """Of an answer."""
        return self._speaker.asking.text(ids)

    def prefix(self, ids: Ids) -> Prefix:
        """Compute what rows have in common, alone: as one row, of its own length."""
        if not ids:
            return Prefix(0, None)
        cache = empty_cache(self.config)
        with self._computing():
            self._speaker.model(
                input_ids=torch.tensor([ids], device=self._speaker.device),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=self._speaker.device),
                past_key_values=cache,
                use_cache=True,
                **self._kept(1),
            )
        return Prefix(len(ids), shared(cache))

    def logits(self, prefix: Prefix, rows: Sequence[Row], shape: Shape, least_rows: int = 1) -> torch.Tensor:
        """Of the last `shape.kept` places of each row: [rows, kept, vocabulary], in the model's own dtype.
        least_rows: are computed, the others being padding.
        """
        device = self._speaker.device
        computed = max(len(rows), least_rows)
        ids = torch.full((computed, shape.padded), _FILL)
        for place, row in enumerate(rows):
            own = row.ids[prefix.tokens :]
            ids[place, : len(own)] = torch.tensor(own)
        whole = prefix.tokens + shape.padded
        with self._computing():
            given = self._speaker.model(
                input_ids=ids.to(device),
                attention_mask=torch.ones(computed, whole, dtype=torch.long, device=device),
                **self._placed(prefix.tokens, whole),
                past_key_values=prefix.cache,
                use_cache=prefix.cache is not None,
                **self._kept(shape.kept),
            )
        found: torch.Tensor = given.logits[: len(rows), -shape.kept :]
        return found

    def generate(self, ids: torch.Tensor, mask: torch.Tensor, **how: Any) -> list[list[int]]:
        """What `generate` of transformers adds to each row. ids, mask [rows, width]. how: as it takes it."""
        device = self._speaker.device
        with self._computing():
            told = self._speaker.model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), **how
            )
        found: list[list[int]] = told[:, ids.shape[1] :].tolist()
        return found

    def to_float32(self) -> None:
        """From here on compute in float32, by the same weights."""
        self._speaker = replace(self._speaker, model=self._speaker.model.float(), autocast=None)

    def _kept(self, places: int) -> Mapping[str, int]:
        return {"logits_to_keep": places} if "logits_to_keep" in self._takes else {}

    def _placed(self, first: int, end: int) -> Mapping[str, torch.Tensor]:
        """The positions of all rows; nothing where a model has none (ALiBi)."""
        if "position_ids" not in self._takes:
            return {}
        return {"position_ids": torch.arange(first, end, device=self._speaker.device)[None]}

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Inference, in the precision that the model's tensors ask for."""
        kind, dtype = torch.device(self._speaker.device).type, self._speaker.autocast
        with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
            yield


def continuations(logits: torch.Tensor, rows: Sequence[Row], before: int) -> list[dict[int, Found]]:
    """Of each row, by choice. logits: as `Scorer.logits` gives them. before: places of a row, from its very
    beginning, whose logits are not there.
    """
    wanted = [
        (number, target.start + step - before, token)
        for number, row in enumerate(rows)
        for target in row.targets
        for step, token in enumerate(target.ids)
    ]
    places = {(row, place): None for row, place, _ in wanted}  # letters of one item are told by one place
    where = {place: index for index, place in enumerate(places)}
    row_of, place_of = (torch.tensor(side, device=logits.device) for side in zip(*places, strict=True))
    taken = logits[row_of, place_of]
    best = taken.argmax(-1).tolist()
    probable = torch.log_softmax(taken, dim=-1, dtype=torch.float32)
    at = [where[row, place] for row, place, _ in wanted]
    tokens = [token for _, _, token in wanted]
    told = iter(zip(probable[at, tokens].tolist(), at, tokens, strict=True))
    found: list[dict[int, Found]] = []
    for row in rows:
        own: dict[int, Found] = {}
        for target in row.targets:
            each = [next(told) for _ in target.ids]
            is_greedy = all(best[index] == token for _, index, token in each)
            own[target.choice] = Found(tuple(value for value, _, _ in each), is_greedy)
        found.append(own)
    return found


def letter_scores(
    logits: torch.Tensor, rows: Sequence[Row], before: int, letters: Sequence[Letters]
) -> list[dict[int, Found]]:
    """Of each row, by choice, as the next token: the letter alone and behind a colon, added. letters: of each
    row. before: as of `continuations`.
    """
    found = []
    for number, (row, ours) in enumerate(zip(rows, letters, strict=True)):
        scores = logits[number, row.first - before].to(torch.float32, copy=True)
        own = torch.tensor(sorted(set(row.ids)), device=scores.device)
        penalty, said = ours.decoding.repetition_penalty, scores[own]
        scores[own] = torch.where(said < 0, said * penalty, said / penalty)
        scores /= ours.decoding.temperature
        both = scores[list(ours.alone)] + scores[list(ours.behind)]
        found.append({choice: Found((value,)) for choice, value in enumerate(both.tolist())})
    return found
