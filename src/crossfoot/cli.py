"""The verbs. Each imports what it needs inside, so that the pure ones answer at once and never see torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from crossfoot import __version__
from crossfoot.cli_models import model_verbs
from crossfoot.cli_options import (
    branch_options,
    doctor_options,
    import_verb,
    launch_options,
    mirror_options,
    train_options,
)
from crossfoot.cli_studies import study_verb
from crossfoot.cli_values import loss, path
from crossfoot.findings.finding import Refused
from crossfoot.output import json_text, say, say_painted, tell
from crossfoot.streams import open_streams
from crossfoot.usage import Misread, Parser, is_dashed, misread, unknown_words
from crossfoot.verb_exit import exit_code_of, on_this_rank

if TYPE_CHECKING:
    from crossfoot.findings.finding import Finding
    from crossfoot.planning.checking import Examined

_Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code that README lists."""
    open_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _arguments(words)
    except Refused as error:
        refused = error
        return exit_code_of(lambda: _refuse(refused, words), answers=False)
    answers = arguments.verb in (_plan, _explain, _import) or (arguments.verb is _launch and arguments.shows)
    answers |= bool(getattr(arguments, "json", False)) or getattr(arguments, "format", None) == "json"
    return exit_code_of(lambda: arguments.verb(arguments), answers=answers)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    """The verb and its words. argparse takes overrides only up to the first option after CONFIG; those behind
    it are put back. Raises Refused for words that are no command.
    """
    parser, verbs = _parser()
    try:
        arguments, rest = parser.parse_known_args(words)
    except Misread as error:
        raise Refused(misread(error, words, verbs.choices)) from error
    overrides = getattr(arguments, "overrides", None)
    rest += [word for word in words if is_dashed(word) and word not in rest]
    if rest and (overrides is None or any(word.startswith("-") or is_dashed(word) for word in rest)):
        verb = next(word for word in words if word in verbs.choices)
        raise Refused(unknown_words(verb, rest, words, verbs.choices))
    if overrides is not None:
        from crossfoot.written.overriding import joined

        arguments.overrides = joined([*overrides, *rest])
    return arguments


def _refuse(refused: Refused, words: Sequence[str]) -> int:
    """Say it: of several ranks the first one does."""

    def refuse(world: object) -> int:
        raise refused

    return on_this_rank(words[0], refuse, "") if words[:1] in (["train"], ["prove"]) else refuse(None)


def _parser() -> tuple[Parser, _Verbs]:
    parser = Parser(
        prog="crossfoot",
        description="The batch you planned is the batch that trains, measured and signed for.",
    )
    parser.add_argument("--version", action="version", version=f"crossfoot {__version__}")
    # `deepspeed --module crossfoot VERB` puts it before the verb
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    import_verb(verbs, _import)
    _config_verbs(verbs)
    _other_verbs(verbs)
    return parser, verbs


