"""The options of the verbs of runs that have many."""

from __future__ import annotations

import argparse
from typing import Any

from crossfoot.cli_values import count, path, whole


def import_verb(verbs: Any, does: object) -> None:
    """The verb by which a run config comes to be."""
    text = "make a run config of another trainer's script or config, and say what that would have trained"
    imports = verbs.add_parser("import", help=text, description=text)
    add = imports.add_argument
    add("file", type=path, metavar="FILE", help="a script, or YAML or JSON")
    add("overrides", metavar="key=value", nargs="*", help="what it does not say: model.path=MODEL")
    add("--out", type=path, metavar="FILE", help="the run config, a new file; default: stdout")
    add("--gpus", type=count, metavar="N", help="GPUs of a node, where the file leaves them open")
    add("--nodes", type=count, metavar="N", help="nodes")
    add("--samples", type=count, metavar="N", help="of an epoch, where they cannot be counted")
    imports.set_defaults(verb=does)


def train_options(train: argparse.ArgumentParser) -> None:
    """Options of `crossfoot train`."""
    add = train.add_argument
    add("--stop-after", type=count, metavar="N", help="stop after N steps of the plan; changes nothing else")
    add(
        "--continue",
        dest="continued",
        type=path,
        metavar="RUN_DIR",
        help="go on with the run in this folder, from its last good checkpoint; auto: go on where run.dir "
        "holds a run, begin where it holds none",
    )
    add(
        "--take-over",
        action="store_true",
        help="go on although its last attempt seems to live; that one ends",
    )
    add(
        "--allow",
        action="append",
        default=[],
        metavar="KEY",
        help="this key may be changed since then, and the receipt says so; once for each key",
    )
    add("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def branch_options(branch: argparse.ArgumentParser) -> None:
    """The words of `crossfoot branch`."""
    add = branch.add_argument
    add("point", type=path, metavar="RUN_DIR@STEP", help="the run, and the steps of one of its checkpoints")
    add("config", type=path, metavar="CONFIG", help="run config (YAML), its run.dir a new folder")
    add("overrides", metavar="key=value", nargs="*", help="batch.global_batch_size=[[0, 32], [9600, 64]]")
    kept = "this key may be another than the run had, and the receipt says so; once for each key"
    add("--allow", action="append", default=[], metavar="KEY", help=kept)


def launch_options(launch: argparse.ArgumentParser) -> None:
    """Options of `crossfoot launch`. Those that only one target has are refused for the others."""
    add = launch.add_argument
    targets = ("local", "deepspeed", "slurm", "accelerate", "torchrun")
    add("--to", required=True, choices=targets, dest="target", help="what starts the ranks")
    add("--print", action="store_true", dest="shows", help="print what would be started, and no more")
    kept = "write it there to be kept, as PATH.sh or PATH.sbatch, and no more"
    add("--write", type=path, metavar="PATH", help=kept)
    go_on = "go on with the run in this folder; or auto"
    add("--continue", dest="continued", type=path, metavar="RUN_DIR", help=go_on)
    add("--take-over", action="store_true", help="go on although its last attempt seems to live")
    add("--allow", action="append", default=[], metavar="KEY", help="this key may be changed since then")
    add(
        "--dry-run",
        action="store_true",
        help="train the plan's first steps here, in one process (accelerate)",
    )
    add("--steps", type=count, metavar="N", help="so many, instead of 3")
    add("--hostfile", type=path, metavar="FILE", help="a line `HOST slots=GPUS` for each node, in order")
    add("--no-ssh", action="store_true", help="deepspeed: start this node only; run it on each")
    add("--node-rank", type=whole, metavar="N", help="which node this is, from 0 (else: by the hostfile)")
    add("--address", metavar="HOST", help="where the nodes meet (else: the hostfile's first host)")
    add("--port", type=count, metavar="N", help="at which port, instead of 29500")
    add("--partition", metavar="P", help="SLURM's, as all that follow")
    add("--account", metavar="A", help="who pays")
    add("--time", metavar="T", help="limit of one attempt, HH:MM:SS")
    add(
        "--cpus-per-task",
        type=count,
        metavar="N",
        help="cores for each rank (for each node with --tasks node)",
    )
    add("--signal-seconds", type=count, metavar="N", help="warn the ranks so long before the limit; 120")
    add("--tasks", choices=("rank", "node"), help="srun starts the ranks, or one torchrun on each node")
    add("--detach", action="store_true", help="submit, and do not follow the log")


def mirror_options(mirror: argparse.ArgumentParser) -> None:
    """The words of `crossfoot mirror`."""
    where = "folder of the run; default: this folder"
    mirror.add_argument("run_dir", type=path, metavar="RUN_DIR", nargs="?", default=".", help=where)
    files = "folder for TensorBoard's files; default: RUN_DIR/tensorboard/counted"
    mirror.add_argument("out", type=path, metavar="OUT", nargs="?", help=files)
    mirror.add_argument("--to", choices=("tensorboard", "wandb"), default="tensorboard")
    mirror.add_argument("--project", default="crossfoot", help="at Weights & Biases")
    mirror.add_argument("--offline", action="store_true", help="Weights & Biases: into the run folder only")


def doctor_options(doctor: argparse.ArgumentParser) -> None:
    """The words of `crossfoot doctor`."""
    doctor.add_argument(
        "config", type=path, metavar="CONFIG", nargs="?", help="run config to hold the machines against"
    )
    doctor.add_argument("overrides", metavar="key=value", nargs="*", help="override: cluster.num_nodes=2")
    doctor.add_argument("--hostfile", type=path, metavar="FILE", help="look at each of its hosts, over ssh")
    doctor.add_argument("--json", action="store_true", help="all facts and findings as JSON")
