"""CF456 to CF460, CF465 to CF467 and CF479: what a launch file says about the run itself."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.arithmetic.batch import BatchPlan
from crossfoot.checks.launch.planned import commands, planned_ranks
from crossfoot.checks.registry import Facts, rule
from crossfoot.checks.whole_numbers import whole_number
from crossfoot.findings.finding import Finding, Place
from crossfoot.written.known_keys import option_as_override
from crossfoot.written.launch.accelerate_file import is_on
from crossfoot.written.launch.read import config_words, is_out_of_sight
from crossfoot.written.launch.statement import (
    About,
    Argument,
    Command,
    LaunchFile,
    Statement,
    statements,
    with_named,
)
from crossfoot.written.launch.stating import (
    command_statements,
    machines_and_processes,
    trains,
)
from crossfoot.written.source import same_file

_ENGINES = {"DEEPSPEED": "DeepSpeed", "FSDP": "FSDP", "MEGATRON_LM": "Megatron-LM"}
_ENGINE_OPTIONS = {"--use_deepspeed": "DeepSpeed", "--use_fsdp": "FSDP", "--use_megatron_lm": "Megatron-LM"}
OWN_OPTIONS = frozenset(
    (
        *("--stop-after", "--continue", "--take-over", "--allow"),
        *("--local_rank", "--local-rank", "--full", "--json", "--help"),
    )
)
"""What `crossfoot train` and `crossfoot prove` take; a test holds it against them."""


@rule("CF456", name="launch-batch-numbers")
def batch_numbers(facts: Facts) -> Iterator[Finding]:
    """CF456: a launch file states another batch number than the run's.

    accelerate's `gradient_accumulation_steps` is the usual one: it would divide the loss and count the steps
    in its own way, beside the accumulation of the run. crossfoot owns the batch; a second opinion can only be
    wrong. (lies B10, B14, J3)
    """
    numbers: tuple[tuple[About, str], ...] = (
        ("micro_batch_size", "samples per GPU per forward"),
        ("grad_accum_steps", "forwards per optimizer step"),
        ("global_batch_size", "samples per optimizer step"),
    )
    for about, meaning in numbers:
        source: BatchPlan | object = facts.batch or facts.run.config.batch
        planned = whole_number(getattr(source, about))
        for said in statements(facts.launch, about):
            if planned is not None and said.value != planned:
                key = f"batch.{about}"
                title = f"{said.name} says {said.value}, but this run plans {planned} {meaning}"
                yield _differs(facts, "CF456", said, key, title, str(planned))


@rule("CF457", name="launch-clipping")
def clipping(facts: Facts) -> Iterator[Finding]:
    """CF457: a launch file states another gradient clipping than optimizer.max_grad_norm.

    crossfoot owns the clipping and writes it explicitly; a number in accelerate's file is nobody's, and its
    reader believes in it. (lie B11)
    """
    norm = facts.run.config.optimizer.max_grad_norm
    for said in statements(facts.launch, "max_grad_norm"):
        if said.value != norm:
            title = f"{said.name} says {said.value}, but optimizer.max_grad_norm is {norm:g}"
            yield _differs(facts, "CF457", said, "optimizer.max_grad_norm", title, f"{norm:g}")


@rule("CF458", name="launch-precision")
def precision(facts: Facts) -> Iterator[Finding]:
    """CF458: a launch file states another precision than model.dtype.

    `model.dtype` decides, whatever accelerate is told: the run would train in another precision than its
    launch file says. accelerate's `no`, which every fresh file has, says nothing and is no contradiction.
    """
    dtype = facts.run.config.model.dtype
    for said in statements(facts.launch, "dtype"):
        if said.value != dtype:
            words = {"bfloat16": "bf16", "float16": "fp16"}.get(dtype, "no")
            title = f"{said.words} means {said.value}, but model.dtype is {dtype}"
            yield _differs(facts, "CF458", said, "model.dtype", title, words)


@rule("CF459", name="launch-zero-stage")
def zero_stage(facts: Facts) -> Iterator[Finding]:
    """CF459: a launch file states another ZeRO stage than the DeepSpeed file.

    The DeepSpeed file that the config names decides. accelerate's `zero_stage` belongs to an engine that
    crossfoot does not use. (lie J3)
    """
    deepspeed = facts.understood
    if deepspeed is None:
        return
    stage = whole_number(deepspeed.get("zero_optimization", "stage")) or 0
    for said in statements(facts.launch, "zero_stage"):
        if said.value != stage:
            yield Finding(
                "CF459",
                f"{said.name} says {said.value}, but {deepspeed.path} says stage {stage}",
                place=said.place,
                others=((deepspeed.place("zero_optimization", "stage"), "decides the stage"),),
                helps=(f"write {stage}, or remove it: the DeepSpeed file decides",),
            )


@rule("CF460", name="launch-deepspeed-file")
def deepspeed_file(facts: Facts) -> Iterator[Finding]:
    """CF460: a launch file names another DeepSpeed file than the config.

    Only the file that the config names is read and checked. The other one would have its own batch, clipping
    and stage, and nobody would look at them. (lies B10, J3)
    """
    named = facts.run.config.deepspeed
    for said in statements(facts.launch, "deepspeed_file"):
        if named is not None and same_file(str(said.value), named):
            continue
        place, said_path = facts.run.place("deepspeed"), str(said.value)
        if named is not None and is_out_of_sight(said_path) and said_path.endswith(f"/{named}"):
            continue  # the folder of the cluster
        is_named = "the config names none" if named is None else f"the config names {named}"
        yield Finding(
            "CF460",
            f"the DeepSpeed file {said.value} is named here, but {is_named}",
            place=said.place,
            others=((place, "this one is checked"),) if named is not None else (),
            helps=("remove it here: the config decides", f"or set deepspeed: {said.value} in the config"),
        )


def _differs(facts: Facts, code: str, said: Statement, key: str, title: str, right: str) -> Finding:
    written = facts.run.is_written(key)
    return Finding(
        code,
        title,
        place=said.place,
        others=((facts.run.place(key), "decides"),) if written else (),
        helps=(f"write {right}, or remove it: the run config decides",),
    )


@rule("CF465", name="launch-foreign-engine")
def foreign_engine(facts: Facts) -> Iterator[Finding]:
    """CF465: accelerate is told to bring an engine of its own: DeepSpeed, FSDP or Megatron-LM.

    crossfoot drives DeepSpeed directly; with accelerate in between, two layers would each believe in a batch
    size. At start-up this is CF443. Several ranks: start with deepspeed, torchrun or srun, or let accelerate
    only start processes (`--multi_gpu`). (lies B10, U1)
    """
    for file in with_named(facts.launch):
        setting = file.setting("distributed_type")
        overruled = any(
            command.launcher.get("--multi_gpu") for other, command in commands(facts) if _uses(other, file)
        )
        if setting is not None and str(setting.value).upper() in _ENGINES and not overruled:
            yield _engine(setting.place, setting.words, _ENGINES[str(setting.value).upper()])
    for _, command in commands(facts):
        for name, engine in _ENGINE_OPTIONS.items():
            option = command.launcher.get(name) if command.launcher.kind == "accelerate" else None
            if option is not None:
                yield _engine(option.place, option.words, engine)
            export = command.export(f"ACCELERATE_{name[2:].upper()}")
            if export is not None and is_on(export.value):
                yield _engine(export.place, f"{export.name}={export.value}", engine)


def _uses(file: LaunchFile, named: LaunchFile) -> bool:
    return any(each.file is named for each in file.named)


def _engine(place: Place, words: str, engine: str) -> Finding:
    return Finding(
        "CF465",
        f"{words} makes accelerate bring {engine} of its own",
        place=place,
        notes=("crossfoot drives DeepSpeed directly, so that nobody else decides on the batch",),
        helps=(
            "for several ranks start with deepspeed, torchrun or srun; the config names the DeepSpeed file",
            "or, for one process that folds the plan, set distributed_type: 'NO' and num_processes: 1",
        ),
    )


@rule("CF466", "error", "warning")
def one_process_only(facts: Facts) -> Iterator[Finding]:
    """CF466: accelerate is asked for several processes and starts one, or is told to leave the GPUs idle.

    `--cpu`, and a file with `distributed_type: 'NO'` (or MULTI_CPU without mpirun), start exactly one process
    on each machine whatever num_processes says, and that one knows of no ranks: every machine would train the
    whole data. Exporting ACCELERATE_USE_CPU leaves the GPUs idle without a word. (lies U1, U8)
    """
    for file, command in commands(facts):
        layer = command.launcher
        export = command.export("ACCELERATE_USE_CPU")
        if export is not None and is_on(export.value) and layer.kind in ("accelerate", "python"):
            yield Finding(
                "CF466",
                "ACCELERATE_USE_CPU keeps this run off the GPUs",
                severity="warning",
                place=export.place,
                helps=("remove it where GPUs are meant to be used",),
            )
        if layer.kind != "accelerate":
            continue
        machines, processes = machines_and_processes(command, file)
        reason = _why_one(command, file)
        if reason is not None and max(machines or 1, processes or 1) > 1:
            place, words = reason
            asked = f"{processes}" if processes and processes > 1 else f"one world on {machines} machines"
            yield Finding(
                "CF466",
                f"{words} makes accelerate start one process, not {asked}",
                place=place,
                others=((layer.place, "started here"),) if place.file != layer.place.file else (),
                notes=("that process has no rank, so each one would train on all of the data",),
                helps=(
                    "for several ranks: accelerate launch --multi_gpu, or the deepspeed launcher",
                    "or ask for one: --num_processes 1 --num_machines 1, which folds the plan",
                ),
            )


def _why_one(command: Command, file: LaunchFile) -> tuple[Place, str] | None:
    cpu = command.launcher.get("--cpu")
    if cpu is not None:
        return cpu.place, "--cpu"
    option = command.launcher.get("--config_file")
    named = next((each for each in file.named if option and each.place == option.place), None)
    settings = named.file if named else None
    kind = settings.setting("distributed_type") if settings else None
    if settings is None or kind is None or command.launcher.get("--multi_gpu", *_ENGINE_OPTIONS):
        return None
    by_mpi = any(setting.path.startswith("mpirun_config") for setting in settings.settings)
    value = "NO" if kind.value is False else str(kind.value).upper()
    return (kind.place, f"distributed_type {value}") if value in ("NO", "MULTI_CPU") and not by_mpi else None


@rule("CF467", name="launch-without-deepspeed-file")
def ranks_without_deepspeed_file(facts: Facts) -> Iterator[Finding]:
    """CF467: a launch file starts several ranks, and the config names no DeepSpeed file.

    Without one the run is the accelerate engine's: one process, into which the plan is folded. Several ranks
    are DeepSpeed's work. At start-up this is CF441.
    """
    planned = planned_ranks(facts)
    if facts.run.config.deepspeed is not None or planned is None or planned < 2:
        return
    for file, command in commands(facts):
        for said in command_statements(command, file):
            if said.dry_run or said.witness == "allocation" or said.value in (0, 1):
                continue
            if said.about in ("num_nodes", "gpus_per_node", "world_size"):
                yield Finding(
                    "CF467",
                    f"{said.words} starts several ranks, but the config names no DeepSpeed file",
                    place=said.place,
                    others=((said.used_at, "used here"),) if said.used_at else (),
                    helps=(
                        "name one in the config: deepspeed: ds_configs/zero1.json",
                        "or start one process, which folds the plan: accelerate launch --num_processes 1 ...",
                    ),
                )
                break


@rule("CF479")
def foreign_arguments(facts: Facts) -> Iterator[Finding]:
    """CF479: the command gives train.py an option of another trainer.

    `--learning_rate 1e-4` and `--per_device_train_batch_size 4` are the Hugging Face Trainer's. crossfoot
    takes the run from its config and from `path=value` words, and stops at an option that it does not know,
    on every rank. (lie U7)
    """
    for _, command in commands(facts):
        if not trains(command) or not config_words(command):
            continue
        found = list(_foreign(command))
        if not found:
            continue
        (word, help_), more = found[0], found[1:]
        name = word.text.partition("=")[0]
        title = f"{name} is no option of crossfoot: it would stop here"
        if more:
            title = f"{len(found)} words are no options of crossfoot: it would stop at {name}"
        yield Finding(
            "CF479",
            title,
            place=word.place,
            others=tuple((other.place, "another one") for other, _ in more[:_MOST_SHOWN]),
            notes=("crossfoot stops at the first of them, on every rank",) if more else (),
            helps=(help_, *dict.fromkeys(help_ for _, help_ in more)),
        )


_MOST_SHOWN = 3


def _foreign(command: Command) -> Iterator[tuple[Argument, str]]:
    """The options that crossfoot does not have, each with what to do."""
    words = command.arguments
    for position, word in enumerate(words):
        name, equals, value = word.text.partition("=")
        if name.startswith("--") and name not in OWN_OPTIONS:
            following = words[position + 1].known if position + 1 < len(words) else None
            given = value if equals else ("" if (following or "-").startswith("-") else following or "")
            yield word, option_as_override(name, given)
