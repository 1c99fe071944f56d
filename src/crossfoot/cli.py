"""The verbs. Each imports what it needs inside, so that the pure ones answer at once and never see torch."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress

from crossfoot import __version__
from crossfoot.finding import Finding, Refused

_SILENT_RANK_SECONDS = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code of the contract (DESIGN section 4)."""
    arguments = _arguments(argv)
    try:
        code: int = arguments.verb(arguments)
        return code
    except Refused as refused:
        _show(refused.findings)
        return refused.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        from crossfoot.planning.run_folder import is_system_refusal, system_refused

        if not is_system_refusal(error):
            raise
        _show([system_refused(error)])
        return 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The verb and its words. argparse takes overrides only up to the first option after CONFIG; those behind
    it are put back.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crossfoot",
        description="The batch you planned is the batch that trains, measured and signed for.",
    )
    parser.add_argument("--version", action="version", version=f"crossfoot {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def config_verb(name: str, verb: object, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.add_argument("config", metavar="CONFIG", help="run config (YAML)")
        added.add_argument(
            "overrides", metavar="key=value", nargs="*", help="override: batch.micro_batch_size=4"
        )
        added.set_defaults(verb=verb)
        return added

    plan = config_verb("plan", _plan, "show the batch, the steps and the rate that will train")
    plan.add_argument("--json", action="store_true", help="the numbers as JSON")
    config_verb("check", _check, "find what is wrong before anything slow starts")
    config_verb("index", _index, "tokenise and count the data once")
    train = config_verb("train", _train, "train exactly the plan; the same as train.py")
    train.add_argument(
        "--stop-after", type=_count, metavar="N", help="stop after N steps; changes nothing else"
    )
    train.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    receipt = verbs.add_parser("receipt", help="hold a run against its plan, from its files alone")
    receipt.add_argument("run_dir", metavar="RUN_DIR")
    receipt.add_argument("--json", action="store_true", help="the receipt as JSON")
    receipt.set_defaults(verb=_receipt)
    explain = verbs.add_parser("explain", help="the manual page of a finding")
    explain.add_argument("code", metavar="CODE", help="such as CF101")
    explain.set_defaults(verb=_explain)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _show(findings: Sequence[Finding]) -> None:
    from crossfoot.checks.render import render

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(render(findings, colour=colour), flush=True)


def _plan(arguments: argparse.Namespace) -> int:
    from crossfoot.index.locate import find_index
    from crossfoot.planning.lock import make_lock
    from crossfoot.planning.page import render_plan
    from crossfoot.planning.prepare import plan_static, read_static

    static = read_static(arguments.config, arguments.overrides)
    static.refuse()
    plan = plan_static(static, find_index(static.run, static.run.config.data.train))
    if arguments.json:
        print(json.dumps(plan.numbers(), indent=2))
        return 0
    print(render_plan(plan, None if plan.index is None else make_lock(plan)["sha256"]))
    if static.findings:
        _show(static.findings)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from crossfoot.index.locate import find_index
    from crossfoot.planning.prepare import plan_static, read_static

    static = read_static(arguments.config, arguments.overrides)
    static.refuse()
    plan_static(static, find_index(static.run, static.run.config.data.train))
    if static.findings:
        _show(static.findings)
    else:
        print(f"{arguments.config}: nothing found")
    return 0


def _index(arguments: argparse.Namespace) -> int:
    from crossfoot.index.build import ensure_index
    from crossfoot.index.tokenising_line import TokenisingLine
    from crossfoot.planning.prepare import read_static

    static = read_static(arguments.config, arguments.overrides)
    static.refuse()
    data = static.run.config.data
    for files in filter(None, (data.train, data.validation)):
        index = ensure_index(static.run, files, is_builder=True, progress=TokenisingLine())
        header = index.header
        print(f"{index.folder}: {header.num_samples:,} samples, {header.real_tokens:,} tokens, ", end="")
        print(f"{header.trained_tokens:,} of them trained; {len(index.rejects):,} left out, ", end="")
        print(f"{header.truncated_samples:,} cut short (losing {header.lost_tokens:,} trained tokens)")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from crossfoot.starting.world import read_world
    from crossfoot.training.session import run

    world = read_world(os.environ)
    try:
        return run(arguments.config, arguments.overrides, world, arguments.stop_after)
    except Refused:
        if world.local_rank != 0:
            # The first rank of every node speaks for the others, and a launcher ends them with it. One that
            # is still here was refused alone.
            time.sleep(_SILENT_RANK_SECONDS)
            print(f"rank {world.rank} of {world.world_size} says:", flush=True)
        raise
    except KeyboardInterrupt:
        if world.local_rank == 0:
            print("stopped before the first step: nothing was trained, nothing is kept", file=sys.stderr)
        return 130
    except Exception as error:
        if world.world_size == 1 or isinstance(error, OSError):
            raise
        traceback.print_exc()
        print(f"rank {world.rank} of {world.world_size} ends on this error", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # an interpreter that winds down waits for threads of process groups; the others wait too


def _receipt(arguments: argparse.Namespace) -> int:
    from crossfoot.ledger.receipt import receipt_of, render_receipt

    receipt = receipt_of(arguments.run_dir)
    print(json.dumps(receipt.to_json(), indent=2) if arguments.json else render_receipt(receipt))
    return 0 if receipt.foots else 3


def _explain(arguments: argparse.Namespace) -> int:
    from crossfoot.checks.registry import explain

    print(explain(arguments.code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
