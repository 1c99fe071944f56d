"""Model, LoRA, optimizer, engine, meter and books of one rank; what the engine then believes is read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import Any

from torch import nn

from crossfoot import durable
from crossfoot.findings.finding import Finding, Refused
from crossfoot.ledger.skipping import Policies
from crossfoot.liveness.rank_monitor import RankMonitor
from crossfoot.liveness.stopping import StopRequest
from crossfoot.metering.meter import Meter
from crossfoot.mirrors.mirror import Mirror, log_evaluation, log_step
from crossfoot.mirrors.tensorboard import TENSORBOARD_FOLDER, TensorBoardMirror
from crossfoot.mirrors.weights_and_biases import WandbMirror
from crossfoot.models.adapt import prepare_training, trained_summary
from crossfoot.models.findings import placed
from crossfoot.models.load import LoadedModel, load_model
from crossfoot.models.tiny_model import write_tiny_model
from crossfoot.planning.deepspeed_config import (
    handed_settings,
    owned_numbers,
    owned_optimizer,
    resolve_deepspeed,
)
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.runs.attempts import attempt_name, attempt_path
from crossfoot.runs.evaluations import RunEvaluation
from crossfoot.runs.run_folder import DEEPSPEED_NAME
from crossfoot.training.engine import (
    ACCELERATE_PRECISION,
    AccelerateEngine,
    DeepSpeedEngine,
    Engine,
    refuse_float16,
)
from crossfoot.training.evaluations import RunEvaluator, ask_run
from crossfoot.training.findings import engine_believes
from crossfoot.training.loop import Training
from crossfoot.training.loss import SummedLoss
from crossfoot.training.noise_recorder import NoiseRecorder
from crossfoot.training.open_ledger import open_ledger
from crossfoot.training.optimizer import build_optimizer
from crossfoot.training.progress import ProgressLine
from crossfoot.training.rank_job import RankJob
from crossfoot.training.restoring import find_checkpoint, find_start, load_checkpoint
from crossfoot.training.step_hooks import StepHooks
from crossfoot.training.step_recorder import StepPlanner, StepRecorder
from crossfoot.written.model_facts import BUILTIN_TINY


@dataclass(frozen=True)
class Built:
    """What closing needs besides the loop's own."""

    training: Training
    loaded: LoadedModel
    model: nn.Module
    progress: ProgressLine | None
    mirrors: tuple[Mirror, ...]


def build(work: RankJob, ranks: Ranks, stop: StopRequest, rank_monitor: RankMonitor) -> Built:
    """Everything of one rank, ready for the first step. All ranks call it together."""
    config, plan = work.plan.run.config, work.plan

    report = ranks.tell
    asked = ask_run(work, ranks)
    mirrors = _mirrors(work, ranks)
    deepspeed_config = None
    if work.engine_kind == "deepspeed" and plan.deepspeed is not None:
        deepspeed_config = resolve_deepspeed(plan.deepspeed.values, config, plan.batch, plan.parameters)
    try:
        loaded = load_base(work, ranks, deepspeed_config, report)
        trained_dtype = None if deepspeed_config else "float32"
        checkpoint, start = None, None
        if work.resume_point.checkpoint is not None:
            checkpoint = find_checkpoint(plan.run.run_dir, work.resume_point.checkpoint, ranks)
            start = find_start(checkpoint, ranks)
        model = prepare_training(config, loaded, report, trained_dtype=trained_dtype, start=start)
    except Refused as refused:
        raise Refused(placed(refused.findings, plan.run)) from refused
    for line in trained_summary(model)[2]:
        report(line)
    dropout = config.lora.dropout if config.lora else 0.0
    if dropout:
        where = f"a step has {plan.batch.slots_per_step:,} slots"
        if plan.batch.micro_batch_tokens is not None:
            where = "the same samples share a forward"
        report(f"lora.dropout {dropout:g}: its draws are the same wherever {where}")
    optimizer = build_optimizer(model, plan.optimizer, config.lr.groups)
    engine = start_engine(work, SummedLoss(model), optimizer, deepspeed_config, ranks)
    if checkpoint is not None:
        load_checkpoint(engine, model, checkpoint, ranks)
    meter = Meter(engine.module, loaded.model.get_input_embeddings(), optimizer, ranks.rank)
    evaluator = None
    if asked is not None:
        listen = partial(_listen, mirrors)
        evaluator = RunEvaluator(work, asked, engine, model, ranks, stop, rank_monitor, listen)
    layout = plan.layout(folded=work.folded)
    done = sum(map(plan.schedule.step_size, range(work.resume_point.first_step)))
    progress = ProgressLine(work.steps, done) if ranks.is_first else None
    book, reconciler = open_ledger(work, layout, report) if ranks.is_first else (None, None)
    policies = Policies(config.faults.nonfinite, config.faults.overflow)
    step_recorder = StepRecorder(
        ranks=ranks,
        meter=meter,
        stop=stop,
        book=book,
        reconciler=reconciler,
        policies=policies,
        listeners=[*([] if progress is None else [progress]), *(partial(log_step, one) for one in mirrors)],
    )
    training = Training(
        engine=engine,
        index=work.index,
        planner=StepPlanner(plan, work.index, layout),
        meter=meter,
        step_recorder=step_recorder,
        ranks=ranks,
        dropout_seed=config.run.seed if dropout else None,
        packed=config.data.is_packed,
        step_hooks=StepHooks(
            work, engine, model, ranks, meter, step_recorder, stop, rank_monitor, report, mirrors, evaluator
        ),
        rank_monitor=rank_monitor,
        policies=policies,
        noise=NoiseRecorder(work, engine, model, ranks, report),
    )
    return Built(training, loaded, model, progress, mirrors)


