"""`crossfoot prove` on one rank: read and refuse, make the small model, start the engine, step, compare."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossfoot.environment.world import Engine as EngineKind
from crossfoot.environment.world import World
from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.formats import show
from crossfoot.index.planned_sources import whole_source
from crossfoot.ledger.reconcile import PlannedStep
from crossfoot.output import json_text, say
from crossfoot.planning.deepspeed_config import resolve_deepspeed
from crossfoot.planning.plan import RunPlan, run_layout, run_rate, run_schedule
from crossfoot.planning.prepare import CheckedRun, read_and_check
from crossfoot.probing.compare import BOUNDS, ROUNDOFF
from crossfoot.probing.samples import LONGEST_TOKENS, SHORTEST_TOKENS, ProofBatch, proof_batch, samples_of
from crossfoot.probing.verdict import ProofSetup, Verdict, render, to_json
from crossfoot.rendezvous.rendezvous import RefusedTogether
from crossfoot.runs.ending import lock_sha256
from crossfoot.runs.run_folder import ATTEMPT_NAME
from crossfoot.training.rank_job import RankJob, engine_of, refuse_start, run_preflight
from crossfoot.training.session import follow
from crossfoot.written.config import Config, LrSection, OptimizerSection, TrackingSection, TrainSection
from crossfoot.written.config_values import DEFAULT_START
from crossfoot.written.lora_section import LoraSection
from crossfoot.written.model_facts import BUILTIN_TINY, read_model_facts

NOT_NEEDED = ("CF50", "CF51", "CF52", "CF53", "CF540")
"""Findings about data files and the tokenizer: a proof reads neither."""
NEEDED = ("CF533", "CF534")
"""Those among them that are about the model."""
SHORTEST_REAL_TOKENS = 8
"""With real weights: a model's first tokens are often its attention sinks, and a sample of little else has a
gradient that is mostly rounding."""
LEFT_OUT = "data files and tokenizer are not looked at"


def prove(path: str, overrides: Sequence[str], world: World, full: bool, as_json: bool) -> int:
    """Prove one config on this rank; returns the exit code of the contract, the same on every rank: 0 PROVEN,
    3 NOT PROVEN. Raises Refused for a user's mistake. Nothing is written into the run's folder.
    """
    try:
        checked, findings, engine_kind = _start(path, overrides, world)
        if findings and world.rank == 0 and not as_json:
            show(findings)
        page, exit_code = _prove(checked, world, engine_kind, full, as_json)
    except RefusedTogether as refused:
        if world.rank == 0:
            raise
        return follow(refused)
    if page is not None:
        say(page)
    return exit_code


def _start(
    path: str, overrides: Sequence[str], world: World
) -> tuple[CheckedRun, tuple[Finding, ...], EngineKind]:
    """The start checks of a training run, but for what only data can be wrong with. Raises Refused."""
    refuse_start()
    checked = _without_data(read_and_check(path, overrides, world))
    findings = checked.findings
    if checked.has_error:
        raise Refused(findings)
    engine_kind = engine_of(checked, world)
    _, world, warnings = run_preflight(checked, world)
    return checked.on_nodes(world.ranks_per_node), (*findings, *warnings), engine_kind


def _without_data(checked: CheckedRun) -> CheckedRun:
    """The same without data files and tokenizer, and without what was found about them."""
    kept = [finding for finding in checked.findings if not finding.code.startswith(NOT_NEEDED)]
    kept += [finding for finding in checked.findings if finding.code in NEEDED]
    if any(finding.counts_as == "error" for finding in kept):
        return replace(checked, findings=tuple(kept))
    config = checked.run.config
    data = config.data.model_copy(update={"train": [], "validation": []})
    run = replace(checked.run, as_written=config.model_copy(update={"data": data}))
    return replace(checked, facts=replace(checked.facts, run=run), findings=tuple(kept))


def _prove(
    checked: CheckedRun, world: World, engine_kind: EngineKind, full: bool, as_json: bool
) -> tuple[str | None, int]:
    """(the page on rank 0, the exit code). Joins the other ranks, and leaves them when all is done."""
    from crossfoot.models.quiet import hush_libraries

    hush_libraries()
    import torch

    from crossfoot.rendezvous.ranks import agree, join
    from crossfoot.training.cpu_compute import HIGHEST, settle_compute

    ranks = join(world, engine_kind, os.environ)
    deepspeed = checked.facts.deepspeed and checked.facts.deepspeed.values
    config = checked.run.config.model_dump(mode="json")
    agree(ranks, world, lock_sha256({"config": config, "deepspeed": deepspeed, "full": full}))
    with _scratch(ranks, world) as folder:
        model = _model(ranks, world, checked, folder, full)
        work, batch = _work(checked, world, engine_kind, model, str(folder))
        way = settle_compute(checked.run.config.model, world, ranks) or HIGHEST
        torch.set_float32_matmul_precision(HIGHEST)  # the reference's; the step has what training has
        verdict, setup = _measure(work, batch, ranks, model, way)
        exit_code = int(ranks.gather(0 if verdict is None else verdict.exit_code, int)[0])
    page = None
    if verdict is not None:
        page = json_text(to_json(setup, verdict)) if as_json else ""
        page = page or render(setup, verdict)
    ranks.leave()
    return page, exit_code


@dataclass(frozen=True)
class _Model:
    """The model to prove. path: its folder on this node. said: what it is. is_small: made for the proof."""

    path: str
    said: str
    is_small: bool


@contextlib.contextmanager
def _scratch(ranks: Any, world: World) -> Iterator[Path]:
    """A temporary folder that the ranks of one node share; the node's first rank makes and removes it."""
    mine = tempfile.mkdtemp(prefix="crossfoot-prove-") if world.local_rank == 0 else None
    try:
        yield Path(
            dict(row for row in ranks.gather((world.node_rank, mine), tuple[int, str | None]) if row[1])[
                world.node_rank
            ]
        )
    finally:
        if mine is not None:
            shutil.rmtree(mine, ignore_errors=True)


