"""The rules: one rule is one function, one code and one docstring, and the docstring is its page of the
manual.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from crossfoot.checks.deepspeed.handed_over import handed_over, todays_form
from crossfoot.findings.codes import FIRST_VERSION, all_codes, find_code
from crossfoot.findings.finding import Finding, Refused, Severity
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.written.section import Unsure

if TYPE_CHECKING:
    from crossfoot.arithmetic.batch import BatchPlan
    from crossfoot.arithmetic.rate import RatePlan
    from crossfoot.arithmetic.schedule import Schedule
    from crossfoot.data.look import DataLook
    from crossfoot.data.tokenizer_files import TokenizerFiles
    from crossfoot.index.planned_sources import PlannedSource
    from crossfoot.written.adapter_folder import AdapterFolder
    from crossfoot.written.deepspeed_file import DeepSpeedFile
    from crossfoot.written.launch.statement import LaunchFile
    from crossfoot.written.model_ends import ModelEnds
    from crossfoot.written.model_facts import ModelFacts
    from crossfoot.written.run_file import RunFile

RULE_DOCS_ARE_IN = (
    "crossfoot.written.findings",
    "crossfoot.written.slip_findings",
    "crossfoot.written.key_findings",
    "crossfoot.written.deepspeed_file",
    "crossfoot.written.adapter_folder",
    "crossfoot.branching.findings",
    "crossfoot.checkpoints.findings",
    "crossfoot.checks.impossible",
    "crossfoot.checks.rules",
    "crossfoot.doctor.findings",
    "crossfoot.extras",
    "crossfoot.liveness.findings",
    "crossfoot.data.conversation_findings",
    "crossfoot.data.damage_findings",
    "crossfoot.data.file_findings",
    "crossfoot.data.findings",
    "crossfoot.data.prompt_findings",
    "crossfoot.data.set_findings",
    "crossfoot.data.source_findings",
    "crossfoot.evaluation.findings",
    "crossfoot.evaluation.harness_findings",
    "crossfoot.generating.findings",
    "crossfoot.importing.findings",
    "crossfoot.index.findings",
    "crossfoot.launch.findings",
    "crossfoot.merging.findings",
    "crossfoot.mirrors.findings",
    "crossfoot.model_source.findings",
    "crossfoot.run_pages.findings",
    "crossfoot.scores.findings",
    "crossfoot.serving.findings",
    "crossfoot.serving.load_findings",
    "crossfoot.studies.answer_findings",
    "crossfoot.studies.findings",
    "crossfoot.tasks.findings",
    "crossfoot.tasks.item_findings",
    "crossfoot.tasks.prompt_length",
    "crossfoot.tuning.findings",
    "crossfoot.usage",
    "crossfoot.verb_exit",
    "crossfoot.ledger.cause_findings",
    "crossfoot.ledger.findings",
    "crossfoot.models.findings",
    "crossfoot.runs.restarts",
    "crossfoot.runs.resume",
    "crossfoot.runs.findings",
    "crossfoot.runs.nearby",
    "crossfoot.runs.run_folder",
    "crossfoot.probing.findings",
    "crossfoot.environment.findings",
    "crossfoot.training.findings",
    "crossfoot.rendezvous.findings",
    "crossfoot.written.batch_findings",
    "crossfoot.written.model_facts",
    "crossfoot.written.git_lfs",
    "crossfoot.written.weight_findings",
)
"""Modules whose import fills the table of codes, with every page of the manual."""


@dataclass(frozen=True)
class Facts:
    """All that a static rule may look at.

    run: the config; a key of it that is wrong cannot be asked for: the rule that asks is passed over.
    deepspeed: the file it names, None without one or when it cannot be read. batch, schedule, rate: None when
    the arithmetic refused them (that is a finding of its own). launch: what the run will be started with.
    model: None when there is no config.json to read. data: a look at some of the samples, None without one.
    tokenizer: None while it is not on this machine, or when it cannot be read. ends: of the model's files.
    adapter: that the run starts from. sources: the entries of data.train, once their samples are counted.
    """

    run: RunFile
    deepspeed: DeepSpeedFile | None = None
    batch: BatchPlan | None = None
    schedule: Schedule | None = None
    rate: RatePlan | None = None
    launch: tuple[LaunchFile, ...] = ()
    model: ModelFacts | None = None
    data: DataLook | None = None
    tokenizer: TokenizerFiles | None = None
    ends: ModelEnds | None = None
    adapter: AdapterFolder | None = None
    sources: tuple[PlannedSource, ...] = ()

    @property
    def vocabulary(self) -> int | None:
        """Rows that the tokens of the data need; None while the tokenizer is not here."""
        if self.data is not None and self.data.vocabulary is not None:
            return self.data.vocabulary
        return self.tokenizer.rows if self.tokenizer is not None else None

    @property
    def table_rows(self) -> int | None:
        """Rows of the model's table before it is grown to the tokenizer: its own, or those of the adapter
        that the run starts from.
        """
        return max(self.model.vocab_size, self.adapter.rows if self.adapter else 0) if self.model else None

    @cached_property
    def understood(self) -> DeepSpeedFile | None:
        """The DeepSpeed file in the words of today: what it says, however it is spelt."""
        file = self.deepspeed
        return None if file is None else replace(file, values=todays_form(file.values))

    @cached_property
    def handed_over(self) -> DeepSpeedFile | None:
        """The DeepSpeed file as far as it reaches DeepSpeed: what it does to this run."""
        file = self.deepspeed
        return None if file is None else replace(file, values=handed_over(file.values, self.run.config))


Check = Callable[[Facts], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """A check with its code."""

    code: str
    check: Check


RULES: dict[str, Rule] = {}


def rule(
    code: str, *severities: Severity, name: str = "", since: str = FIRST_VERSION
) -> Callable[[Check], Check]:
    """Decorator: registers a check under `code`, with its docstring as the manual page; the rest as in
    `rule_docs`.
    """

    def register(check: Check) -> Check:
        rule_docs(code, *severities, name=name, since=since)(check)
        RULES[code] = Rule(code, check)
        return check

    return register


def run_rules(facts: Facts) -> tuple[Finding, ...]:
    """Every finding of every rule, by code. A rule that asks for a key which the
    config has wrong is passed over. A rule with a foreign code is a RuntimeError.
    """
    found: list[Finding] = []
    for code in sorted(RULES):
        with suppress(Unsure):
            for finding in RULES[code].check(facts):
                if finding.code != code:
                    raise RuntimeError(f"the rule {code} made a finding {finding.code}")
                found.append(finding)
    return tuple(found)


def import_rule_docs() -> None:
    """Import every module that has pages of the manual."""
    for name in RULE_DOCS_ARE_IN:
        importlib.import_module(name)


def explain(word: str) -> str:
    """The manual page of a finding's code or name. An unknown one is Refused with the nearest ones."""
    import_rule_docs()
    row = find_code(word)
    if row is None:
        raise Refused(unknown_code(word))
    return row.page


def near_codes(word: str) -> list[str]:
    """Codes and names that are like a word, of the modules that are imported."""
    word = word.strip()
    code = f"CF{word:0>3}" if word.isdecimal() else word.upper()
    near = difflib.get_close_matches(code, [row.code for row in all_codes()], n=3)
    return near + difflib.get_close_matches(word.lower(), [row.name for row in all_codes()], n=3)


@rule_docs("CF020")
def unknown_code(word: str) -> Finding:
    """CF020: `crossfoot explain` was asked for a code or a name that no finding has.

    Codes are CF and three digits: CF0 config, CF1 batch, CF2 rate and schedule, CF3 DeepSpeed file, CF4
    launch and cluster, CF5 data, CF6 memory, CF7 run time, CF8 use of a trained model. `crossfoot explain
    --all` begins with the names.
    """
    word = word.strip()
    near = near_codes(word)
    return Finding(
        "CF020",
        f"no finding has the code or name {word}",
        helps=(f"near it are {', '.join(near)}",)
        if near
        else ("codes are CF and three digits, such as CF101; crossfoot explain --all has all names",),
        unreadable=True,
    )
