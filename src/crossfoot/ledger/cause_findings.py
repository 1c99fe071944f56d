"""The manual pages of the causes that a ledger line names (CF710 to CF739, CF780): what each means, where it
usually comes from, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping

from crossfoot.findings.rule_docs import table_docs
from crossfoot.ledger.entry import CAUSE_KINDS, Cause

_WHERE = """\
The line of the step in ledger.jsonl, and receipt.json, say the step, the rank, the forward and, where one
sample is concerned, its file and line in the data. A run with this cause does not foot: exit code 3."""

_WHERE_OF_DATA = """\
`crossfoot receipt RUN_DIR` says it, for the run as a whole. A run with this cause does not foot: exit code
3."""

_CHANGED_LOOP = """\
crossfoot's own loop does not do this. Look at what was changed around it: an edited loop, a wrapper around
the engine, a plugin; then train again, into another run folder."""

_CHANGED_FILE = """\
The program writes one line a step, in order. Look for two runs that wrote into one folder, for a ledger that
was put together by hand, or for storage that lost or repeated data. If the ledger was copied, take it from
where it was written."""

_ADVICE: Mapping[str, str] = {
    "missing sample": f"""\
The step had fewer samples than planned, and divided by the tokens of all of them. A forward whose backward
was skipped (an exception that was caught, a `continue` on a strange loss, an out-of-memory handler) is the
usual origin.

{_CHANGED_LOOP}""",
    "missing forward": f"""\
Its samples were trained elsewhere, or it was an empty one, which makes other ranks wait: in a step that
does not divide, a rank without a sample still takes part.

{_CHANGED_LOOP}""",
    "extra forward": f"""\
The gradient of the step holds more than it was planned to hold.

{_CHANGED_LOOP}""",
    "trained twice": f"""\
It weighs double in this step's gradient. A sampler that pads the last batch by repeating samples does this,
and so does a forward that is repeated after an error. Records that are equal word for word are no repetition:
they are counted as often as the data has them.

{_CHANGED_LOOP}""",
    "already trained": """\
Within one epoch every sample is trained once. A step that begins again after a stop, a sampler that shuffles
differently on every rank, or ranks that all read the same share of the data do this.

Compare the seeds and the shares of the ranks; train again, into another run folder.""",
    "not planned": """\
The order of an epoch follows from data, seed and epoch alone. A loader of its own, another seed on one rank,
or an epoch that was not counted up do this; the samples that should have stood here are usually named as
missing in the same step.

Train again with the samples that the plan deals out, into another run folder.""",
    "other slot": """\
The step as a whole may still be right: its gradient is the sum over all slots. But ranks were dealt another
share than planned, and the padding is not what was counted.

Look for a rank that was started with the number of another one, or for a loader that sorts by itself.""",
    "label mask differs": """\
The tokens are the sample's, their targets are not: a prompt that was trained along, an answer that was masked
out, labels that were shifted once too often. The message has both numbers of trained tokens.

Look at what builds the labels (a collator, a template), and at the sample in the data.""",
    "tokens altered": """\
The model was given tokens that no sample of the index has: a text cut to another length, another tokenizer,
another template, a special token added or lost.

Compare the tokenizer and data.max_seq_len of the loader with those of the index. If the data or the tokenizer
has changed since the plan, plan again: crossfoot index CONFIG, then train into another run folder.""",
    "rate differs": """\
The rate is read from the optimizer at the moment in which it steps. A second owner of the rate (a scheduler
in the DeepSpeed file, one in the loop, one that is stepped once per rank) moves it away from the plan.

The percentage in the message tells which: a warm-up that ends too early points at a scheduler stepped too
often. Leave the rate to crossfoot: remove the other scheduler, and train again.""",
    "token weight differs": """\
Every trained token of a step has the same weight: 1 / trained tokens of the whole step, over all ranks and
forwards. A mean per forward, averaged over the forwards afterwards, gives the tokens of short answers more
weight than those of long ones; dividing by the accumulation steps once more makes the gradient too small.

The number of times in the message tells which. Do not divide the loss by hand; the engine must not scale it
either.""",
    "ranks disagree": """\
Ranks that step at different rates hold different weights from then on, and an average over them is no model
that anybody planned.

Look for a scheduler that depends on the rank, on the number of samples seen, or on local time.""",
    "update not applied": """\
The step was computed and then skipped, and no policy says so: a loss scaler met an overflow, a gradient was
not finite here or in a step before, for which the run stopped, or the engine did not believe itself at the
end of an accumulation.

