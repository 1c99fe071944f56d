"""The findings of a proof: one function, one code, one manual page. Torch-free, for `crossfoot explain`."""

from __future__ import annotations

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs


@rule_docs("CF750", name="gradient-not-proven")
def not_proven(what: str, notes: tuple[str, ...] = ()) -> Finding:
    """CF750: the gradient that the engine applied is not the gradient of the batch.

    `crossfoot prove` takes one optimizer step under the real launcher, engine, precision and DeepSpeed
    config, with SGD and without clipping, so that what changes in the parameters is the gradient. A
    plain-torch float32 reference, which shares neither collator nor loss code, computes the same gradient one
    sample at a time, unpadded: the sum of the cross entropy of all trained tokens, divided by their number.
    The two must agree in every group of parameters: |difference| / |reference| within 1e-5 in float32, within
    5e-2 in bfloat16. Real weights (`--full`) enlarge rounding: it is measured, and widens the bound.

    When they do not, the page says by which factor they differ, and which known mistake has that factor:
    gradients summed over ranks instead of averaged ("gradient_allreduce_op": "sum", or averaging switched
    off), a loss that is divided by the accumulation although it is a mean over the step already, a mean of
    means over forwards, ranks or samples, a part of the batch that is missing. A group whose reference is
    zero shows nothing, so it is not proven either.

    AdamW would hide most of them, because it divides by the gradient's own size; the clipping, the weight
    decay and the loss that is reported are wrong all the same.
    """
    helps = (
        "look for what scales losses or gradients: crossfoot check CONFIG, and changes around the loop",
        "if nothing does, open an issue in crossfoot's repository, with what prove printed and the config",
    )
    return Finding("CF750", what, notes=notes, helps=helps)


@rule_docs("CF751", name="model-not-shrinkable")
def not_shrinkable(path: str, why: str, place: Place) -> Finding:
    """CF751: no small model could be made from the model's config.json.

    `crossfoot prove` makes a small model of the same architecture: few layers, narrow, with a small
    vocabulary and random weights. Some architectures tie their sizes together in a way that it does not know.
    With `--full` the real weights are loaded instead.
    """
    return Finding(
        "CF751",
        f"no small model of the same architecture can be made from {path}",
        place=place,
        notes=(why,),
        helps=("prove it with the real weights: add --full",),
    )
