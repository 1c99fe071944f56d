"""`crossfoot check` over damaged files: never a traceback, an exit code of the contract, every position
inside its file. 500 in every run, 10,000 more marked slow.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from crossfoot.cli import main
from crossfoot.findings.finding import LINE_BREAK
from support.launching import ROOT

CONFIGS = ("configs/demo.yaml", "configs/alpaca2-7b-lora.yaml", "configs/chinese-alpaca2.yaml")
JSONS = tuple(f"ds_configs/zero{stage}.json" for stage in range(4))
LAUNCHES = {
    "hostfile": "# two nodes\nnode1 slots=8\nnode2 slots=8\n",
    "run.sbatch": (
        "#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --gpus-per-node=8\n#SBATCH --ntasks-per-node=1\nN=8\n"
        "srun torchrun --nnodes 2 --nproc-per-node $N --rdzv-backend c10d --rdzv-endpoint $HOST:29500 \\\n"
        "  train.py run.yaml batch.grad_accum_steps=4\n"
    ),
    "run.sh": "export CUDA_VISIBLE_DEVICES=0,1\ndeepspeed --num_gpus 2 --hostfile hostfile train.py run.yaml",
    "accelerate.yaml": (
        "compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\nnum_machines: 2\n"
        "num_processes: 16\nmixed_precision: bf16\ndeepspeed_config:\n  gradient_accumulation_steps: 8\n"
    ),
}
VALUES = (
    *("null", "true", "no", "auto", '"auto"', "[]", "{}", "[[1], {a: 2}]", '""', "''", "中文", '"\\ud800"'),
    *("-1", "0", "1", "2.5", "8.0", '"8"', "1e999", "-1e-999", "NaN", ".nan", "Infinity", "0x10", "1_000"),
    *("9" * 30, "9" * 5000, "1e400", "2020-99-99", "~", "*x", "&x 1", "!!int 3", "<<", "$N", "${N:-", "`x`"),
    *("[" * 120, "{" * 120, "- " * 60, "x" * 5000, "a: b", "# c", "//c", "/*", "node[1-", "2-4", "1:2", "\\"),
)


def replace_value(text: str, draw: random.Random) -> str:
    spans = [match.span(1) for match in re.finditer(r"[:=]\s*([^\s,{}\[\]]+)", text)]
    start, end = draw.choice(spans or [(0, 0)])
    return text[:start] + draw.choice(VALUES) + text[end:]


def change_key(text: str, draw: random.Random) -> str:
    spans = [match.span() for match in re.finditer(r"[A-Za-z_]{4,}", text)]
    start, end = draw.choice(spans or [(0, 0)])
    word = text[start:end]
    at = draw.randrange(len(word) + 1) if word else 0
    changed = draw.choice(
        [word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word.upper(), word[::-1], word.title(), ""]
    )
    return text[:start] + changed + text[end:]


def change_lines(text: str, draw: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    what = draw.randrange(4)
    if what == 0:
        lines.insert(other, lines[at])
    elif what == 1:
        del lines[at]
    elif what == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = draw.choice(["\t", "  ", "    "]) + lines[at]
    return "".join(lines)


def splice(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    piece = draw.choice([*VALUES, *"{}[]:,#\"'&*!|>%@`\\\x00\x85\u2028\ufeff\r\n\t"])
    return text[:at] + piece + text[at + draw.choice([0, 0, 1, 9]) :]


def cut(text: str, draw: random.Random) -> str:
    return text[: draw.randrange(len(text) + 1)]


CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    *(replace_value, replace_value, change_key, change_key, change_lines, splice, splice, cut),
)


def encoded(text: str, draw: random.Random) -> bytes:
    odds = draw.randrange(40)
    if odds == 0:
        return text.encode("utf-16", "surrogatepass")
    if odds == 1:
        return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
    if odds == 2:
        return text.encode("latin-1", "replace") + b"\xff\xfe"
    if odds == 3:
        return text.replace("\n", "\r\n").encode("utf-8", "surrogatepass")
    if odds == 4:
        return text.encode("utf-8", "surrogatepass") + b"\n#" + b"x" * (10 << 20)
    return text.encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], None]:
    folder = tmp_path_factory.mktemp("mutated")
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "ds_configs").mkdir()

    def _judge(seed: int) -> None:
        draw = random.Random(seed)
        json_name = draw.choice(JSONS)
        launch_name = draw.choice(list(LAUNCHES))
        texts = {
            "run.yaml": re.sub(
                r"ds_configs/zero\d.json", json_name, (ROOT / draw.choice(CONFIGS)).read_text("utf-8")
            ),
            json_name: (ROOT / json_name).read_text("utf-8"),
            "hostfile": LAUNCHES["hostfile"],
            launch_name: LAUNCHES[launch_name],
        }
        for _ in range(draw.choice([1, 1, 1, 2, 3, 6])):
            name = draw.choice(["run.yaml", json_name, launch_name])
            texts[name] = draw.choice(CHANGES)(texts[name], draw)
        for name, text in texts.items():
            (folder / name).write_bytes(encoded(text, draw))
        words = ["check", "run.yaml", *([launch_name] if draw.random() < 0.6 else []), "--format", "json"]
        code, findings = run(folder, words)
        assert code in (0, 1, 2), f"seed {seed}"
        for finding in findings:
            for place in (finding, *finding["others"]):
                inside(folder, place, seed)

    return _judge


def run(folder: Path, words: list[str]) -> tuple[int, list[dict]]:
    out, before = io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out):
            code = main(words)
    finally:
        os.chdir(before)
    return code, json.loads(out.getvalue())


def inside(folder: Path, place: dict, seed: int) -> None:
    file = folder / str(place["file"])
    if place["line"] is None or not file.is_file():
        return
    lines = LINE_BREAK.split(file.read_bytes().decode("utf-8", "replace"))
    assert 1 <= place["line"] <= len(lines), f"seed {seed}: {place}"
    if place["column"] is not None:
        assert 1 <= place["column"] <= len(lines[place["line"] - 1]) + 1, f"seed {seed}: {place}"


@pytest.mark.parametrize("block", range(10))
def test_500_damaged_inputs(judge: Callable[[int], None], block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        judge(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_10_000_damaged_inputs(judge: Callable[[int], None], block: int) -> None:
    for seed in range(100_000 + block * 500, 100_000 + block * 500 + 500):
        judge(seed)
