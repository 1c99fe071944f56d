"""What each cause that a ledger line names means (CF710 to CF739, CF777, CF780, CF787): where it usually
comes from, what it counts, what it makes of the trained weights, and what to do. The manual pages
(ledger/cause_findings.py) and the receipt's words (receipts/cause_summary.py) are both made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["sample", "forward", "step", "run"]

_REPORT = (
    "if nothing was changed, crossfoot is at fault: open an issue in its repository, with receipt.json, "
    "plan.lock.json and ledger.jsonl of the run (they hold paths and host names, and no text of the data)"
)
_LOOP = (
    "undo what was changed around crossfoot's loop (an edited loop, a wrapper around the engine, a plugin), "
    "and train into another run folder",
    _REPORT,
)
_START = (
    "start the ranks with one launcher, once, and train into another folder: crossfoot launch CONFIG",
    *_LOOP,
)
_FILE = (
    "if ledger.jsonl is a copy, take it from where it was written",
    "look for two runs that wrote into one folder, for an edit by hand, and for storage that lost or "
    "repeated data: whoever runs that storage needs receipt.json and the hour of the run",
)
_RATE = (
    "leave the rate to crossfoot: remove the other scheduler, and train into another run folder",
    _REPORT,
)


@dataclass(frozen=True)
class CausePage:
    """origin: where it comes from, for the manual. counts: what one cause of this kind is one of; "run": not
    of a step. weights: what it makes of the trained weights when few are concerned; weights_many: when 1 %
    or more are, "" for the same. helps: what to do, and who needs what.
    """

    origin: str
    counts: Unit
    weights: str
    weights_many: str
    helps: tuple[str, ...]


_SAME_SUM = (
    "usable: a step's gradient is the same sum wherever a sample sits; only dropout drew other numbers"
)
_AGAIN = "not the planned ones: train again"
CAUSE_PAGES: Mapping[str, CausePage] = {
    "missing sample": CausePage(
        """\
The step had fewer samples than planned, and divided by the tokens of all of them. A forward whose backward
was skipped (an exception that was caught, a `continue` on a strange loss, an out-of-memory handler) is the
usual origin.""",
        "sample",
        "usable: those of a run that left these samples out of these steps",
        f"those of a run on less data; {_AGAIN}",
        _LOOP,
    ),
    "missing forward": CausePage(
        """\
Its samples were trained elsewhere, or it was an empty one, which makes other ranks wait: in a step that
does not divide, a rank without a sample still takes part.""",
        "forward",
        "usable: no sample is missing for it",
        "",
        _LOOP,
    ),
    "extra forward": CausePage(
        "The gradient of the step holds more than it was planned to hold.",
        "forward",
        "usable: what was trained too much moved them a little more in these steps",
        f"moved by more than was planned; {_AGAIN}",
        _LOOP,
    ),
    "trained twice": CausePage(
        """\
It weighs double in this step's gradient. A sampler that pads the last batch by repeating samples does this,
and so does a forward that is repeated after an error. Records that are equal word for word are no repetition:
they are counted as often as the data has them.""",
        "sample",
        "usable: these samples weigh double in these steps",
        f"samples weigh double in them; {_AGAIN}",
        _LOOP,
    ),
    "already trained": CausePage(
        """\
Within one epoch every sample is trained once. A step that begins again after a stop, a sampler that shuffles
differently on every rank, or ranks that all read the same share of the data do this.""",
        "sample",
        "usable: these samples were trained once more than planned",
        f"samples were trained more often than planned, and others less; {_AGAIN}",
        ("compare the seeds and the shares of the data that the ranks read", *_START),
    ),
    "not planned": CausePage(
        """\
The order of an epoch follows from data, seed and epoch alone. A loader of its own, another seed on one rank,
or an epoch that was not counted up do this; the samples that should have stood here are usually named as
missing in the same step.""",
        "sample",
        "usable: of another order of the samples, which nobody can repeat",
        f"of another order of the samples, which nobody can repeat; {_AGAIN}",
        ("compare the seeds and the shares of the data that the ranks read", *_LOOP),
    ),
    "other slot": CausePage(
        """\
The step as a whole may still be right: its gradient is the sum over all slots. But ranks were dealt another
share than planned, and the padding is not what was counted. A rank that was started with the number of
another one, or a loader that sorts by itself, does this.""",
        "sample",
        _SAME_SUM,
        "",
        _START,
    ),
    "label mask differs": CausePage(
        """\
The tokens are the sample's, their targets are not: a prompt that was trained along, an answer that was masked
out, labels that were shifted once too often. The message has both numbers of trained tokens.""",
        "sample",
        "usable: of these samples other tokens were learned than planned",
        f"taught other tokens than planned, such as prompts; {_AGAIN}",
        ("look at what builds the labels (a collator, a template), and at the samples in the data", _REPORT),
    ),
    "tokens altered": CausePage(
        """\
