"""Evaluations that nobody has computed: items with scores out of a hat, as a log on disk."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from crossfoot.scores.item_log import BudgetChange, ItemLog, Origin
from crossfoot.scores.item_score import Score, Scored, Work

ORIGIN = Origin("f" * 64, "clean", 0, "float32", "cpu", "2.13.0", {"shots": 5}, model="models/tiny")


def made_choice(
    index: int, subject: str = "law", task: str = "ceval", seed: int = 0, **changes: object
) -> Scored:
    """An item with four choices."""
    draw = random.Random(f"{task} {index} {seed}")
    score = Score(
        task=task,
        index=index,
        subject=subject,
        id=f"{subject}-{index}",
        kind="loglikelihood",
        shots=5,
        prompt_sha256=f"{index:064x}",
        gold=draw.randrange(4),
        scores=tuple(draw.uniform(-9, 0) for _ in range(4)),
        tokens=tuple(draw.randint(1, 5) for _ in range(4)),
        characters=tuple(draw.randint(1, 9) for _ in range(4)),
        bucket=16 * draw.randint(1, 6),
        prefix_tokens=320,
    )
    return Scored(replace(score, **changes), made_work(f"{subject}_val.csv:{index + 2}", draw))  # type: ignore[arg-type]


def made_work(place: str, draw: random.Random, rank: int = 0) -> Work:
    return Work(place, 8, 4 * 64, draw.uniform(20, 60), draw.randint(700, 900) * 10**6, rank)


def made_items(items: int = 12, seed: int = 0) -> Iterator[Scored]:
    """Of three subjects in turn."""
    subjects = ("law", "中国语言文学", "physics")
    return (made_choice(index, subjects[index % 3], seed=seed) for index in range(items))


def write_log(
    folder: Path, items: Sequence[Scored], ranks: int = 1, origin: Origin = ORIGIN, budgets: bool = True
) -> Path:
    """Dealt over ranks in turn; every rank's budget is halved once."""
    for rank in range(ranks):
        with ItemLog(folder, origin, rank) as log:
            own = [replace(one, work=replace(one.work, rank=rank)) for one in items[rank::ranks]]
            half = len(own) // 2
            if budgets:
                log.budget(BudgetChange(16384, "half of the free memory", 4 * 10**9, rank))
            log.add(own[:half])
            if budgets:
                log.budget(BudgetChange(8192, "out of memory", 10**9, rank))
            log.add(own[half:])
    return folder
