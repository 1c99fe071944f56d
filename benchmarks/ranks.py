"""One and two ranks, ZeRO 0 to 3: where a step's time goes, and what it moves.

    python benchmarks/ranks.py [ROUNDS]      some minutes on two quiet cores

The same steps of the same model on every stage, the stages one after another and all of them ROUNDS times
(A B C D A B C D), in one set of ranks over gloo. Writes benchmarks/data/ranks.json and prints it as a table;
CPU seconds stand beside wall time, because other work on the machine makes the second longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import save

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from support.launching import small_config, warm_ranks  # noqa: E402

STEPS, ACCUMULATION, MICRO = 5, 4, 2
SHAPE = {"vocab_size": 16_384, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
PHASES = ("forward", "backward", "waiting", "moving", "optimizer", "accounting", "rest")
CASES = ((1, 0), (2, 0), (2, 1), (2, 2), (2, 3))


def write_model(folder: Path) -> Path:
    """A llama of SHAPE with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**SHAPE, num_attention_heads=4)).save_pretrained(folder)
    return folder


def measure(folder: Path, ranks: int, stages: list[int], rounds: int) -> dict[int, list[dict[str, Any]]]:
    """Stage -> the steps of rank 0 in all rounds, without the first step of a run."""
    config = small_config(
        folder,
        model={"path": str(folder / "model")},
        tokenizer={"path": "builtin:tiny"},
        data={"train": [str(ROOT / "data" / "demo" / "zh.jsonl")], "max_seq_len": 512},
        batch={"micro_batch_size": MICRO, "grad_accum_steps": ACCUMULATION, "global_batch_size": None},
        lora={"r": 16, "alpha": 32, "modules_to_save": ["embed_tokens", "lm_head"]},
        train={"max_steps": STEPS},
    )
    jobs = []
    for number, stage in [(number, stage) for number in range(rounds) for stage in stages]:
        name = f"{ranks}-{stage}-{number}"
        words = [f"run.dir={folder / name}", f"deepspeed={ROOT / 'ds_configs' / f'zero{stage}.json'}"]
        jobs.append({"name": name, "config": str(config), "overrides": words, "split": ranks > 1})
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = warm_ranks(ranks, ROOT / "tests" / "support" / "step_probe.py", folder / "jobs.json")
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    steps: dict[int, list[dict[str, Any]]] = {stage: [] for stage in stages}
    for job in jobs:
        page = json.loads((folder / f"{job['name']}.rank0.json").read_text(encoding="utf-8"))
        steps[int(job["name"].split("-")[1])] += page["steps"][1:-1]
    return steps


def main(rounds: int) -> None:
    """All cases, as data and as a table."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        for ranks in (1, 2):
            stages = [stage for count, stage in CASES if count == ranks]
            for stage, steps in measure(folder, ranks, stages, rounds).items():
                rows.append({"ranks": ranks, "zero_stage": stage, **_summary(steps)})
    save("ranks", {"model": SHAPE, "forwards": ACCUMULATION, "micro_batch_size": MICRO, "rows": rows})
    print("| ranks, stage | MB moved | CPU s | wall s (spread) | " + " | ".join(PHASES) + " |")
    print("|---" * (4 + len(PHASES)) + "|")
    for row in rows:
        wall = f"{row['wall_seconds']:.2f} ({row['wall_spread']:.2f})"
        numbers = [f"{row['moved_bytes'] / 1e6:.1f}", f"{row['cpu_seconds']:.2f}", wall]
        numbers += [f"{row['wall_by_phase'][phase]:.3f}" for phase in PHASES]
        print(f"| {row['ranks']}, ZeRO-{row['zero_stage']} | " + " | ".join(numbers) + " |")


def _summary(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over steps. wall_spread: the quartiles' distance."""
    walls = [sum(step["wall"].values()) for step in steps]
    low, _, high = statistics.quantiles(walls, n=4)
    return {
        "steps": len(steps),
        "moved_bytes": sum(steps[0]["bytes"].values()),
        "wall_seconds": statistics.median(walls),
        "wall_spread": high - low,
        "cpu_seconds": statistics.median(sum(step["cpu"].values()) for step in steps),
        "wall_by_phase": {
            phase: statistics.median(step["wall"].get(phase, 0.0) for step in steps) for phase in PHASES
        },
        "cpu_by_phase": {
            phase: statistics.median(step["cpu"].get(phase, 0.0) for step in steps) for phase in PHASES
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=3, help="how often each case is run")
    main(parser.parse_args().rounds)
