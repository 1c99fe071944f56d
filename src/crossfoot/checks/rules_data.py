"""CF514 to CF519, CF522 to CF525: the data against the window, the batch and itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from crossfoot.checks.registry import Facts, rule
from crossfoot.data.train_sources import place_of, train_files, train_sources
from crossfoot.findings.finding import Finding, Place

if TYPE_CHECKING:
    from crossfoot.data.look import DataLook

CONSIDERABLE = 0.01
"""A smaller share of the data is counted in the plan and the receipt, and no finding."""
MANY_EPOCHS = 100
TINY_STEP = 32
"""A last step is tiny below this part of a batch: 1 of 32."""
LARGE_TAIL = 0.1


@rule("CF514", "warning", name="samples-truncated")
def truncated(facts: Facts) -> Iterator[Finding]:
    """CF514: a considerable part of the trained tokens is cut off at `data.max_seq_len`.

    A sample that is longer is cut at its end, which is its answer: the model is never shown how those answers
    end, nor the end token. From 1 % of the trained tokens on it is said here; plan and receipt count every
    lost one. Without an index some records are looked at and the numbers are about right. (lie U11)

    `data.over_long: split` makes several samples of a long conversation, cut between its rounds; `drop`
    leaves long records out, and counts them.
    """
    look, run = facts.data, facts.run
    if look is None or look.lost_share < CONSIDERABLE:
        return
    window = run.config.data.max_seq_len
    about = "" if look.is_indexed else "about "
    is_sure = look.is_whole and look.has_counted_all
    guessed = "" if is_sure else "about "
    notes = [
        f"longer than that: {guessed}{look.truncated_samples:,} of {_looked_at(look)}, "
        f"the longest has {guessed}{look.longest_tokens:,} tokens"
    ]
    if not look.is_counted:
        notes.append("tokens are estimated from the size of the texts")
    positions = facts.model.positions if facts.model is not None else None
    beyond = positions is not None and look.longest_tokens > positions
    longest = look.longest_tokens
    raise_to = f"set data.max_seq_len to {positions if beyond else longest}"
    result = "the most that the model was made for" if beyond else "no answer is cut then"
    if not beyond and not is_sure:
        result = "no answer of those counted is cut then"
    helps = [f"{raise_to}: {result}"] if not beyond or (positions or 0) > window else []
    helps.append("or shorten the samples" if helps else "shorten the samples")
    yield Finding(
        "CF514",
        f"{about}{100 * look.lost_share:.2g} % of the trained tokens are cut off: max_seq_len is {window:,}",
        severity="warning",
        place=run.place("data.max_seq_len"),
        label="" if run.is_written("data.max_seq_len") else "max_seq_len is not given: the default",
        notes=tuple(notes),
        helps=tuple(helps),
    )


@rule("CF576", "warning", name="over-long-left-out")
def over_long_left_out(facts: Facts) -> Iterator[Finding]:
    """CF576: `data.over_long: drop` leaves out a considerable part of the records.

    Nothing of a record that is longer than `data.max_seq_len` is trained then, also not what would fit: the
    model learns short answers. From 1 % of the records on it is said here; plan and index count each, and the
    index lists them in its rejects.jsonl.
    """
    look, run = facts.data, facts.run
    if look is None or look.over_long_records < max(1, CONSIDERABLE * look.records):
        return
    about = "" if look.is_whole and look.has_counted_all else "about "
    are, have = ("is", "it has") if look.over_long_records == 1 else ("are", "they have")
    yield Finding(
        "CF576",
        f"{about}{look.over_long_records:,} of {_looked_at(look, look.records)} {are} left out: {have} more "
        f"than {run.config.data.max_seq_len:,} tokens",
        severity="warning",
        place=run.place("data.over_long"),
        helps=(
            "raise data.max_seq_len",
            "or set data.over_long to split: conversations become several samples",
        ),
    )


@rule("CF515", "warning", name="repeated-records")
def repeated(facts: Facts) -> Iterator[Finding]:
    """CF515: records of the training data repeat earlier ones, word for word.

    Every record is a sample of its own, so a repeated one is trained once more in every epoch. "Every sample
    exactly once" then holds for the copies, and not for what they say. From 1 % of the samples on it is said
    here; of data that is not indexed and larger than 2 MiB only some is looked at, and more may repeat.
    """
    look = facts.data
    if look is None or look.repeated_samples < 2 or look.repeated_samples < CONSIDERABLE * look.samples:
        return
    if _listed_twice(facts):
        return
    yield Finding(
        "CF515",
        f"{look.repeated_samples:,} of {_looked_at(look)} repeat an earlier one",
        severity="warning",
        place=facts.run.place("data.train"),
        notes=("a repeated record is trained again in every epoch",),
        helps=("remove the repeats from the files",),
    )


@rule("CF516", "warning")
def same_file_twice(facts: Facts) -> Iterator[Finding]:
    """CF516: one list of data files names the same file twice.

    Its records are then samples twice over: trained twice in every epoch, or counted twice in the validation
    loss. To weigh a file more on purpose, give it a weight: `{path: a.jsonl, weight: 2}`.
    """
    for first, again, name in _listed_twice(facts):
        yield Finding(
            "CF516",
            f"{name} is listed twice",
            severity="warning",
            place=again,
            label="again here",
            others=((first, "first here"),),
            helps=("remove one of the two",),
        )


@rule("CF517", "warning", "note", name="leaked-validation")
def leaked(facts: Facts) -> Iterator[Finding]:
    """CF517: validation data is training data too.

    The validation loss then measures what was learned by heart. Said for a file that is in both lists, and
    for records that say the same, word for word: by their tokens where both are indexed. Below 1 % of the
    validation records, or of one alone, it is a note. `data.validation: 0.05` or `500` holds out a part of
    the training data instead, with all duplicates of it, so that the two never meet.
    """
    run = facts.run
    trained = {os.path.realpath(file): file for file in train_files(run.config.data)}
    shared = False
    for place, file in enumerate(run.config.data.validation_files):
        first = trained.get(os.path.realpath(file))
        if first is None:
            continue
        shared = True
        yield Finding(
            "CF517",
            f"{file} is validated on, and trained on too",
            severity="warning",
            place=run.place("data", "validation", place),
            others=((place_of(run, first), "trained on here"),),
            helps=("validate on records that are not trained on",),
        )
    if shared or facts.data is None or not facts.data.leaks.records:
        return
    leaks = facts.data.leaks
    is_many = leaks.records >= max(2, CONSIDERABLE * leaks.looked_at)
    are = "is a training record" if leaks.records == 1 else "are training records"
    yield Finding(
        "CF517",
        f"{leaks.records:,} of the {leaks.looked_at:,} validation records"
        f"{'' if leaks.is_sure else ' looked at'} {are} too",
        severity="warning" if is_many else "note",
        place=run.place("data.validation"),
        notes=tuple(f"{one} says what {other} says" for one, other in leaks.first),
        helps=("remove them from one of the two",),
    )


@rule("CF518", "warning")
def epoch_smaller_than_a_batch(facts: Facts) -> Iterator[Finding]:
    """CF518: the data has fewer samples than one step is planned to have.

    With `data.last_step: short` every step is then the whole data set and no more: the batch that trains is
    not `batch.global_batch_size`, and the rate was chosen for another one. With `carry` a step is full, and
    holds samples more than once. `drop` would leave no step (CF203).
    """
    schedule = facts.schedule
    if schedule is None:
        return
    have, want = schedule.num_samples, max(batch for _, batch in schedule.batches)
    if schedule.target_trained_tokens is not None and schedule.trained_tokens is not None:
        have, want = schedule.first_epoch_tokens, schedule.target_trained_tokens
    if have >= want:
        return
    carries = schedule.last_step == "carry"
    what = "samples" if schedule.target_trained_tokens is None else "trained tokens"
    yield Finding(
        "CF518",
        f"a step has {want:,} {what}, and an epoch only {have:,}: "
        + ("a step holds samples more than once" if carries else f"every step trains {have:,}"),
        severity="warning",
        place=_batch_place(facts),
        helps=(f"lower the batch: {have:,} {what} a step are an epoch", "or give more data"),
    )


@rule("CF519", "warning")
def many_epochs(facts: Facts) -> Iterator[Finding]:
    """CF519: `train.max_steps` passes over the data more than a hundred times.

    Nobody says so in words: the number of steps was most often found with a smaller batch or with more data.
    `train.epochs` says the length in passes, whatever the batch. The bound is an assumption, not studied.
    """
    schedule, steps = facts.schedule, facts.run.config.train.max_steps
    if schedule is None or steps is None:
        return
    passes = schedule.scheduled_samples / schedule.num_samples
    if passes <= MANY_EPOCHS:
        return
    yield Finding(
        "CF519",
        f"{steps:,} steps pass over the data {passes:,.0f} times",
        severity="warning",
        place=facts.run.place("train.max_steps"),
        notes=(
            f"an epoch has {schedule.num_samples:,} samples: the first epoch is "
            f"{schedule.steps_per_epoch:,} steps",
        )
        if schedule.is_uneven
        else (
            f"an epoch has {schedule.num_samples:,} samples, a step {schedule.global_batch_size:,}: "
            f"an epoch is {schedule.steps_per_epoch:,} steps",
        ),
        helps=("set train.epochs to 3, in the place of train.max_steps",)
        if schedule.is_uneven
        else (f"set train.max_steps to {3 * schedule.steps_per_epoch}: 3 epochs",),
    )


@rule("CF522", "warning", name="records-left-out")
def left_out(facts: Facts) -> Iterator[Finding]:
    """CF522: `data.bad_samples: skip` leaves out a considerable part of the records.

    A record without an output, without an instruction, or whose prompt fills the window cannot be trained.
    With `skip` it is left out, counted and listed in the index's rejects.jsonl. From 1 % on that is more than
    a few slips: an export gone wrong, or a window that is too small.
    """
    look = facts.data
    if look is None or look.rejected_records < max(1, CONSIDERABLE * look.records):
        return
    if look.rejected_records >= look.records:
        return  # nothing is left: CF505
    yield Finding(
        "CF522",
        f"{look.rejected_records:,} of {_looked_at(look, look.records)} cannot be trained: they are left out",
        severity="warning",
        place=facts.run.place("data.bad_samples"),
        notes=(f"for example {look.rejected_example}",) if look.rejected_example else (),
        helps=("repair the records: the index lists them all in its rejects.jsonl",),
    )


@rule("CF523", "note")
def tiny_last_step(facts: Facts) -> Iterator[Finding]:
    """CF523: the last step of every epoch has only a few samples.

    Its loss is exact, but adamw moves the weights about as far as in a full step, on what a few samples say.
    `data.last_step: carry` lets them open the next epoch's first step; `drop` leaves them out of that epoch,
    and counts them. Said below one part in 32 of the batch.
    """
    schedule = facts.schedule
    if schedule is None or schedule.last_step != "short" or schedule.total_steps < schedule.steps_per_epoch:
        return
    if schedule.is_uneven:  # every epoch ends otherwise
        return
    _steps, tail = divmod(schedule.num_samples, schedule.global_batch_size)
    if not 0 < tail * TINY_STEP < schedule.global_batch_size or tail == schedule.num_samples:
        return
    once = schedule.total_steps < 2 * schedule.steps_per_epoch
    which = "the last step" if once else "the last step of every epoch"
    carry = "set data.last_step to carry: they then open the next epoch's first step"
    full = schedule.num_samples - tail
    drop = f"set data.last_step to drop: an epoch then trains {full:,} of {schedule.num_samples:,} samples"
    yield Finding(
        "CF523",
        f"{which} has {tail:,} of {schedule.global_batch_size:,} samples",
        severity="note",
        place=facts.run.place("data.last_step"),
        notes=(f"{schedule.num_samples:,} samples in steps of {schedule.global_batch_size:,}",),
        helps=(drop,) if once else (carry, f"or {drop}"),
    )


@rule("CF524", "warning")
def large_tail_dropped(facts: Facts) -> Iterator[Finding]:
    """CF524: `data.last_step: drop` leaves more than a tenth of the samples out of every epoch.

    Each epoch has another order, so that others are left out in each; with one epoch they are never trained.
    """
    schedule = facts.schedule
    if schedule is None or schedule.last_step != "drop" or schedule.total_steps < schedule.steps_per_epoch:
        return
    if schedule.is_uneven:
        samples, epochs = schedule.scheduled_samples + schedule.dropped_samples, "the epochs"
        tail, size = schedule.dropped_samples, "many sizes"
    else:
        samples, epochs = schedule.num_samples, "every epoch"
        tail, size = samples % schedule.global_batch_size, f"{schedule.global_batch_size:,}"
    if tail <= LARGE_TAIL * samples:
        return
    yield Finding(
        "CF524",
        f"data.last_step drop leaves {tail:,} of {samples:,} samples out of {epochs}",
        severity="warning",
        place=facts.run.place("data.last_step"),
        notes=(f"{schedule.num_samples:,} samples in steps of {size}",),
        helps=(
            "set data.last_step to short: the last step of an epoch is then a smaller one",
            "or set data.last_step to carry: they open the next epoch's first step",
        ),
    )


@rule("CF525", "warning")
def prompts_about_too_long(facts: Facts) -> Iterator[Finding]:
    """CF525: prompts fill the window, by an estimate from the size of their texts.

    The tokenizer is not on this machine, or too large to load here. Once the data is indexed, each record
    whose prompt has `data.max_seq_len` tokens or more is named (CF509), and stops the run unless
    `data.bad_samples` is skip: no token of its answer would be trained. (lie U11)
    """
    look, run = facts.data, facts.run
    if look is None or not look.hopeless_records:
        return
    yield Finding(
        "CF525",
        f"by estimate, the prompt fills the window in {look.hopeless_records:,} of {_looked_at(look)}",
        severity="warning",
        place=run.place("data.max_seq_len"),
        notes=(
            f"estimated from the size of the texts, for {run.config.data.max_seq_len:,} tokens",
            f"data.bad_samples: {run.config.data.bad_samples} would "
            + ("stop the run at them" if run.config.data.bad_samples == "stop" else "leave them out"),
        ),
        helps=("raise data.max_seq_len, or shorten the instructions",),
    )


def _looked_at(look: DataLook, count: int | None = None) -> str:
    """`1,000 records`, `the 200 records looked at`, `1,000 samples`."""
    number = look.samples if count is None else count
    if look.is_whole:
        return f"{number:,} {'samples' if look.is_indexed and count is None else 'records'}"
    return f"the {number:,} records looked at"


def _listed_twice(facts: Facts) -> list[tuple[Place, Place, str]]:
    """(first place, second place, name as written the second time)."""
    found: list[tuple[Place, Place, str]] = []
    data = facts.run.config.data
    trained = ((number, file) for number, source in enumerate(train_sources(data)) for file in source.files)
    for key, files in (("train", trained), ("validation", enumerate(data.validation_files))):
        first: dict[str, int] = {}
        for number, file in files:
            if (before := first.setdefault(os.path.realpath(file), number)) != number:
                here, there = (facts.run.place("data", key, one) for one in (number, before))
                found.append((there, here, file))
    return found


def _batch_place(facts: Facts) -> Place:
    """The batch number that a reader would change."""
    written = facts.run.config.batch.model_dump()
    keys = ("global_batch_size", "target_trained_tokens", "grad_accum_steps", "micro_batch_size")
    for key in (*keys, "micro_batch_tokens"):
        if written[key] not in (None, 1):
            return facts.run.place("batch", key)
    return facts.run.place("batch")
