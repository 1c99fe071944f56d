"""What only a GPU can show, in one command of less than eight minutes:   python benchmarks/gpu.py

    kernels   attention of a packed row (varlen_attn) against one call a sample, the loss in chunks against
              the whole: values and gradients
    proofs    crossfoot prove, packed and padded, float32 and bfloat16
    demo      configs/demo.yaml, the same four ways: losses against the CPU in float32; receipts foot
    speed     a Llama-2-7B's shape with random weights made on the GPU, LoRA r=64, both tables trained,
              bfloat16: real tokens per second, share of the peak (MFU), memory; crossfoot packed and padded,
              the recipe of Chinese-LLaMA-Alpaca-2 on the HF Trainer

A part that fails says so, and the next one runs. benchmarks/data/gpu.json is written after every part, from a
GPU alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import environments
from measuring import save, table
from peer_runs import Case, Row, Run, Runner
from workload import PROMPT_SHARE, SHAPES, sample_lengths

NOMINAL_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Of dense bfloat16 matrix products, by the maker's data sheet."""
LAYOUTS = ("packed", "padded")
DTYPES = ("float32", "bfloat16")
DEMO_STEPS = 6
SAMPLES = 512
SECONDS = 240
"""One process of a part; more is a failure."""

SPEED = (
    Row("crossfoot, packed", "crossfoot", "crossfoot_train", rows=32, forwards=2, packed=1),
    Row("crossfoot, padded", "crossfoot", "crossfoot_train", rows=8, forwards=8),
    Row("HF Trainer, the recipe", "crossfoot", "hf", rows=1, forwards=64, checkpointing=True),
    Row("HF Trainer, 8 rows", "crossfoot", "hf", rows=8, forwards=8),
)
"""64 samples a step each; 32 packed samples are about 5,000 tokens a forward."""


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """|found - wanted| / |wanted|, in float64."""
    wanted = wanted.detach().double().cpu()
    return float((found.detach().double().cpu() - wanted).norm() / wanted.norm())


def kernels(device: str, folder: Path) -> dict[str, Any]:
    """Relative differences of values and gradients. The reference of attention is torch's own attention in
    float64 on the CPU, a call a sample; that of the loss torch's cross entropy of all logits.
    """
    return {dtype: {"attention": _attention(device, dtype), "loss": _loss(device, dtype)} for dtype in DTYPES}


