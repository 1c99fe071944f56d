"""The verb of several runs at once: to study what a batch does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeAlias

from crossfoot.cli_values import count, loss, path

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[Any]


def study_verb(verbs: Verbs) -> None:
    """`crossfoot study`. verbs: of the parser."""
    text = "train the same samples in the same order with other batches, and say what that does"
    study = verbs.add_parser("study", help=text, description=text)
    study.add_argument("config", type=path, metavar="CONFIG", help="run config (YAML)")
    meaning = "override: lr.schedule=constant"
    study.add_argument("overrides", metavar="key=value", nargs="*", help=meaning)
    add = study.add_argument
    add("--batches", required=True, metavar="B,B,...", help="samples per optimizer step: 16,32,64,128")
    rates = "factors of the rate that the config's rule gives for each batch: x0.5,x1,x2; default: x1"
    add("--rates", default="x1", metavar="xF,...", help=rates)
    add("--seeds", type=count, default=1, metavar="N", help="so many of each, from run.seed on; 1")
    budget = "each run trains so many; default: an epoch's"
    add("--budget-samples", type=count, metavar="N", help=budget)
    add("--validations", type=count, default=12, metavar="N", help="about so many over a run; 12")
    add("--branch", metavar="RUN_DIR@STEP", help="all begin with this checkpoint, not with the model")
    targets = ("local", "accelerate", "slurm")
    started = "local: with the config's ranks; accelerate: in one process; slurm: a job array; local"
    add("--to", choices=targets, default="local", dest="target", help=started)
    add(
        "--at-once", type=count, metavar="N", help="runs at a time; default: as many as the GPUs hold, else 1"
    )
    add("--plan", action="store_true", dest="plans_only", help="show the runs and their cost, and no more")
    add("--out", type=path, metavar="DIR", help="folder of the study; default: the run's with -study behind")
    until = "count steps until this validation loss, nats a token; default: one that most batches reach"
    add("--target-loss", type=loss, metavar="LOSS", help=until)
    add("--partition", metavar="P", help="SLURM's, as all that follow")
    add("--account", metavar="A", help="who pays")
    add("--time", metavar="T", help="limit of one attempt at a run, HH:MM:SS")
    add("--cpus-per-task", type=count, metavar="N", help="cores for each rank")
    add("--detach", action="store_true", help="submit, and leave; the same command collects")
    study.set_defaults(verb=_study)


def _study(arguments: argparse.Namespace) -> int:
    from dataclasses import fields

    from crossfoot.studies.asking import StudyOptions
    from crossfoot.studies.verb import study

    given = {one.name: getattr(arguments, one.name) for one in fields(StudyOptions)}
    return study(arguments.config, arguments.overrides, StudyOptions(**given))
