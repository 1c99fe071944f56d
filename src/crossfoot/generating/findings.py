"""What can be wrong when a trained model is asked: its options, what is asked, what is there to be asked."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted


@rule_docs("CF800")
def generation_value(name: str, value: object, wanted: str, place: Place, help_: str = "") -> Finding:
    """CF800: an option of generation has a value that it cannot have.

    The names and ranges are those of transformers: `top_p` is above 0 and at most 1, `temperature` and
    `repetition_penalty` are above 0, `top_k` is 0 (off) or more. A temperature of 0 divides by nothing; who
    wants the likeliest token each time leaves sampling off.
    """
    return Finding(
        "CF800",
        f"{name} is {value}, and must be {wanted}",
        place=place,
        helps=(help_ or f"give {name} a value that is {wanted}",),
    )


@rule_docs("CF801", "warning")
def generation_without_effect(names: Sequence[str], why: str, place: Place, help_: str) -> Finding:
    """CF801: options of generation are given that change nothing.

    Without `do_sample` the likeliest token is taken each time: `temperature`, `top_p`, `top_k` and a seed are
    read and not used, in transformers as here. Guides set them nevertheless, and tune what has no effect.
    """
    have = "has" if len(names) == 1 else "have"
    return Finding(
        "CF801",
        f"{', '.join(names)} {have} no effect: {why}",
        severity="warning",
        place=place,
        helps=(help_,),
    )


@rule_docs("CF802", "warning")
def float16_on_cpu(
    place: Place, help_: str = "write --dtype float32, or --dtype bfloat16 for half the memory"
) -> Finding:
    """CF802: a model is to compute in float16 on a CPU.

    Most CPUs have no float16 arithmetic: it is done in float32 and rounded after each step, which is slower
    than float32 and less exact than either that or bfloat16.
    """
    return Finding(
        "CF802",
        "float16 is slow on a CPU",
        severity="warning",
        place=place,
        helps=(help_,),
    )


@rule_docs("CF806")
def no_template(what: str, why: str) -> Finding:
    """CF806: there is no template for what is asked, or it refuses it.

    A conversation is put into the words that the model was trained with: the run's template, or the
    chat_template in the model's folder. A model without one continues texts; it cannot be chatted with, nor
    asked records of several turns.
    """
    return Finding(
        "CF806",
        f"{what}: {why}",
        helps=("name a template: --template alpaca2, llama2, or the path of a Jinja file",),
    )


@rule_docs("CF807")
def answers_taken(out: str, why: str, help_: str) -> Finding:
    """CF807: answers cannot be written to the file that was named.

    A finished file is never replaced. Answers that are there so far stand beside it, in OUT.part: the same
    command goes on with them, and another one (other prompts, options or weights) does not, because its
    answers would be mixed with these.
    """
    return Finding("CF807", f"{out} {why}", helps=(help_,))


@rule_docs("CF808", "error", "warning")
def window_full(count: int, longest: int, window: int, limit: int) -> Finding:
    """CF808: prompts and answers do not fit into the tokens that the model was made for.

    `max_position_embeddings` of its config.json (with rope scaling, more) is how many tokens it was made for.
    A prompt that fills them leaves no room for an answer: an error. One behind which `max_new_tokens` do not
    fit gets a shorter answer: a warning.
    """
    prompts = counted(count, "prompt")
    if limit:
        return Finding(
            "CF808",
            f"{prompts} with {limit:,} new tokens would be longer than the model's {window:,} tokens",
            severity="warning",
            notes=("their answers end there",),
            helps=(f"leave it so, or write --max-new-tokens {max(1, window - longest)}",),
        )
    return Finding(
        "CF808",
        f"{prompts} of up to {longest:,} tokens leave no room in the model's {window:,} tokens",
        helps=("shorten them: an answer needs at least one token",),
    )


@rule_docs("CF809")
def device_missing(asked: str, why: str) -> Finding:
    """CF809: `--device-map` names a device that is not here.

    It is cpu, cuda, cuda:0 and so on, or as accelerate names ways to divide a model over all GPUs: auto,
    balanced, sequential. Left out, the first GPU is taken where there is one, else the CPU.
    """
    return Finding(
        "CF809", f"--device-map {asked}: {why}", helps=("leave it out, or write --device-map cpu",)
    )
