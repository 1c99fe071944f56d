"""`crossfoot evaluate`: tasks are asked of a model, an adapter or a run, on one rank or many, and what they
score does not depend on how many items are computed at a time, or where.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

from crossfoot.environment.world import World
from crossfoot.evaluation.answering import Answering
from crossfoot.evaluation.findings import rank_lost
from crossfoot.evaluation.loading import Loading, begin_budget, least_rows, load_scorer
from crossfoot.evaluation.memory import Memory
from crossfoot.evaluation.preparing import Options, Prepared, prepare
from crossfoot.evaluation.progress import Progress
from crossfoot.evaluation.questions import Question, letter_ids
from crossfoot.evaluation.rows import Piece, dealt, pieces_of, without
from crossfoot.evaluation.scorer import Letters
from crossfoot.evaluation.scoring import NOISE, Result, Scoring
from crossfoot.findings.finding import Finding, Refused
from crossfoot.generating.generate import tell_findings
from crossfoot.output import say
from crossfoot.phrases import counted, first_line
from crossfoot.rendezvous.ranks import Ranks, is_lost_rank, join_on_cpu
from crossfoot.scores.item_log import BudgetChange, ItemLog, read_log
from crossfoot.scores.item_score import Key, Score, Scored, Work, prompt_sha256
from crossfoot.scores.result_folder import finish
from crossfoot.scores.tables import result_lines
from crossfoot.tasks.answers import judged
from crossfoot.tasks.items import Request

_LONGEST = timedelta(days=2)
"""That ranks wait for the slowest at the end."""


def evaluate(path: str, options: Options, world: World) -> int:
    """The verb on one rank; returns the exit code. Raises Refused."""
    ready = prepare(path, options, world)
    log = read_log(ready.out)
    keys = [Key(one.request.item.task, one.request.item.id) for one in ready.questions]
    asked = {key: prompt_sha256(one.request) for key, one in zip(keys, ready.questions, strict=True)}
    done = log.done(ready.origin, asked)
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
    pieces = pieces_of(ready.questions, shares=scorer.shares_prefix)
    done = frozenset(range(len(ready.questions))) - left
    mine = dealt(without(pieces, done), ranks.world_size)[ranks.rank]
    planned: Counter[int] = Counter()
    for piece in mine:
        for row in piece.rows:
            planned[row.number] += row.tokens(len(piece.prefix))
    progress = Progress(len(planned), planned.total(), speaks=ranks.is_first)
    with ItemLog(ready.out, ready.origin, ranks.rank) as log:

        def take(result: Result) -> None:
            log.add([_scored(ready, result, ranks.rank)])
            progress.add(planned[result.number])

        def report(tokens: int, why: str, free: int) -> None:
            ranks.tell(f"budget: {counted(tokens, 'token')} a forward ({why})")
            log.budget(BudgetChange(tokens, why, free, ranks.rank))

        budget = begin_budget(options.budget, memory, mine, scorer, report)
        is_cuda = ready.first_device != "cpu"
        texts = [piece for piece in mine if _is_generated(ready, piece)]

        def warn(finding: Finding) -> None:
            tell_findings([finding])

        Answering(scorer, ready.questions, budget, memory, take, warn, is_cuda, ready.origin.seed).run(texts)
        Scoring(
            scorer,
            ready.questions,
            _letters(ready),
            budget,
            memory,
            take,
            warn,
            least_rows(ready.first_device),
            NOISE[scorer.dtype] if is_cuda and options.quantization == "none" else 0.0,
        ).run([piece for piece in mine if not _is_generated(ready, piece)])


def _is_generated(ready: Prepared, piece: Piece) -> bool:
    return ready.questions[piece.rows[0].number].request.kind == "generate"


def _letters(ready: Prepared) -> Callable[[Request], Letters]:
    @cache
    def ids(letters: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return letter_ids(ready.asks.encoder, letters)

    def of(request: Request) -> Letters:
        if request.decoding is None:
            raise ValueError("letters are read of processed scores")
        return Letters(*ids(request.item.letters), request.decoding)

    return of


def _scored(ready: Prepared, result: Result, rank: int) -> Scored:
    question = ready.questions[result.number]
    request, item = question.request, question.request.item
    score = Score(
        task=item.task,
        index=ready.indexes[result.number],
        subject=item.subject,
        id=item.id,
        kind=request.kind,
        shots=request.shots,
        prompt_sha256=prompt_sha256(request),
        shots_dropped=question.dropped,
        gold=item.gold,
        **_told(ready, question, result),
        bucket=result.bucket,
        prefix_tokens=result.prefix_tokens,
        is_rescored=result.is_rescored,
    )
    work = Work(
        place=item.place,
        rows_in_forward=result.rows,
        token_slots=result.token_slots,
        milliseconds=round(result.milliseconds, 3),
        peak_bytes=result.peak_bytes,
        rank=rank,
    )
    return Scored(score, work)


def _told(ready: Prepared, question: Question, result: Result) -> dict[str, Any]:
    """The scores, and how much text each is of; or the answer."""
    request, tokens = question.request, tuple(len(after) for _, after in question.pairs)
    if request.kind == "generate":
        own = judged(result.text, request.item, ready.origin.seed)
        counts = {"tokens": (result.tokens,), "characters": (len(result.text),)}
        return {"text": result.text, **counts, **vars(own)}
    totals = result.totals
    if request.kind == "letter":
        return {"scores": tuple(totals)}
    if request.kind == "loglikelihood":
        characters = tuple(len(one.lstrip()) for one in request.continuations)
        return {"scores": tuple(totals), "tokens": tokens, "characters": characters}
    text = request.context
    return {
        "scores": (math.fsum(totals),),
        "tokens": (sum(tokens),),
        "characters": (len(text),),
        "words": len(text.split()),
        "bytes": len(text.encode("utf-8", "surrogatepass")),
    }


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
