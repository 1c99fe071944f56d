"""The packages that not every installation has: which verb needs them, and the command that installs them.

`pip install crossfoot` brings what plans, checks, launches and reads; what trains is the extra `train`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal, TypeAlias

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.findings.rule_docs import rule_docs

Extra: TypeAlias = Literal["train", "tracking", "tensorboard", "quant", "serve", "tune", "eval", "harness"]

PACKAGES: Mapping[Extra, tuple[str, ...]] = {
    "train": ("accelerate", "deepspeed", "peft", "safetensors", "torch", "transformers"),
    "tracking": ("wandb",),
    "quant": ("bitsandbytes",),
    "tensorboard": ("tensorboardX",),
    "serve": ("fastapi", "locust", "openai", "uvicorn"),
    "tune": ("optuna", "sacrebleu"),
    "eval": ("sacrebleu",),
    "harness": ("lm_eval",),
}
"""What is imported of each extra, by the names that import takes."""
NEEDED_BY: Mapping[str, Extra] = {
    **dict.fromkeys(("train", "prove", "export", "merge", "generate", "chat", "evaluate"), "train"),
    **dict.fromkeys(("serve", "loadtest"), "serve"),
    "tune": "tune",
}
"""The verbs that every installation has not got all packages for."""


def install_command(extra: Extra) -> str:
    """The command that brings the packages of an extra."""
    return f"pip install 'crossfoot[{extra}]'"


def missing_of(extra: Extra) -> tuple[str, ...]:
    """The packages of an extra that are not installed. Looked for, and not imported: that takes seconds."""
    return tuple(name for name in PACKAGES[extra] if find_spec(name) is None)


def refuse_missing(verb: str, extra: Extra | None = None) -> None:
    """Refused when this verb needs packages that are not installed. extra: what it needs this time; None: as
    NEEDED_BY says.
    """
    extra = extra or NEEDED_BY.get(verb)
    if extra is not None and (missing := missing_of(extra)):
        raise Refused(packages_missing(verb, missing, extra))


@rule_docs("CF017")
def packages_missing(verb: str, missing: tuple[str, ...], extra: Extra) -> Finding:
    """CF017: a verb needs packages that are not installed.

    `pip install crossfoot` brings what plan, check, explain, index, launch, receipt, watch and doctor need:
    they run on a laptop or a login node, without torch. What has to do with weights (train, prove, export)
    needs torch, transformers, peft, accelerate, deepspeed and safetensors, which are the extra `train`; serve
    and loadtest need the extra `serve`, tune the extras `train` and `tune`, and lm-evaluation-harness
    with the model `crossfoot` the extras `train` and `eval`. This is looked up before anything else is done.
    """
    are = "is" if len(missing) == 1 else "are"
    return Finding(
        "CF017",
        f"{verb} needs {', '.join(missing)}, which {are} not installed",
        helps=(
            f"install the extra: {install_command(extra)}",
            f"or, in a clone of the project: pip install -c constraints.txt -e '.[{extra}]'",
        ),
    )


@rule_docs("CF013")
def tracker_missing(key: str, value: str, off: str, extra: Extra, place: Place) -> Finding:
    """CF013: the run asks for Weights & Biases or TensorBoard, and the package for it is not installed.

    Both are optional dependencies. This is looked up before the data is tokenised and before a GPU is used.
    """
    return Finding(
        "CF013",
        f"{key} is {value}, but {PACKAGES[extra][0]} is not installed",
        place=place,
        helps=(f"install it: {install_command(extra)}", f"or set {key} to {off}"),
    )


@rule_docs("CF598")
def quantizer_missing(quantization: str, place: Place) -> Finding:
    """CF598: the run asks for a base in 4 or 8 bits, and bitsandbytes is not installed.

    bitsandbytes packs the weights and computes with them, on GPUs and on CPUs (from 0.50 on). It is an
    optional dependency. Whether it is there is only looked up where one can train.
    """
    return Finding(
        "CF598",
        f"model.quantization is {quantization}, but bitsandbytes is not installed",
        place=place,
        helps=(f"install it: {install_command('quant')}", "or set model.quantization to none"),
    )
