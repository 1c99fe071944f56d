"""Real tokens per second of crossfoot and its peers on the same samples:   python benchmarks/peers.py

Peers are installed from PyPI, each into an environment of its own under .benchmarks/. All are handed the same
token ids in the same order, and start from the same weights; each run is a process of its own with one
thread, and the runs of all stacks take turns. First the gradients of one step are compared. A finished run is
kept: the same command goes on where it was stopped. All of it takes some five hours on a quiet machine, with
--rounds 1 a third of that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import save, spread, table
from peer_runs import Case, Row, Run, Runner

PACK = 512


ROWS = (
    Row("crossfoot", "crossfoot", "crossfoot_train", rows=4, forwards=2, packed=PACK),
    Row(
        "LLaMA-Factory, neat packing",
        "llamafactory",
        "llamafactory_sft",
        forwards=3,
        packed=PACK,
        tasks=("sft",),
    ),
    Row("HF Trainer, the recipe", "hf", "hf", checkpointing=True),
    Row("LLaMA-Factory", "llamafactory", "llamafactory_sft"),
    Row("ms-swift", "swift", "swift_sft"),
    Row("unsloth", "unsloth", "unsloth_sft"),
    Row("TRL, packing", "trl", "trl_sft", forwards=3, packed=PACK, tasks=("sft",)),
    Row("TRL", "trl", "trl_sft", quick=False),
    Row("HF Trainer", "hf", "hf", quick=False),
    Row("crossfoot, 1 x 8", "crossfoot", "crossfoot_train", quick=False),
)


CASES = tuple(
    Case(task, shape, dtype, steps)
    for (task, shape), steps in {
        ("sft", "S"): 4, ("sft", "M"): 2, ("pretrain", "S"): 2, ("pretrain", "M"): 1,
    }.items()
    for dtype in ("float32", "bfloat16")
)  # fmt: skip


def runs(only: list[str], quick: bool) -> Iterator[Run]:
    """All that are asked for; in float32 a peer as it comes and with torch's faster GEMM line, on which
    crossfoot decides for itself.
    """
    for case in CASES:
        if quick:
            if (case.task, case.shape) != ("sft", "S"):
                continue
            case = replace(case, steps=2)
        for row in ROWS:
            two = case.dtype == "float32" and row.environment != "crossfoot"
            for gemm in ("highest", "medium") if two else ("highest",):
                run = Run(case, row, gemm)
                if (
                    case.task in row.tasks
                    and (row.quick or not quick)
                    and (not only or any(word in run.name for word in only))
                ):
                    yield run


def in_turns(asked: list[Run], rounds: int) -> list[tuple[Run, int]]:
    """(run, round): case by case, and in a case A B C A B C, so that all rows share the machine's moods."""
    cases = dict.fromkeys(run.case for run in asked)
    return [(run, round_) for case in cases for round_ in range(rounds) for run in asked if run.case == case]


def compared(runner: Runner) -> dict[str, Any]:
    """How far each row's gradient of the first step is from that of the first row, relatively, by table: on
    the tiny shape in float32, without dropout and clipping, from the same weights and samples.
    """
    import numpy as np

    found: dict[str, Any] = {}
    case = Case("sft", "tiny", "float32", 1)
    reference = None
    for row in ROWS:
        run = Run(case, row, "highest")
        result = runner.result(run, "gradients")
        if "failed" in result:
            found[row.name] = result["failed"]
            continue
        with np.load(runner.gradients(run)) as file:
            gradients = {name: file[name].astype(np.float64) for name in file.files}
        reference = reference or gradients
        tokens = int(result["steps"][0]["real_tokens"])
        found[row.name] = {"real_tokens": tokens} | {
            name: float(np.linalg.norm(gradients[name] - wanted) / np.linalg.norm(wanted))
            for name, wanted in reference.items()
        }
    return found