def _config_verbs(verbs: _Verbs) -> None:
    """Verbs that take a run config first."""

    def verb(name: str, does: object, text: str, takes_launch: bool = False) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.add_argument("config", type=path, metavar="CONFIG", help="run config (YAML)")
        words, meaning = "key=value", "override: batch.micro_batch_size=4"
        if takes_launch:
            words = "key=value | LAUNCH_FILE"
            meaning += (
                "; without =: hostfile, batch script, accelerate file or launch script to hold it against"
            )
        added.add_argument("overrides", metavar=words, nargs="*", help=meaning)
        added.set_defaults(verb=does)
        return added

    plan = verb("plan", _plan, "show the batch, the steps and the rate that will train", takes_launch=True)
    plan.add_argument("--json", action="store_true", help="the numbers as JSON")
    check = verb("check", _check, "find what is wrong before anything slow starts", takes_launch=True)
    formats = ("text", "concise", "json", "github")
    check.add_argument("--format", choices=formats, default="text", help="how findings are written")
    check.add_argument("--fix", action="store_true", help="make the safe repairs, and show them as a diff")
    check.add_argument("--strict", action="store_true", help="warnings count as errors")
    index = verb("index", _index, "tokenise and count the data once")
    shown = "only print the first N samples as text, with what of them is trained"
    index.add_argument("--show", type=int, metavar="N", help=shown)
    train_options(verb("train", _train, "train exactly the plan; the same as train.py"))
    launch_options(verb("launch", _launch, "render a start on one or many machines, check it, start it"))
    proof = verb("prove", _prove, "hold the gradient of one step against plain torch, on every rank")
    proof.add_argument("--full", action="store_true", help="the model's own weights instead of a small model")
    proof.add_argument("--json", action="store_true", help="the proof as JSON")
    proof.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def _other_verbs(verbs: _Verbs) -> None:
    """Verbs that look at a run folder, at machines, or into the manual."""
    receipt = verbs.add_parser("receipt", help="hold a run against its plan, from its files alone")
    where = "folder of the run; default: this folder"
    receipt.add_argument("run_dir", type=path, metavar="RUN_DIR", nargs="?", default=".", help=where)
    receipt.add_argument("--json", action="store_true", help="the receipt as JSON")
    receipt.set_defaults(verb=_receipt)
    text = "a page of a run, of several runs side by side, or of a study: one file of HTML"
    report = verbs.add_parser("report", help=text, description=text)
    folders = "folder of a run, or of a study; several runs are shown side by side"
    report.add_argument("folders", type=path, metavar="RUN_DIR | STUDY_DIR", nargs="+", help=folders)
    page = "the page; default: page.html in the folder, of several runs report.html here"
    report.add_argument("-o", "--out", type=path, metavar="PAGE.html", help=page)
    until = "of a study: the validation loss until which steps are counted; default: that most reach"
    report.add_argument("--target-loss", type=loss, metavar="LOSS", help=until)
    report.set_defaults(verb=_report)
    model_verbs(verbs)
    text = "begin a run as the past of another one, up to a checkpoint, to go on with another batch"
    branch = verbs.add_parser("branch", help=text, description=text)
    branch_options(branch)
    branch.set_defaults(verb=_branch)
    study_verb(verbs)
    text = "show a run with TensorBoard or Weights & Biases, from its files alone"
    mirror = verbs.add_parser("mirror", help=text, description=text)
    mirror_options(mirror)
    mirror.set_defaults(verb=_mirror)
    watch = verbs.add_parser("watch", help="show a run while it runs or afterwards, from its files alone")
    watch.add_argument("run_dir", type=path, metavar="RUN_DIR", nargs="?", default=".", help=where)
    watch.add_argument("--once", action="store_true", help="show it as it is now, and leave")
    watch.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    watch.set_defaults(verb=_watch)
    doctor = verbs.add_parser("doctor", help="what the machines have, and what would fail; repairs nothing")
    doctor_options(doctor)
    doctor.set_defaults(verb=_doctor)
    explain = verbs.add_parser("explain", help="the manual page of a finding")
    explain.add_argument("code", metavar="CODE", nargs="?", help="such as CF101, or a name: train-batch-size")
    explain.add_argument("--all", action="store_true", help="the table of codes and every page, as in docs/")
    explain.set_defaults(verb=_explain)


def _plan(arguments: argparse.Namespace) -> int:
    from crossfoot.findings.formats import show
    from crossfoot.planning.lock import make_lock
    from crossfoot.planning.page import render_plan
    from crossfoot.planning.prepare import plan_written
    from crossfoot.planning.stage_table import stage_table, stages_as_json
    from crossfoot.written.overriding import told_apart

    overrides, files = told_apart(arguments.overrides)
    plan, findings = plan_written(arguments.config, overrides, files, os.environ)
    if arguments.json:
        say(json_text({**plan.numbers(), **stages_as_json(plan)}))
        return 0
    say(render_plan(plan, None if plan.index is None else make_lock(plan)["sha256"]))
    for line in stage_table(plan):
        say(line)
    if findings:
        show(findings)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from crossfoot.checks.fixing import fix_all
    from crossfoot.findings.formats import show
    from crossfoot.planning.checking import examine_run

    def examine() -> Examined:
        return examine_run(arguments.config, arguments.overrides, os.environ)

    if arguments.fix:
        _, diff = fix_all(lambda: examine().findings)
        (say if arguments.format == "text" else tell)(diff, end="")
    examined = examine()
    findings = examined.findings
    if findings or arguments.format == "json":
        show(findings, arguments.format)
    if examined.compared and arguments.format == "text":
        say(examined.compared)
    if any(finding.unreadable for finding in findings):
        return 2
    wrong = ("error", "warning") if arguments.strict else ("error",)
    return int(any(finding.counts_as in wrong for finding in findings))


def _index(arguments: argparse.Namespace) -> int:
    from crossfoot.data.train_sources import train_files
    from crossfoot.findings.formats import show
    from crossfoot.index.look import index_findings
    from crossfoot.index.summary import summary
    from crossfoot.index.tokenising_line import TokenisingLine
    from crossfoot.index.verified import verified_index
    from crossfoot.planning.plan import run_parts
    from crossfoot.planning.prepare import read_and_check

    if arguments.show is not None:
        return _show_samples(arguments)
    checked = read_and_check(arguments.config, arguments.overrides)
    checked.refuse()
    data = checked.run.config.data
    found: list[Finding] = []
    trained = train_files(data)
    for files in filter(None, (trained, data.validation_files)):
        index = verified_index(checked.run, files, progress=TokenisingLine())
        for line in summary(index):
            say(line)
        if files is trained and (held_out := run_parts(checked.run, index)[0].held_out) is not None:
            say(f"  held out for validation: {len(held_out.validation):,} {held_out.words}")
        found += index_findings(checked.run, index)
    if found:
        show(found)
    return 0


