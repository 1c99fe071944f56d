"""The plan as a page: every number with its origin."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.arithmetic.batch import counted_on_nodes, in_a_sum
from crossfoot.checks.deepspeed.stage_costs import WIDTHS
from crossfoot.index.store import DataIndex, open_index
from crossfoot.index.summary import losses, losses_of_files
from crossfoot.phrases import counted, size, step_name
from crossfoot.planning.balance import balance_of
from crossfoot.planning.plan import RunPlan
from crossfoot.planning.source_table import source_table
from crossfoot.written.config_values import ALL_LINEAR
from crossfoot.written.model_facts import read_model_facts
from crossfoot.written.model_modules import adapted_modules
from crossfoot.written.token_rows import token_rows

_LABEL = 40
_NUMBER = 12


def render_plan(plan: RunPlan, lock_sha256: str | None = None) -> str:
    """The page that `plan` prints and every run begins with."""
    steps = (
        *_steps(plan),
        *_rate(plan),
        *_hub(plan),
        *_base(plan),
        *_lora(plan),
        *_matmul(plan),
        *_data(plan),
    )
    sources = source_table(plan.sources, plan.index)
    rows = [_title(plan, lock_sha256), *_batch(plan), "", *steps, *sources]
    return "\n".join(rows)


def _row(sign: str, label: str, number: int | str, origin: str) -> str:
    shown = f"{number:,}" if isinstance(number, int) else number
    return f"  {sign} {label:<{_LABEL - 4}}{shown:>{_NUMBER}}   {origin}".rstrip()


def _title(plan: RunPlan, lock_sha256: str | None) -> str:
    config, topology = plan.run.config, plan.batch.topology
    facts = [
        topology.in_words(),
        "accelerate" if plan.zero_stage is None else f"ZeRO-{plan.zero_stage}",
        config.model.dtype,
        *(["base in " + config.model.quantization] if config.model.quantization != "none" else []),
        config.trains,
    ]
    lock = f"lock {lock_sha256[:7]}" if lock_sha256 else "estimated: no index yet"
    return f"{config.run.name}   {', '.join(facts)}   {lock}"


def _batch(plan: RunPlan) -> Iterator[str]:
    batch, tokens = plan.batch, plan.batch.micro_batch_tokens
    if tokens is not None:
        origin = plan.run.origin("batch", "micro_batch_tokens")
        yield _row(" ", "tokens per GPU per forward", tokens, f"batch.micro_batch_tokens   {origin}")
    yield _row(" ", *_micro(plan))
    forwards = "forwards per step" if tokens is None else "forwards per step, at most"
    yield _row("x", forwards, batch.grad_accum_steps, _batch_origin(plan, "grad_accum_steps"))
    topology = batch.topology
    if topology.is_even:
        yield _row("x", "GPUs per node", in_a_sum(topology.gpus_per_node), plan.sourced.gpus_origin)
        yield _row("x", "nodes", topology.num_nodes, plan.sourced.nodes_origin)
    else:
        where = f"{counted_on_nodes(topology.gpus_per_node)} on {counted(topology.num_nodes, 'node')}"
        yield _row("x", "ranks", topology.world_size, f"{where}   {plan.sourced.gpus_origin}")
    if plan.schedule.is_uneven:
        yield _row("=", "room for, per optimizer step", batch.capacity_samples, _deepspeed_origin(plan))
        yield from _batch_in_time(plan)
    elif batch.is_uneven:
        yield _row("=", "room for, per optimizer step", batch.capacity_samples, _deepspeed_origin(plan))
        origin = f"{_batch_origin(plan, 'global_batch_size')}; {_free(plan, batch.global_batch_size)}"
        yield _row("!", "samples per optimizer step", batch.global_batch_size, origin)
    else:
        origin = plan.run.origin("batch", "global_batch_size")
        both = [] if origin == "default" else [f"batch.global_batch_size   {origin}"]
        both += [_deepspeed_origin(plan)] if plan.deepspeed else []
        yield _row("=", "samples per optimizer step", batch.global_batch_size, ", ".join(both))


def _batch_in_time(plan: RunPlan) -> Iterator[str]:
    """Samples of a step where that changes: a line for each batch, or what the steps by tokens come to."""
    schedule, label = plan.schedule, "samples per optimizer step"
    if schedule.target_trained_tokens is not None:
        mean = schedule.scheduled_samples / schedule.total_steps
        most = schedule.largest_step[1]
        origin = (
            f"{mean:,.1f} on average: as few as have {schedule.target_trained_tokens:,} trained tokens   "
            f"batch.target_trained_tokens   {plan.run.origin('batch', 'target_trained_tokens')}"
        )
        yield _row("!", label, f"up to {most:,}", origin)
        return
    first_samples = {first: schedule.step_after(first) for first, _ in schedule.batch_from_samples}
    for first, batch in schedule.batch_from_samples:
        step = first_samples[first]
        if first:
            label = f"from sample {first:,} on"
            origin = f"from {step_name(step)} on"
            if step >= schedule.total_steps:
                origin = "the run is over before"
        else:
            origin = f"batch.global_batch_size   {plan.run.origin('batch', 'global_batch_size')}"
        free = _free(plan, batch)
        yield _row("!" if free else " ", label, batch, "; ".join(filter(None, (origin, free))))


def _free(plan: RunPlan, samples: int) -> str:
    """Places that a step of so many samples leaves free; empty where there are none, or none are counted."""
    capacity = plan.batch.capacity_samples
    if samples == capacity:
        return ""
    return f"{counted(capacity - samples, 'place')} of {capacity:,} left free"


def _micro(plan: RunPlan) -> tuple[str, int, str]:
    """Samples of a forward: label, number, origin."""
    number, origin = plan.batch.micro_batch_size, _batch_origin(plan, "micro_batch_size")
    if plan.batch.micro_batch_tokens is None:
        return "samples per GPU per forward", number, origin
    if plan.batch.solved == "micro_batch_size":
        return "samples in them, on average", number, origin
    return "samples in them, at least", number, f"data.max_seq_len {plan.run.config.data.max_seq_len:,}"


def _batch_origin(plan: RunPlan, key: str) -> str:
    if plan.batch.solved == key:
        return "solved: the smallest that holds the batch"
    return f"batch.{key}   {plan.run.origin('batch', key)}"


def _deepspeed_origin(plan: RunPlan) -> str:
    if plan.deepspeed is None:
        return ""
    written = plan.deepspeed.values.get("train_batch_size", "nothing")
    said = f'"{written}"' if isinstance(written, str) and written != "nothing" else str(written)
    return f"DeepSpeed file: {said} -> {plan.batch.capacity_samples:,}"


def _steps(plan: RunPlan) -> Iterator[str]:
    schedule, config = plan.schedule, plan.run.config
    source = (
        f"index {plan.index.address[:8]}" if plan.index else "estimated: records counted, nothing tokenised"
    )
    yield _row(" ", "samples per epoch", schedule.num_samples, source)
    yield from _held_out(plan)
    if config.train.epochs is not None:
        length = f"{counted(config.train.epochs, 'epoch')}   {plan.run.origin('train', 'epochs')}"
    else:
        length = f"train.max_steps   {plan.run.origin('train', 'max_steps')}"
    yield _row(" ", "optimizer steps", schedule.total_steps, length)
    label = "steps of the first epoch" if schedule.is_uneven else "steps per epoch"
    yield _row(" ", label, schedule.steps_per_epoch, f"data.last_step {config.data.last_step}")
    is_by_tokens = schedule.target_trained_tokens is not None
    if not is_by_tokens and schedule.last_step_samples != schedule.batches[-1][1]:
        yield _row(" ", "samples in the very last step", schedule.last_step_samples, "")
    if schedule.dropped_samples:
        yield _row(" ", "samples dropped", schedule.dropped_samples, "the tail of each epoch is not trained")


def _held_out(plan: RunPlan) -> Iterator[str]:
    """What of the training data is kept for validation."""
    part = plan.run.config.data.held_out
    if part is None:
        return
    written = f"data.validation {part:g}   {plan.run.origin('data', 'validation')}"
    held_out = None if plan.index is None else plan.index.held_out
    count = "" if held_out is None else len(held_out.validation)
    words = "which ones, the index says" if held_out is None else held_out.words
    yield _row(" ", "samples held out for validation", count, f"{words}   {written}")


def _rate(plan: RunPlan) -> Iterator[str]:
    rate, run = plan.rate, plan.run
    origin = f"lr.reference {rate.reference:g}   {run.origin('lr', 'reference')}"
    first, last = rate.peak_at(0), rate.peak_at(rate.total_steps - 1)
    if rate.rule != "none" and rate.reference_batch is not None:
        origin += f"; {rate.rule} from {rate.reference_batch:,} samples: x {first / rate.reference:.4g}"
    yield _row(" ", "peak learning rate", f"{first:.6g}", origin)
    for step, peak in rate.peaks[1:] if rate.rule != "none" else ():
        yield _row(" ", f"from {step_name(step)} on", f"{peak:.6g}", f"x {peak / rate.reference:.4g}")
    floor = f"to {last * rate.min_ratio:g}"
    words = {
        "constant": "constant",
        "cosine_with_restarts": f"{counted(rate.cycles, 'cosine')}, each {floor}",
        "wsd": "the peak is held",
    }
    shape = words.get(rate.schedule, f"{rate.schedule} {floor}")
    yield _row(" ", "warm-up steps", rate.warmup_steps, f"then {shape}")
    if rate.schedule == "wsd" and rate.decay_steps:
        begin = f"begins with {step_name(rate.decay_begin)}: {rate.decay_shape} {floor}"
        yield _row(" ", "decay steps", rate.decay_steps, begin)
    for group, ratio in rate.groups.items():
        origin = f"x {ratio:g}   lr.groups   {run.origin('lr', 'groups', group)}"
        yield _row(" ", f"peak rate of {group}", f"{rate.peak * ratio:.6g}", origin)
    optimizer = run.config.optimizer
    if optimizer.name == "adamw" and optimizer.beta2_reference_batch is not None:
        power = plan.batch.global_batch_size / optimizer.beta2_reference_batch
        origin = f"{optimizer.betas[1]:g} ^ {power:.4g}: the same half-life in samples as at "
        origin += f"{optimizer.beta2_reference_batch:,}   {run.origin('optimizer', 'beta2_reference_batch')}"
        yield _row(" ", "AdamW's second beta", f"{plan.optimizer.betas[1]:.6g}", origin)


def _lora(plan: RunPlan) -> Iterator[str]:
    """What it starts from, and what the config does not say as it stands: the scale of rsLoRA, and the
    modules of all-linear.
    """
    run, lora = plan.run, plan.run.config.lora
    if plan.adapter is not None:
        use = {"merge": "merged", "continue": "continued"}[run.config.model.adapter_use]
        origin = f"{plan.adapter.path}   model.adapter   {run.origin('model', 'adapter')}"
        yield _row(" ", "adapter that it starts from", use, origin)
    if lora is None:
        return
    if lora.scaling == "rslora":
        origin = f"alpha {lora.alpha:g} / sqrt(r {lora.r})   lora.scaling   {run.origin('lora', 'scaling')}"
        yield _row(" ", "scale of the adapters", f"{lora.scale:g}", origin)
    facts = read_model_facts(run.config.model.path)
    if lora.trainable_token_indices is not None and facts is not None and plan.index is not None:
        first_new = max(facts.vocab_size, plan.adapter.rows if plan.adapter is not None else 0)
        rows = max(first_new, plan.index.header.tokenizer.vocabulary)
        named = f"{len(token_rows(lora.trainable_token_indices, first_new, rows)):,}"
        origin = f"lora.trainable_token_indices   {run.origin('lora', 'trainable_token_indices')}"
        yield _row(" ", "rows of tokens trained", named, origin)
    if lora.target_modules == ALL_LINEAR:
        names = adapted_modules(ALL_LINEAR, facts.model_type if facts else "")
        said = "every linear module but the head" if names is None else ", ".join(names)
        origin = f"{said}   lora.target_modules   {run.origin('lora', 'target_modules')}"
        yield _row(" ", "modules with an adapter", ALL_LINEAR, origin)


def _matmul(plan: RunPlan) -> Iterator[str]:
    """How float32 matrices are multiplied, where that is float32's to decide."""
    model = plan.run.config.model
    if model.dtype == "float32":
        origin = f"model.matmul   {plan.run.origin('model', 'matmul')}"
        if model.matmul == "auto":
            origin += "; on CPUs oneDNN, if the start finds it as exact and faster"
        yield _row(" ", "float32 matrix products", model.matmul, origin)