The model was given tokens that no sample of the index has: a text cut to another length, another tokenizer,
another template, a special token added or lost.""",
        "sample",
        "usable, if you know what the text was: they learned some that is not in the data",
        f"taught text that is not in the data; {_AGAIN}",
        (
            "compare the tokenizer and data.max_seq_len of the loader with those of the index",
            "if data or tokenizer have changed since the plan: crossfoot index CONFIG, and train into "
            "another run folder",
            _REPORT,
        ),
    ),
    "rate differs": CausePage(
        """\
The rate is read from the optimizer at the moment in which it steps. A second owner of the rate (a scheduler
in the DeepSpeed file, one in the loop, one that is stepped once per rank) moves it away from the plan. The
percentage in the message tells which: a warm-up that ends too early points at one stepped too often. Groups
of `lr.groups` have rates of their own, and the message names the group.""",
        "step",
        "usable: in these steps they moved at another rate",
        f"moved at other rates than planned; {_AGAIN}",
        _RATE,
    ),
    "token weight differs": CausePage(
        """\
Every trained token of a step has the same weight: 1 / trained tokens of the whole step, over all ranks and
forwards. A mean per forward, averaged over the forwards afterwards, gives the tokens of short answers more
weight than those of long ones; dividing by the accumulation steps once more makes the gradient too small.
The number of times in the message tells which. AdamW hides a factor that is the same everywhere from the
loss; clipping and weight decay are wrong all the same.""",
        "forward",
        "usable: in these forwards the gradient was wrong by that factor",
        f"made from gradients that were wrong by that factor; {_AGAIN}",
        ("do not divide the loss by hand, nor have the engine scale it", *_LOOP),
    ),
    "ranks disagree": CausePage(
        """\
Ranks that step at different rates hold different weights from then on, and an average over them is no model
that anybody planned. A scheduler that depends on the rank, on the number of samples seen, or on local time
does this.""",
        "step",
        "not usable: the ranks went different ways from the first of these steps on",
        "",
        _RATE,
    ),
    "update not applied": CausePage(
        """\
The step was computed and then skipped, and no policy says so: a loss scaler met an overflow, a gradient was
not finite here or in a step before, for which the run stopped, or the engine did not believe itself at the
end of an accumulation.""",
        "step",
        "usable: those of a run without these steps",
        f"many steps taught nothing; {_AGAIN}",
        (
            "if the loss was not finite, look there first: crossfoot explain CF723",
            "else compare the engine's accumulation with the plan's, and look at the log of the rank",
            _REPORT,
        ),
    ),
    "not finite": CausePage(
        """\
From such a gradient nothing can be learned, and one update with it destroys the weights. It is left out on
all ranks, and the run stops; the ledger's line names the samples of a loss that was NaN or infinite. With
faults.nonfinite skip the run goes on, and the step is counted as skipped, which is no fault.""",
        "step",
        "usable as they were before: the update was left out",
        "",
        (
            "look at the samples of the step",
            "or lower lr.reference, or lengthen the warm-up: weights that run away end like this",
            "or, in bfloat16, try whether float32 passes the same step",
        ),
    ),
    "count differs": CausePage(
        "Digests say that the sample is the planned one, and the counts of its tokens contradict that.",
        "sample",
        "not known to be right: index and meter contradict each other",
        "",
        ("build the index again: move its folder aside, then crossfoot index CONFIG", _REPORT),
    ),
    "missing witness": CausePage(
        "What that rank trained, if anything, is not known, and cannot foot.",
        "step",
        "not known to be right: what the rank did in these steps is on no record",
        "",
        (
            "look at the last lines of that rank's output, and at the log of its node",
            "a node that fails again is its administrators' to look at: they need that log and receipt.json",
        ),
    ),
    "wrong witness": CausePage(
        """\
Ranks must be in the same step and have different numbers. One that is a step behind, or two with the same
number, train something else than the plan.""",
        "step",
        "not known to be right: ranks were in different steps, or two had one number",
        "",
        _START,
    ),
    "witness cut": CausePage(
        """\
The record that a rank sends of a step has room for two forwards and a micro batch more than planned. What is
beyond is counted and not named. The other causes of the step say what the rank did too often.""",
        "step",
        "as the other causes of these steps say",
        "",
        _LOOP,
    ),
    "lock contradicts itself": CausePage(
        """\
A lock says its numbers, and what they add up to: steps, peak rate, warm-up, tokens, a hash over the samples
of every step and one over where they sit. The receipt works all of them out again, by other code than wrote
them. A difference means that the lock was put together by hand, that it does not belong to this run's index,
or that the program which planned is wrong.""",
        "run",
        "as measured in the rows; what was promised cannot be told from this lock",
        "",
        ("if plan.lock.json is a copy or was edited, take it from where it was written", _REPORT),
    ),
    "checkpoint of another run": CausePage(
        """\
A checkpoint says which attempt wrote it, and by which plan. One that was copied here from another run has the
right name and the wrong weights: what came after it does not continue what stands in the ledger before.""",
        "run",
        "not this run's: they began from another run's",
        "",
        (
            "move that checkpoint aside, and continue from the newest of this run's own: "
            "crossfoot train CONFIG --continue RUN_DIR",
        ),
    ),
    "not placed by itself": CausePage(
        """\
