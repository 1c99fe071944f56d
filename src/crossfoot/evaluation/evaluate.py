"""`crossfoot evaluate`: tasks are asked of a model, an adapter or a run, on one rank or many, and what they
score does not depend on how many items are computed at a time, or where.
"""

from __future__ import annotations

import os
from datetime import timedelta

from crossfoot.environment.world import World
from crossfoot.evaluation.findings import rank_lost
from crossfoot.evaluation.loading import Loading, load_scorer
from crossfoot.evaluation.memory import Memory
from crossfoot.evaluation.preparing import Options, Prepared, prepare
from crossfoot.evaluation.scoring import NOISE
from crossfoot.evaluation.share import Desk, score_share
from crossfoot.findings.finding import Refused
from crossfoot.generating.generate import tell_findings
from crossfoot.output import say
from crossfoot.phrases import counted, first_line
from crossfoot.rendezvous.ranks import Ranks, is_lost_rank, join_on_cpu
from crossfoot.scores.item_log import read_log
from crossfoot.scores.result_folder import finish
from crossfoot.scores.tables import result_lines

_LONGEST = timedelta(days=2)
"""That ranks wait for the slowest at the end."""


def evaluate(path: str, options: Options, world: World) -> int:
    """The verb on one rank; returns the exit code. Raises Refused."""
    ready = prepare(path, options, world)
    keys = ready.paper.keys
    done = read_log(ready.out).done(ready.paper.origin, ready.paper.asked)
    os.makedirs(ready.out, exist_ok=True)
    ranks = join_on_cpu(world, os.environ, ready.out, _LONGEST)
    mine = tuple(number for number, key in enumerate(keys) if key not in done)
    left = frozenset(ranks.gather(mine, tuple[int, ...])[0])  # a file server may show a log late
    if done:
        ranks.tell(f"{len(done):,} of {counted(len(keys), 'item')} are scored already")
    if left:
        _score(ready, options, ranks, left)
    _wait(ranks)
    if not ranks.is_first:
        return 0
    return _show(ready.out)


def _score(ready: Prepared, options: Options, ranks: Ranks, left: frozenset[int]) -> None:
    """This rank's share of what is left."""
    memory = Memory(ready.first_device, ready.sharing)
    loading = Loading(ready.dtype, options.quantization, ready.device, ready.first_device)
    scorer = load_scorer(ready.voice, ready.asks, loading, memory, ranks.tell)
    is_exact = ready.first_device == "cpu" or options.quantization != "none"
    noise = 0.0 if is_exact else NOISE[scorer.dtype]
    desk = Desk(ready.out, ready.first_device, memory, options.budget, noise, ranks.tell)
    score_share(ready.paper, left, scorer, ranks, desk)


def _wait(ranks: Ranks) -> None:
    """For all to be done. Raises Refused (CF880) when one never will be."""
    try:
        ranks.leave()
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        raise Refused(rank_lost(first_line(error))) from error


def _show(folder: str) -> int:
    """What came of all; returns the exit code."""
    found = finish(folder)
    tell_findings(found.told)
    for line in result_lines(found.summary):
        say(line)
    say(f"{folder}: evaluation.json, scores.jsonl, items.jsonl, evaluation_log.md, page.html")
    return 0