def _balance(plan: RunPlan, index: DataIndex) -> Iterator[str]:
    """What is computed for a real token, and what the fullest rank has more than the mean."""
    found = balance_of(plan.schedule, plan.layout(), index.lengths)
    looked_at = "all steps" if found.steps == plan.schedule.total_steps else f"{found.steps} steps looked at"
    fewest, most = found.forwards
    number = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    yield _row(" ", "forwards per step, really", number, looked_at)
    data = plan.run.config.data
    padded = f"; padded: {found.padded_computed:.2f}" if data.is_packed else ""
    origin = f"data.layout {data.layout}{padded}"
    yield _row(" ", "tokens computed per real token", f"{found.computed:.2f}", origin)
    if plan.batch.topology.dp_degree > 1:
        worst = f"{found.worst:.3f} in {step_name(found.worst_step)}"
        padded = f"; padded: {found.padded_fullest:.3f}" if data.is_packed else ""
        origin = f"the fullest rank's tokens over the mean; worst: {worst}{padded}"
        yield _row(" ", "imbalance of the ranks", f"{found.fullest:.3f}", origin)


def _hub(plan: RunPlan) -> Iterator[str]:
    """The commits of what a hub gave."""
    for key, commit in plan.commits.items():
        origin = f"{key}   {plan.run.origin(*key.split('.'))}"
        yield _row(" ", f"commit of the {key.partition('.')[0]}", commit[:12], origin)