def _attention(device: str, dtype: str) -> dict[str, float]:
    from crossfoot.models.attention import segment_attention

    torch.manual_seed(3)
    ends = (117, 160, 512, 528)
    heads, width = 8, 64
    inputs = [torch.randn(1, heads, ends[-1], width, dtype=torch.float64) for _ in range(3)]
    seen = torch.randn(1, ends[-1], heads, width, dtype=torch.float64)

    def outcome(parts: list[torch.Tensor], attend: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        parts = [part.detach().requires_grad_() for part in parts]
        out = attend(*parts)
        return [out, *torch.autograd.grad(out, parts, seen.to(out))]

    def by_sample(*parts: torch.Tensor) -> torch.Tensor:
        rows = []
        for start, end in zip((0, *ends), ends, strict=False):
            own = (part[:, :, start:end] for part in parts)
            rows.append(torch.nn.functional.scaled_dot_product_attention(*own, is_causal=True))
        return torch.cat(rows, dim=2).transpose(1, 2)

    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, 1  # type: ignore[assignment]

    def packed(*parts: torch.Tensor) -> torch.Tensor:
        return segment_attention(module, *parts, None, segment_ends=ends, scaling=width**-0.5)[0]

    wanted = outcome(inputs, by_sample)
    found = outcome([part.to(device, getattr(torch, dtype)) for part in inputs], packed)
    return {
        name: relative(*pair)
        for name, *pair in zip(("out", "query", "key", "value"), found, wanted, strict=True)
    }


def _loss(device: str, dtype: str) -> dict[str, float]:
    from crossfoot.models.head_loss import HeadLoss

    torch.manual_seed(4)
    wide, rows, tokens = 64, 4_096, 700
    head = torch.nn.Linear(wide, rows, bias=False)
    hidden = torch.randn(1, tokens, wide)
    targets = torch.randint(rows, (1, tokens))
    targets[0, ::3] = -100
    logits = torch.nn.functional.linear(hidden.double().requires_grad_(), head.weight.double())
    exact = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    (wanted,) = torch.autograd.grad(exact, head.weight)
    head = head.to(device, getattr(torch, dtype))
    with HeadLoss(head, lambda: head.weight).given(targets.to(device)):
        loss = head(hidden.to(device, head.weight.dtype))
    (found,) = torch.autograd.grad(loss, head.weight)
    return {"loss": relative(loss, exact), "weight": relative(found, wanted)}


def proofs(device: str, folder: Path) -> dict[str, Any]:
    """Verdict and relative error of `crossfoot prove` on the demo's config."""
    found = {}
    for dtype in DTYPES:
        for layout in LAYOUTS:
            said = _crossfoot(
                device, folder, "prove", f"model.dtype={dtype}", f"data.layout={layout}", "--json"
            )
            proof = json.loads(said[said.index("{") :])
            total = proof["total"]
            found[f"{dtype}, {layout}"] = {
                "proven": proof["proven"], "device": proof["device"],
                "relative_error": total["relative_error"], "bound": total["bound"],
            }  # fmt: skip
    return found


def demo(device: str, folder: Path) -> dict[str, Any]:
    """Losses of the demo's first steps on the device, and how far they are from the CPU's in float32."""
    reference = _losses("cpu", folder / "reference", "float32", "packed")
    found: dict[str, Any] = {"steps": DEMO_STEPS, "cpu float32": reference["losses"]}
    for dtype in DTYPES:
        for layout in LAYOUTS:
            run = _losses(device, folder, dtype, layout)
            pairs = zip(run["losses"], reference["losses"], strict=True)
            run["largest_difference"] = max(abs(loss / wanted - 1) for loss, wanted in pairs)
            found[f"{dtype}, {layout}"] = run
    return found


def _losses(device: str, folder: Path, dtype: str, layout: str) -> dict[str, Any]:
    run = folder / f"demo-{device}-{dtype}-{layout}"
    words = [f"run.dir={run}", f"model.dtype={dtype}", f"data.layout={layout}", "data.validation=[]"]
    _crossfoot(device, folder, "train", *words, "--stop-after", str(DEMO_STEPS))
    lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    receipt = json.loads((run / "receipt.json").read_text(encoding="utf-8"))
    return {"losses": [line["loss"] for line in lines], "foots": receipt["foots"]}


def _crossfoot(device: str, folder: Path, verb: str, *words: str) -> str:
    """What a verb says on stdout for the demo's config, its ranks folded. RuntimeError where it fails."""
    one = ["deepspeed=null", f"data.index_dir={folder / 'index'}"]
    command = [sys.executable, "-m", "crossfoot", verb, "configs/demo.yaml", *one, *words]
    done = environments.started(command, environments.surroundings(folder, device), SECONDS)
    if done.returncode:
        said = environments.last_line(done.stdout + done.stderr)
        raise RuntimeError(f"{verb} {' '.join(words[1:])}: {said}")
    return done.stdout


def speed(device: str, folder: Path) -> dict[str, Any]:
    """Every row of SPEED: tokens per second over the counted steps, MFU against both peaks, memory."""
    shape = "tiny" if device == "cpu" else "7B"
    steps = 1 if device == "cpu" else 3
    runner = Runner(folder, device, random=True, samples=SAMPLES)
    flops = SHAPES[shape].flops_per_token(sample_lengths(100_000), 1 - PROMPT_SHARE)
    peaks = {"measured": matmul_flops(device)}
    name = torch.cuda.get_device_name() if device != "cpu" else ""
    peaks |= [("nominal", peak) for model, peak in NOMINAL_FLOPS.items() if model in name]
    rows = []
    for row in SPEED:
        if device == "cpu":
            row = replace(row, rows=min(row.rows, 2), forwards=2)
        result = runner.result(Run(Case("sft", shape, "bfloat16", steps), row, "highest"), "0")
        if "failed" in result:
            rows.append({"row": row.name, "failed": result["failed"]})
            continue
        counted = result["steps"][1:]
        rate = sum(step["real_tokens"] for step in counted) / sum(step["wall_seconds"] for step in counted)
        rows.append({
            "row": row.name, "tokens_per_second": rate,
            "by_step": [step["real_tokens"] / step["wall_seconds"] for step in counted],
            "tokens_per_forward": result["steps"][-1]["token_slots"] / result["steps"][-1]["forwards"],
            "real_share": sum(s["real_tokens"] for s in counted) / sum(s["token_slots"] for s in counted),
            "mfu": {peak: rate * flops / most for peak, most in peaks.items()},
            "peak_device_bytes": result["peak_device_bytes"],
        })  # fmt: skip
    return {"shape": shape, "flops_per_token": flops, "peak_flops": peaks, "rows": rows}


def matmul_flops(device: str) -> float:
    """FLOPs in a second of a large bfloat16 product on random numbers: the mean of ten, after three."""
    size = 256 if device == "cpu" else 8_192
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for tries in (3, 10):
        begin = time.perf_counter()
        for _ in range(tries):
            torch.mm(left, right)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - begin) / tries
    return 2 * size**3 / seconds