def _model(ranks: Any, world: World, checked: CheckedRun, folder: Path, full: bool) -> _Model:
    """The folder of the model to prove: a small one, or with `full` the run's own."""
    from crossfoot.probing.shrink import write_small_model

    config, said = checked.run.config, ""
    path = config.model.path
    is_small = not full or path == BUILTIN_TINY
    findings: tuple[Finding, ...] = ()
    if is_small and world.local_rank == 0:
        try:
            said = write_small_model(
                path, folder / "model", config.run.seed, checked.run.place("model", "path")
            )
        except Refused as refused:
            findings = refused.findings
    everyone = ranks.gather((said, findings), tuple[str, tuple[Finding, ...]])
    if any(found for _, found in everyone):
        from crossfoot.models.findings import placed

        raise Refused(placed(next(found for _, found in everyone if found), checked.run))
    if is_small:
        begun = config.lora is not None and config.lora.changes_base
        left_out = (("model.adapter", config.model.adapter), ("lora.init", begun))
        without = "".join(f", without {key}" for key, is_there in left_out if is_there)
        return _Model(str(folder / "model"), everyone[0][0] + without, True)
    return _Model(path, f"{path}, its own weights", False)


def _work(
    checked: CheckedRun, world: World, engine_kind: EngineKind, model: _Model, folder: str
) -> tuple[RankJob, ProofBatch]:
    """The run as it is proved: the config's own layout, engine and precision, with SGD and no dropout."""
    config = _proof_config(checked.run.config, model, folder)
    run = replace(checked.run, as_written=config)
    batch = checked.facts.batch
    if batch is None:
        raise RuntimeError("no error was found, and there is no batch")
    facts = read_model_facts(model.path)
    from crossfoot.probing.proof import RATE

    layout = run_layout(run.config, batch)
    made_up = proof_batch(
        layout.folded() if engine_kind == "accelerate" else layout,
        vocabulary=facts.vocab_size if facts else 256,
        longest=min(run.config.data.max_seq_len, (facts and facts.max_position_embeddings) or LONGEST_TOKENS),
        seed=run.config.run.seed,
        rate=RATE,
        shortest=SHORTEST_TOKENS if model.is_small else SHORTEST_REAL_TOKENS,
    )
    schedule = run_schedule(run, batch, [whole_source(made_up.index.num_samples)])
    plan = RunPlan(
        run,
        checked.sourced,
        batch,
        schedule,
        run_rate(run, schedule),
        checked.facts.deepspeed,
        made_up.index,
    )
    return RankJob(plan, made_up.index, None, world, engine_kind, (), {}, 1), made_up


def _proof_config(config: Config, model: _Model, folder: str) -> Config:
    """The config with what a proof changes in it, and nothing else. A small model has another shape than the
    adapter that a run starts from.
    """
    proved = {"path": model.path} | ({"adapter": None} if model.is_small else {})
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"dir": folder}),
            "model": config.model.model_copy(update=proved),
            "tokenizer": None,
            "lora": config.lora and config.lora.model_copy(update=_proved_adapters(config.lora, model)),
            "optimizer": OptimizerSection(name="sgd", max_grad_norm=0.0),
            "batch": config.batch.model_copy(
                update={"global_batch_size": None, "target_trained_tokens": None}  # of the largest step
            ),
            "lr": LrSection(reference=1.0, schedule="constant"),
            "train": TrainSection(max_steps=1),
            "tracking": TrackingSection(),
        }
    )


def _proved_adapters(lora: LoraSection, model: _Model) -> dict[str, Any]:
    """What a proof changes in the section: the weights of a small model may have fewer directions than the
    adapter begins with, and without a tokenizer only rows are trained that are surely there.
    """
    changes: dict[str, Any] = {"init": DEFAULT_START} if model.is_small else {}
    facts = read_model_facts(model.path)
    if lora.trainable_token_indices is not None and facts is not None:
        last = facts.vocab_size - 1
        changes["trainable_token_indices"] = [f"{last - last // 4}-{last}"]
    return changes


