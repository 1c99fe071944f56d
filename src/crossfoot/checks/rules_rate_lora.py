"""CF211 to CF216: LoRA's rates and batches, the schedule wsd, and groups with a rate of their own."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.arithmetic.impossible import alternatives
from crossfoot.arithmetic.rate_groups import GROUPS
from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.whole_numbers import finite_number
from crossfoot.findings.finding import Finding
from crossfoot.phrases import counted, listed, step_name
from crossfoot.written.model_facts import INPUT_TABLE_NAMES, OUTPUT_TABLE_NAMES

LARGEST_LORA_BATCH = 128
FULL_RATE = 2e-5
"""With adamw: of Stanford Alpaca, Vicuna and many others that train all weights; LoRA's begin near 1e-4."""
_THINKING_MACHINES = 'Schulman et al. 2025, "LoRA Without Regret" (Thinking Machines)'


@rule("CF211", "note", name="lora-batch")
def large_batch_for_lora(facts: Facts) -> Iterator[Finding]:
    """CF211: LoRA with more than 128 samples a step.

    Schulman et al. 2025, "LoRA Without Regret" (Thinking Machines), found that in some settings LoRA loses
    more than full fine-tuning as the batch grows beyond some point, and that a higher rank does not cure it:
    it lies in training a product of two matrices. Where that point is they do not say in general, and it
    depends on the data: 128 is crossfoot's own mark, not a measured border. Long pretraining with LoRA has
    been done at 1,024 (Chinese-LLaMA-Alpaca). So this is a note.
    """
    batch, config = facts.batch, facts.run.config
    if config.lora is None or batch is None or batch.global_batch_size <= LARGEST_LORA_BATCH:
        return
    yield Finding(
        "CF211",
        f"LoRA with {batch.global_batch_size:,} samples a step: with large batches it has been seen to lose "
        "against full fine-tuning, whatever its rank",
        severity="note",
        place=facts.run.place(
            "batch", "global_batch_size" if config.batch.global_batch_size else "grad_accum_steps"
        ),
        notes=(
            f"{_THINKING_MACHINES}; {LARGEST_LORA_BATCH} is where crossfoot begins to say it, "
            "no measured border",
        ),
        helps=("compare a run with a smaller batch, and its rate, over as many samples",),
    )


@rule("CF212", "warning", name="lora-rate")
def rate_of_full_fine_tuning(facts: Facts) -> Iterator[Finding]:
    """CF212: LoRA with adamw, at a rate that belongs to full fine-tuning.

    LoRA's best rate is about ten times that of full fine-tuning on the same model and data (Schulman et al.
    2025, "LoRA Without Regret"; about fifteen times in very short runs). 1e-5 and 2e-5 are published for
    training all weights (Stanford Alpaca: 2e-5); copied into a LoRA run they learn a small part of what the
    same samples could teach. Chinese-LLaMA-Alpaca-2 uses 1e-4 (SFT) and 2e-4 (pretraining) with LoRA, QLoRA
    1e-4 and 2e-4. The warning speaks up to 2e-5. A low rate may be meant, where an adapter that has been
    trained before is only refined: then accept it. With `lora.init` nothing is said: PiSSA's own rate is
    2e-5 (Meng et al. 2024), because its matrices do not begin at 0.
    """
    rate, config = facts.rate, facts.run.config
    if config.lora is None or config.optimizer.name != "adamw" or rate is None or rate.peak > FULL_RATE:
        return
    if config.lora.changes_base:
        return
    yield Finding(
        "CF212",
        f"the peak rate is {rate.peak:.4g}, a rate of full fine-tuning; LoRA's is about 10 times as high",
        severity="warning",
        place=facts.run.place("lr.reference"),
        others=((facts.run.place("lora"), "LoRA"),),
        notes=(f"{_THINKING_MACHINES}; Chinese-LLaMA-Alpaca-2: 1e-4 with LoRA, 8 samples a step",),
        helps=alternatives(
            (
                f"set lr.reference to {rate.reference * 10:.4g}, and compare both over some hundred steps",
                "accept CF212 if an adapter is only refined",
            )
        ),
    )


@rule("CF213", "note", name="rank-without-alpha")
def rank_without_alpha(facts: Facts) -> Iterator[Finding]:
    """CF213: an override changes `lora.r` and leaves `lora.alpha` as the file has it.

    What an adapter adds to a weight is B A times alpha / r. With half the rank and the same alpha that factor
    doubles, and a step moves the weight as if the rate had changed too: two runs that are compared for their
    rank then differ in their rate. Whether that is wanted is open. "LoRA Without Regret" (2025) keeps alpha
    fixed at 32 and finds the best rate nearly independent of r just because of the 1 / r; recipes that write
    alpha = 2 r keep the factor fixed; Kalajdzievski 2023 (rsLoRA) argues for alpha / sqrt(r). So this is a
    note: it says what changes beside the rank.
    """
    run = facts.run
    was, lora = run.overridden.get("lora.r"), run.config.lora
    before = finite_number(was[0]) if was is not None else None
    if lora is None or was is None or not before or before == lora.r or "lora.alpha" in run.overridden:
        return
    scale, power = lora.scale, 0.5 if lora.scaling == "rslora" else 1.0
    old, of = lora.alpha / before**power, "alpha / sqrt(r)" if power < 1 else "alpha / r"
    yield Finding(
        "CF213",
        f"lora.r is {lora.r} in the place of {before:g}, and lora.alpha stays {lora.alpha:g}: {of} goes "
        f"from {old:.4g} to {scale:.4g}, which is a change of rate too",
        severity="note",
        place=run.place("lora.r"),
        others=((was[1], f"right with alpha {lora.alpha:g}?"),),
        helps=alternatives(
            (
                f"write lora.alpha={old * lora.r**power:g} as well, to keep {of}",
                "leave alpha, and do not compare the two runs at one rate",
            )
        ),
    )