def _base(plan: RunPlan) -> Iterator[str]:
    """What a quantised base weighs; nothing where its tensors are not known."""
    found, model = plan.parameters, plan.run.config.model
    if found is None or not found.packed:
        return
    whole = (found.held - found.trained - found.packed) * WIDTHS[model.dtype]
    origin = f"{found.packed:,} of its {found.held - found.trained:,} parameters in {model.quantization}"
    yield _row(" ", "the base weighs", size(found.packed_bytes + whole), origin)


def _losses(index: DataIndex) -> Iterator[str]:
    """What of the records is not trained, or not as it stands."""
    header, lost = index.header, losses(index)
    if lost.truncated:
        words = f"{lost.lost_tokens:,} trained tokens lost beyond data.max_seq_len {header.max_seq_len:,}"
        yield _row(" ", "samples cut short", lost.truncated, words)
    for label, number, key in (
        ("conversations split", lost.split, "data.over_long split: into samples of whole rounds"),
        ("records left out as over-long", lost.over_long, "data.over_long drop"),
        ("records left out", lost.left_out, "data.bad_samples skip"),
    ):
        if number:
            yield _row(" ", label, number, key)
    for file, words in losses_of_files(open_index(index.folder, index.files)):
        yield f"      {file}: {words}"


def _data(plan: RunPlan) -> Iterator[str]:
    index, expects = plan.index, plan.expects
    if index is None or expects is None:
        return
    yield _row(" ", "trained tokens", expects["trained_tokens"], f"of {expects['real_tokens']:,} read")
    yield from _balance(plan, index)
    header = index.header
    yield from _losses(index)
    if header.special_text_records.records:
        kept = "they stay text" if header.special_text == "text" else "they become those tokens"
        origin = f"{kept}: data.special_text {header.special_text}"
        yield _row(" ", "records that spell special tokens", header.special_text_records.records, origin)
    if header.template_records.records:
        yield _row(" ", "records that hold template words", header.template_records.records, "")
    if header.duplicate_samples:
        yield _row(" ", "samples that repeat another", header.duplicate_samples, "")
    batches, layout = plan.batches_sha256 or "", plan.layout_sha256 or ""
    yield f"    batches {batches[:12]}   layout {layout[:12]}"
