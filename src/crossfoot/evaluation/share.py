"""One rank's share of an evaluation: what is left is dealt by work, scored, and written down item by item."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from crossfoot.evaluation.answering import Answering
from crossfoot.evaluation.loading import begin_budget, least_rows
from crossfoot.evaluation.memory import Memory
from crossfoot.evaluation.paper import Paper
from crossfoot.evaluation.progress import Progress
from crossfoot.evaluation.rows import dealt, pieces_of, without
from crossfoot.evaluation.scorer import Scorer
from crossfoot.evaluation.scoring import Result, Scoring
from crossfoot.findings.finding import Finding
from crossfoot.generating.generate import tell_findings
from crossfoot.phrases import counted
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.scores.item_log import BudgetChange, ItemLog


@dataclass(frozen=True)
class Desk:
    """Where a rank computes, and what is told of it. out: the folder of the evaluation. device: the first
    one. budget: tokens; None: auto. noise: as of `Scoring`. tell: hears of each budget. after_each: called
    when an item is written down. progress: how far it is, is said every so many seconds.
    """

    out: str
    device: str
    memory: Memory
    budget: int | None
    noise: float
    tell: Callable[[str], None]
    after_each: Callable[[], None] = lambda: None
    progress_seconds: float = 5.0


def score_share(paper: Paper, left: frozenset[int], scorer: Scorer, ranks: Ranks, desk: Desk) -> None:
    """left: numbers of the questions that nobody has scored, the same on all ranks. Raises Refused (CF868,
    CF878).
    """
    pieces = pieces_of(paper.questions, shares=scorer.shares_prefix)
    done = frozenset(range(len(paper.questions))) - left
    mine = dealt(without(pieces, done), ranks.world_size)[ranks.rank]
    planned: Counter[int] = Counter()
    for piece in mine:
        for row in piece.rows:
            planned[row.number] += row.tokens(len(piece.prefix))
    progress = Progress(
        len(planned), planned.total(), speaks=ranks.is_first, every_seconds=desk.progress_seconds
    )
    with ItemLog(desk.out, paper.origin, ranks.rank) as log:

        def take(result: Result) -> None:
            log.add([paper.scored(result, ranks.rank)])
            progress.add(planned[result.number])
            desk.after_each()

        def report(tokens: int, why: str, free: int) -> None:
            desk.tell(f"budget: {counted(tokens, 'token')} a forward ({why})")
            log.budget(BudgetChange(tokens, why, free, ranks.rank))

        budget = begin_budget(desk.budget, desk.memory, mine, scorer, report)
        is_cuda = desk.device != "cpu"
        texts = [piece for piece in mine if paper.is_generated(piece)]

        def warn(finding: Finding) -> None:
            tell_findings([finding])

        seed = paper.origin.seed
        Answering(scorer, paper.questions, budget, desk.memory, take, warn, is_cuda, seed).run(texts)
        Scoring(
            scorer,
            paper.questions,
            paper.letters,
            budget,
            desk.memory,
            take,
            warn,
            least_rows(desk.device),
            desk.noise,
        ).run([piece for piece in mine if not paper.is_generated(piece)])
