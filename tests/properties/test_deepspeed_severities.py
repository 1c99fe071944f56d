"""Errors about one odd value in a DeepSpeed file, held against DeepSpeed itself: what no error is said about,
it takes; and what an error of form is said about in an object that it reads strictly, it refuses.
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from crossfoot.arithmetic.batch import Topology, solve_batch
from crossfoot.checks.deepspeed.vocabulary import vocabulary
from crossfoot.planning.deepspeed_config import resolve_deepspeed
from crossfoot.written.run_file import load_run
from deepspeed_checking import deepspeed_findings

VALUES: tuple[Any, ...] = (
    *(True, False, None, 0, 1, 2, -1, 0.5, 3.0, 5e8, [], {}),
    *("auto", "true", "false", "yes", "2", "5e8", "cpu", "none", "x"),
    *({"enabled": True}, {"enabled": False}, {"device": "cpu"}),
)
OF_FORM = {"CF309", "CF314", "CF315", "CF317", "CF319"}
NOT_IN_THE_VOCABULARY = ("tensor_parallel.dtype", "expert_parallel.load_balance_coeff")
FILES = 80


def odd_file(seed: int) -> tuple[str, dict[str, Any], str]:
    """A precision, a file with one odd value, and where that stands."""
    chosen = random.Random(seed)
    words = vocabulary()
    path, block = chosen.choice([(p, b) for p, b in words.blocks.items() if b.reader != "open"])
    key = chosen.choice([*block.keys, *words.refused.get(path, ()), "nonsense_key"])
    dtype = chosen.choice(("float32", "bfloat16"))
    values: dict[str, Any] = {"zero_optimization": {"stage": chosen.choice((1, 2, 3))}}
    inside = values
    for name in filter(None, path.split(".")):
        inside = inside.setdefault(name, {})
    inside[key] = copy.deepcopy(chosen.choice(VALUES))
    return dtype, values, f"{path}.{key}".lstrip(".")


@pytest.mark.parametrize("first", range(0, 240, FILES))
def test_errors_are_deepspeed_s(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    look = deepspeed_findings(tmp_path, monkeypatch)
    for dtype, values, where in map(odd_file, range(first, first + FILES)):
        if where in NOT_IN_THE_VOCABULARY:
            continue
        errors = {f.code for f in look(values, f"model.dtype={dtype}") if f.severity == "error"}
        run = load_run("run.yaml", (f"model.dtype={dtype}", "cluster.gpus_per_node=1"))
        batch = solve_batch(Topology(1, 1), **run.config.batch_numbers)
        try:
            DeepSpeedConfig(resolve_deepspeed(values, run.config, batch))
        except Exception as stops:  # pydantic's, DeepSpeed's own, TypeError, AttributeError
            assert errors, (dtype, json.dumps(values), stops)
        else:
            block, _, key = where.rpartition(".")
            is_strict = vocabulary().blocks[block].reader == "model"
            is_odd = key in ("nonsense_key", *vocabulary().refused.get(block, ()))
            assert not (is_strict and is_odd and errors & OF_FORM), (dtype, json.dumps(values))
