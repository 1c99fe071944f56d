"""The section `lora` of the run config."""

import math
from typing import Annotated, Literal

from pydantic import Field, WrapValidator

from crossfoot.written.config_values import (
    DEFAULT_START,
    Count,
    Positive,
    Text,
    names_or_all,
    rows_or_new,
    start_of_lora,
)
from crossfoot.written.section import Section


class LoraSection(Section):
    """LoRA (Hu et al. 2021) by peft. Absent: full fine-tuning."""

    r: Count = 64
    """Rank."""
    alpha: Positive = 128.0
    """What the adapter says is multiplied with alpha / r."""
    scaling: Literal["standard", "rslora"] = "standard"
    """rslora: multiplied with alpha / sqrt(r) (Kalajdzievski 2023), which does not fade as r grows. At r = 64
    that is 8 times as much.
    """
    dora: bool = False
    """DoRA (Liu et al. 2024): the length of every row of a weight is trained too, apart from its direction.
    A forward takes markedly longer, because it makes the whole changed weight.
    """
    init: Annotated[str, WrapValidator(start_of_lora)] = DEFAULT_START
    """How the matrices begin. default: B is 0. pissa (Meng et al. 2024): they begin as the largest r singular
    directions of the weight, and olora (Büyükakyüz 2024) as its first r columns made orthogonal; the base
    keeps the rest. pissa_niter_N: by a randomised SVD of N rounds, much faster. What is saved is a plain
    adapter of rank 2 r on the base as it was.
    """
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    """Dropout before A. Draws differ between topologies, so 0 is the default. On CPUs: to the nearest of
    65,536 shares.
    """
    target_modules: Annotated[list[Text] | Literal["all-linear"], WrapValidator(names_or_all)] = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ]
    """Modules that get an adapter. all-linear: every linear module but the output head."""
    modules_to_save: list[Text] = []
    """Modules trained in full and saved with the adapter: embed_tokens, lm_head for a grown vocabulary."""
    trainable_token_indices: Annotated[list[int | str] | str | None, WrapValidator(rows_or_new)] = None
    """Rows of the input embedding and of the output head that are trained, in place of both tables: `new`
    (those that a larger tokenizer adds), or ids and ranges: [5, 32000-55295]. ZeRO below 3. (peft's list is
    of the input embedding alone.)
    """

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied with."""
        return self.alpha / (math.sqrt(self.r) if self.scaling == "rslora" else self.r)

    @property
    def changes_base(self) -> bool:
        """Whether the adapters begin with a part of the weights, which is taken out of the base."""
        return self.init != DEFAULT_START

    @property
    def kind(self) -> str:
        """Its name."""
        return "DoRA" if self.dora else {"standard": "LoRA", "rslora": "rsLoRA"}[self.scaling]
