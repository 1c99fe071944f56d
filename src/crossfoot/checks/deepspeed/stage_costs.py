"""What each ZeRO stage would cost a run, from what is written of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from crossfoot.arithmetic.batch import BatchPlan
from crossfoot.arithmetic.zero_stages import Parameters, StageCost, Widths, stage_cost
from crossfoot.written.config import Config
from crossfoot.written.model_facts import ModelFacts
from crossfoot.written.parameter_counts import count_parameters

WIDTHS: Mapping[str, int] = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2})
DTYPES: Mapping[str, str] = MappingProxyType({"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"})
"""DeepSpeed's words for `communication_data_type`."""


def communication_dtype(values: Mapping[str, Any], dtype: str) -> str:
    """The precision in which gradients are summed over the ranks. bfloat16 keeps 8 bits, and a sum over ranks
    rounds at every addition: it is float32 unless the DeepSpeed file asks otherwise.
    """
    asked = values.get("communication_data_type")
    if isinstance(asked, str) and asked.lower() in DTYPES:
        return DTYPES[asked.lower()]
    return "float32" if dtype == "bfloat16" else dtype


def parameters_of(config: Config, model: ModelFacts | None, rows: int) -> Parameters | None:
    """None when the model's tensors are not known. rows: of the tokenizer; 0: those of the model."""
    return (
        None if model is None else count_parameters(model.sizes, config.lora, rows, config.model.quantization)
    )


def costs_of(
    config: Config, parameters: Parameters | None, batch: BatchPlan, values: Mapping[str, Any]
) -> tuple[StageCost, ...]:
    """The stages that could train this run, the lowest first; none of one rank, or of a model of which too
    little is known. values: of the DeepSpeed file, as it is handed over.
    """
    dtype, ranks = config.model.dtype, batch.topology.dp_degree
    if parameters is None or ranks == 1:
        return ()
    widths = Widths(
        weight=WIDTHS[dtype],
        reduced=WIDTHS[communication_dtype(values, dtype)],
        gradient=2 if dtype == "float16" else 4,
        states=8 if config.optimizer.name == "adamw" else 0,
        is_own_master=dtype == "float32",
    )
    return tuple(
        stage_cost(
            stage,
            parameters,
            widths,
            forwards=batch.grad_accum_steps,
            ranks=ranks,
            recomputes=config.model.gradient_checkpointing,
        )
        for stage in (0, 1, 2, 3)
        if (stage > 0 or dtype == "float32")  # CF311
        and (stage < 3 or not parameters.packed)  # CF596
    )