@rule("CF214", "warning", name="no-stable-phase")
def nothing_stable(facts: Facts) -> Iterator[Finding]:
    """CF214: the schedule wsd has no stable phase.

    wsd is warm-up, stable, decay: the peak is held, so that a run can be made longer from before the decay.
    When warm-up and `lr.decay_fraction` take all steps together, the decay begins where the warm-up ends, and
    is shorter than it is written if they take more. The usual decay is 10 to 20 % of the steps (Hu et al.
    2024, MiniCPM; Haegele et al. 2024).
    """
    rate = facts.rate
    if rate is None or rate.schedule != "wsd" or not rate.decay_steps or rate.total_steps < 10:
        return
    if rate.decay_begin > rate.warmup_steps:
        return
    yield Finding(
        "CF214",
        f"wsd without a stable phase: {rate.warmup_steps:,} of {rate.total_steps:,} steps are warm-up, and "
        f"the decay begins with {step_name(rate.decay_begin)}",
        severity="warning",
        place=facts.run.place("lr.decay_fraction"),
        notes=(f"{counted(rate.decay_steps, 'step')} are decay",),
        helps=("set lr.decay_fraction to 0.1, or shorten the warm-up",),
    )


def trained_kinds(facts: Facts) -> tuple[str, ...]:
    """The kinds of parameters that the run trains, in the order of GROUPS, as far as config and model say."""
    lora, is_tied = facts.run.config.lora, facts.model is not None and facts.model.tied
    if lora is None:
        return tuple(kind for kind in GROUPS[2:] if kind != "lm_head" or not is_tied)
    saved = [name.rpartition(".")[2] for name in lora.modules_to_save]
    if lora.trainable_token_indices is not None:
        saved += ["embed_tokens", "lm_head"]
    tables = {"embed_tokens": INPUT_TABLE_NAMES, "lm_head": OUTPUT_TABLE_NAMES}
    kinds = {kind for kind, names in tables.items() if any(name in names for name in saved)}
    if is_tied and "lm_head" in kinds:
        kinds = kinds - {"lm_head"} | {"embed_tokens"}
    is_beside = any(name not in (*INPUT_TABLE_NAMES, *OUTPUT_TABLE_NAMES) for name in saved)
    if is_beside or lora.dora:  # DoRA's magnitudes
        kinds.add("other")
    return tuple(kind for kind in GROUPS if kind in kinds or kind.startswith("lora_"))


@rule("CF215", "error", name="empty-rate-group")
def group_without_parameters(facts: Facts) -> Iterator[Finding]:
    """CF215: a group in `lr.groups` that no trained parameter belongs to.

    The kinds are lora_A and lora_B (the two matrices of every adapter), embed_tokens and lm_head (the input
    embedding and the output layer, however the model calls them) and other (everything else that is trained).
    With LoRA only the adapters and `lora.modules_to_save` are trained; where the output layer is tied to the
    embedding, the one tensor is embed_tokens. A rate for nothing would stand in the plan, and nobody could
    measure it.
    """
    trained = trained_kinds(facts)
    for group in facts.run.config.lr.groups:
        if group in trained:
            continue
        why = (
            f"{group} is not trained in this run" if group in GROUPS else f"{group} is no kind of parameters"
        )
        if group == "lm_head" and facts.model is not None and facts.model.tied:
            why = "lm_head is tied to embed_tokens, and one tensor has one rate"
        meant = next((kind for kind in trained if kind.lower() == group.lower()), None)
        yield Finding(
            "CF215",
            f"lr.groups.{group} gives a rate to no parameter: {why}",
            place=facts.run.place("lr", "groups", group),
            notes=(f"trained here: {listed(trained, 'and')}",),
            helps=(f"write {meant}" if meant else "remove it, or name one of them",),
        )


@rule("CF216", "error", name="no-base-rate")
def every_kind_in_a_group(facts: Facts) -> Iterator[Finding]:
    """CF216: every kind of trained parameter is in `lr.groups`, so `lr.reference` is the rate of none.

    The rate of a step is what the parameters without a ratio of their own are trained at; plan, ledger and
    receipt have it in the first place. Leave the kind out whose rate `lr.reference` is. (A ratio of 1 is the
    same as none, and may be left out too.)
    """
    lr, trained = facts.run.config.lr, trained_kinds(facts)
    if not lr.groups or not set(trained) <= lr.groups.keys():
        return
    base = next((kind for kind in trained if lr.groups[kind] == 1), trained[0])
    ratio = lr.groups[base]
    others = {kind: round(value / ratio, 12) for kind, value in lr.groups.items() if kind != base}
    rest = ", ".join(f"{kind}: {value:g}" for kind, value in others.items())
    first = "" if ratio == 1 else f"reference: {lr.reference * ratio:.6g} and "
    yield Finding(
        "CF216",
        "every trained parameter is in lr.groups, and none is left for lr.reference itself",
        place=facts.run.place("lr.groups"),
        helps=(f"write {first}groups: {{{rest}}} below lr: {base} is then trained at lr.reference",),
    )
