"""What is told about an import: the batch there, where it is not what it says, what is not carried over."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from crossfoot.importing.carried import Carried, Left
from crossfoot.importing.departures import Case, departures
from crossfoot.importing.recipe import Ranks, origin
from crossfoot.phrases import counted

_LONGEST_VALUE = 48


def render_import(case: Case, carried: Carried) -> str:
    """The whole page, for people."""
    recipe = case.recipe
    lines = [f"{recipe.path}: {recipe.stack.title}; what it leaves out is as in {recipe.stack.version}", ""]
    lines += ["what it would have trained there", *_formula(case), ""]
    found = list(departures(case))
    if found:
        lines.append("and where that is not what it says")
        for each in found:
            lines += _wrapped(f"- {each.name}: {each.text}", "  ", "    ")
        lines.append("")
    lines += _not_carried([left for left in carried.left if left.trains])
    lines += _without_effect([left for left in carried.left if not left.trains])
    return "\n".join(lines).rstrip("\n")


def _formula(case: Case) -> Iterator[str]:
    batch, world, entries = case.batch, case.recipe.world, case.entries
    rows = (
        (
            "  ",
            "samples per GPU per forward",
            batch.micro_batch_size,
            entries["batch.micro_batch_size"].origin,
        ),
        ("x ", "forwards per step", batch.grad_accum_steps, entries["batch.grad_accum_steps"].origin),
        ("x ", "GPUs per node", world.gpus.count if world.gpus else 1, _said(world.gpus)),
        ("x ", "nodes", world.nodes.count if world.nodes else 1, _said(world.nodes)),
    )
    for sign, name, number, said in rows:
        yield f"  {sign}{name:<31} {number:>9,}   {said}".rstrip()
    what = "rows per optimizer step" if case.is_packing else "samples per optimizer step"
    yield f"  = {what:<31} {batch.per_step:>9,}" + ("" if world.gpus else "   for each GPU")
    epoch = case.epoch
    if epoch is None or case.is_packing:
        return
    yield ""
    said = f"{case.held_out:,} split off for validation" if case.held_out else ""
    yield f"    {'samples per epoch':<31} {epoch.samples:>9,}   {said}".rstrip()
    yield f"    {'forwards per epoch, each GPU':<31} {epoch.forwards:>9,}"
    yield f"    {'steps per epoch':<31} {epoch.steps:>9,}"
    if case.epochs:
        yield f"    {'optimizer steps':<31} {epoch.total_steps(case.epochs):>9,}   {case.epochs:g} epochs"


def _said(ranks: Ranks | None) -> str:
    return f"{ranks.words}   {ranks.origin}" if ranks else "not said"


def _not_carried(left: Sequence[Left]) -> Iterator[str]:
    """Each with its value, its reason and what to do."""
    if not left:
        return
    yield f"not carried over, and without it something else is trained, or may be ({len(left)})"
    for each in left:
        value = each.given.text if each.given.is_known else "(known to the run only)"
        value = value if len(value) <= _LONGEST_VALUE else f"{value[: _LONGEST_VALUE - 3]}..."
        yield f"  {each.given.key}: {value}   {origin(each.given.place)}"
        yield from _wrapped(each.why, "      ", "      ")
        if each.help:
            yield from _wrapped(f"-> {each.help}", "      ", "         ")
    yield ""


def _without_effect(left: Sequence[Left]) -> Iterator[str]:
    """By reason: nothing that is trained hangs on them."""
    if not left:
        return
    yield f"not carried over, and nothing is trained otherwise ({len(left)})"
    by_reason = sorted(left, key=lambda each: [other.why for other in left].index(each.why))
    for why, same in groupby(by_reason, key=lambda each: each.why):
        pairs = [
            f"{each.given.key}: {each.given.text}" if each.given.text else each.given.key for each in same
        ]
        yield from _wrapped(f"{', '.join(pairs)} - {why}", "  ", "      ")
    yield ""


def what_next(out: str | None, carried: Carried) -> str:
    """The command that comes next."""
    lost = sum(left.trains for left in carried.left)
    said = (
        f"{counted(lost, 'value')} not carried over, above"
        if lost
        else "everything that trains was carried over"
    )
    return f"{out} written: {said}" if out else said


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    width = min(110, max(60, shutil.get_terminal_size((100, 24)).columns))
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
