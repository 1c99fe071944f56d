"""One rank of the model tests: torchrun starts it with a JSON list of cases; it leaves one JSON file a rank.

Not a test file. Cases run one after another in the same processes, because starting is what takes the time.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crossfoot.models.adapt import prepare_training, trained_summary
from crossfoot.models.load import load_model
from crossfoot.models.parameters import rows_of, whole
from crossfoot.models.save import save_adapter
from crossfoot.training.optimizer import build_optimizer
from crossfoot.written.config import Config

torch.set_num_threads(1)


class LiveBytes(TorchDispatchMode):
    """Counts bytes of every storage that torch operations make on this rank, and the most alive at one time.

    Weight files mapped into memory do not count: rank 0 reads them page by page, the kernel drops the pages.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu":
                self._book(leaf.untyped_storage())
        return result

    def _book(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive or (size > 4096 and in_weight_file(storage.data_ptr())):
            return
        self.alive[key] = size
        weakref.finalize(storage, self.alive.pop, key, None)
        self.most = max(self.most, sum(self.alive.values()))


def in_weight_file(address: int) -> bool:
    """Whether this address is in a mapped safetensors file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".safetensors"):
            first, last = (int(end, 16) for end in line.split(" ", 1)[0].split("-"))
            if first <= address < last:
                return True
    return False


def config_of(case: dict[str, Any]) -> Config:
    """The run config of a case."""
    return Config.model_validate(
        {
            "run": {"name": "t", "seed": 7},
            "model": {
                "path": case["base"],
                "dtype": case.get("dtype", "float32"),
                "gradient_checkpointing": case.get("gradient_checkpointing", False),
                "adapter": case.get("adapter"),
                "adapter_use": case.get("adapter_use", "continue"),
            },
            "data": {"train": ["x.jsonl"]},
            "batch": {},
            "lr": {"reference": 1e-2},
            "lora": case.get("lora"),
            "train": {"max_steps": 1},
        }
    )


def deepspeed_values(stage: int, dtype: str = "float32") -> dict[str, Any]:
    """DeepSpeed's config; parameters are never kept whole after use."""
    return {
        "train_batch_size": int(os.environ["WORLD_SIZE"]),
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": 10_000,  # the default is a buffer of 500 million elements
            "allgather_bucket_size": 10_000,
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": 0,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        },
    }


def hashes(model: torch.nn.Module) -> dict[str, str]:
    """sha256 of every trained tensor, by each of its names."""
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            with whole([parameter]):
                values = parameter.detach().float().contiguous()
                found[name] = hashlib.sha256(
                    values.numpy().tobytes() + str(values.shape).encode()
                ).hexdigest()
    return found


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Load, prepare, train, save; what this rank saw."""
    stage, config, said = case["stage"], config_of(case), []
    torch.manual_seed(1000 + int(os.environ["RANK"]))  # nothing may hang on the ranks' random states
    values = deepspeed_values(stage, config.model.dtype)
    loaded = load_model(
        config,
        case["base"],
        vocabulary=case.get("vocabulary", 0),
        zero_stage=stage,
        deepspeed_config=values,
        report=said.append,
    )
    model = prepare_training(config, loaded, said.append)
    base = loaded.model
    seen: dict[str, Any] = {
        "said": said,
        "start": hashes(model),
        "summary": trained_summary(model),
        "rows": [rows_of(base.get_input_embeddings()), rows_of(base.get_output_embeddings())],
        "vocab_size": base.config.vocab_size,
        "parted": sorted(
            {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if hasattr(p, "ds_id")}
        ),
        "unparted": [name for name, p in model.named_parameters() if not hasattr(p, "ds_id")],
    }
    with whole(base.get_input_embeddings().parameters()):
        table = base.get_input_embeddings().weight.detach()
        seen["new_rows_are_mean"] = bool(
            torch.allclose(
                table[loaded.vocabulary_before :], table[: loaded.vocabulary_before].mean(0), atol=1e-6
            )
        )
    optimizer = build_optimizer(model, config.optimizer)
    seen["groups"] = [
        [len(group["params"]), group["weight_decay"], group["lr"]] for group in optimizer.param_groups
    ]
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=values)
    tokens = torch.arange(1, 1 + case.get("tokens", 12)).reshape(1, -1)
    seen["losses"] = []
    for _ in range(case.get("steps", 2)):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        loss = engine(input_ids=tokens, labels=tokens).loss
        seen["losses"].append(loss.item())
        engine.backward(loss)
        engine.step()
    seen["tied"] = base.get_input_embeddings().weight is base.get_output_embeddings().weight
    if "save" in case:
        save_adapter(model, case["save"], gather=stage == 3, loaded=loaded)
        model.eval()
        with torch.no_grad():
            logits = engine(input_ids=tokens).logits
        seen["logits"] = logits.float().tolist()
    return seen


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """`run` with this rank's memory counted."""
    with LiveBytes() as counter:
        seen = run(case)
    return {"most_bytes": counter.most, "model_bytes": 4 * seen["summary"][1], "losses": seen["losses"]}


def main(cases_file: str, out: str) -> None:
    """All cases, in order."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # an optimisation that compiles C++
    deepspeed.init_distributed("gloo", verbose=False)
    results = []
    for case in json.loads(Path(cases_file).read_text()):
        results.append(measured(case) if case.get("measure") else run(case))
        gc.collect()  # HfDeepSpeedConfig must be gone before a case without ZeRO-3
    Path(out, f"rank{os.environ['RANK']}.json").write_text(json.dumps(results))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
