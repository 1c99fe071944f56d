"""Where the other trainer departs from what its file says: each by name, with a number where one is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from crossfoot.importing.carried import Entry
from crossfoot.importing.datasets import SPLIT_KEYS, part_split_off
from crossfoot.importing.recipe import Given, Recipe
from crossfoot.importing.trained import Batch, Epoch, axolotl_steps
from crossfoot.phrases import counted


@dataclass(frozen=True)
class Case:
    """A recipe with its numbers. epoch: None where the samples are not known. epochs: None with max_steps.
    held_out: samples that are split off for validation, and not in the epoch.
    """

    recipe: Recipe
    batch: Batch
    epoch: Epoch | None
    epochs: float | None
    entries: Mapping[str, Entry]
    held_out: int = 0

    def asked(self, *keys: str) -> Given | None:
        """The first of these that is given and asks for something."""
        return next(
            (each for key in keys if (each := self.recipe.get(key)) and not each.asks_for_nothing), None
        )

    @property
    def is_packing(self) -> bool:
        """Whether a row there holds several samples."""
        is_blocks = self.recipe.is_pretraining  # a block is a sample, here too
        return not is_blocks and self.asked("packing", "sample_packing", "neat_packing") is not None

    @property
    def max_seq_len(self) -> str:
        """The longest row there."""
        return self.entries["data.max_seq_len"].value if "data.max_seq_len" in self.entries else "its length"


@dataclass(frozen=True)
class Departure:
    """One of them. name: what it is called; text: what happens, with its number."""

    name: str
    text: str


def is_dropping(recipe: Recipe) -> bool:
    """Whether the samples of an unfinished forward are left out there."""
    given = recipe.get("dataloader_drop_last", "drop_last")
    if given is not None:
        return given.is_true
    packs, packs_validation = recipe.get("sample_packing"), recipe.get("eval_sample_packing")
    is_packed = packs is not None and packs.is_true
    return is_packed and packs_validation is not None and not packs_validation.is_true


def departures(case: Case) -> Iterator[Departure]:
    """All that apply to this file."""
    yield from _the_world(case)
    yield from _the_tail(case)
    yield from _the_steps(case)
    yield from _the_loss(case)
    yield from _the_rate(case)
    yield from _the_data(case)


def _the_world(case: Case) -> Iterator[Departure]:
    world = case.recipe.world
    if world.is_one_process and world.gpus:
        yield Departure(
            "DataParallel",
            f"python starts one process, which shares each forward out among {world.gpus.count} GPUs: the "
            f"batch is {world.gpus.count} times what the options say",
        )
    if world.gpus is None and case.recipe.stack.name == "llamafactory":
        yield Departure(
            "batch of the machine",
            "llamafactory-cli takes all GPUs that it sees: on 8 of them a step has "
            f"{8 * case.batch.per_step:,} samples, on one {case.batch.per_step:,}",
        )


def _the_tail(case: Case) -> Iterator[Departure]:
    per_forward, epoch = case.batch.per_forward, case.epoch
    if case.is_packing:
        return
    if is_dropping(case.recipe):
        lost = f"up to {per_forward - 1:,} samples" if epoch is None else counted(epoch.dropped, "sample")
        if (epoch is None and per_forward > 1) or (epoch is not None and epoch.dropped):
            yield Departure("dropped tail", f"{lost} of each epoch are not trained: dataloader_drop_last")
        return
    if case.batch.world > 1 and (epoch is None or epoch.repeated):
        twice = f"up to {per_forward - 1:,} samples" if epoch is None else counted(epoch.repeated, "sample")
        verb = "is" if epoch is not None and epoch.repeated == 1 else "are"
        yield Departure(
            "repeated samples",
            " ".join(
                (twice, "of each epoch", verb, "trained twice, so that all GPUs have as many: even_batches")
            ),
        )


def _the_steps(case: Case) -> Iterator[Departure]:
    batch, epoch, stack = case.batch, case.epoch, case.recipe.stack
    if stack.floors_steps and batch.grad_accum_steps > 1 and not case.is_packing:
        if epoch is None:
            most = (batch.grad_accum_steps - 1) * batch.per_forward
            yield Departure(
                "floored steps",
                f"the steps of an epoch are rounded down: up to {most:,} samples behind the last whole step "
                "make none in that epoch",
            )
        elif epoch.without_step:
            exact = epoch.forwards / batch.grad_accum_steps
            yield Departure(
                "floored steps",
                f"an epoch has {exact:,.2f} steps and counts {epoch.steps:,}: its last "
                f"{counted(epoch.without_step, 'sample')} make no step in that epoch",
            )
    elif stack.name == "hf" and batch.grad_accum_steps > 1 and epoch is not None and not case.is_packing:
        old = Epoch(batch, epoch.samples, epoch.is_dropping, floors_steps=True)
        if old.without_step:
            yield Departure(
                "floored steps",
                f"transformers up to 4.46 rounds down, to {counted(old.steps, 'step')}: the last "
                f"{counted(old.without_step, 'sample')} of an epoch make none. 4.57 rounds up, as here",
            )
    if stack.name == "axolotl" and epoch is not None and case.epochs and not case.is_packing:
        ends = axolotl_steps(epoch.samples, case.epochs, batch.per_step)
        early = epoch.total_steps(case.epochs) - ends
        if early > 0:
            yield Departure(
                "steps of all epochs in one sum",
                f"the run ends after {ends:,} steps, {counted(early, 'step')} before its last epoch does: "
                "samples x epochs / batch is rounded once, and each epoch has a short step",
            )


def _the_loss(case: Case) -> Iterator[Departure]:
    means = case.recipe.stack.means
    if means and case.batch.grad_accum_steps * case.batch.world > 1:
        forwards = case.batch.grad_accum_steps * case.batch.world
        yield Departure("mean of means", f"a step is {forwards:,} forwards. {means}")
    if case.asked("fp16") is not None:
        yield Departure(
            "overflows counted as steps",
            "a float16 step that overflows is left out, and is counted, and the rate goes on",
        )


def _the_rate(case: Case) -> Iterator[Departure]:
    stack, epoch, batch = case.recipe.stack, case.epoch, case.batch
    ratio = case.asked("warmup_ratio")
    schedule = case.recipe.get("lr_scheduler_type", "lr_scheduler")
    if schedule is not None and schedule.text == "constant" and case.asked("warmup_ratio", "warmup_steps"):
        yield Departure("no warm-up", "constant has none there, whatever the warm-up says")
    elif ratio is not None and ratio.number and case.epochs and epoch is not None:
        total = epoch.total_steps(case.epochs)
        if stack.name == "axolotl":
            floored = int(ratio.number * axolotl_steps(epoch.samples, case.epochs, case.batch.per_step))
            steps = 2 if floored == 1 else floored
            yield Departure(
                "warm-up rounded down", f"{ratio.text} is {counted(steps, 'step')} there; 1 becomes 2"
            )
        elif stack.floors_steps and epoch.without_step:
            steps = math.ceil(ratio.number * total)
            ours = math.ceil(ratio.number * case.epochs * math.ceil(epoch.forwards / batch.grad_accum_steps))
            if ours != steps:
                said = f"{ratio.text} of {total:,} steps is {counted(steps, 'step')}, and {ours:,} here"
                yield Departure("warm-up on floored steps", said)
    limit = case.recipe.get("max_steps")
    if limit is not None and (limit.number or 0) > 0 and case.recipe.get("num_train_epochs", "num_epochs"):
        yield Departure(
            "epochs without effect", f"max_steps {limit.text} counts; the epochs are not looked at"
        )


def _the_data(case: Case) -> Iterator[Departure]:
    recipe, name = case.recipe, case.recipe.stack.name
    if case.is_packing:
        text = (
            f"a step is {case.batch.per_step:,} rows of {case.max_seq_len} tokens, each of as many samples "
            "as fit: how many samples it has is not known before. Here it is samples, packed or not"
        )
        if name == "llamafactory" and case.asked("neat_packing") is None:
            text += ". Samples of a row see each other there (neat_packing is off)"
        yield Departure("packing changes the batch", text)
    if case.asked("group_by_length"):
        yield Departure("order by length", "the samples of a step are of like length, not drawn at random")
    if name == "llamafactory" and case.is_packing:
        yield Departure(
            "long samples left out",
            f"what is longer than {case.max_seq_len} tokens is not trained; here it is cut, and counted",
        )
    packing = recipe.get("packing")
    if recipe.is_pretraining and (packing is None or packing.is_true):
        yield Departure(
            "rest of every 1,000 documents",
            f"text is cut into blocks 1,000 documents at a time, and what does not fill a block of "
            f"{case.max_seq_len} tokens is dropped each time; here the rest goes on into the next block",
        )
    yield from _the_split(case)
    seed = recipe.given.get("seed")
    if seed is not None and not seed.is_known:
        yield Departure(
            "another seed every time", "no two starts train the same order; here run.seed is fixed"
        )


def _the_split(case: Case) -> Iterator[Departure]:
    recipe = case.recipe
    split = case.asked(*SPLIT_KEYS)
    if split is None or not split.number:
        return
    if recipe.stack.name == "alpaca2" and not recipe.is_pretraining:
        text = "run_clm_sft_with_peft.py never reads it: validation is validation_file"
        yield Departure("split without effect", text)
        return
    part = part_split_off(recipe) or 0
    text = f"{part:g} of the samples" if part < 1 else counted(int(part), "sample")
    text = counted(case.held_out, "sample") if case.held_out else text
    is_share = "percentage" in split.key and recipe.stack.name == "alpaca2" and part < 1
    percent = f"; it is a share, not a percentage: {100 * part:g} %" if is_share else ""
    how = "are the first of the data" if recipe.stack.name == "hf" else "are drawn by chance"
    yield Departure(
        "another split",
        f"{text} {how}, and what one of them says may be trained too; here as many are held out by what they "
        f"say, whatever the seed, and all others that say the same with them{percent}",
    )
