"""How fast data is tokenised into an index, and in how much memory, with 1, 2, 4, ... of the cores:

    python benchmarks/indexing.py [--records 100000 | --file DATA.jsonl] [--tokenizer FOLDER] [--rounds 3]

Runs `crossfoot index` as a user would, bound to so many cores, in turn (1, 2, 1, 2, ...); prints medians and
writes them to benchmarks/data/indexing.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from measuring import save

SAMPLE_SECONDS = 0.1
WORDS = (
    *("我们", "这个", "问题", "回答", "学习", "工作", "生活", "时间", "城市", "国家", "世界", "社会", "经济"),
    *("历史", "科学", "技术", "方法", "数据", "模型", "训练", "语言", "春天", "下雨", "朋友", "老师", "音乐"),
    *("因为", "所以", "但是", " the", " model", " data", " question", "，", "。", "、", "：", "\n", "1. "),
)


def write_records(path: Path, count: int) -> None:
    """Questions and answers of random words, of lengths as instruction data has them."""
    draw = random.Random(7)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            words = draw.choices(WORDS, k=max(8, min(800, round(draw.lognormvariate(4.5, 0.8)))))
            cut, _ = divmod(len(words), 4)
            asked, answer = "".join(words[:cut]), "".join(words[cut:])
            record = {"instruction": f"{number} {asked}", "input": "", "output": f"{answer}."}
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_config(folder: Path, data: Path, tokenizer: str) -> Path:
    """A run on this data, of which nothing but the index is made."""
    config = {
        "run": {"name": "indexing", "dir": str(folder / "run")},
        "model": {"path": "builtin:tiny"},
        "tokenizer": {"path": tokenizer},
        "data": {"train": [str(data)], "max_seq_len": 2048, "index_dir": str(folder / "index")},
        "batch": {"micro_batch_size": 1, "grad_accum_steps": 1},
        "lr": {"reference": 1e-4},
        "train": {"epochs": 1},
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def resident_bytes(process: psutil.Process) -> int:
    """Of a process and all that it started."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:
        pass
    return total


def index_once(config: Path, cores: list[int]) -> dict[str, float]:
    """One `crossfoot index`, from its start to its end, on these cores. Its index is removed afterwards."""
    shutil.rmtree(config.parent / "index", ignore_errors=True)
    began, peak = time.monotonic(), 0
    command = [sys.executable, "-m", "crossfoot", "index", str(config)]
    process = psutil.Popen(
        ["taskset", "-c", ",".join(map(str, cores)), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        peak = max(peak, resident_bytes(process))
        time.sleep(SAMPLE_SECONDS)
    if status:
        raise SystemExit(f"crossfoot index failed: {os.waitstatus_to_exitcode(status)}")
    return {
        "wall_seconds": time.monotonic() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_mib": peak / 2**20,
    }


def measure(config: Path, data: Path, rounds: int) -> list[dict[str, float]]:
    """A row for each number of cores: medians over the rounds, which take turns."""
    records = sum(1 for _ in data.open("rb"))
    usable = sorted(os.sched_getaffinity(0))
    counts = sorted({len(usable), *(2**power for power in range(len(usable).bit_length()))})
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            found[count].append(index_once(config, usable[:count]))
    rows = []
    for count, runs in found.items():
        row: dict[str, float] = {"cores": count}
        row |= {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
        row["slowest_wall_seconds"] = round(max(run["wall_seconds"] for run in runs), 2)
        row["samples_per_second"] = round(records / row["wall_seconds"])
        row["samples_per_cpu_second"] = round(records / row["cpu_seconds"])
        rows.append(row)
    return rows


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--tokenizer", default="builtin:tiny")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        data = arguments.file or folder / "records.jsonl"
        if arguments.file is None:
            write_records(data, arguments.records)
        rows = measure(write_config(folder, data.resolve(), arguments.tokenizer), data, arguments.rounds)
        size = data.stat().st_size
    save("indexing", {"data_bytes": size, "rows": rows})
    print(" ".join(f"{key:>22}" for key in rows[0]))
    for row in rows:
        print(" ".join(f"{value:>22,}" for value in row.values()))


if __name__ == "__main__":
    main()
