"""What can be wrong with a run beside another one: one function, one code, and its docstring is the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import step_name
from crossfoot.runs.attempts import Change
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.known_keys import sections
from crossfoot.written.overriding import another_run_dir
from crossfoot.written.run_file import RunFile
from crossfoot.written.shown import shown


@rule_docs("CF490", "warning")
def differs_from_dry_run(
    step: int, here: float, there: float, difference: float, tolerance: float, dry_dir: str
) -> Finding:
    """CF490: a step of the run did not have the loss that its dry run had.

    The dry run trains the first steps of the same plan in one process: the same samples, rates and weights,
    so the losses agree but for rounding: 1e-5 at most in float32, 5e-3 in bfloat16, 2e-3 in float16. A larger
    difference means that something is not the same on the cluster: another base model under the same path, a
    rank that computes wrongly, another version of a library. The receipt does not see it, because counts,
    rates and samples agree. `crossfoot prove` on the cluster finds out whether its gradients are right.
    """
    return Finding(
        "CF490",
        f"{step_name(step)} had loss {here:.7g} here and {there:.7g} in the dry run",
        severity="warning",
        notes=(
            f"they differ by {difference:.1e} of their size, and {tolerance:g} is rounding",
            f"the dry run is in {dry_dir}",
        ),
        helps=("compare the gradient with plain torch on the cluster: crossfoot prove CONFIG",),
    )


@rule_docs("CF743")
def changed_since(run: RunFile, change: Change, attempt: int, why: str) -> Finding:
    """CF743: a run is to be continued with another value than it was trained with so far.

    The rates, the length of the run, the optimizer's numbers and the precision belong to the plan that the
    receipt is held against. One that changes unnoticed makes a curve that nobody can explain later. Write the
    old value back, and the run is the one that was planned; or say `--allow KEY` for exactly this key, and
    the change is written into attempt.json and shown by every receipt of this run. Topology, micro batch,
    accumulation, ZeRO stage, engine and everything else that does not touch the weights needs no allowing.
    """
    key = change.key
    now, before = shown(change.now, whole=True), shown(change.before, whole=True)
    return Finding(
        "CF743",
        f"{key} is {now}, and the run was trained with {before} so far",
        place=_place(run, key),
        label=f"attempt {attempt} had {before}",
        notes=(why,),
        helps=(
            f"write {before} back" if change.before is not None else f"remove {key}",
            f"or change it on purpose: --allow {key} (the receipt says so)",
        ),
    )


@rule_docs("CF744")
def bad_allow(key: str, near: Sequence[str], known: Iterable[str], why: str | None = None) -> Finding:
    """CF744: --allow was given a word that is no key of the config that may be changed on purpose.

    It takes one key, exactly as in the config with dots: `--allow lr.reference`. Give it once for each key.
    Data, seed, global batch and the shape of the adapter cannot be allowed (CF745).
    """
    if why is not None:
        return Finding(
            "CF744",
            f"--allow {key}: it can never be changed between attempts",
            place=Place(COMMAND_LINE),
            notes=(why,),
            helps=(f"leave out --allow {key}",),
        )
    return Finding(
        "CF744",
        f"--allow {shown(key)} names no key that may be changed on purpose",
        place=Place(COMMAND_LINE),
        helps=(f"the nearest is {near[0]}",) if near else (f"keys that may be: {', '.join(known)}",),
    )


@rule_docs("CF745")
def never_changes(
    run: RunFile,
    change: Change,
    attempt: int,
    why: str,
    title: str | None = None,
    helps: tuple[str, ...] = (),
) -> Finding:
    """CF745: a value was changed that makes it another run, and that cannot be allowed.

    Data, seed, global batch and what becomes of an epoch's last step decide which samples each step holds.
    With another of them, the steps after the checkpoint would train some samples again and leave others out,
    and no receipt could say otherwise. The shape of the adapter and the kind of optimizer decide what the
    tensors of the checkpoint mean. A run with other ones is another run: train it into a folder of its own.
    Files are compared by content: data and tokenizer may lie in another place. The global batch may be
    another behind the samples that the checkpoint has trained, `[[0, 32], [20000, 64]]`: the steps that are
    done stay as they are.
    """
    now, before = shown(change.now, whole=True), shown(change.before, whole=True)
    return Finding(
        "CF745",
        title or f"{change.key} is {now}, and a run that was trained with {before} cannot be continued so",
        place=_place(run, change.key),
        label=f"attempt {attempt} had {before}",
        notes=(why,),
        helps=(
            f"write {before} back" if change.before is not None else f"remove {change.key}",
            *helps,
            f"or train another run: {another_run_dir(run.run_dir)}",
        ),
    )


@rule_docs("CF119", name="other-rates-before")
def other_rates(
    run: RunFile, step: int, rates: tuple[float, float], notes: tuple[str, ...], helps: tuple[str, ...]
) -> Finding:
    """CF119: another batch from a checkpoint on would give the steps before it other rates than they had.

    The batch may change behind the steps that are done, and they stay as they are, rates included. A schedule
    that falls to the end of the run (cosine, linear), or a warm-up that is a share of it, follows the number
    of steps; a larger batch makes fewer of them. Keep the number of steps, or take `constant`, or wsd before
    its decay: their rates do not depend on the end. Or take the jump on purpose with `--allow`.
    """
    was, now = rates
    return Finding(
        "CF119",
        f"{step_name(step)} was trained at the rate {was:.6g}, and in this plan it has {now:.6g}",
        place=_place(run, "lr.schedule"),
        notes=notes,
        helps=helps,
    )


@rule_docs("CF031", name="allow-without-continue")
def allow_without_continue(allow: Iterable[str]) -> Finding:
    """CF031: --allow was given for a run that begins, and there is nothing that it would allow.

    It names keys that may differ from those of the run that is continued. A run that begins has whatever its
    config says. Most often --continue was forgotten, or the run folder is another one.
    """
    keys = ", ".join(dict.fromkeys(allow))
    return Finding(
        "CF031",
        f"--allow {keys} means nothing here: no run is continued",
        place=Place(COMMAND_LINE),
        helps=("name the run with --continue RUN_DIR", "or leave out --allow"),
    )


def _place(run: RunFile, key: str) -> Place:
    """Where a key is written; the file, when it is none of the config's."""
    path = tuple(key.split("."))
    return run.place(*path) if path[0] in sections() else Place(run.path)
