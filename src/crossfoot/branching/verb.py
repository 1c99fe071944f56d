"""`crossfoot branch RUN_DIR@STEP CONFIG`: the folder of a run that goes on from another one's checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence

from crossfoot.branching.begin import begin_branch
from crossfoot.branching.point import find_branch_point
from crossfoot.data.train_sources import train_files
from crossfoot.findings.formats import show
from crossfoot.index.tokenising_line import TokenisingLine
from crossfoot.index.verified import verified_index
from crossfoot.output import say
from crossfoot.planning.lock import make_lock
from crossfoot.planning.page import render_plan
from crossfoot.planning.plan import run_parts
from crossfoot.planning.prepare import plan_checked, read_and_check, survey
from crossfoot.shell_words import joined, path_word


def branch(word: str, path: str, overrides: Sequence[str], allow: Sequence[str]) -> int:
    """Make it, show its plan and how it is trained. Raises Refused; then nothing is kept but the data index,
    which the run that is branched off has made already.
    """
    point = find_branch_point(word)
    checked = read_and_check(path, overrides, environ=os.environ)
    checked.refuse()
    files = train_files(checked.run.config.data)
    index, _ = run_parts(checked.run, verified_index(checked.run, files, progress=TokenisingLine()))
    checked = survey(checked, index)
    checked.refuse()
    plan = plan_checked(checked, index)
    begun = begin_branch(point, plan, index, allow)
    if checked.findings:
        show(checked.findings)
    say(render_plan(plan, make_lock(plan)["sha256"]))
    kept = [word for word in overrides if not word.startswith("run.dir=")]
    words = joined(("train", path_word(path), *kept, "--continue", path_word(plan.run.run_dir)))
    say(f"\n{begun.words}\ntrain it: crossfoot {words}")
    return 0
