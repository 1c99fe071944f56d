"""How fast an exam is scored, 5 worked examples before each question: one prompt at a time with plain
transformers, by lm-evaluation-harness' own model, and by `crossfoot evaluate`. Loading is not counted.

    python benchmarks/evaluating.py [--model real/smollm2-135m] [--rounds 3] [--threads 1] [--turns 8]

exam: the shipped one, 12 questions of each of 3 subjects. one subject: the 12 of china_geography, each asked
so many times with its choices in turn, as a subject of CMMLU has about 170.

Each way runs in a process of its own, in turn (A B C A B C ...); medians go to
benchmarks/data/evaluating.json. Needs `make real-data` and the extra `harness`. The largest batch that the
harness may try is said to it: its own 64 rows would be tried with the longest prompt and the logits of all
places, five times, on a CPU too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from measuring import PACKAGES, clocks, peak_rss_bytes, save, versions

SHOTS = 5
LARGEST = 8
"""Rows of a batch of the harness."""
PROMPTS, AUTO, FIXED, OURS = (
    "prompt by prompt",
    "lm_eval hf, auto",
    "lm_eval hf, batch of 8",
    "crossfoot evaluate",
)
KINDS, SUBJECT = ("exam", "one subject"), "china_geography"
Found = dict[str, Any]
"""wall_seconds, cpu_seconds, and the answer of each item, by its id."""


def task_of(kind: str, folder: str, turns: int) -> str:
    """The word that names it: the exam, or a file written into the folder."""
    from crossfoot.tasks.reading import read_tasks

    if kind == "exam":
        return kind
    (exam,) = read_tasks(["exam"], subjects=[SUBJECT])
    lines = [{**_record(shot, 0), "split": "dev"} for shot in exam.shots[SUBJECT]]
    lines += [_record(item, turn) for turn in range(turns) for item in exam.items]
    file = Path(folder) / "subject.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(file)


def _record(item: Any, turn: int) -> Found:
    """turn: by how many places its choices are turned; from the fourth on the question says so, or it would
    be the same item again.
    """
    by, again = turn % len(item.choices), turn // len(item.choices)
    choices = item.choices[by:] + item.choices[:by]
    mark = f"（{again}）" if again else ""
    return {"question": item.question + mark, "choices": choices, "answer": (item.gold - by) % len(choices)}


def prompt_by_prompt(model: str, word: str) -> Found:
    """Each prompt is generated from for one token; the likeliest letter is the answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from crossfoot.tasks.prompts import requests_of
    from crossfoot.tasks.reading import read_tasks

    (task,) = read_tasks([word])
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    answers = {}
    began = clocks()
    for request in requests_of(task, "clean", SHOTS):
        ids = tokenizer(request.context, return_tensors="pt").input_ids
        with torch.inference_mode():
            told = plain.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=1,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        letters = [
            tokenizer(letter, add_special_tokens=False).input_ids[-1] for letter in request.continuations
        ]
        answers[request.item.id] = int(told.scores[0][0, letters].argmax())
    return since(began, answers)