In the packed layout the samples of a forward stand one behind the other in a row. Each has positions of its
own, from 0 on, and attention that ends at its borders. This one had not: it was trained as if it went on
where the sample before it ends.""",
        "forward",
        "usable: a few samples were read behind another's text",
        f"taught to read samples behind others' text; {_AGAIN}",
        _LOOP,
    ),
    "step missing": CausePage(
        "Steps before or after it are there, or the ending says that it was done.",
        "step",
        "not known to be right: what these steps trained is on no record",
        "",
        _FILE,
    ),
    "step twice": CausePage(
        "One step is one update and one line. Both lines are counted in the receipt.",
        "step",
        "not known to be right: the step was trained twice, or two runs wrote here",
        "",
        _FILE,
    ),
    "step out of order": CausePage(
        "What is a first and what is a repeated sample depends on the order of the steps.",
        "step",
        "not touched by this, but what the ledger says of these steps is no proof",
        "",
        _FILE,
    ),
    "step not planned": CausePage(
        "The number of steps follows from data, batch and length; nobody planned a rate beyond them.",
        "step",
        "trained beyond the plan; a checkpoint of the last planned step has the planned ones",
        "",
        (*_FILE, "or export that checkpoint: crossfoot export RUN_DIR OUT --step N"),
    ),
    "does not add up": CausePage(
        "A line has its totals twice, once by rank: one that differs was changed after it was written.",
        "step",
        "not touched by this, but what the ledger says of these steps is no proof",
        "",
        _FILE,
    ),
    "unexplained difference": CausePage(
        """\
Every difference that the program finds is written with its cause. A line with a difference and without a
cause was changed afterwards, or the program is wrong.""",
        "step",
        "not known to be right in these steps",
        "",
        (*_FILE, _REPORT),
    ),
    "index differs": CausePage(
        """\
The samples of the index are where plan and ledger take their digests from: if it is wrong, they vouch for
nothing. Its header has a checksum of every file; the lock names the content of the arrays that the run was
planned with; and a seeded sample of its records (200, or all of a small set) is read again from the data
files and tokenised by other code. The message says what differs, and where.

A file that is not as it was written was changed by hand, copied in part, or lost bits on the disk. If the run
started from a good index (every start reads all of it first), a fresh one makes the receipt foot. An index
whose checksums are right was altered together with them, or built by another program or another version of a
library than is here now.""",
        "run",
        "not known to be right: nothing vouches for what the samples were",
        "",
        (
            "build the index again, and ask for the receipt again: crossfoot index CONFIG",
            "if a fresh one differs from its files too, crossfoot is at fault: open an issue in its "
            "repository, with the record and the tokenizer",
        ),
    ),
    "rate not promised": CausePage(
        """\
The receipt works the rate of every step out from the lock's numbers (reference, rule, schedule, warm-up,
steps), by other code than the loop asks. The loop was told another one, and stepped at it: measured and told
agree, and both differ from the plan page.""",
        "step",
        "usable: in these steps they moved at another rate",
        f"moved at other rates than planned; {_AGAIN}",
        _LOOP,
    ),
    "samples not promised": CausePage(
        """\
The receipt works the samples of every step out from the lock's numbers (data, seed, batch, last step), by
other code than the loop asks, and takes their digests from the data index. The loop was told other samples,
or another order of the steps. Or the last attempt's plan, with another batch or length, goes on behind steps
that held other samples than it has there.""",
        "step",
        "usable: these steps had other samples than promised",
        f"of other samples, or of another order, than promised; {_AGAIN}",
        _LOOP,
    ),
    "layout not promised": CausePage(
        """\
The step had the samples that it should have had, but on other ranks or in other forwards. Its gradient is the
same sum; its padding, its balance and its dropout draws are not what was planned.""",
        "step",
        _SAME_SUM,
        "",
        _LOOP,
    ),
    "counts not promised": CausePage(
        """\
The samples were the promised ones, in their slots, and the counts of a rank are not theirs: its samples, its
tokens, its targets or its forwards. A run writes what every rank counted, or, of many ranks that did what was
planned, one digest over it; the receipt works the same out from the lock and the data index. An edited line
of the ledger is the usual cause, a meter or an index that counts otherwise the other one.""",
        "step",
        "not known from this line alone: what was trained is what its samples' digests say",
        "",
        (*_FILE, _REPORT),
    ),
    "nothing trained": CausePage(
        """\
A step without a target has no loss, and its update changes nothing that the data asks for; a run whose
updates were all left out, or whose gradients were all zero, has the weights that it began with. An index
without targets is refused before a run begins, so a step without one was not made from it.""",
        "step",
        "as they were before these steps: nothing was learned in them",
        "",
        (
            "look at the samples of the step and their labels",
            "if every update was left out, look at faults.nonfinite and faults.overflow",
            "if every gradient was zero, look at what is frozen: lora.target_modules",
        ),
    ),
}
"""kind -> its page."""
