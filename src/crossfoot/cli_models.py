"""The verbs of a model, an adapter or a run: to save it, to ask it, to evaluate it, to serve it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, TypeAlias

from crossfoot.cli_values import budget, count, counts, path, seconds, whole
from crossfoot.findings.finding import Refused
from crossfoot.usage import bad_usage
from crossfoot.verb_exit import on_this_rank, ready_for_weights
from crossfoot.written.dtypes import DTYPES

if TYPE_CHECKING:
    Verbs: TypeAlias = argparse._SubParsersAction[Any]


def model_verbs(verbs: Verbs) -> None:
    """Add them. verbs: of the parser."""
    _saving_verbs(verbs)
    _speaking_verbs(verbs)
    _evaluating_verb(verbs)
    _serving_verbs(verbs)


def _saving_verbs(verbs: Verbs) -> None:
    """`crossfoot export` and `crossfoot merge`. verbs: of the parser. export, merge: what does them."""
    text = "make an adapter (of a run without lora: a model) of any checkpoint of a run"
    one = verbs.add_parser("export", help=text, description=text)
    one.add_argument("run_dir", type=path, metavar="RUN_DIR")
    one.add_argument("out", type=path, metavar="OUT", help="a folder that is not there yet")
    one.add_argument("--step", type=count, metavar="N", help="after N steps, instead of the newest")
    one.add_argument("--base", type=path, metavar="FOLDER", help="where the base model is now")
    one.set_defaults(verb=_export)
    text = "put adapters into their base: a model folder for transformers, vLLM and llama.cpp, proven equal"
    other = verbs.add_parser("merge", help=text, description=text)
    other.add_argument("source", type=path, metavar="RUN_DIR | ADAPTER", help="a run, or a PEFT folder")
    other.add_argument("out", type=path, metavar="OUT", help="a folder that is not there yet")
    other.add_argument("--step", type=count, metavar="N", help="after N steps, instead of the newest")
    other.add_argument("--dtype", choices=DTYPES, help="of the weights; default: as in training")
    other.add_argument("--base", type=path, metavar="FOLDER", help="where the base model is now")
    other.set_defaults(verb=_merge)


def _speaking_verbs(verbs: Verbs) -> None:
    """`crossfoot generate`, `chat` and `tune`."""
    text = "what a model, an adapter or a run answers: to a text, or to each record of a file"
    one = verbs.add_parser("generate", help=text, description=text)
    _generation_options(one)
    asked = "a text; or a .txt, .jsonl, .json, .csv, .tsv or .parquet file"
    one.add_argument("--prompts", required=True, metavar="TEXT | FILE", help=asked)
    one.add_argument("--out", type=path, metavar="FILE", help="JSON lines, a new file; else: stdout")
    size = "prompts that are answered at a time; 16"
    one.add_argument("--batch-size", type=int, default=argparse.SUPPRESS, metavar="N", help=size)
    one.set_defaults(verb=_generate)
    text = "talk with a model, an adapter or a run"
    other = verbs.add_parser("chat", help=text, description=text)
    _generation_options(other)
    other.set_defaults(verb=_chat)
    text = "find the generation parameters with which a model, an adapter or a run answers best"
    third = verbs.add_parser("tune", help=text, description=text)
    _tune_options(third)
    third.set_defaults(verb=_tune)


def _generation_options(verb: argparse.ArgumentParser) -> None:
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
    add("--dtype", "what is computed in; default: as trained, or as the model is saved", choices=DTYPES)
    kept = "keep the base in 4 or 8 bits, by bitsandbytes"
    add("--quantization", kept, choices=("none", "nf4", "int8"))
    add("--device-map", "cpu, cuda:0, auto ...; default: the first GPU, else the CPU", metavar="D")


def _tune_options(tune: argparse.ArgumentParser) -> None:
    """The words of `crossfoot tune`."""
    what = "model, prompts, goal and parameters, in YAML: docs/tune.md"
    tune.add_argument("file", type=path, metavar="GENERATION.yaml", help=what)
    where = (
        "a model's folder that gets the best parameters as its generation_config.json; the old one is kept"
    )
    tune.add_argument("--into", type=path, metavar="FOLDER", help=where)


def _evaluating_verb(verbs: Verbs) -> None:
    """`crossfoot evaluate`."""
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
    add("--seed", type=whole, default=0, metavar="N", help="of what is drawn for sampled texts; 0")
    add("--step", type=count, metavar="N", help="of a run: its checkpoint after N steps")
    add("--base", type=path, metavar="FOLDER", help="of an adapter: where its base model is now")
    add("--dtype", choices=DTYPES, help="what is computed in; default: as trained, or as the model is saved")
    kept = "keep the base in 4 or 8 bits, by bitsandbytes"
    add("--quantization", choices=("none", "nf4", "int8"), default="none", help=kept)
    where = "cpu, cuda:0, auto ...; default: the first GPU, else the CPU; of several ranks each has its own"
    add("--device-map", metavar="D", help=where)
    two = "instead: which items two evaluations answer otherwise, and whether that is more than chance"
    add("--compare", nargs=2, type=path, metavar=("A", "B"), help=two)
    written = "instead: write the tasks for lm-evaluation-harness, as YAML, a folder for each"
    add("--export", type=path, metavar="FOLDER", help=written)
    add("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    one.set_defaults(verb=_evaluate)


def _serving_verbs(verbs: Verbs) -> None:
    """`serve` and `loadtest`."""
    text = "serve a run, an adapter or a model at an address that speaks as OpenAI's does"
    added = verbs.add_parser("serve", help=text, description=text)
    _serve_options(added)
    added.set_defaults(verb=_serve)
    text = "ask a server as many users would, and say what it bears"
    added = verbs.add_parser("loadtest", help=text, description=text)
    _loadtest_options(added)
    added.set_defaults(verb=_loadtest)


def _serve_options(serve: argparse.ArgumentParser) -> None:
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
    add("--dtype", choices=DTYPES, help="that the server computes in; default: the model's own")
    beside = "vllm: load an adapter beside its base, where vLLM can"
    add("--unmerged", action="store_true", help=beside)


def _loadtest_options(test: argparse.ArgumentParser) -> None:
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


def _export(arguments: argparse.Namespace) -> int:
    ready_for_weights("export")
    from crossfoot.models.export import export

    return export(arguments.run_dir, arguments.out, arguments.step, arguments.base)


def _merge(arguments: argparse.Namespace) -> int:
    ready_for_weights("merge")
    from crossfoot.merging.merge import merge

    return merge(arguments.source, arguments.out, arguments.step, arguments.dtype, arguments.base)


def _generate(arguments: argparse.Namespace) -> int:
    ready_for_weights("generate")
    from crossfoot.generating.generate import generate

    return generate(arguments.model, arguments.prompts, vars(arguments), arguments.out)


def _chat(arguments: argparse.Namespace) -> int:
    ready_for_weights("chat")
    from crossfoot.generating.chat import chat

    return chat(arguments.model, vars(arguments))


def _tune(arguments: argparse.Namespace) -> int:
    from crossfoot.tuning.tuning_file import read_tuning

    file = read_tuning(arguments.file)
    ready_for_weights("tune")
    from crossfoot.tuning.tune import tune

    return tune(file, arguments.into)


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.compare is not None:
        from crossfoot.scores.compare import compare

        return compare(*arguments.compare)
    _require_evaluated(arguments)
    if arguments.export is not None:
        from crossfoot.tasks.harness_yaml import export_verb

        return export_verb(arguments)
    ready_for_weights("evaluate")
    from crossfoot.evaluation.evaluate import evaluate
    from crossfoot.evaluation.preparing import options_of

    options = options_of(arguments)
    return on_this_rank(
        "evaluate",
        lambda world: evaluate(arguments.model, options, world),
        "stopped: what was scored is kept, and the same command goes on with it",
    )


def _require_evaluated(given: argparse.Namespace) -> None:
    """Raises Refused (CF029) where not all words of an evaluation are given."""
    has_model = given.model is not None or given.export is not None
    missing = "MODEL" if not has_model else "" if given.tasks else "--tasks"
    if missing:
        help_ = "crossfoot evaluate MODEL --tasks exam, or crossfoot evaluate --compare A B"
        raise Refused(bad_usage(f"crossfoot evaluate needs {missing}", [help_]))


def _serve(arguments: argparse.Namespace) -> int:
    from crossfoot.serving.verbs import serve_verb

    return serve_verb(arguments)


def _loadtest(arguments: argparse.Namespace) -> int:
    from crossfoot.serving.verbs import loadtest_verb

    return loadtest_verb(arguments)