def by_the_harness(model: str, word: str, batch: str) -> Found:
    """Its own model, on the exam as crossfoot writes it. Timed are its requests alone, without reading."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from crossfoot.tasks.harness_yaml import export_task
    from crossfoot.tasks.reading import read_tasks

    (task,) = read_tasks([word])
    timed: list[Found] = []

    class Timed(HFLM):
        def loglikelihood(self, *given: Any, **named: Any) -> Any:
            began = clocks()
            found = super().loglikelihood(*given, **named)
            timed.append(since(began, {}))
            return found

    lm = Timed(model, dtype="float32", device="cpu", batch_size=batch, max_batch_size=LARGEST)
    with tempfile.TemporaryDirectory() as folder:
        export_task(task, folder, "clean", SHOTS)
        manager = TaskManager(include_path=folder, include_defaults=False)
        told = simple_evaluate(lm, tasks=[f"crossfoot_{task.name}"], task_manager=manager, bootstrap_iters=0)
    answers = {}
    for samples in told["samples"].values():
        for one in samples:
            scores = [float(answer[0][0]) for answer in one["resps"]]
            answers[one["doc"]["id"]] = scores.index(max(scores))
    return {**timed[0], "answers": answers}


def by_crossfoot(model: str, word: str) -> Found:
    """The verb, from its first line to its page."""
    from crossfoot.cli import main
    from crossfoot.evaluation import loading, preparing

    spent = [0.0, 0.0]

    def untimed(real: Callable[..., Any]) -> Callable[..., Any]:
        def loads(*given: Any, **named: Any) -> Any:
            began = clocks()
            found = real(*given, **named)
            for place, (end, begin) in enumerate(zip(clocks(), began, strict=True)):
                spent[place] += end - begin
            return found

        return loads

    loading.load_speaker, preparing.asking = untimed(loading.load_speaker), untimed(preparing.asking)
    with tempfile.TemporaryDirectory() as folder:
        words = ["--tasks", word, "--shots", str(SHOTS), "--dtype", "float32", "--out", folder]
        began = clocks()
        code = main(["evaluate", model, *words])
        found = since(began, {})
        lines = (Path(folder) / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    if code:
        raise SystemExit(code)
    return {
        "wall_seconds": found["wall_seconds"] - spent[0],
        "cpu_seconds": found["cpu_seconds"] - spent[1],
        "answers": {line["id"]: line["answer"] for line in map(json.loads, lines)},
    }


def since(began: tuple[float, float], answers: Mapping[str, int]) -> Found:
    """What has passed of both clocks."""
    wall, cpu = (end - begin for end, begin in zip(clocks(), began, strict=True))
    return {"wall_seconds": wall, "cpu_seconds": cpu, "answers": dict(answers)}


WAYS: Mapping[str, Callable[[str, str], Found]] = {
    PROMPTS: prompt_by_prompt,
    AUTO: lambda model, word: by_the_harness(model, word, "auto"),
    FIXED: lambda model, word: by_the_harness(model, word, str(LARGEST)),
    OURS: by_crossfoot,
}


def in_a_process(way: str, model: str, word: str, threads: int) -> Found:
    """One way once, alone."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        words = [sys.executable, __file__, "--model", model, "--way", way, "--task", word, "--out", str(out)]
        environ = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HOME": folder}
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{way}: {done.stderr[-2000:]}")
        found: Found = json.loads(out.read_text(encoding="utf-8"))
        return found


def measure(kind: str, given: argparse.Namespace) -> list[Found]:
    """A row for each way: medians over the rounds, which take turns."""
    found: dict[str, list[Found]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        word = task_of(kind, folder, given.turns)
        for number in range(given.rounds):
            for way, runs in found.items():
                runs.append(in_a_process(way, given.model, word, given.threads))
                print(f"{kind}, round {number + 1}, {way}: {runs[-1]['cpu_seconds']:.1f} CPU s", flush=True)
    ours = found[OURS][0]["answers"]
    middle = {way: statistics.median(run["cpu_seconds"] for run in runs) for way, runs in found.items()}
    return [
        {
            "task": kind,
            "way": way,
            "items": len(ours),
            "answers as crossfoot": sum(runs[0]["answers"].get(item) == own for item, own in ours.items()),
            "cpu seconds": round(middle[way], 1),
            "least-most": [round(end(run["cpu_seconds"] for run in runs), 1) for end in (min, max)],
            "wall seconds": round(statistics.median(run["wall_seconds"] for run in runs), 1),
            "peak MiB": round(max(run["peak_bytes"] for run in runs) / 2**20),
            "cpu seconds, times crossfoot's": round(middle[way] / middle[OURS], 2),
        }
        for way, runs in found.items()
    ]


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="real/smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=8)
    for name in ("--way", "--task", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        told = WAYS[given.way](given.model, given.task)
        Path(given.out).write_text(json.dumps({**told, "peak_bytes": peak_rss_bytes()}), encoding="utf-8")
        return
    rows = [row for kind in KINDS for row in measure(kind, given)]
    said = {
        "shots": SHOTS,
        "threads": given.threads,
        "rounds": given.rounds,
        "largest batch of lm_eval": LARGEST,
    }
    save("evaluating", {"versions": versions((*PACKAGES, "lm_eval")), "asked": said, "rows": rows})
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
