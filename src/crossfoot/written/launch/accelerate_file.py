"""accelerate's config file (`accelerate config` writes one): its settings with their places.

The keys are those of accelerate 1.15, commands/config/config_args.py, ClusterConfig; it refuses any other.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from crossfoot.written.launch.look_alikes import plain_lines
from crossfoot.written.launch.statement import About, Defect, LaunchFile, Setting, Statement
from crossfoot.written.source import Source
from crossfoot.written.yaml_tree import Tree, read_tree

_KEYS = """
compute_environment distributed_type mixed_precision use_cpu debug num_processes machine_rank num_machines
gpu_ids main_process_ip main_process_port rdzv_backend same_network main_training_function
enable_cpu_affinity fp8_config deepspeed_config fsdp_config parallelism_config megatron_lm_config
mpirun_config downcast_bf16 tpu_name tpu_zone tpu_use_cluster tpu_use_sudo command_file commands tpu_vm
tpu_env dynamo_config dynamo_backend fp16
"""
KEYS = frozenset(_KEYS.split())
_TELLING = re.compile(
    r"^\s{0,2}[\"']?(compute_environment|distributed_type|num_machines|num_processes|machine_rank|mixed_precision"
    r"|deepspeed_config|fsdp_config|main_training_function|downcast_bf16|use_cpu)[\"']?\s*:",
    re.MULTILINE,
)
_PRECISION = {"bf16": "bfloat16", "fp16": "float16"}


def looks_like_accelerate(source: Source) -> bool:
    """Whether a line begins with a key that only accelerate has."""
    return _TELLING.search(plain_lines(source)[0].text) is not None


def read_accelerate_file(source: Source) -> LaunchFile:
    """Its settings, nested ones with dotted paths, and keys that accelerate refuses. Raises BrokenYaml."""
    source, odd = plain_lines(source)
    tree = read_tree(source)
    settings = tuple(_settings(tree))
    file = LaunchFile(source.path, "accelerate", settings=settings, defects=(*odd, *_defects(tree)))
    return LaunchFile(
        source.path, "accelerate", tuple(setting_statements(file)), settings=settings, defects=file.defects
    )


def _settings(tree: Tree) -> Iterator[Setting]:
    if not isinstance(tree.value, dict):
        return
    for key, value in tree.value.items():
        if isinstance(value, dict):
            for inner, nested in value.items():
                yield Setting(f"{key}.{inner}", nested, tree.spots[(key, inner)].value)
        else:
            yield Setting(key, value, tree.spots[(key,)].value)


def _defects(tree: Tree) -> Iterator[Defect]:
    for keys, first, second in tree.duplicates:
        yield Defect("key_twice", second, ".".join(map(str, keys)), first=first)
    for key in tree.value if isinstance(tree.value, dict) else ():
        if key not in KEYS and not key.startswith("fsdp_"):
            near = difflib.get_close_matches(key, sorted(KEYS), n=1, cutoff=0.75)
            yield Defect("unknown_key", tree.spots[(key,)].key or tree.spots[(key,)].value, key, *near)


def is_on(value: object) -> bool:
    """`true`, and the words that accelerate takes for it."""
    return value is True or (isinstance(value, str) and value.strip().lower() in ("true", "yes", "1", "on"))


def whole(value: object) -> int | None:
    """A whole number of at least 1, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 10**9 else None


def number(value: object) -> float | int | None:
    """A finite number that is no bool; text that is one counts (accelerate reads `'1.0'` so)."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?(e-?\d{1,2})?", value, re.ASCII):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < 1e300 else None


def setting_statements(file: LaunchFile) -> Iterator[Statement]:
    """What the settings say about the run. num_processes is the total over all machines."""
    machines, processes = file.setting("num_machines"), file.setting("num_processes")
    is_dry = processes is not None and processes.value == 1 and (machines is None or machines.value == 1)
    for setting, about in ((machines, "num_nodes"), (processes, "world_size")):
        if setting is not None and (count := whole(setting.value)):
            yield _stated(setting, "num_nodes" if about == "num_nodes" else "world_size", count, is_dry)
    precision = file.setting("mixed_precision")
    if precision is not None and isinstance(precision.value, str) and precision.value in _PRECISION:
        yield _stated(precision, "dtype", _PRECISION[str(precision.value)])
    yield from _deepspeed_statements(file)


def _deepspeed_statements(file: LaunchFile) -> Iterator[Statement]:
    counts: tuple[tuple[str, About], ...] = (
        ("gradient_accumulation_steps", "grad_accum_steps"),
        ("train_micro_batch_size_per_gpu", "micro_batch_size"),
        ("train_batch_size", "global_batch_size"),
    )
    for key, about in counts:
        setting = file.setting(f"deepspeed_config.{key}")
        if setting is not None and (count := whole(setting.value)):
            yield _stated(setting, about, count)
    clipping = file.setting("deepspeed_config.gradient_clipping")
    if clipping is not None and (norm := number(clipping.value)) is not None:
        yield _stated(clipping, "max_grad_norm", norm)
    stage = file.setting("deepspeed_config.zero_stage")
    if stage is not None and isinstance(stage.value, int) and not isinstance(stage.value, bool):
        yield _stated(stage, "zero_stage", stage.value)
    path = file.setting("deepspeed_config.deepspeed_config_file")
    if path is not None and isinstance(path.value, str) and path.value not in ("", "none"):
        yield _stated(path, "deepspeed_file", path.value)


def _stated(setting: Setting, about: About, value: int | float | str, dry_run: bool = False) -> Statement:
    return Statement(about, value, setting.place, setting.words, "settings", dry_run=dry_run)
