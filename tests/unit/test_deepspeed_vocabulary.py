"""The data file of DeepSpeed's keys: it is current, quick to read, and says what DeepSpeed says."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest

from crossfoot.checks.deepspeed.vocabulary import DATA_FILE, _key, entries, vocabulary, zero_stage

TOOL = Path(__file__).parents[2] / "tools" / "deepspeed_vocabulary.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deepspeed_vocabulary_tool", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_data_file_is_what_the_installed_deepspeed_reads(tool: ModuleType) -> None:
    text = tool.rendered()
    assert text == DATA_FILE.read_text(encoding="utf-8"), "run python tools/deepspeed_vocabulary.py"
    assert text == tool.rendered(), "the same twice"


def test_a_key_without_kind_stops_the_tool(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "BY_HAND", tool.BY_HAND.replace("steps_per_print ", "step_per_print "))
    with pytest.raises(SystemExit, match="steps_per_print without a default"):
        tool.vocabulary()


def test_reading_it_takes_milliseconds() -> None:
    vocabulary.cache_clear()
    started = time.process_time()  # whatever else runs
    vocabulary()
    assert time.process_time() - started < 0.1


def test_what_is_in_it() -> None:
    words = vocabulary()
    assert len(words.blocks) > 35
    assert words.version.startswith("0.19.")
    top, zero = words.blocks[""], words.blocks["zero_optimization"]
    assert (top.reader, zero.reader, words.blocks["optimizer.params"].reader) == ("plain", "model", "open")
    assert top.keys["gradient_clipping"].default == 1.0
    assert top.keys["gradient_allreduce_op"].choices == ("mean", "sum")
    assert zero.keys["stage"].choices == (0, 1, 2, 3)
    assert zero.keys["reduce_bucket_size"].default == 500_000_000
    assert zero.keys["prefetch_bucket_size"].same_as == "stage3_prefetch_bucket_size"
    old = zero.keys["stage3_gather_fp16_weights_on_model_save"]
    assert old.deprecated == "stage3_gather_16bit_weights_on_model_save"
    assert {"amp", "elasticity", "curriculum_learning"} < set(words.refused[""])
    assert words.homes("stage") == [("zero_optimization", "stage")]
    assert words.homes("gradient_clipping") == [("gradient_clipping",)]


def test_every_block_named_is_there() -> None:
    words = vocabulary()
    for block in words.blocks.values():
        for name, key in block.keys.items():
            assert key.block is None or key.block in words.blocks, (block.path, name)
            assert key.same_as is None or key.same_as in block.keys, (block.path, name)


def test_entries_are_told_apart() -> None:
    found = {
        entry.dotted: entry.key for entry in entries({"bfloat16": {"enabled": 1, "x": 2}, "y": {"z": 1}})
    }
    assert list(found) == ["bfloat16", "bfloat16.enabled", "bfloat16.x", "y"]
    assert found["bfloat16.enabled"] == _key({"kind": "bool", "default": False})
    assert found["bfloat16.x"] is None and found["y"] is None


@pytest.mark.parametrize(
    ("block", "stage"),
    [
        ({}, 0),
        ({"stage": 3}, 3),
        ({"stage": "2"}, None),
        ({"stage": True}, None),
        ({"stage": 4}, None),
        (2, None),
    ],
)
def test_the_stage(block: object, stage: int | None) -> None:
    assert zero_stage({"zero_optimization": block}) == stage