def _show_samples(arguments: argparse.Namespace) -> int:
    """Of a config that can be read: what is wrong with batch or cluster is no matter here."""
    from crossfoot.findings.formats import in_colour
    from crossfoot.index.show import shown_samples
    from crossfoot.written.run_file import load_run

    run = load_run(arguments.config, arguments.overrides)
    say_painted("\n\n".join(shown_samples(run, max(1, arguments.show), colour=in_colour())))
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from crossfoot.runs.restarts import AUTO
    from crossfoot.training.rank_job import TrainOptions
    from crossfoot.training.session import run
    from crossfoot.written.overriding import setting

    overrides, is_auto = arguments.overrides, arguments.continued == AUTO
    is_continued = arguments.continued is not None and not is_auto
    if is_continued:
        overrides = [*overrides, setting("run.dir", arguments.continued)]
    options = TrainOptions(
        arguments.stop_after, is_continued, tuple(arguments.allow), arguments.take_over, is_auto
    )
    kept = "what it had before is untouched" if arguments.continued else "nothing is kept"
    return on_this_rank(
        "train",
        lambda world: run(arguments.config, overrides, world, options),
        f"stopped before the first step: nothing was trained, {kept}",
    )


def _launch(arguments: argparse.Namespace) -> int:
    from crossfoot.launch.verb import launch, options_of

    return launch(
        arguments.config,
        arguments.overrides,
        options_of(arguments),
        shows=arguments.shows,
        stem=arguments.write,
    )


def _prove(arguments: argparse.Namespace) -> int:
    from crossfoot.probing.session import prove

    words = arguments.overrides
    return on_this_rank(
        "prove",
        lambda world: prove(arguments.config, words, world, arguments.full, arguments.json),
        "stopped: nothing is proven, nothing is kept",
    )


def _receipt(arguments: argparse.Namespace) -> int:
    from crossfoot.receipts.index_check import held_against_index
    from crossfoot.receipts.receipt import receipt_of_run
    from crossfoot.receipts.receipt_page import render_receipt
    from crossfoot.runs.nearby import refuse_no_run
    from crossfoot.runs.reader import read_run

    refuse_no_run(arguments.run_dir, "receipt")
    run = read_run(arguments.run_dir)
    receipt = held_against_index(receipt_of_run(run), run)
    say(json_text(receipt.to_json()) if arguments.json else render_receipt(receipt))
    return 0 if receipt.foots else 3


def _branch(arguments: argparse.Namespace) -> int:
    from crossfoot.branching.verb import branch

    return branch(arguments.point, arguments.config, arguments.overrides, arguments.allow)


def _report(arguments: argparse.Namespace) -> int:
    from crossfoot.findings.finding import Refused
    from crossfoot.studies.report import is_study, report
    from crossfoot.usage import bad_usage

    if arguments.target_loss is not None and not any(map(is_study, arguments.folders)):
        help_ = "name the folder of a study: crossfoot report STUDY_DIR --target-loss 2.5"
        raise Refused(bad_usage("--target-loss is of a study, and none is named", (help_,)))
    return report(arguments.folders, arguments.out, arguments.target_loss)


def _mirror(arguments: argparse.Namespace) -> int:
    from crossfoot.mirrors.verb import mirror_run

    given = arguments
    return mirror_run(given.run_dir, given.out, given.to, given.project, offline=given.offline)


def _watch(arguments: argparse.Namespace) -> int:
    from crossfoot.watching.watch import watch

    return watch(arguments.run_dir, once=arguments.once, plain=arguments.plain)


def _import(arguments: argparse.Namespace) -> int:
    from crossfoot.importing.verb import import_recipe, world_of

    world = world_of(arguments.nodes, arguments.gpus)
    return import_recipe(arguments.file, arguments.out, arguments.overrides, world, arguments.samples)


def _doctor(arguments: argparse.Namespace) -> int:
    from crossfoot.doctor.examination import examine

    words, file = arguments.overrides, arguments.hostfile
    return examine(arguments.config, words, file, os.environ, arguments.json)


def _explain(arguments: argparse.Namespace) -> int:
    from crossfoot.checks.reference import reference
    from crossfoot.checks.registry import explain

    if arguments.code is None and not arguments.all:
        tell("usage: crossfoot explain CODE, or crossfoot explain --all")
        return 2
    say(reference().rstrip("\n") if arguments.all else explain(arguments.code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
