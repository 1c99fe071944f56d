"""The options of the verbs that have many."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from crossfoot.findings.finding import Refused
from crossfoot.usage import bad_usage
from crossfoot.written.paths import at_home, fault_of


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


def saving_verbs(verbs: Any, export: object, merge: object) -> None:
    """`crossfoot export` and `crossfoot merge`. verbs: of the parser. export, merge: what does them."""
    text = "make an adapter (of a run without lora: a model) of any checkpoint of a run"
    one = verbs.add_parser("export", help=text, description=text)
    one.add_argument("run_dir", type=path, metavar="RUN_DIR")
    one.add_argument("out", type=path, metavar="OUT", help="a folder that is not there yet")
    one.add_argument("--step", type=count, metavar="N", help="after N steps, instead of the newest")
    one.add_argument("--base", type=path, metavar="FOLDER", help="where the base model is now")
    one.set_defaults(verb=export)
    text = "put adapters into their base: a model folder for transformers, vLLM and llama.cpp, proven equal"
    other = verbs.add_parser("merge", help=text, description=text)
    other.add_argument("source", type=path, metavar="RUN_DIR | ADAPTER", help="a run, or a PEFT folder")
    other.add_argument("out", type=path, metavar="OUT", help="a folder that is not there yet")
    other.add_argument("--step", type=count, metavar="N", help="after N steps, instead of the newest")
    kinds = ("float32", "bfloat16", "float16")
    other.add_argument("--dtype", choices=kinds, help="of the weights; default: as in training")
    other.add_argument("--base", type=path, metavar="FOLDER", help="where the base model is now")
    other.set_defaults(verb=merge)


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


def generation_options(verb: argparse.ArgumentParser) -> None:
    """Options of `crossfoot generate` and `crossfoot chat`, those of generation as transformers names them.
    One that is not given is not there.
    """
    left_out = argparse.SUPPRESS

    def add(name: str, text: str, **more: Any) -> None:
        verb.add_argument(name, default=left_out, help=text, **more)

    verb.add_argument("model", type=path, metavar="MODEL | RUN_DIR | ADAPTER", help="what is asked")
    add("--step", "of a run: its checkpoint after N steps", type=count, metavar="N")
    add("--base", "of an adapter: where its base model is now", type=path, metavar="FOLDER")
    add("--template", "alpaca2, llama2, tokenizer or a Jinja file; default: as in training", metavar="T")
    add("--system-prompt", "the system turn; default: the template's", metavar="TEXT")
    add("--max-new-tokens", "tokens of the longest answer; 256", type=int, metavar="N")
    sampled = "draw tokens; default: take the likeliest, unless generation_config.json says otherwise"
    add("--do-sample", sampled, action=argparse.BooleanOptionalAction)
    add("--temperature", "above 0: how freely is drawn; 1.0", type=float, metavar="X")
    add("--top-p", "draw from the likeliest tokens of so much probability; 1.0", type=float, metavar="X")
    add("--top-k", "draw from so many; 50, 0 is all", type=int, metavar="N")
    add("--repetition-penalty", "above 1: what was said is less likely", type=float, metavar="X")
    add("--num-beams", "answers that are followed at a time; 1", type=int, metavar="N")
    add("--seed", "of what is drawn; 0", type=int, metavar="N")
    kinds = ("float32", "bfloat16", "float16")
    add("--dtype", "what is computed in; default: as trained, or as the model is saved", choices=kinds)
    kept = "keep the base in 4 or 8 bits, by bitsandbytes"
    add("--quantization", kept, choices=("none", "nf4", "int8"))
    add("--device-map", "cpu, cuda:0, auto ...; default: the first GPU, else the CPU", metavar="D")


def speaking_verbs(verbs: Any, generate: object, chat: object) -> None:
    """`crossfoot generate` and `crossfoot chat`. verbs: of the parser. generate, chat: what does them."""
    text = "what a model, an adapter or a run answers: to a text, or to each record of a file"
    one = verbs.add_parser("generate", help=text, description=text)
    generation_options(one)
    asked = "a text; or a .txt, .jsonl, .json, .csv, .tsv or .parquet file"
    one.add_argument("--prompts", required=True, metavar="TEXT | FILE", help=asked)
    one.add_argument("--out", type=path, metavar="FILE", help="JSON lines, a new file; else: stdout")
    size = "prompts that are answered at a time; 16"
    one.add_argument("--batch-size", type=int, default=argparse.SUPPRESS, metavar="N", help=size)
    one.set_defaults(verb=generate)
    text = "talk with a model, an adapter or a run"
    other = verbs.add_parser("chat", help=text, description=text)
    generation_options(other)
    other.set_defaults(verb=chat)


def evaluating_verb(verbs: Any, evaluate: object) -> None:
    """`crossfoot evaluate`. verbs: of the parser. evaluate: what does it."""
    text = "score a model, an adapter or a run on tasks; the scores depend on no batch size"
    one = verbs.add_parser("evaluate", help=text, description=text)
    add = one.add_argument
    add("model", type=path, metavar="MODEL | RUN_DIR | ADAPTER", nargs="?", help="what is evaluated")
    named = "exam (the set that comes along), ceval=FOLDER, cmmlu=FOLDER, FILE.jsonl, NAME=FILE"
    add("--tasks", nargs="+", metavar="TASK", help=named)
    add("--split", metavar="NAME", help="of an exam; default: the one whose answers are known")
    add("--subjects", nargs="+", default=(), metavar="NAME", help="of an exam; default: all")
    add("--shots", type=whole, metavar="N", help="worked examples before each question; 5")
    scorers = ("clean", "clean-choices", "alpaca2", "alpaca2-chat", "alpaca2-text", "alpaca2-chat-text")
    how = "clean: log-likelihood of the letters; clean-choices: of the choices; alpaca2: as that project does"
    add("--scorer", choices=scorers, default="clean", help=how)
    tokens = "tokens that a forward may hold; auto follows the memory, and no score depends on it"
    add("--budget", type=budget, metavar="auto | TOKENS", help=tokens)
    seen = "of a text whose perplexity is measured: tokens that the model sees; 1024, or its positions"
    add("--window", type=count, metavar="N", help=seen)
    add("--stride", type=count, metavar="N", help="of a window: tokens that are predicted; half of it")
    longer = "prompts beyond the model's positions: drop-shots (default), or refuse"
    add("--too-long", choices=("drop-shots", "refuse"), default="drop-shots", help=longer)
    add("--out", type=path, metavar="FOLDER", help="of the results; default: evaluations/ beside the run")
    add("--step", type=count, metavar="N", help="of a run: its checkpoint after N steps")
    add("--base", type=path, metavar="FOLDER", help="of an adapter: where its base model is now")
    kinds = ("float32", "bfloat16", "float16")
    add("--dtype", choices=kinds, help="what is computed in; default: as trained, or as the model is saved")
    kept = "keep the base in 4 or 8 bits, by bitsandbytes"
    add("--quantization", choices=("none", "nf4", "int8"), default="none", help=kept)
    where = "cpu, cuda:0, auto ...; default: the first GPU, else the CPU; of several ranks each has its own"
    add("--device-map", metavar="D", help=where)
    two = "instead: which items two evaluations answer otherwise, and whether that is more than chance"
    add("--compare", nargs=2, type=path, metavar=("A", "B"), help=two)
    add("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    one.set_defaults(verb=evaluate)


def require_evaluated(given: argparse.Namespace) -> None:
    """Raises Refused (CF029) where not all words of an evaluation are given."""
    missing = "MODEL" if given.model is None else "" if given.tasks else "--tasks"
    if missing:
        help_ = "crossfoot evaluate MODEL --tasks exam, or crossfoot evaluate --compare A B"
        raise Refused(bad_usage(f"crossfoot evaluate needs {missing}", [help_]))


def serving_verbs(
    verbs: argparse._SubParsersAction[Any],
    serve: Callable[[argparse.Namespace], int],
    loadtest: Callable[[argparse.Namespace], int],
) -> None:
    """`serve` and `loadtest`. serve, loadtest: what does them."""
    text = "serve a run, an adapter or a model at an address that speaks as OpenAI's does"
    added = verbs.add_parser("serve", help=text, description=text)
    serve_options(added)
    added.set_defaults(verb=serve)
    text = "ask a server as many users would, and say what it bears"
    added = verbs.add_parser("loadtest", help=text, description=text)
    loadtest_options(added)
    added.set_defaults(verb=loadtest)


def serve_options(serve: argparse.ArgumentParser) -> None:
    """Words and options of `crossfoot serve`."""
    add = serve.add_argument
    add("model", type=path, metavar="RUN_DIR | MODEL", help="a run, a PEFT folder, or the folder of a model")
    kinds = ("transformers", "vllm")
    what = "transformers: start it; vllm: show the command that does"
    add("--with", choices=kinds, default="transformers", dest="kind", help=what)
    add("--port", type=count, metavar="N", default=8000, help="to listen on; 8000")
    where = "address to listen on; 127.0.0.1, which only this machine reaches"
    add("--host", metavar="HOST", default="127.0.0.1", help=where)
    add("--step", type=count, metavar="N", help="of a run: after N steps, instead of the newest")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, help="that the server computes in; default: the model's own")
    beside = "vllm: load an adapter beside its base, where vLLM can"
    add("--unmerged", action="store_true", help=beside)


def loadtest_options(test: argparse.ArgumentParser) -> None:
    """Words and options of `crossfoot loadtest`."""
    add = test.add_argument
    add("url", metavar="URL", nargs="?", help="of a server: http://127.0.0.1:8000")
    add("--users", type=counts, metavar="N[,N...]", default=(10,), help="at once; each number is a stage; 10")
    add("--ramp-up", type=seconds, metavar="S", default=1.0, help="seconds until all have begun; 1")
    add("--loops", type=count, metavar="N", default=10, help="requests of each user, one after another; 10")
    add("--max-tokens", type=count, metavar="N", default=64, help="of an answer; 64")
    add("--timeout", type=seconds, metavar="S", default=120.0, help="silence that is a failure; 120")
    add("--model", metavar="NAME", help="default: the one that the server has")
    add(
        "--prompts",
        type=path,
        metavar="FILE",
        help="as training reads them; default: five of our own",
    )
    add("--completions", action="store_true", help="texts to go on with, for a model without a chat template")
    add("--name", metavar="NAME", help="of this test, on the page; default: the model")
    add("--out", type=path, metavar="PATH", help="write PATH.json and PATH.html; default: loadtest")
    add("--yes", action="store_true", help="the server is on another machine, and may be loaded")
    add("--compare", type=path, metavar="JSON", nargs="+", help="show earlier tests side by side")


def counts(text: str) -> tuple[int, ...]:
    """`10`, or `1,5,10`: each at least 1."""
    return tuple(map(count, text.split(",")))


def seconds(text: str) -> float:
    """A span, at least 0."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("at least 0")
    return number


def path(text: str) -> str:
    """A path that no shell has read: of ~ in quotes it is the home."""
    if (fault := fault_of(text)) is not None:
        raise argparse.ArgumentTypeError(f"must be {fault.wanted}, and is {text}; {fault.helps[0]}")
    return at_home(text)


def whole(text: str) -> int:
    """A number, at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("at least 0")
    return number


def budget(text: str) -> int | None:
    """`auto`, or a number of tokens."""
    return None if text == "auto" else count(text)


def count(text: str) -> int:
    """A number, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
