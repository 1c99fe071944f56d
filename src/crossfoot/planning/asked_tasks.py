"""What stands against the evaluations of a run, as far as it can be known without weights and at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from crossfoot.data.tokenizer import encoder_at_hand, tokenizer_path
from crossfoot.extras import missing_of, packages_missing
from crossfoot.findings.finding import Finding, Refused
from crossfoot.tasks.items import Request
from crossfoot.tasks.prompt_length import too_long
from crossfoot.tasks.questions import ask, windows_of
from crossfoot.tasks.requests import Requests, read_requests
from crossfoot.written.config import EvaluationSection
from crossfoot.written.model_facts import read_model_facts
from crossfoot.written.run_file import RunFile

SHOTS = "evaluation.shots"
_BEGUN = 2
"""Tokens that a tokenizer may put before a text: the begin token, and a blank."""


def requests_of_run(section: EvaluationSection) -> Requests:
    """Raises Refused."""
    return read_requests(section.tasks, section.scorer, section.shots, subjects=section.subjects)


def wrong_with_evaluation(run: RunFile) -> Iterator[Finding]:
    """Tasks that cannot be read, packages that they need, prompts that do not fit. Without tasks nothing."""
    section = run.config.evaluation
    if not section.tasks:
        return
    place = run.place("evaluation", "tasks")
    try:
        requests = requests_of_run(section)
    except Refused as refused:
        yield from (replace(each, place=each.place or place) for each in refused.findings)
        return
    yield from requests.warnings
    if requests.has_answers and (missing := missing_of("eval")) and not missing_of("train"):
        yield replace(packages_missing("evaluation.tasks", missing, "eval"), place=place)
    facts = read_model_facts(run.config.model.path)
    positions = None if facts is None else facts.positions
    if positions is not None:
        yield from _too_long(run, requests.every, positions)


def _too_long(run: RunFile, requests: Sequence[Request], positions: int) -> Iterator[Finding]:
    """A token is a byte at least, as good as always; so most prompts need not be looked at in tokens."""
    doubtful = [one for one in requests if one.kind != "rolling" and _most_tokens(one) > positions]
    if not doubtful:
        return
    config = run.config
    encoder = encoder_at_hand(tokenizer_path(config), run.index_dir, config.data.special_text)
    if encoder is not None:  # else the start says it, before weights are loaded
        asked = ask(encoder, doubtful, positions, windows_of(positions, None, None))
        yield from too_long(asked, positions, shots=SHOTS)


def _most_tokens(request: Request) -> int:
    longest = max((len(one.encode("utf-8", "surrogatepass")) for one in request.continuations), default=0)
    later = request.decoding.max_new_tokens if request.decoding is not None else 0
    return len(request.context.encode("utf-8", "surrogatepass")) + longest + later + _BEGUN
