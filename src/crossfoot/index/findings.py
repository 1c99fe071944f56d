"""What can be wrong with a data index: one mistake, one code, one docstring (the manual page)."""

from __future__ import annotations

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs


@rule_docs("CF530")
def builder_silent(place: Place, reason: str) -> Finding:
    """CF530: the process that builds the data index, for which the others wait, refused the data or stopped.

    What it refused is in its own output. If that output shows nothing, it was killed, or index_dir is not the
    same storage for all processes.
    """
    return Finding(
        "CF530",
        "the process that builds the data index gave none",
        place=place,
        label=reason,
        helps=(
            "build it beforehand with crossfoot index CONFIG",
            "or set data.index_dir to storage that every node sees",
        ),
    )


@rule_docs("CF531")
def index_unwritable(place: Place, reason: str) -> Finding:
    """CF531: the data index cannot be written: disk full, no permission, or the folder went away.

    The index takes about 5 bytes a token, and lies in `.index` beside the run folder unless data.index_dir
    says otherwise. What was half written is not used by any later run.
    """
    return Finding(
        "CF531",
        "the data index cannot be written",
        place=place,
        label=reason,
        helps=("make room, or set data.index_dir to another folder",),
    )


@rule_docs("CF532")
def data_changed(place: Place, reason: str) -> Finding:
    """CF532: a data file was written to while it was being tokenised.

    The index would match neither the old file nor the new one. Its bytes are compared before and after. An
    index that is already built is not touched.
    """
    return Finding(
        "CF532",
        "a data file changed while it was read",
        place=place,
        label=reason,
        helps=("run again when the file is complete",),
    )


@rule_docs("CF535", name="index-not-what-files-say")
def index_differs(place: Place, reason: str) -> Finding:
    """CF535: the data index does not hold what its files say, and does not either after it was built anew.

    At the start of a run records of the index are drawn by chance (200, or all of a small set), read from
    their files and tokenised again by other code than built the index. An index that differs is built anew
    once, and a difference after that is refused: either a file is being written to, or the program that
    builds the index is at fault, and no receipt of such a run would mean anything.
    """
    return Finding(
        "CF535",
        "the data index does not hold what its files say",
        place=place,
        label=reason,
        helps=(
            "see that nothing writes to the data files, and start again",
            "if it stays, report it, with this record and the tokenizer",
        ),
    )


@rule_docs("CF562")
def worker_lost(place: Place, reason: str, workers: int) -> Finding:
    """CF562: one of the processes that tokenise the data ended before its work was done.

    Large data is tokenised by a process for each core that may be used, each of about 0.1 GB and more where a
    record is large. Killed (SIGKILL) is what the system, or the scheduler, does to a process of a job whose
    memory has run out. Nothing of the index is kept, and nothing was trained. The number of cores follows the
    affinity of the command, its control group, and SLURM_CPUS_PER_TASK.
    """
    return Finding(
        "CF562",
        f"one of the {workers} processes that tokenise the data was lost",
        place=place,
        label=reason,
        helps=(
            "give the job more memory",
            "or fewer cores to the command, for example by `taskset -c 0,1`",
        ),
    )