PARTS: dict[str, Callable[[str, Path], dict[str, Any]]] = {
    "kernels": kernels,
    "speed": speed,
    "proofs": proofs,
    "demo": demo,
}


def measured(
    device: str, folder: Path, only: list[str], minutes: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Part by part: (its name, what it found, with the seconds that it took)."""
    end = time.monotonic() + 60 * minutes
    for name, part in PARTS.items():
        if only and name not in only:
            continue
        begin = time.monotonic()
        if begin > end:
            yield name, {"failed": f"not begun: {minutes:g} minutes were over"}
            continue
        try:
            found = part(device, folder)
        except Exception as error:  # the other parts are worth having
            found = {"failed": f"{type(error).__name__}: {environments.last_line(str(error))}"}
        yield name, {**found, "seconds": round(time.monotonic() - begin, 1)}


def shown(name: str, found: dict[str, Any]) -> str:
    """A part in a few lines."""
    if "rows" not in found:
        return f"{name}: {json.dumps(found, indent=1)}"
    lines = [
        [row["row"], "-", "-", "-", row["failed"][:80]]
        if "failed" in row
        else [
            row["row"], f"{row['tokens_per_second']:,.0f}", f"{row['tokens_per_forward']:,.0f}",
            " / ".join(f"{share:.0%}" for share in row["mfu"].values()),
            f"{row['peak_device_bytes'] / 2**30:.1f}",
        ]
        for row in found["rows"]
    ]  # fmt: skip
    return table([f"{name} {found['shape']}", "tokens/s", "tokens a forward", "MFU", "peak GiB"], lines)


def main() -> int:
    """Run the parts, show each as it ends; 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tried = "cpu: try the same code without a GPU, on the tiny shape; nothing is written"
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=tried)
    parser.add_argument("--only", nargs="+", default=[], choices=list(PARTS), help="some of the parts")
    late = "no part is begun after so many minutes (7)"
    parser.add_argument("--minutes", type=float, default=7.0, metavar="N", help=late)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here; --device cpu tries the code without one")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="crossfoot-gpu-"))
    found: dict[str, Any] = {}
    if given.device == "cuda":
        found["device"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    try:
        for name, part in measured(given.device, folder, given.only, given.minutes):
            found[name] = part
            print(shown(name, part), flush=True)
            if given.device == "cuda":
                save("gpu", found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    failed = [part for part in found.values() if isinstance(part, dict)]
    return int(
        any("failed" in part or any("failed" in row for row in part.get("rows", ())) for part in failed)
    )


if __name__ == "__main__":
    sys.exit(main())
