"""What benchmarks/ counts and says: data without a place of a machine, and the pages made of it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import measuring
import pages
import workload

BENCHMARKS = Path(measuring.__file__).parent
DATA = sorted(measuring.DATA.glob("*.json"))


def words_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from map(str, value)
        for part in value.values():
            yield from words_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from words_of(part)
    elif isinstance(value, str):
        yield value


def test_the_page_and_the_table_are_those_of_the_data() -> None:
    assert pages.PAGE.read_text(encoding="utf-8") == pages.page(), "make bench-tables"
    text = pages.README.read_text(encoding="utf-8")
    assert text == pages.readme(text), "make bench-tables"


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_data_names_no_host_and_no_folder(path: Path) -> None:
    for word in words_of(json.loads(path.read_text(encoding="utf-8"))):
        assert not re.search(r"(^|[\s'\"=])/(home|root|tmp|work|usr|opt|mnt|var)/", word), word
        assert socket.gethostname() not in word, word


def test_what_is_saved_says_how_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.argv", [str(tmp_path / "peers.py"), "--folder", str(tmp_path / "kept"), "--quick"]
    )
    measuring.save("found", {"rows": [1]}, tmp_path)
    found = measuring.load("found", tmp_path) or {}
    assert found["command"] == "python benchmarks/peers.py --folder kept --quick"
    assert found["machine"].keys() >= {"processor", "cores", "load"} and found["versions"]["numpy"]
    assert found["rows"] == [1] and measuring.load("absent", tmp_path) is None


def test_a_table_is_aligned() -> None:
    said = measuring.table(["stack", "tokens/s"], [["crossfoot", 307], ["a peer", "98-101"]])
    assert said.splitlines() == [
        "| stack     | tokens/s |",
        "|-----------|---------:|",
        "| crossfoot |      307 |",
        "| a peer    |   98-101 |",
    ]


def test_the_lengths_are_those_that_are_said() -> None:
    lengths = workload.sample_lengths(40_000)
    assert np.median(lengths) == pytest.approx(workload.MEDIAN_TOKENS, rel=0.02)
    assert lengths.mean() == pytest.approx(158, rel=0.02)
    assert np.percentile(lengths, 90) == pytest.approx(workload.P90_TOKENS, rel=0.02)
    steps = lengths.reshape(-1, workload.SAMPLES_PER_STEP).sum(axis=1)
    assert steps.std() / steps.mean() < 0.1


def test_a_llama_2_7b_needs_28_gflop_a_token() -> None:
    """By hand: 6.48 G frozen x 4 + 0.16 G of LoRA x 6 + the head's 0.23 G x 6 for trained tokens."""
    flops = workload.SHAPES["7B"].flops_per_token(workload.sample_lengths(10_000), 0.7)
    assert flops == pytest.approx(28.0e9, rel=0.01)


def test_a_row_that_did_not_run_is_in_the_table_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    case = "sft S float32"
    good = {"median": 300.0, "least": 290.0, "most": 310.0}
    ran = {"case": case, "row": "crossfoot", "gemm": "highest", "tokens_per_cpu_second": good}
    ran |= {
        "tokens_per_second": good,
        "peak_rss_bytes": 2**31,
        "real_share": 0.98,
        "counted_steps": 4,
        "load": good,
    }
    slower = {**good, "median": 200.0}
    other = {**ran, "row": "LLaMA-Factory", "tokens_per_cpu_second": slower}
    other |= {"tokens_per_second": {**slower, "median": 150.0}}
    broken = {"case": case, "row": "a peer", "gemm": "highest", "failed": "needs CUDA"}
    found = {"machine": measuring.machine(), "command": "x", "gradients": {}, "rows": [ran, other, broken]}
    said = "\n".join(pages.peers_section(found, None))
    assert "did not run: needs CUDA" in said
    assert re.search(r"LLaMA-Factory's best as it comes \| +2.5x \| +1.50x \| not met", said)
    assert "Provisional: 1 of 2 rows shared their core with other work (down to 75% of it)" in said
    assert [cell.strip() for cell in pages.readme_table(found).splitlines()[-1].split("|")[1:3]] == [
        "a peer",
        "-",
    ]


def test_every_benchmark_still_begins() -> None:
    """Nothing else imports them; the stacks of the peers have environments of their own."""
    names = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
    assert "accounting" in names
    words = [sys.executable, "-c", f"import {', '.join(names)}"]
    done = subprocess.run(words, cwd=BENCHMARKS, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
