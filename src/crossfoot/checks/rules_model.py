"""CF014 and CF541: what can be said about the model section before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from crossfoot.checks.registry import Facts, rule
from crossfoot.finding import Finding
from crossfoot.written.model_facts import BUILTIN_TINY, looks_local, model_missing


@rule("CF014")
def float16(facts: Facts) -> Iterator[Finding]:
    """CF014: `model.dtype: float16` is not supported yet.

    In float16 the loss is scaled, and a step whose scaled gradients overflow is skipped while the scale is
    lowered. A skipped step has used up its samples and its place in the rate's schedule; whether it is then
    repeated or counted as lost is not decided in this version (it comes with checkpoints), and a run that
    skips steps silently is what crossfoot is there to prevent. bfloat16 has the range of float32 and needs no
    scale; GPUs older than NVIDIA's Ampere lack it, and train in float32.
    """
    if facts.run.config.model.dtype != "float16":
        return
    deepspeed = facts.deepspeed
    is_on = deepspeed is not None and deepspeed.get("fp16", "enabled") is True
    yield Finding(
        "CF014",
        "model.dtype float16 is not supported yet",
        place=facts.run.place("model.dtype"),
        others=((deepspeed.place("fp16", "enabled"), "goes with it"),) if deepspeed and is_on else (),
        notes=("what happens to a step whose loss scale overflows is not decided yet",),
        helps=tuple(
            f"{start}set model.dtype to {dtype}{', and fp16.enabled to false' if is_on else ''}"
            for start, dtype in (("", "bfloat16"), ("or ", "float32"))
        ),
    )


@rule("CF541")
def model_path(facts: Facts) -> Iterator[Finding]:
    """CF541: `model.path` is neither a folder here nor a model that the hub gives.

    A path that exists, that begins with /, ./, ../ or ~, that ends with / or that has more than one slash is
    taken for a folder, and must be one. Anything else (`name` or `owner/name`) is a hub id; whether the hub
    has it is only known when the model is loaded. Paths are relative to the folder that the command is
    started in.
    """
    path = facts.run.config.model.path
    folder = os.path.expanduser(path)
    if path == BUILTIN_TINY or not looks_local(path) or os.path.isdir(folder):
        return
    why = "it is a file, not a folder" if os.path.exists(folder) else "there is no such folder"
    yield replace(model_missing(path, why), place=facts.run.place("model.path"))