def _listen(mirrors: Sequence[Mirror], found: RunEvaluation) -> None:
    for mirror in mirrors:
        log_evaluation(mirror, found)


def _mirrors(work: RankJob, ranks: Ranks) -> tuple[Mirror, ...]:
    """Rank 0's mirrors; where one does not start, every rank raises rank 0's Refused."""
    run, wanted = work.plan.run, work.plan.run.config.tracking
    mirrors: list[Mirror] = []
    findings: tuple[Finding, ...] = ()
    if ranks.is_first:
        try:
            if wanted.wandb != "off":
                place = run.place("tracking", "wandb")
                mirrors.append(WandbMirror(work.lock, run.run_dir, wanted.wandb, wanted.project, place))
            if wanted.tensorboard:
                name = attempt_name(work.resume_point.attempt)
                mirrors.append(TensorBoardMirror(os.path.join(run.run_dir, TENSORBOARD_FOLDER, name)))
        except Refused as refused:
            findings = refused.findings
    findings = ranks.gather(findings, tuple[Finding, ...])[0]
    if findings:
        raise Refused(findings)
    return tuple(mirrors)


def load_base(
    work: RankJob, ranks: Ranks, deepspeed_config: dict[str, Any] | None, report: Callable[[str], None]
) -> LoadedModel:
    """The base model of the run; builtin:tiny is made first. All ranks call it together."""
    config = work.plan.run.config
    if deepspeed_config is not None and config.model.dtype == "float16":
        refuse_float16()
    if config.model.path == BUILTIN_TINY:
        if ranks.is_first:
            write_tiny_model(work.model_path)
        ranks.gather(None, NoneType)  # the others load it when it is there
    return load_model(
        config,
        work.model_path,
        vocabulary=work.index.header.tokenizer.vocabulary,
        zero_stage=(work.plan.zero_stage or 0) if deepspeed_config else 0,
        deepspeed_config=deepspeed_config,
        report=report,
    )


def start_engine(
    work: RankJob, module: nn.Module, optimizer: Any, deepspeed_config: dict[str, Any] | None, ranks: Ranks
) -> Engine:
    """The engine around `module`, read back: Refused when it believes other numbers than the plan's."""
    config = work.plan.run.config
    engine: Engine
    if deepspeed_config is None:
        engine = AccelerateEngine(module, optimizer, config.model.dtype, config.optimizer.max_grad_norm)
        expected: dict[str, Any] = {
            "processes": 1,
            "gradient_accumulation_steps": 1,
            "mixed_precision": ACCELERATE_PRECISION[config.model.dtype],
            "distributed_type": "NO",
            "compiled": False,
        }
    else:
        if ranks.is_first:
            handed = attempt_path(work.plan.run.run_dir, work.resume_point.attempt, DEEPSPEED_NAME)
            durable.replace(handed, json.dumps(deepspeed_config, indent=2) + "\n")
        engine = DeepSpeedEngine(module, optimizer, deepspeed_config)
        expected = owned_numbers(config, work.plan.batch) | handed_settings(
            deepspeed_config, config.model.dtype
        )
        expected["zero_optimization.stage"] = work.plan.zero_stage
        expected |= {"rank": ranks.rank, "world_size": ranks.world_size}
        expected["optimizer sharding"] = f"ZeRO {work.plan.zero_stage}"
    _compare(
        {**expected, **owned_optimizer(config, work.plan.optimizer.betas)}, engine.read_back(), engine.kind
    )
    return engine


def _compare(expected: dict[str, Any], believed: dict[str, Any], kind: str) -> None:
    """Read-back: what the engine believes must be what was planned, number for number."""
    findings = [
        engine_believes(kind, name, believed.get(name), value)
        for name, value in expected.items()
        if believed.get(name) != value
    ]
    if findings:
        raise Refused(findings)