def summary(run: Run, results: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the data: the median over all counted steps of all rounds, with the least and the most."""
    named = {"case": run.case.name, "row": run.row.name, "gemm": run.gemm}
    good = [result for result in results if "failed" not in result]
    if not good:
        return {**named, "failed": results[0]["failed"]}
    steps = [step for result in good for step in result["steps"][1:]]
    return {
        **named,
        "tokens_per_cpu_second": spread([step["real_tokens"] / step["cpu_seconds"] for step in steps]),
        "tokens_per_second": spread([step["real_tokens"] / step["wall_seconds"] for step in steps]),
        "real_share": sum(step["real_tokens"] for step in steps) / sum(step["token_slots"] for step in steps),
        "tokens_per_step": sum(step["real_tokens"] for step in steps) / len(steps),
        "peak_rss_bytes": max(result["peak_rss_bytes"] for result in good),
        "rounds": len(good),
        "counted_steps": len(steps),
        "load": spread([result["load"] for result in good]),
        "set_gemm": good[0]["gemm"],
        "trained_numbers": good[0]["trained_numbers"],
        "versions": good[0]["versions"],
    }


def shown(rows: list[dict[str, Any]]) -> str:
    """One table for every case."""
    pages = []
    for case in dict.fromkeys(row["case"] for row in rows):
        lines = []
        for row in (row for row in rows if row["case"] == case):
            name = row["row"] + (", medium" if row["gemm"] == "medium" else "")
            if "failed" in row:
                lines.append([name, "-", "-", "-", "-", row["failed"][:60]])
                continue
            rate, wall = row["tokens_per_cpu_second"], row["tokens_per_second"]
            lines.append([
                name, f"{rate['median']:.0f}", f"{rate['least']:.0f}-{rate['most']:.0f}",
                f"{wall['median']:.0f}",
                f"{row['peak_rss_bytes'] / 2**30:.1f}", f"{row['real_share']:.0%}",
            ])  # fmt: skip
        head = [case, "tokens per CPU second", "least-most", "per second", "peak GiB", "real tokens"]
        pages.append(table(head, lines))
    return "\n\n".join(pages)


def kept(runner: Runner) -> list[dict[str, Any]]:
    """A row of the data for every run that is kept, in the order of cases and rows."""
    rows = []
    for run in runs([], False):
        paths = sorted(runner.kept(run, "0").parent.glob(f"{run.row.name} {run.gemm} [0-9]*.json"))
        if paths:
            rows.append(summary(run, [json.loads(path.read_text(encoding="utf-8")) for path in paths]))
    return rows


def main() -> int:
    """Compare, run in turns, show, write benchmarks/data/peers.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    say = parser.add_argument
    say("--quick", action="store_true", help="instructions, shape S, one round: 15 minutes")
    say("--only", nargs="+", default=[], metavar="WORD", help="runs whose name has one of these in it")
    say("--rounds", type=int, default=3, metavar="N", help="runs of every row (3)")
    say("--again", action="store_true", help="forget the runs that are kept")
    say("--table", action="store_true", help="only show what is kept")
    say("--folder", type=Path, default=Path(".benchmarks"), help="where all of it is kept")
    given = parser.parse_args()
    runner = Runner(given.folder.resolve())
    if given.table:
        print(shown(kept(runner)))
        return 0
    if given.again:
        shutil.rmtree(runner.folder / "results", ignore_errors=True)
    runner.forget_failures()
    gradients = compared(runner)
    asked = in_turns(list(runs(given.only, given.quick)), 1 if given.quick else given.rounds)
    for number, (run, round_) in enumerate(asked, start=1):
        print(f"{number} of {len(asked)}: {run.name}, round {round_ + 1}", file=sys.stderr, flush=True)
        runner.result(run, str(round_))
    rows = kept(runner)
    print(f"{shown(rows)}\n\n{save('peers', {'gradients': gradients, 'rows': rows})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