If the message says that the loss was not finite, look there first (CF723). Otherwise compare the engine's
accumulation with the plan's.""",
    "not finite": """\
From such a gradient nothing can be learned, and one update with it destroys the weights. It is left out on
all ranks, and the run stops; the ledger's line names the samples of a loss that was NaN or infinite. With
faults.nonfinite skip the run goes on, and the step is counted as skipped, which is no fault.

Lower lr.reference or lengthen the warm-up; look at the step's samples; and in bfloat16 try whether float32
passes the same step.""",
    "count differs": """\
Digests say that the sample is the planned one, and the counts of its tokens contradict that.

The index or the program is damaged: build the index again (remove its folder, then crossfoot index CONFIG),
and report it if it stays.""",
    "missing witness": """\
What that rank trained, if anything, is not known, and cannot foot.

The rank died or was cut off in this step: its own output, and the scheduler's log of its node, say why.""",
    "wrong witness": """\
Ranks must be in the same step and have different numbers. One that is a step behind, or two with the same
number, train something else than the plan.

Look at how the ranks were started: one launcher, once.""",
    "witness cut": """\
An account has room for two forwards and a micro batch more than planned. What found no room is counted and
not named.

The other causes of the step say what the rank did too often.""",
    "step missing": f"""\
Steps before or after it are there, or the ending says that it was done.

{_CHANGED_FILE}""",
    "step twice": f"""\
One step is one update and one line. Both lines are counted in the receipt.

{_CHANGED_FILE}""",
    "step out of order": f"""\
What is a first and what is a repeated sample depends on the order of the steps.

{_CHANGED_FILE}""",
    "step not planned": f"""\
The plan's number of steps follows from data, batch and length; training on is training at a rate that
nobody planned.

{_CHANGED_FILE}""",
    "does not add up": f"""\
A line carries its totals twice: once, and by rank. They are written together, so a difference means that the
line was changed afterwards.

{_CHANGED_FILE}""",
    "unexplained difference": f"""\
Every difference that the program finds is written with its cause. A line with a difference and without a
cause was changed afterwards, or the program is wrong; then report it, with the line.

{_CHANGED_FILE}""",
    "lock contradicts itself": f"""\
A lock says its numbers, and what they add up to: steps, peak rate, warm-up, tokens, a hash over the samples
of every step and one over where they sit. The receipt works all of them out again, by other code than wrote
them. A difference means that the lock was put together by hand, that it does not belong to this run's index,
or that the program which planned is wrong.

{_CHANGED_LOOP}""",
    "checkpoint of another run": """\
A checkpoint says which attempt wrote it, and by which plan. One that was copied here from another run has the
right name and the wrong weights: what came after it is no continuation of what stands in the ledger before.

Continue from a checkpoint of this run: crossfoot train CONFIG --continue RUN_DIR takes the newest one.""",
    "rate not promised": f"""\
The receipt works the rate of every step out from the lock's numbers (reference, rule, schedule, warm-up,
steps), by other code than the loop asks. The loop was told another one, and stepped at it: measured and told
agree, and both differ from the plan page.

{_CHANGED_LOOP}""",
    "samples not promised": f"""\
The receipt works the samples of every step out from the lock's numbers (data, seed, batch, last step), by
other code than the loop asks, and takes their digests from the data index. The loop was told other samples,
or another order of the steps.

{_CHANGED_LOOP}""",
    "layout not promised": f"""\
The step had the samples that it should have had, but on other ranks or in other forwards. Its gradient is the
same sum; its padding, its balance and its dropout draws are not what was planned.

{_CHANGED_LOOP}""",
    "not placed by itself": f"""\
In the packed layout the samples of a forward stand one behind the other in a row. Each has positions of its
own, from 0 on, and attention that ends at its borders. This one had not: it was trained as if it went on
where the sample before it ends.

{_CHANGED_LOOP}""",
    "nothing trained": """\
A step without a target has no loss, and its update changes nothing that the data asks for; a run whose
updates were all left out, or whose gradients were all zero, has the weights that it began with. An index
without targets is refused before a run begins, so a step without one was not made from it.

Look at the samples of the step and their labels; at faults.nonfinite and faults.overflow, when every step was
skipped; and at what is frozen, when every gradient was zero.""",
    "index differs": """\
The samples of the index are where plan and ledger take their digests from: if it is wrong, they vouch for
nothing. Its header has a checksum of every file; the lock names the content of the arrays that the run was
planned with; and a seeded sample of its records (200, or all of a small set) is read again from the data
files and tokenised by other code. The message says what differs, and where.

A file that is not as it was written was changed by hand, copied in part, or lost bits on the disk. If the run
started from a good index (every start reads all of it first), `crossfoot index CONFIG` builds it again, and
the receipt then foots. An index whose checksums are right was altered together with them, or built by another
program or another version of a library than is here now. If a fresh one differs from its files too, report
it, with the record and the tokenizer.""",
}

for _kind, (_code, _meaning) in CAUSE_KINDS.items():
    _where = _WHERE_OF_DATA if _kind.startswith("index") else _WHERE
    table_docs(_code, _kind, f"{_code}: {_meaning}.\n\n{_ADVICE[_kind]}\n\n{_where}", Cause)
