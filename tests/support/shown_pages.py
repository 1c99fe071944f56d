"""The pages that crossfoot writes, one line each: what its name is in the tests, and what makes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from crossfoot.data.prompts import read_prompts
from crossfoot.reports.axes import Axis
from crossfoot.reports.chart import Bar, Point, Series, bars, chart
from crossfoot.reports.page import Page, figures, heading, paragraph, table, verdict
from crossfoot.run_pages.page import run_page
from crossfoot.run_pages.side_by_side import side_by_side_page
from crossfoot.scores.page import evaluation_page
from crossfoot.scores.summary import summary_of
from crossfoot.serving.load_page import load_page
from crossfoot.serving.load_result import LoadResult, Sample, stage_of
from crossfoot.studies.answer import answer
from crossfoot.studies.page import study_page
from crossfoot.tuning.deciding import decide
from crossfoot.tuning.page import tuning_page
from crossfoot.tuning.trials import Trial
from crossfoot.tuning.tuning_file import read_tuning
from support.launching import ROOT
from support.made_runs import made_run
from support.made_scores import made_log
from support.made_study import made_study

LONG = "Chinese-LLaMA-Alpaca-2-7B-bfloat16-merged-400-1a2b3c4d"


def everything() -> str:
    """What a page can have."""
    steps = [Point(x, math.exp(-x / 300) + math.sin(x) / 20, 0.1, 1.2) for x in range(1, 3000)]
    steps[900:920] = [Point(x, math.nan) for x in range(901, 921)]
    trials = [Point(5 + x * x % 37, 30 + x * 7 % 11, 29, 42) for x in range(30)]
    sizes = [Point(2**k, 1e-5 * 2 ** (k / 2)) for k in range(11)]
    batches = Axis("samples per optimizer step", is_log=True, at=[2**k for k in range(11)])
    drawn = (
        chart(
            "Loss",
            Axis("step", is_whole=True),
            Axis("loss"),
            [Series("train 训练", steps)],
            "note",
            is_wide=True,
        ),
        chart("Trials", Axis("tokens a second"), Axis("chrF"), [Series("trial", trials, "dots")]),
        chart(
            "Rates",
            batches,
            Axis("rate", is_log=True),
            [Series(f"{LONG}, {n}", _times(1.2**n, sizes)) for n in range(9)],
        ),
        bars("Scores", [Bar(LONG, 0.5, "50.0 ± 2.1 %", 0.48, 0.52), Bar("gsm8k", 0.05, "5.0 %", colour=3)]),
    )
    words = [verdict("good", "Good."), verdict("bad", "Bad.", LONG, "二"), verdict("plain", "Plain.")]
    rows = [(f"trial {n}", "true", LONG, "45.0 ± 3.1") for n in range(3)]
    return (
        Page(f"Everything 全部 {LONG}")
        .add(
            *words, heading("Words 文字"), paragraph("Some words. " * 30), paragraph("Small.", is_small=True)
        )
        .add(table(("trial", "do_sample", "model", "exact match"), rows, "A note."), figures(*drawn))
        .render()
    )


def one_load_test() -> str:
    """Of one stage, as with the defaults."""
    return load_page([_load_test("tiny", (10,))])


def failed_load_tests() -> str:
    """Three of many stages side by side, with failures and long names."""
    names = (LONG, f"{LONG}-int8", "甲")
    return load_page([_load_test(name, (1, 2, 5, 10, 128), failed=at) for at, name in enumerate(names)])


def evaluation() -> str:
    """Of three tasks on two ranks, with long names and all that can be remarked."""
    log = made_log(LONG)
    return evaluation_page(summary_of(log, "5" * 64), log.written)


def search() -> str:
    """Of the shipped search: greedy, many sampled trials, and one that failed with a long word."""
    file = read_tuning(str(ROOT / "configs" / "tune" / "smollm2.yaml"))
    trials = [_trial(1, do_sample=False), *(_trial(n, temperature=0.1 * n, top_k=50) for n in range(2, 15))]
    trials.append(Trial(15, {"do_sample": True, "temperature": 1.5}, failed=LONG))
    decision = decide(trials, file.config.goal)
    assert decision is not None
    prompts = read_prompts(str(ROOT / file.config.prompts), {})
    return tuning_page(file, decision, trials, prompts, {"do_sample": False})


def long_run() -> str:
    """Of three attempts with causes, accepted findings, lost steps, and losses that are no numbers."""
    faults = {**dict.fromkeys(range(500, 560), "missing sample"), **dict.fromkeys(range(900, 930), "nan")}
    return run_page(made_run(1200, name=LONG, kills=(400, 800), faults=faults))


def three_runs() -> str:
    """Of other batches, one of them unfinished, with long names."""
    sizes = (16, 64, 256)
    runs = [made_run(12_800 // batch, batch=batch, name=f"{LONG}-{batch}") for batch in sizes]
    return side_by_side_page([*runs[:2], made_run(50, batch=256, name="二五六", done=30, status="killed")])


def study() -> str:
    """Of six batches, three rates and three seeds, with long names."""
    results = made_study(f"study-of-{LONG}")
    return study_page(results, answer(results))


def study_without_fit() -> str:
    """Of two batches, one of which does not foot; without costs."""
    results = made_study(batches=(64, 100, 256), seeds=2, with_costs=False)
    runs = [replace(run, foots=False) if run.batch == 64 else run for run in results.runs]
    results = replace(results, runs=tuple(runs))
    return study_page(results, answer(results))


def study_of_one_seed() -> str:
    """Up to a batch that does not reach the target that was given; a rate diverged."""
    results = made_study(batches=(16, 32, 64, 100, 128, 256, 512, 1024), seeds=1)
    runs = [
        replace(run, state="diverged") if run.rate_factor * run.batch > 512 else run for run in results.runs
    ]
    results = replace(results, runs=tuple(runs))
    return study_page(results, answer(results, 2.6))


PAGES: dict[str, Callable[[], str]] = {
    "everything": everything,
    "one load test": one_load_test,
    "load tests side by side": failed_load_tests,
    "evaluation": evaluation,
    "search": search,
    "a long run": long_run,
    "runs side by side": three_runs,
    "study": study,
    "study without a fit": study_without_fit,
    "study of one seed": study_of_one_seed,
}


def _times(factor: float, points: Sequence[Point]) -> list[Point]:
    return [point._replace(y=factor * point.y) for point in points]


def _trial(number: int, *, do_sample: bool = True, **values: float) -> Trial:
    """Three repeats of 20 prompts; the higher the number, the fewer are right."""
    scores = tuple(tuple(float((at * 7 + repeat) % 20 >= number) for at in range(20)) for repeat in range(3))
    answers = tuple(tuple(f"{LONG} 答 {at}" for at in range(20)) for _ in range(3))
    every = {"do_sample": do_sample, **values}
    return Trial(number, every, scores, answers, (180 + number,) * 3, (1.5 + number / 10,) * 3)


def _load_test(name: str, users: tuple[int, ...], failed: int = 0) -> LoadResult:
    """Others for every number of failures."""

    def answers(number: int) -> Iterator[dict[str, object]]:
        for at in range(number):
            first = 0.05 + number * 0.01 + at * 0.002 + failed
            arrived = [first + token * (0.013 + number * 1e-4 + failed / 50) for token in range(12)]
            yield {"error": "HTTP 500: out of memory" * (at < failed), "arrived": arrived, "tokens": 12} | {
                "seconds": arrived[-1]
            }

    stages = tuple(stage_of(number, 4, 3.0 + failed, list(answers(number * 4))) for number in users)
    samples = tuple(
        Sample(at / 2, 1, 1.5 + at % 3 + failed, (3 + failed) * 1_200_000_000 + at * 1_000_000)
        for at in range(200)
    )
    plan = {"loops": 4, "ramp_up_seconds": 1, "max_tokens": 64}
    server = "python -m transformers serve /models/" + name
    return LoadResult(1, name, "http://127.0.0.1:8000/v1", name, plan, server, not failed, stages, samples)
