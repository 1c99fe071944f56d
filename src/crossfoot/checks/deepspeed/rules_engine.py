"""CF320 to CF324, CF327 and CF328: settings of the DeepSpeed file that change the gradient's scale, its
precision, the data or the ranks behind the run config's back, or that do nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.deepspeed.handed_over import ZERO
from crossfoot.checks.deepspeed.refused_parts import TAKES_OVER, parallel, taken_over
from crossfoot.checks.deepspeed.unknown_words import is_meant
from crossfoot.checks.deepspeed.vocabulary import vocabulary, zero_stage
from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.whole_numbers import finite_number, whole_number
from crossfoot.findings.finding import Edit, Finding
from crossfoot.written.deepspeed_file import DeepSpeedFile
from crossfoot.written.shown import shown

_FP32 = ("fp32", "float32", "float", "torch.float32")
_DTYPE_WORDS = {
    "float32": _FP32,
    "bfloat16": ("bf16", "bfloat16", "torch.bfloat16"),
    "float16": ("fp16", "float16", "half", "torch.float16"),
}


@rule("CF320", "error", "warning")
def gradients_are_summed(facts: Facts) -> Iterator[Finding]:
    """CF320: `gradient_allreduce_op` is "sum", and the loss is written for "mean".

    crossfoot weights every token's loss for the mean over the ranks, DeepSpeed's default. With "sum" every
    gradient is as many times too large as there are ranks: 2 ranks and SGD at rate 1 gave an update of 4 in
    the place of 2 (stages 0, 1 and 2; stage 3 refuses it). Adam hides the factor, clipping does not. (lie J6)
    """
    deepspeed = facts.handed_over
    written = deepspeed.get("gradient_allreduce_op") if deepspeed else None
    if deepspeed is None or not isinstance(written, str) or written.lower() != "sum":
        return
    ranks = facts.batch.topology.dp_degree if facts.batch else None
    times = f"{ranks} times as large" if ranks else "as many times as large as there are ranks"
    notes = ("on one rank the sum is the mean",) if ranks == 1 else (f"every gradient would be {times}",)
    if zero_stage(deepspeed.values) == 3:
        notes = ("with ZeRO stage 3 DeepSpeed stops at it",)
    yield Finding(
        "CF320",
        'gradient_allreduce_op is "sum", and the loss of this run is weighted for the mean over the ranks',
        severity="warning" if ranks == 1 and zero_stage(deepspeed.values) != 3 else "error",
        place=deepspeed.place("gradient_allreduce_op"),
        notes=notes,
        helps=('write "mean", or leave it out',),
        fix=deepspeed.replacing("gradient_allreduce_op", text='"mean"'),
    )


@rule("CF321", "error", "warning")
def gradients_are_prescaled(facts: Facts) -> Iterator[Finding]:
    """CF321: `prescale_gradients` or `gradient_predivide_factor` moves the division by the number of ranks.

    Both were made for float16 sums that overflow. Tried on 2 ranks with DeepSpeed 0.19.8: stages 2 and 3 stop
    at either with `reduce_scatter` on, its default. Stage 3 without it, and a factor equal to the number of
    ranks, divides twice: the gradient is that factor too small. Everywhere else the mean is what it was, and
    only its rounding differs (a warning). (lie J6)
    """
    deepspeed = facts.handed_over
    if deepspeed is None:
        return
    stage = zero_stage(deepspeed.values)
    scatters = deepspeed.get("zero_optimization", "reduce_scatter") is not False
    ranks = facts.batch.topology.dp_degree if facts.batch else None
    factor = finite_number(deepspeed.get("gradient_predivide_factor"))
    asked = (
        ("gradient_predivide_factor", factor is not None and factor > 0 and factor != 1),
        ("prescale_gradients", deepspeed.get("prescale_gradients") is True),
    )
    for key, is_on in asked:
        if not is_on:
            continue
        if stage in (2, 3) and scatters:
            note, stops = f"with ZeRO stage {stage} and reduce_scatter DeepSpeed stops at it", True
        elif stage == 3 and key == "gradient_predivide_factor" and factor == ranks:
            note, stops = (
                f"on {ranks} ranks DeepSpeed would divide twice: gradients {ranks} times too small",
                True,
            )
        else:
            note, stops = "the mean over the ranks stays what it was, only its rounding differs", False
        yield Finding(
            "CF321",
            f"{key} is {shown(deepspeed.get(key))}, and gradients are divided by the number of ranks already",
            severity="error" if stops else "warning",
            place=deepspeed.place(key),
            notes=(note,),
            helps=(f"remove {key}",),
            fix=deepspeed.removing(key),
        )


@rule("CF322", "error", "warning")
def second_owner_of_precision(facts: Facts) -> Iterator[Finding]:
    """CF322: the DeepSpeed file changes the precision of weights, gradients or sums.

    `model.dtype` decides it, and the rest is fixed: gradients are added up in float32 and weights that are
    trained have a float32 master. A `data_types.grad_accum_dtype` below float32 makes the result depend on
    the accumulation; null means model.dtype to DeepSpeed. `bf16_master_weights_and_grads` loses updates
    smaller than 1/256 of a weight. `torch_autocast` computes in another precision than the config says.
    `data_types.param_dtype` must be model.dtype, or DeepSpeed stops. Warnings: `communication_data_type`
    rounds gradients before they are averaged (and overflows in fp16 above 65,504); `data_types.buffer_dtype`
    rounds the tables of the position embedding. (lie J7)
    """
    deepspeed, dtype = facts.handed_over, facts.run.config.model.dtype
    if deepspeed is None:
        return
    yield from _data_types(deepspeed, dtype)
    yield from _communication(deepspeed, dtype)
    if dtype == "bfloat16":
        for key in ("bf16_master_weights_and_grads", "bf16_optimizer_states"):
            if deepspeed.get("bf16", key) is True:
                yield _precision(
                    deepspeed,
                    ("bf16", key),
                    "would keep what is trained in bfloat16, and this run has a float32 master",
                    "an update smaller than 1/256 of its weight would be lost",
                )
    if deepspeed.get("torch_autocast", "enabled") is True:
        yield _precision(
            deepspeed,
            ("torch_autocast", "enabled"),
            f"would choose another precision, and model.dtype is {dtype}",
            "two owners of one number",
        )


def _data_types(deepspeed: DeepSpeedFile, dtype: str) -> Iterator[Finding]:
    block = deepspeed.get("data_types")
    if not isinstance(block, dict):
        return
    known = [word for words in _DTYPE_WORDS.values() for word in words]
    sums = block.get("grad_accum_dtype", "fp32")
    if (sums is None and dtype != "float32") or (sums in known and sums not in _FP32):
        yield Finding(
            "CF322",
            f"data_types.grad_accum_dtype is {shown(sums)}, and this run adds gradients up in float32",
            place=deepspeed.place("data_types", "grad_accum_dtype"),
            notes=("in less than float32 the result depends on the accumulation",),
            helps=('write "fp32", or leave it out',),
            fix=deepspeed.replacing("data_types", "grad_accum_dtype", text='"fp32"'),
        )
    weights = block.get("param_dtype")
    if weights in known and weights not in _DTYPE_WORDS[dtype]:
        yield _precision(
            deepspeed,
            ("data_types", "param_dtype"),
            f"is {shown(weights)}, and model.dtype is {dtype}",
            "DeepSpeed stops at start-up when the two differ",
        )
    buffers = block.get("buffer_dtype")
    if buffers in known and buffers not in _FP32:
        yield _precision(
            deepspeed,
            ("data_types", "buffer_dtype"),
            f"is {shown(buffers)}, and rounds the tables of the position embedding",
            "transformers keeps them in float32",
            is_error=False,
        )


def _communication(deepspeed: DeepSpeedFile, dtype: str) -> Iterator[Finding]:
    written = deepspeed.get("communication_data_type")
    word = written.lower() if isinstance(written, str) else ""
    if word not in ("bf16", "fp16") or (word == "bf16" and dtype == "bfloat16"):
        return
    rounds = "gradients are rounded to it before they are averaged over the ranks"
    overflows = "gradients above 65,504 would become infinite"
    yield _precision(
        deepspeed,
        ("communication_data_type",),
        f"is {shown(written)}, and model.dtype is {dtype}",
        overflows if word == "fp16" and dtype == "bfloat16" else rounds,
        is_error=False,
    )


def _precision(
    deepspeed: DeepSpeedFile, keys: tuple[str, ...], fact: str, note: str, is_error: bool = True
) -> Finding:
    return Finding(
        "CF322",
        f"{'.'.join(keys)} {fact}",
        severity="error" if is_error else "warning",
        place=deepspeed.place(*keys),
        notes=(note,),
        helps=(f"remove {keys[-1] if keys[-1] != 'enabled' else keys[0]}",),
        fix=deepspeed.removing(*(keys if keys[-1] != "enabled" else keys[:-1])),
    )


@rule("CF323")
def takes_the_run_over(facts: Facts) -> Iterator[Finding]:
    """CF323: a feature of DeepSpeed that changes steps, data or model behind the run config's back.

    `autotuning` ends the process after a few steps, to try another batch. `data_efficiency` chooses samples
    by difficulty or drops tokens inside the layers (random-LTD). `hybrid_engine` is another engine, made for
    RLHF. `managed_gradient_accumulation: false` leaves the boundary of a step to the caller, which refuses
    the one that crossfoot sets. `weight_quantization.quantized_initialization` loads other weights than
    model.path has. `zenflow` applies most of a gradient some steps later. What was trained could not be told
    from the config, so they are refused. (lies B4, J7)
    """
    deepspeed = facts.handed_over
    if deepspeed is None:
        return
    for keys in taken_over(deepspeed.values):
        block = keys[:-1] if keys[-1] == "enabled" else keys
        yield Finding(
            "CF323",
            f"{'.'.join(block)} {TAKES_OVER[keys]}",
            place=deepspeed.place(*keys),
            helps=(f"remove {block[-1]}",),
        )


@rule("CF324")
def other_parallelism(facts: Facts) -> Iterator[Finding]:
    """CF324: the DeepSpeed file asks for tensor, sequence or expert parallelism.

    With it several ranks share one sample, and a batch is micro batch x accumulation x the ranks that see
    different samples, not x all ranks: a right `train_batch_size` would be refused, and a wrong one would
    train. Here every rank is a data-parallel rank. (lie U5)
    """
    deepspeed = facts.handed_over
    if deepspeed is None:
        return
    ranks = facts.batch.topology.world_size if facts.batch else None
    for keys in parallel(deepspeed.values):
        value = deepspeed.get(*keys)
        size = whole_number(value)
        notes: tuple[str, ...] = ()
        if size and ranks:
            shared, rest = divmod(ranks, size)
            seen = str(shared) if not rest else f"{ranks} / {size}"
            notes = (f"{size} ranks would share each sample: the batch would be x {seen}, not x {ranks}",)
        block = keys[0]
        yield Finding(
            "CF324",
            f"{'.'.join(keys)} is {shown(value)}, and all ranks are data-parallel ranks here",
            place=deepspeed.place(*keys),
            notes=notes,
            helps=(f"remove {block}; ZeRO stage 3 shards the weights too",),
        )


@rule("CF327", "note")
def clipping_is_left_out(facts: Facts) -> Iterator[Finding]:
    """CF327: the DeepSpeed file is silent about clipping, and DeepSpeed's default is not what the run asks.

    DeepSpeed 0.19 clips at 1.0 when `gradient_clipping` is left out. This run is safe, because crossfoot
    writes optimizer.max_grad_norm into the config that it hands over; the same file under another program
    would clip at 1. (lie B11)
    """
    deepspeed, norm = facts.understood, facts.run.config.optimizer.max_grad_norm
    default = vocabulary().blocks[""].keys["gradient_clipping"].default
    if deepspeed is None or "gradient_clipping" in deepspeed.values or norm == default:
        return
    if is_meant(deepspeed.values, ("gradient_clipping",)):
        return
    is_written = facts.run.is_written("optimizer.max_grad_norm")
    this_run = f"this run clips at {norm:g}" if norm else "this run does not clip"
    yield Finding(
        "CF327",
        f"gradient_clipping is left out, where DeepSpeed alone would clip at {default:g}; {this_run}",
        severity="note",
        place=deepspeed.place("gradient_clipping"),
        others=((facts.run.place("optimizer.max_grad_norm"), "this is what counts"),) if is_written else (),
        notes=("crossfoot writes it into the config that it hands over",),
        helps=('to have the file say so too, write "gradient_clipping": "auto"',),
    )


@rule("CF328", "warning")
def does_nothing_here(facts: Facts) -> Iterator[Finding]:
    """CF328: a setting of the DeepSpeed file that does nothing in this run.

    `activation_checkpointing` only sets up DeepSpeed's own checkpointing function, which Hugging Face models
    do not call: `model.gradient_checkpointing` switches theirs on. `dataloader_drop_last` is about
    DeepSpeed's loader; crossfoot makes the batches, and `data.last_step` says what becomes of the tail.
    `pipeline` is for PipelineModule models. `compile.deepcompile` waits for a call of engine.compile().
    `disable_allgather` is read and never used. `elastic_checkpoint` is about DeepSpeed's own checkpoints;
    crossfoot's can be continued on any number of ranks. (lie B9)
    """
    deepspeed = facts.understood
    if deepspeed is None:
        return
    for keys, (why, help_) in _NOTHING.items():
        value = deepspeed.get(*keys)
        asks = value is True if vocabulary().blocks.get(".".join(keys)) is None else _has_on(value)
        if not asks or (keys == _CHECKPOINTING and facts.run.config.model.gradient_checkpointing):
            continue
        fix: tuple[Edit, ...] = deepspeed.removing(*keys) if help_.startswith("remove") else ()
        yield Finding(
            "CF328",
            f"{'.'.join(keys)} does nothing here: {why}",
            severity="warning",
            place=deepspeed.place(*keys, part="key"),
            helps=(help_,),
            fix=fix,
        )


def _is_on(value: object) -> bool:
    return value is True or (isinstance(value, (int, float)) and bool(value))


def _has_on(block: object) -> bool:
    return isinstance(block, dict) and any(_is_on(value) for value in block.values())


_CHECKPOINTING = ("activation_checkpointing",)
_NOTHING = {
    _CHECKPOINTING: (
        "model.gradient_checkpointing decides, and it is off",
        "set model.gradient_checkpointing to true, or remove activation_checkpointing",
    ),
    ("dataloader_drop_last",): (
        "crossfoot makes the batches",
        "remove it; data.last_step: drop leaves an unfinished batch out",
    ),
    ("pipeline",): ("it is for pipeline models", "remove pipeline"),
    ("compile", "deepcompile"): ("the engine is not compiled", "remove deepcompile"),
    (ZERO, "elastic_checkpoint"): ("checkpoints are crossfoot's own", "remove elastic_checkpoint"),
    ("disable_allgather",): ("DeepSpeed 0.19 reads it and never uses it", "remove disable_allgather"),
}
