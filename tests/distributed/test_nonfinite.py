"""A loss or a gradient that is NaN or infinite, on one rank of two: left out on all of them alike, to the
bit as if the step had never been; or the run stops, and its weights are those before. Then float16, with
the libraries' own loss scalers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.faults import RANK, STEP
from support.launching import ROOT, ledger, plain, receipt, small_config, warm_ranks
from support.number_faults import FIRST_SCALE

pytestmark = pytest.mark.distributed

SCRIPT = ROOT / "tests" / "support" / "many_runs.py"
LOSSES = ("loss is nan", "loss is inf")
FAULTS = (*LOSSES, "gradient is nan", "norm is inf")
WHOLE = [(stage, dtype) for dtype in ("float32", "bfloat16") for stage in (0, 1, 2, 3)]
WHOLE.remove((0, "bfloat16"))  # with sums in float32 DeepSpeed does not have it
SMALL = [(0, "float32"), (2, "bfloat16")]
FLOAT64_NORM = [(3, "float32"), (3, "bfloat16")]
CPU = {"device": "cpu"}
OTHERS: list[tuple[str, int, dict[str, Any]]] = [
    ("blind", 2, {"bf16": {"check_grad_overflow": False}}),  # DeepSpeed is told not to look
    ("zero1 offloaded", 1, {"zero_optimization": {"offload_optimizer": CPU}}),
    ("zero2 offloaded", 2, {"zero_optimization": {"offload_optimizer": CPU}}),
    ("zero3 offloaded", 3, {"zero_optimization": {"offload_optimizer": CPU, "offload_param": CPU}}),
]


@dataclass(frozen=True)
class Runs:
    """Many runs, by name, and their exit codes."""

    folder: Path
    codes: dict[str, int]

    def weights(self, name: str) -> str:
        file = self.folder / name / "adapter" / "adapter_model.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def ledger(self, name: str) -> list[dict[str, Any]]:
        return ledger(self.folder / name)

    def receipt(self, name: str) -> dict[str, Any]:
        return receipt(self.folder / name)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.said").read_text(encoding="utf-8")


Job = dict[str, Any]


def job(folder: Path, name: str, fault: str | None, stop_after: int | None = None, **words: Any) -> Job:
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in words.items()]
    return {
        "name": name,
        "config": str(folder / "config.yaml"),
        "overrides": [f"run.dir={folder / name}", *overrides],
        "fault": fault,
        "stop_after": stop_after,
    }


def cases(folder: Path, kind: str, faults: tuple[str, ...], **words: Any) -> list[Job]:
    """Every fault under `skip`, the run without that step, the run that stops, the one that ended before."""
    return [
        *(job(folder, f"{kind} {fault}", fault, **words) for fault in (*faults, "never happened")),
        job(folder, f"{kind} stop", faults[0], faults__nonfinite="stop", **words),
        job(folder, f"{kind} before", None, STEP, **words),
    ]


def run_all(folder: Path, jobs: list[Job], ranks: int) -> Runs:
    batch = {"micro_batch_size": 2, "grad_accum_steps": 3, "global_batch_size": 6 * ranks}
    whole: dict[str, Any] = {"deepspeed": None} if ranks == 1 else {}
    faults, checkpoint = {"nonfinite": "skip"}, {"every_steps": 2}
    small_config(folder, batch=batch, train={"max_steps": 5}, faults=faults, checkpoint=checkpoint, **whole)
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    start = (lambda *words: warm_ranks(ranks, *words)) if ranks > 1 else plain
    done = start(SCRIPT, folder / "jobs.json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return Runs(folder, json.loads((folder / "jobs.codes.json").read_text(encoding="utf-8")))


def is_left_out_alike(runs: Runs, kind: str, fault: str) -> None:
    name, reference = f"{kind} {fault}", f"{kind} never happened"
    assert runs.codes[name] == 0 and runs.receipt(name)["foots"]
    lines, others = runs.ledger(name), runs.ledger(reference)
    struck = lines[STEP]
    assert (struck["skipped"], struck["applied"], struck["causes"]) == ("not finite", False, [])
    assert [line["applied"] for line in lines] == [True, True, False, True, True]
    for line, other in zip(lines, others, strict=True):
        if line["step"] != STEP:
            assert [line[key] for key in ("loss", "grad_norm", "lr")] == [
                other[key] for key in ("loss", "grad_norm", "lr")
            ]
    assert runs.weights(name) == runs.weights(reference)
    (found,) = struck["not_finite"]
    if fault in LOSSES:
        rank = min(RANK, struck["per_rank"]["ranks"] - 1)
        assert (found["what"], found["rank"], found["forward"]) == ("loss", rank, 0)
        assert len(found["samples"]) == len(found["origins"]) == 2
        assert found["origins"][0].endswith(f"data.jsonl:{found['samples'][0] + 1}")
    else:
        assert (found["what"], found["rank"], found["samples"]) == ("gradient norm", None, [])


def it_stops_with_the_weights_before(runs: Runs, kind: str) -> None:
    name = f"{kind} stop"
    assert runs.codes[name] == 1
    lines = runs.ledger(name)
    assert [line["applied"] for line in lines] == [True, True, *[False] * (len(lines) - STEP)]
    assert len(lines) <= STEP + 2, "one more step at most was on its way"
    assert {cause["code"] for cause in lines[STEP]["causes"]} == {"CF722", "CF723"}
    assert runs.weights(name) == runs.weights(f"{kind} before")
    checkpoints = sorted(path.name for path in (runs.folder / name / "checkpoints").iterdir())
    assert checkpoints[-1] == f"step-{STEP:06d}", "the last checkpoint is of before"
    said = runs.said(name)
    title = f"step {STEP + 1} (epoch 1) cannot be learned from: the loss of forward 0 of rank"
    assert f"error[CF741]: {title}" in said
    assert "data.jsonl:" in said


@pytest.fixture(
    scope="module",
    params=[pytest.param(SMALL, id="small"), pytest.param(WHOLE, id="whole", marks=pytest.mark.slow)],
)
def two_ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Runs, Any, Any]:
    folder = tmp_path_factory.mktemp("two")
    kinds, faults = request.param, FAULTS if request.param is WHOLE else ("loss is inf", "gradient is nan")
    jobs: list[Job] = []
    for stage, dtype in kinds:
        file = ROOT / "ds_configs" / f"zero{stage}.json"
        jobs += cases(folder, f"zero{stage} {dtype}", faults, deepspeed=file, model__dtype=dtype)
    others: list[str] = []
    if request.param is WHOLE:
        for name, stage, change in OTHERS:
            values = json.loads((ROOT / "ds_configs" / f"zero{stage}.json").read_text(encoding="utf-8"))
            for block, block_values in change.items():
                values[block] = {**values.get(block, {}), **block_values}
            file = folder / f"{name}.json"
            file.write_text(json.dumps(values), encoding="utf-8")
            jobs += cases(folder, name, faults, deepspeed=file, model__dtype="bfloat16")
            others.append(name)
        sgd = {
            "optimizer__name": "sgd",
            "lr__reference": 0.5,
            "deepspeed": ROOT / "ds_configs" / "zero0.json",
        }
        jobs += cases(folder, "sgd", faults, **sgd)  # the one optimizer that has no flag on the device
        others.append("sgd")
    return run_all(folder, jobs, 2), [*kinds, *others], faults


def test_it_is_left_out_on_all_ranks_alike_or_the_run_stops(two_ranks: tuple[Runs, Any, Any]) -> None:
    runs, kinds, faults = two_ranks
    for kind, fault in itertools.product(kinds, faults):
        name = kind if isinstance(kind, str) else f"zero{kind[0]} {kind[1]}"
        if fault == "norm is inf" and kind in FLOAT64_NORM:  # 1e39 is a number there
            assert (
                runs.ledger(f"{name} {fault}")[STEP]["applied"] and runs.receipt(f"{name} {fault}")["foots"]
            )
        else:
            is_left_out_alike(runs, name, fault)
        it_stops_with_the_weights_before(runs, name)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("one")
    jobs = cases(folder, "alone", ("loss is inf", "gradient is nan"))
    jobs += float16_jobs(folder)
    return run_all(folder, jobs, 1)


def float16_jobs(folder: Path, kind: str = "float16", **words: Any) -> list[Job]:
    words = {"model__dtype": "float16", **words}
    return [
        job(folder, f"{kind} retry", "float16", **words),
        job(folder, f"{kind} skip", "float16", faults__overflow="skip", **words),
        job(folder, f"{kind} nan", "loss is nan in float16", faults__nonfinite="stop", **words),
    ]


def it_is_tried_until_it_is_applied(runs: Runs, kind: str) -> None:
    name = f"{kind} retry"
    found, lines = runs.receipt(name), runs.ledger(name)
    assert runs.codes[name] == 0 and found["foots"]
    assert lines[0]["retries"] >= 5 and all(line["applied"] for line in lines)
    assert found["retried"] == sum(line["retries"] for line in lines)
    assert found["attempted_steps"] == found["applied_steps"] == 5
    assert f"{found['retried']} tries were thrown away and done again at a lower loss scale" in runs.said(
        name
    )


def it_is_left_out_and_counted(runs: Runs, kind: str) -> None:
    name = f"{kind} skip"
    found, lines = runs.receipt(name), runs.ledger(name)
    assert runs.codes[name] == 3 and found["retried"] == 0
    assert [line["skipped"] for line in lines] == ["overflow"] * 5
    assert [cause["code"] for cause in found["causes"]] == ["CF780"], (
        "all counts are right, and nothing was trained"
    )
    (skips,) = found["skips"]
    assert (skips["why"], skips["steps"]) == ("overflow", 5)


def test_accelerate_leaves_it_out_or_stops(one_process: Runs) -> None:
    for fault in ("loss is inf", "gradient is nan"):
        is_left_out_alike(one_process, "alone", fault)
    it_stops_with_the_weights_before(one_process, "alone")


def test_accelerate_in_float16_tries_again_or_skips_or_stops(one_process: Runs) -> None:
    it_is_tried_until_it_is_applied(one_process, "float16")
    it_is_left_out_and_counted(one_process, "float16")
    assert one_process.codes["float16 nan"] == 1 and "CF741" in one_process.said("float16 nan")
    last = one_process.ledger("float16 nan")[-1]
    assert last["not_finite"][0]["what"] == "loss" and last["retries"] == STEP  # struck in its third try


@pytest.fixture(scope="module")
def float16(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """DeepSpeed's own float16 on two CPUs: stages 1 to 3."""
    folder = tmp_path_factory.mktemp("float16")
    jobs: list[Job] = []
    for stage in (1, 2, 3):
        power = round(FIRST_SCALE).bit_length() - 1
        for name, block in (
            ("", {"initial_scale_power": power, "hysteresis": 1}),
            ("fixed", {"loss_scale": FIRST_SCALE}),
            ("lowest", {"initial_scale_power": power, "hysteresis": 2, "min_loss_scale": 2 ** (power - 2)}),
        ):
            shipped = json.loads((ROOT / "ds_configs" / f"zero{stage}.json").read_text(encoding="utf-8"))
            file = folder / f"zero{stage}{name}.json"
            file.write_text(json.dumps({**shipped, "fp16": {"enabled": True, **block}}), encoding="utf-8")
            kind, words = f"zero{stage} {name}", {"deepspeed": file, "model__dtype": "float16"}
            if name:
                jobs.append(job(folder, kind, "float16", **words))
            else:
                jobs += float16_jobs(folder, kind.strip(), deepspeed=file)
    return run_all(folder, jobs, 2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_in_float16_tries_again_or_skips_or_stops(float16: Runs, stage: int) -> None:
    it_is_tried_until_it_is_applied(float16, f"zero{stage}")
    it_is_left_out_and_counted(float16, f"zero{stage}")
    for name, tries in (("fixed", 1), ("lowest", 4)):  # 2^32 twice (hysteresis), 2^31, 2^30
        run = f"zero{stage} {name}"
        (line,) = float16.ledger(run)
        assert float16.codes[run] == 1 and (line["applied"], line["retries"] + 1) == (False, tries)
        words = "1 try" if tries == 1 else f"{tries} tries"
        assert f"error[CF778]: the gradients of step 1 overflow float16: {words}" in float16.said(run)
    assert float16.codes[f"zero{stage} nan"] == 1 and "CF741" in float16.said(f"zero{stage} nan")
    assert float16.ledger(f"zero{stage} nan")[-1]["not_finite"][0]["rank"] == RANK
