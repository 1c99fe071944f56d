"""Damaged configs and DeepSpeed files: never a traceback, and every place lies inside the file."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossfoot.findings.finding import LINE_BREAK, Refused
from crossfoot.findings.render import render
from crossfoot.written.config import Config
from crossfoot.written.deepspeed_file import load_deepspeed_file
from crossfoot.written.paths import fault_of
from crossfoot.written.resolved import dump_config
from crossfoot.written.run_file import load_run

CONFIG = """\
run: {name: demo, seed: 3}
model: {path: builtin:tiny}   # 基座
data:
  train:
    - "a.json"
batch: {micro_batch_size: 4, grad_accum_steps: 8}
lr: &lr
  reference: 1e-4
train:
  epochs: 2
"""
ZERO2 = (
    '{\n  "train_batch_size": "auto",\n\t"bf16": {"enabled": true},\n  "zero_optimization": {"stage": 2}\n}\n'
)
ODD_CHARACTERS = "{}[]:,-#'\"&*!%@`|>?\n\t\r\x85\u2028\x00\ufeff~=<\\/中"
YAML_PIECES = (
    "<<: ",
    "*lr",
    "!!int ",
    "%YAML 1.1\n---\n",
    "---\n",
    "!!binary x",
    "!!omap [a: 1]",
    "? ",
    "- " * 60,
)
VALUE_PIECES = ("null", "1e999", ".nan", "9" * 5000, "{" * 200, "\\ud800", "2020-99-99", "0x")
PIECES = st.sampled_from([*ODD_CHARACTERS, *YAML_PIECES, *VALUE_PIECES])


@st.composite
def damaged(draw: st.DrawFn, text: str) -> bytes:
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(PIECES | st.just("")) + text[at + draw(st.integers(0, 12)) :]
    raw = text.encode("utf-8", "surrogatepass")
    return raw if draw(st.integers(0, 19)) else raw + bytes([draw(st.integers(128, 255))])


FUZZ = settings(
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def judge(load, path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    try:
        load(str(path))
    except Refused as refused:
        lines = LINE_BREAK.split(raw.decode("utf-8", "replace"))
        assert refused.findings and refused.exit_code in (1, 2)
        for finding in refused.findings:
            for place in (finding.place, *(place for place, _ in finding.others)):
                assert place is not None
                if place.line:
                    assert place.line <= len(lines) and place.column <= len(lines[place.line - 1]) + 1
        assert render(refused.findings).splitlines()[-1]


@FUZZ
@given(raw=damaged(CONFIG))
def test_a_damaged_config(raw: bytes, tmp_path: Path) -> None:
    judge(load_run, tmp_path / "run.yaml", raw)


@FUZZ
@given(raw=damaged(ZERO2))
def test_a_damaged_deepspeed_file(raw: bytes, tmp_path: Path) -> None:
    judge(load_deepspeed_file, tmp_path / "ds.json", raw)


@FUZZ
@given(
    word=st.text(max_size=8) | PIECES, path=st.sampled_from(["lr", "lr.reference", "run.name", "lora", "x"])
)
def test_a_damaged_override(word: str, path: str, tmp_path: Path) -> None:
    judge(lambda file: load_run(file, [f"{path}={word}"]), tmp_path / "run.yaml", CONFIG.encode())


TEXTS = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=12)


@FUZZ
@given(
    text=TEXTS
    | st.sampled_from(["no", "1e5", "~", "a: b", "# c", "- d", "'", "null", "0x1", " e ", "<<", "=", "!x"]),
    rate=st.floats(min_value=5e-324, max_value=1e30),
    ratio=st.floats(min_value=0, max_value=1),
)
def test_the_resolved_config_reads_back_equal(text: str, rate: float, ratio: float, tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "run": {"name": "demo", "dir": text if fault_of(text) is None else None},
            "model": {"path": "builtin:tiny"},
            "data": {"train": ["a.jsonl"]},
            "lora": {"target_modules": [text, text]},
            "tracking": {"project": text},
            "batch": {"micro_batch_size": 1, "grad_accum_steps": 1},
            "lr": {"reference": rate, "min_ratio": ratio},
            "train": {"max_steps": 1},
        }
    )
    (tmp_path / "resolved.yaml").write_text(dump_config(config), encoding="utf-8", newline="")
    assert load_run(str(tmp_path / "resolved.yaml")).as_written == config
