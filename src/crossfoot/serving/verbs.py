"""The verbs `serve` and `loadtest`, from the words of a command line."""

from __future__ import annotations

from argparse import Namespace

from crossfoot.extras import refuse_missing
from crossfoot.findings.finding import Refused
from crossfoot.serving.findings import incomplete_command
from crossfoot.serving.loadtest import LoadOptions, compare, loadtest
from crossfoot.serving.serve import ServeOptions, serve


def serve_verb(given: Namespace) -> int:
    """Returns the exit code. Raises Refused."""
    if given.kind == "transformers":
        if given.unmerged:
            raise Refused(incomplete_command("--unmerged is for --with vllm", "add --with vllm"))
        refuse_missing("serve", "train")
        refuse_missing("serve")
    is_merged = not given.unmerged
    options = ServeOptions(given.kind, given.host, given.port, given.step, given.dtype, is_merged)
    return serve(given.model, options)


def loadtest_verb(given: Namespace) -> int:
    """Returns the exit code. Raises Refused."""
    if given.compare is not None:
        return compare(given.compare, given.out)
    if given.url is None:
        example = "name the server: crossfoot loadtest http://127.0.0.1:8000"
        raise Refused(incomplete_command("loadtest needs URL, or --compare", example))
    refuse_missing("loadtest")
    options = LoadOptions(
        given.users,
        given.ramp_up,
        given.loops,
        given.max_tokens,
        given.timeout,
        given.model,
        given.prompts,
        given.out,
        given.name,
        is_completion=given.completions,
        is_meant=given.yes,
    )
    return loadtest(given.url, options)
