"""Evaluations that nobody has computed: items with scores out of a hat, as a log on disk."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from crossfoot.scores.item_log import BudgetChange, ItemLog, LogRead, Origin
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


def made_text(index: int, task: str = "translate", seed: int = 0) -> Scored:
    """An item that is answered by a text."""
    draw = random.Random(f"{task} {index} {seed}")
    score = Score(
        task,
        index,
        task,
        str(index),
        "generate",
        0,
        f"{index:064x}",
        text=draw.choice(
            ("北京是中国的首都。", "A | quick\nbrown fox jumps over the lazy dog, and then sleeps")
        ),
        is_exact=draw.random() < 0.5,
        chrf=draw.uniform(20, 90),
        tokens=(20,),
        characters=(30,),
        bucket=64,
    )
    return Scored(score, made_work(f"{task}.jsonl:{index + 1}", draw))


def made_rolling(index: int, task: str = "wiki", seed: int = 0) -> Scored:
    """A text whose perplexity is measured."""
    draw = random.Random(f"{task} {index} {seed}")
    score = Score(
        task,
        index,
        f"{task}{index}.txt",
        f"{task}{index}.txt/0",
        "rolling",
        0,
        f"{index:064x}",
        scores=(draw.uniform(-5000, -4000),),
        tokens=(2000,),
        characters=(3000,),
        words=700,
        bytes=6000,
        bucket=512,
    )
    return Scored(score, made_work(f"{task}{index}.txt:1", draw))


def made_log(model: str = "models/tiny") -> LogRead:
    """Three tasks on two ranks, as they are read; every remark is made of some item."""
    items = [
        *made_items(48, seed=5),
        made_choice(48, "hidden", gold=None, shots=3, shots_dropped=2),
        made_choice(49, "law", scores=(math.nan,) * 4),
        made_choice(50, "law", scores=(-1.0,) * 4, is_rescored=True),
        made_choice(
            51, "law", scores=(), tokens=(), characters=(), kind="generate", choice=1, letter_found=False
        ),
        *map(made_text, range(9)),
        *map(made_rolling, range(3)),
    ]
    written = [replace(one, work=replace(one.work, rank=at % 2)) for at, one in enumerate(items)]
    written.sort(key=lambda one: one.work.rank)
    budgets = [
        BudgetChange(tokens, why, free, rank, seconds)
        for rank in (0, 1)
        for tokens, why, free, seconds in (
            (16384, "half of the free memory", 4 * 10**9, 0.0),
            (8192, "out of memory: halved", 10**9, 0.4 + rank / 10),
            (12288, "ten forwards have fitted: grown", None, 0.9),
        )
    ]
    return LogRead("evaluations/tiny", replace(ORIGIN, model=model), tuple(written), tuple(budgets), ())
