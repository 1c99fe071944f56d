"""How a verb ends: whatever happens in it becomes words and an exit code, and words never decide the code."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.output import say, tell
from crossfoot.streams import do_not_wait, lost_words

if TYPE_CHECKING:
    from crossfoot.environment.world import World

_SILENT_RANK_SECONDS = 10.0
_READER_SECONDS = 5.0
"""So long a rank waits for a reader that has stopped reading; then the words are lost, not the run."""


@rule_docs("CF021")
def unspeakable_name(error: UnicodeEncodeError) -> Finding:
    """CF021: a name has characters that the encoding of this shell does not have.

    The names of files are handed to the system in the encoding of the locale (LANG, LC_ALL). A locale such as
    C or en_US.ISO-8859-1 has no Chinese characters, so a file whose name has them cannot even be looked for.
    Where the encoding is UTF-8, the name holds half a character: its bytes are of another encoding.
    """
    lacking = error.object[error.start : error.end]
    is_half = error.encoding.replace("-", "").lower() == "utf8"
    return Finding(
        "CF021",
        f"a name cannot be written in {error.encoding}: {error.object[:80]} has {lacking[:8]!a}",
        helps=(
            "rename the file or folder: its name is in another encoding"
            if is_half
            else "use a UTF-8 locale: export LC_ALL=C.UTF-8",
        ),
        unreadable=True,
    )


def exit_code_of(verb: Callable[[], int], *, answers: bool) -> int:
    """Do it; returns the exit code that README lists. answers: it makes nothing but words, so that it has
    failed when the disk behind stdout does not take them. A reader that left has what it wanted.
    """
    code = _done(verb)
    trouble = lost_words()
    if trouble is None:
        return code
    from crossfoot.findings.render import render
    from crossfoot.runs.run_folder import system_refused

    tell(render([system_refused(trouble)]))
    return code or int(answers)


def _done(verb: Callable[[], int]) -> int:
    from crossfoot.findings.formats import show

    try:
        return verb()
    except Refused as refused:
        show(refused.findings)
        return refused.exit_code
    except KeyboardInterrupt:
        tell("interrupted")
        return 130
    except UnicodeEncodeError as error:
        show([unspeakable_name(error)])
        return 2
    except OSError as error:
        from crossfoot.runs.run_folder import is_system_refusal, system_refused

        if not is_system_refusal(error):
            raise
        show([system_refused(error)])
        return 1


def ready_for_weights(verb: str) -> None:
    """For a verb that loads a model: its packages are here, and are quiet. Raises Refused."""
    from crossfoot.extras import refuse_missing

    refuse_missing(verb, "train")
    refuse_missing(verb)
    from crossfoot.models.quiet import hush_libraries

    hush_libraries()


def on_this_rank(verb: str, work: Callable[[World], int], interrupted: str) -> int:
    """Do one rank's work, if its packages are here. Of a refusal the first rank of every node speaks; a
    signal says `interrupted`.
    """
    from crossfoot.environment.world import read_world
    from crossfoot.extras import refuse_missing

    world = read_world(os.environ)
    do_not_wait(_READER_SECONDS)
    try:
        refuse_missing(verb)
        return work(world)
    except Refused:
        if world.local_rank != 0:
            # The first rank of every node speaks for the others, and a launcher ends them with it. One that
            # is still here was refused alone.
            time.sleep(_SILENT_RANK_SECONDS)
            say(f"rank {world.rank} of {world.world_size} says:")
        raise
    except KeyboardInterrupt as signal:
        if world.local_rank == 0:
            tell(interrupted)
        return getattr(signal, "exit_code", 130)
    except Exception as error:
        if world.world_size == 1 or isinstance(error, OSError):
            raise
        traceback.print_exc()
        tell(f"rank {world.rank} of {world.world_size} ends on this error")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # an interpreter that winds down waits for threads of process groups; the others wait too
