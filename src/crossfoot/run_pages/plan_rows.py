"""The plan of a run as rows, each number with its origin; all its settings; those in which runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crossfoot.phrases import counted
from crossfoot.reports.text import Both, Text, joined
from crossfoot.run_pages.seen_run import SeenRun
from crossfoot.run_pages.words import NOTHING, engine_words, origin_words, schedule_words
from crossfoot.written.shown import shown

Rows = list[tuple[Text, Text, Text]]
"""What it is, the value, its origin."""
_SOLVED = Both("solved: the smallest that holds the batch", "由其余两项求出的最小值")
_OWN_NAMES = ("run.name", "run.dir")
"""Settings in which every two runs differ."""
_PLANNED = (
    (Both("peak learning rate", "峰值学习率"), ("plan", "learning_rate", "peak")),
    (Both("warm-up steps", "预热步数"), ("plan", "warmup_steps")),
    (Both("optimizer steps", "优化器总步数"), ("plan", "total_steps")),
    (Both("samples per epoch", "每轮（epoch）样本数"), ("plan", "samples_per_epoch")),
    (Both("ranks", "rank 数"), ("plan", "dp_degree")),
    (Both("DeepSpeed settings, sha256", "DeepSpeed 设置的 sha256"), ("deepspeed", "settings_sha256")),
    (Both("data index", "数据索引"), ("index", "address")),
)
"""What follows from settings, and from what they name."""


def plan_rows(seen: SeenRun) -> Rows:
    """What decides the batch, the steps and the rate."""
    return [*_batch_rows(seen), *_step_rows(seen), *_rate_rows(seen), *_model_rows(seen)]


def setting_rows(seen: SeenRun) -> Rows:
    """Every key of the config with its value and its origin."""
    return [(key, _value(value), _origin(seen, key)) for key, value in settings(seen).items()]


def settings(seen: SeenRun) -> dict[str, Any]:
    """The config of the lock by dotted keys."""
    found: dict[str, Any] = {}
    for section, value in (seen.planned("config") or {}).items():
        if isinstance(value, Mapping):
            found |= {f"{section}.{key}": inner for key, inner in value.items()}
        else:
            found[section] = value
    return found


def differing_rows(runs: Sequence[SeenRun]) -> list[tuple[Text, ...]]:
    """Key, and its value in each run, of the settings that are not the same in all, and of what follows from
    them.
    """
    each = [settings(seen) for seen in runs]
    keys = dict.fromkeys(key for one in each for key in one)
    rows: list[tuple[Text, ...]] = [
        (key, *(_value(one.get(key)) for one in each)) for key in keys if key not in _OWN_NAMES
    ]
    for name, path in _PLANNED:
        values = (seen.planned(*path) for seen in runs)
        rows.append(
            (name, *(str(value)[:16] if isinstance(value, str) else _value(value) for value in values))
        )
    rows.append((Both("engine", "引擎"), *(_engine(seen) for seen in runs)))
    return [row for row in rows if len(set(row[1:])) > 1]


def _batch_rows(seen: SeenRun) -> Iterator[tuple[Text, Text, Text]]:
    plan, tokens = seen.planned("plan") or {}, seen.planned("plan", "micro_batch_tokens")
    if tokens is not None:
        label: Text = Both("tokens per GPU per forward, at most", "每 GPU 每次前向的 token 上限")
        yield label, _value(tokens), _origin(seen, "batch.micro_batch_tokens")
    for label, key in (
        (
            Both("samples per GPU per forward", "每 GPU 每次前向的样本数（微批大小）"),
            "batch.micro_batch_size",
        ),
        (Both("× forwards per step", "× 每步前向次数（梯度累积）"), "batch.grad_accum_steps"),
        (Both("× GPUs per node", "× 每节点 GPU 数"), "cluster.gpus_per_node"),
        (Both("× nodes", "× 节点数"), "cluster.num_nodes"),
    ):
        value = plan.get(key.partition(".")[2])
        if value is not None:
            yield label, _value(value), _solved(seen, key)
    capacity, batch = plan.get("capacity_samples"), plan.get("global_batch_size")
    if capacity is not None and capacity != batch:
        yield Both("= room for, samples per step", "= 每步可容纳的样本数"), _value(capacity), ""
    if (target := plan.get("target_trained_tokens")) is not None:
        label = Both("trained tokens per optimizer step", "每个优化器步的训练 token 数")
        yield label, _value(target), _origin(seen, "batch.target_trained_tokens")
    if pairs := plan.get("batch_from_samples"):
        label = Both("samples per optimizer step, from sample", "每个优化器步的样本数（起始样本）")
        said = ", ".join(f"{size:,} ({first:,})" for first, size in pairs)
        yield label, said, _origin(seen, "batch.global_batch_size")
    elif batch is not None and target is None:
        label = Both("= samples per optimizer step", "= 全局批大小（每个优化器步的样本数）")
        origin = _solved(seen, "batch.global_batch_size")
        if capacity not in (None, batch):
            label = Both(label.en[2:], label.zh[2:])
            free = Both(
                f"{counted(capacity - batch, 'place')} left free", f"空出 {capacity - batch:,} 个位置"
            )
            origin = joined([origin, free], "; ", "；")
        yield label, _value(batch), origin


def _step_rows(seen: SeenRun) -> Iterator[tuple[Text, Text, Text]]:
    plan = seen.planned("plan") or {}
    address = str(seen.planned("index", "address") or "")[:8]
    for label, key, origin in (
        (
            Both("samples per epoch", "每轮（epoch）样本数"),
            "samples_per_epoch",
            Both(f"index {address}", f"索引 {address}"),
        ),
        (Both("optimizer steps", "优化器总步数"), "total_steps", _length(seen)),
        (Both("steps per epoch", "每轮步数"), "steps_per_epoch", _setting(seen, "data.last_step")),
        (Both("samples in the very last step", "最后一步的样本数"), "last_step_samples", ""),
    ):
        if plan.get(key) is not None:
            yield label, _value(plan[key]), origin
    for label, key in (
        (Both("samples in all", "样本总数"), "samples"),
        (Both("trained tokens in all", "训练 token 总数"), "trained_tokens"),
    ):
        if (value := seen.planned("expects", key)) is not None:
            yield label, _value(value), ""


def _rate_rows(seen: SeenRun) -> Iterator[tuple[Text, Text, Text]]:
    rate = seen.planned("plan", "learning_rate") or {}
    if (peak := rate.get("peak")) is None:
        return
    origin = _setting(seen, "lr.reference")
    if rate.get("rule") not in (None, "none") and rate.get("reference_batch"):
        rule = Both(
            f"{rate['rule']} from {rate['reference_batch']:,} samples",
            f"从 {rate['reference_batch']:,} 个样本按 {rate['rule']} 规则缩放",
        )
        origin = joined([origin, rule], "; ", "；")
    yield Both("peak learning rate", "峰值学习率"), f"{peak:.6g}", origin
    for group, value in (rate.get("group_peaks") or {}).items():
        label = Both(f"peak rate of {group}", f"峰值学习率（{group}）")
        yield label, f"{value:.6g}", _origin(seen, f"lr.groups.{group}")
    warmup = seen.planned("plan", "warmup_steps")
    if warmup is not None:
        keys = (f"lr.warmup_{unit}" for unit in ("steps", "fraction", "samples"))
        given = next((key for key in keys if settings(seen).get(key) is not None), "lr.warmup_steps")
        yield Both("warm-up steps", "预热步数"), _value(warmup), _setting(seen, given)
    if (schedule := rate.get("schedule")) is not None:
        yield Both("schedule", "学习率曲线"), schedule_words(schedule), _origin(seen, "lr.schedule")


def _model_rows(seen: SeenRun) -> Iterator[tuple[Text, Text, Text]]:
    config = settings(seen)
    for label, key in (
        (Both("model", "模型"), "model.path"),
        (Both("computed in", "计算精度"), "model.dtype"),
        (Both("LoRA rank", "LoRA 秩"), "lora.r"),
        (Both("optimizer", "优化器"), "optimizer.name"),
        (Both("gradient norm, at most", "梯度裁剪阈值"), "optimizer.max_grad_norm"),
        (Both("tokens of a sample, at most", "样本最大长度（token）"), "data.max_seq_len"),
        (Both("layout", "布局"), "data.layout"),
        (Both("seed", "随机种子"), "run.seed"),
    ):
        if config.get(key) is not None:
            value = config[key]
            yield label, value if isinstance(value, str) else _value(value), _origin(seen, key)
    if "lora" in config and config["lora"] is None:
        trained = Both("all weights", "全部权重")
        yield Both("trained", "训练范围"), trained, _origin(seen, "lora")


def _length(seen: SeenRun) -> Text:
    key = "train.epochs" if settings(seen).get("train.epochs") is not None else "train.max_steps"
    return _setting(seen, key)


def _solved(seen: SeenRun, key: str) -> Text:
    """The origin of a number that the plan may have worked out of two others."""
    config = settings(seen)
    is_solved = key.startswith("batch.") and key in config and config[key] is None
    return _SOLVED if is_solved else _origin(seen, key)


def _setting(seen: SeenRun, key: str) -> Text:
    """Key, value and origin of what a number was made of."""
    value = settings(seen).get(key)
    return "" if value is None else joined([f"{key} {_value(value)}", *_who(seen, key)], " · ", " · ")


def _origin(seen: SeenRun, key: str) -> Text:
    """Key and origin."""
    return joined([key, *_who(seen, key)], " · ", " · ")


def _who(seen: SeenRun, key: str) -> list[Text]:
    """Who said it: nothing of a run that has not noted it."""
    origins = seen.attempt.origins if seen.attempt is not None else {}
    return [origin_words(origins.get(key, "default"))] if origins else []


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return NOTHING if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else shown(value, whole=True)


def _engine(seen: SeenRun) -> str:
    return NOTHING if seen.attempt is None else engine_words(seen.attempt)