def _measure(
    work: RankJob, batch: ProofBatch, ranks: Any, model: _Model, way: str
) -> tuple[Verdict | None, ProofSetup]:
    """Build as training builds, and prove. way: how the step multiplies float32 matrices."""
    from crossfoot.models.adapt import prepare_training
    from crossfoot.models.findings import placed
    from crossfoot.probing.proof import Subject, fill_lora_b, prove_gradient
    from crossfoot.probing.reference import Reference, without_dropout
    from crossfoot.training.build import load_base, start_engine
    from crossfoot.training.cpu_compute import matmul
    from crossfoot.training.loop import run_step
    from crossfoot.training.loss import SummedLoss
    from crossfoot.training.optimizer import build_optimizer

    plan, config = work.plan, work.plan.run.config
    if ranks.is_first:
        (Path(plan.run.run_dir) / ATTEMPT_NAME).mkdir(parents=True)
    deepspeed_config = None
    if work.engine_kind == "deepspeed" and plan.deepspeed is not None:
        deepspeed_config = resolve_deepspeed(plan.deepspeed.values, config, plan.batch, plan.parameters)

    try:
        loaded = load_base(work, ranks, deepspeed_config, ranks.tell)
        trained = prepare_training(
            config, loaded, ranks.tell, trained_dtype=None if deepspeed_config else "float32"
        )
    except Refused as refused:
        raise Refused(placed(refused.findings, plan.run)) from refused
    dropout = without_dropout(trained)
    filled = fill_lora_b(trained, config.run.seed)
    engine = start_engine(
        work, SummedLoss(trained), build_optimizer(trained, config.optimizer), deepspeed_config, ranks
    )

    def take_step(planned: PlannedStep) -> object:
        words = (engine, batch.index, planned, ranks.rank, None, config.data.is_packed)
        with matmul(way):
            update = run_step(*words)
            while update.left_out == "overflow" and update.can_retry:
                update = run_step(*words)
        return update

    subject = Subject(
        model=trained,
        take_step=take_step,
        make_reference=lambda: Reference(
            config, work.model_path, work.index.header.tokenizer.vocabulary, engine.device
        ),
        is_first=ranks.is_first,
        layout=plan.layout(folded=work.folded),
        grad_accum_steps=plan.batch.grad_accum_steps,
        dp_degree=plan.batch.topology.dp_degree,
        bound=BOUNDS[config.model.dtype],
        roundoff=None if model.is_small else ROUNDOFF[config.model.dtype],
    )
    verdict = prove_gradient(subject, batch)
    said = _said(config, filled, dropout)
    return verdict, _setup(work, batch, engine, model, said)


def _said(config: Config, filled: int, dropout: float) -> tuple[str, ...]:
    """What a proof changed. filled: matrices B with random values. dropout: the largest that was on."""
    said = []
    if filled:
        said.append(
            f"fresh LoRA matrices B hold random values: at zero, A has no gradient ({filled} of them)"
        )
    if config.lora is not None and config.lora.trainable_token_indices is not None:
        said.append("of the tables the last quarter of the rows is trained: the tokenizer is not looked at")
    if dropout:
        said.append(f"dropout {dropout:g} -> 0: its draws are no part of the arithmetic")
    return (*said, LEFT_OUT)


def _setup(work: RankJob, batch: ProofBatch, engine: Any, model: _Model, said: tuple[str, ...]) -> ProofSetup:
    plan, config = work.plan, work.plan.run.config
    tokens = batch.index.trained_tokens[samples_of(batch.step)]
    sizes = Counter(len(ids) for forwards in batch.step.slots for ids in forwards)
    return ProofSetup(
        name=config.run.name,
        engine=engine.kind,
        launcher=work.world.launcher,
        device=str(engine.device),
        zero_stage=plan.zero_stage if engine.kind == "deepspeed" else None,
        dtype=config.model.dtype,
        trains=config.trains,
        model=model.said,
        micro_batch_size=plan.batch.micro_batch_size,
        grad_accum_steps=plan.batch.grad_accum_steps,
        gpus_per_node=plan.batch.topology.gpus_per_node,
        num_nodes=plan.batch.topology.num_nodes,
        dp_degree=plan.batch.topology.dp_degree,
        folded=work.folded and plan.batch.topology.world_size > 1,
        capacity_samples=plan.batch.capacity_samples,
        samples=int(samples_of(batch.step).size),
        trained_tokens=batch.step.trained_tokens,
        fewest_tokens=int(tokens.min()),
        most_tokens=int(tokens.max()),
        empty_slots=batch.empty_slots,
        slot_sizes=tuple((sizes[size], size) for size in sorted(sizes, reverse=True)),
        rate=batch.step.lr,
        said=said,
    )
