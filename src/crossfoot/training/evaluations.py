"""Evaluations of a run: between two steps and at its end all ranks score their shares of what is asked, with
the weights in memory. What is asked is known, and refused, before weights are loaded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from torch import nn

from crossfoot.data.template_source import built_in_template
from crossfoot.data.tokenizer import load_encoder, tokenizer_path
from crossfoot.digests import sha256_of_document
from crossfoot.evaluation.memory import Memory
from crossfoot.evaluation.origin import How, origin_of
from crossfoot.evaluation.paper import Paper
from crossfoot.evaluation.scorer import Scorer
from crossfoot.evaluation.share import Desk, score_share
from crossfoot.findings.finding import Finding, Refused
from crossfoot.generating.asking import Asking
from crossfoot.generating.options import FolderValues, settle
from crossfoot.generating.speaker import Speaker, autocast_of
from crossfoot.liveness.rank_monitor import RankMonitor
from crossfoot.liveness.stopping import StopRequest
from crossfoot.phrases import after_steps, said_by
from crossfoot.planning.asked_tasks import SHOTS, requests_of_run
from crossfoot.rendezvous.ranks import Ranks
from crossfoot.rendezvous.rendezvous import RefusedTogether
from crossfoot.runs.dry_run import is_dry_run
from crossfoot.runs.evaluations import RunEvaluation, TaskScore, append_evaluation, read_evaluations
from crossfoot.scores.item_log import read_log
from crossfoot.scores.result_folder import Evaluation, finish
from crossfoot.scores.summary import TaskSummary
from crossfoot.tasks.prompt_length import too_long
from crossfoot.tasks.questions import Windows, ask, windows_of
from crossfoot.training.as_loaded import as_loaded, trained_sha256
from crossfoot.training.engine import Engine
from crossfoot.training.findings import evaluation_unfinished, tasks_differ
from crossfoot.training.rank_job import RankJob
from crossfoot.written.model_facts import read_model_facts

FOLDER = "evaluations"
_ROUND_SECONDS = 5.0
"""Ranks that score for different times hear of each other so often: no collective waits for longer."""
_PROGRESS_SECONDS = 60.0


@dataclass(frozen=True)
class RunPaper:
    """What a run is asked, the same on every rank. windows: of texts, where there are any."""

    paper: Paper
    asking: Asking
    windows: Windows | None


def ask_run(work: RankJob, ranks: Ranks) -> RunPaper | None:
    """All ranks together, before weights are loaded; None where nothing is asked. Raises RefusedTogether on
    all ranks, for what one of them cannot read, and for tasks that are not the same everywhere (CF883).
    """
    if not work.plan.run.config.evaluation.tasks or is_dry_run(work.plan.run.run_dir):
        return None
    found: tuple[Finding, ...] = ()
    ready, digest = None, ""
    try:
        ready = _paper(work)
        digest = sha256_of_document([[*key, asked] for key, asked in ready.paper.asked.items()])
    except Refused as refused:
        found = refused.findings
    told = ranks.gather(found, tuple[Finding, ...])
    if wrong := next(filter(None, told), ()):
        raise RefusedTogether(wrong)
    digests = ranks.gather(digest, str)
    if other := next((rank for rank, one in enumerate(digests) if one != digests[0]), None):
        raise RefusedTogether(tasks_differ(other, work.hosts, work.plan.run.place("evaluation", "tasks")))
    return ready


def _paper(work: RankJob) -> RunPaper:
    run = work.plan.run
    config, section = run.config, run.config.evaluation
    requests = requests_of_run(section)
    special = config.data.special_text
    encoder = load_encoder(tokenizer_path(config), run.index_dir, special_text=special)
    facts = read_model_facts(config.model.path)
    positions = None if facts is None else facts.positions
    windows = windows_of(positions, None, None)
    asked = ask(encoder, requests.every, positions, windows)
    if asked.over_long:
        raise Refused([*too_long(asked, positions, shots=SHOTS)])
    template = work.index.header.template or built_in_template(config.data)
    origin = origin_of("", "", encoder, How(section.scorer, config.model.dtype, "none", "cpu", None))
    paper = Paper(asked.questions, requests.indexes, encoder, origin)
    return RunPaper(paper, Asking(encoder, template), windows if requests.has_texts else None)


class RunEvaluator:
    """Scores the weights as they are; all ranks call it together. listen: hears, on rank 0, what came of
    each.
    """

    def __init__(
        self,
        work: RankJob,
        asked: RunPaper,
        engine: Engine,
        model: nn.Module,
        ranks: Ranks,
        stop: StopRequest,
        rank_monitor: RankMonitor,
        listen: Callable[[RunEvaluation], None] = lambda found: None,
    ) -> None:
        self._work, self._asked, self._engine, self._model = work, asked, engine, model
        self._ranks, self._stop, self._rank_monitor, self._listen = ranks, stop, rank_monitor, listen
        self._run_dir = work.plan.run.run_dir

    def is_due(self, steps_done: int) -> bool:
        """After so many steps, as evaluation.every_steps says."""
        every = self._work.plan.run.config.evaluation.every_steps
        return every is not None and steps_done % every == 0

    def is_noted(self, steps_done: int) -> bool:
        """Whether an earlier attempt has finished the evaluation after so many steps; the same on all."""
        noted = self._ranks.is_first and any(
            one.step == steps_done for one in read_evaluations(self._run_dir)
        )
        return self._ranks.gather(noted, bool)[0]

    def score(self, steps_done: int) -> tuple[RunEvaluation | None, tuple[Finding, ...]]:
        """On rank 0 (what came of it; why there is nothing, or what is worth knowing). A signal
        leaves it unfinished; a later attempt goes on with it. It never ends a run.
        """
        paper = self._paper_of(steps_done)
        folder, left = self._folder(steps_done, paper)
        meeting = _Meeting(self._ranks, self._stop, self._rank_monitor)
        interrupted = None
        if left:
            with as_loaded(self._engine, self._model):
                interrupted = self._share(paper, folder, left, meeting)
        if not self._ranks.is_first:
            return None, ()
        if interrupted is not None:
            return None, (self._unfinished(steps_done, *interrupted.why),)
        try:
            found = finish(folder)
            noted = _noted(steps_done, self._work.resume_point.attempt, folder, self._run_dir, found)
            append_evaluation(self._run_dir, noted)
        except Refused as refused:
            return None, (self._unfinished(steps_done, *_titles(refused)),)
        except OSError as error:
            return None, (self._unfinished(steps_done, said_by(error)),)
        self._listen(noted)
        return noted, found.told

    def _paper_of(self, steps_done: int) -> Paper:
        """With the mark of these weights."""
        work = self._work
        config = work.plan.run.config
        sha256 = trained_sha256(self._model) if self._ranks.is_first else ""
        how = How(
            config.evaluation.scorer,
            config.model.dtype,
            config.model.quantization,
            str(self._engine.device),
            self._asked.windows,
        )
        weights, what = self._ranks.gather(sha256, str)[0], f"{self._run_dir} {after_steps(steps_done)}"
        return replace(self._asked.paper, origin=origin_of(weights, what, self._asked.paper.encoder, how))

    def _folder(self, steps_done: int, paper: Paper) -> tuple[str, frozenset[int]]:
        """Where the results go, and what is left to do there: where an attempt before has left scores of
        other weights, or of other tasks, in another folder.
        """
        told: tuple[str, tuple[int, ...]] = ("", ())
        if self._ranks.is_first:
            name = os.path.join(self._run_dir, FOLDER, f"step-{steps_done:06d}")
            for number in count(1):
                folder = name if number == 1 else f"{name}-{number}"
                try:
                    done = read_log(folder).done(paper.origin, paper.asked)
                except Refused:
                    continue
                told = folder, tuple(at for at, key in enumerate(paper.keys) if key not in done)
                break
        folder, left = self._ranks.gather(told, tuple[str, tuple[int, ...]])[0]
        return folder, frozenset(left)

    def _share(
        self, paper: Paper, folder: str, left: frozenset[int], meeting: _Meeting
    ) -> _Interrupted | None:
        """This rank's, and then those of the others. Returns why not all is scored."""
        config, device = self._work.plan.run.config, str(self._engine.device)
        memory = Memory(device, self._work.world.local_world_size)
        settings, _ = settle({}, FolderValues())
        autocast = autocast_of(self._model, config.model.dtype)
        scorer = Scorer(Speaker(self._model, self._asked.asking, settings, device, autocast))
        desk = Desk(folder, device, memory, None, 0.0, _nobody, meeting.after_each, _PROGRESS_SECONDS)
        why: tuple[str, ...] = ()
        try:
            try:
                score_share(paper, left, scorer, self._ranks, desk)
            except Refused as refused:
                why = _titles(refused)
            memory.give_back()
            meeting.end(why)
        except _Interrupted as interrupted:
            return interrupted
        return None

    def _unfinished(self, steps_done: int, *why: str) -> Finding:
        section = self._work.plan.run.config.evaluation
        words = ["--tasks", *section.tasks, "--scorer", section.scorer]
        words += [] if section.shots is None else ["--shots", str(section.shots)]
        words += ["--subjects", *section.subjects] if section.subjects else []
        return evaluation_unfinished(self._run_dir, steps_done, words, why)


def _titles(refused: Refused) -> tuple[str, ...]:
    return tuple(f"{one.code}: {one.title}" for one in refused.findings)


def _nobody(line: str) -> None:
    """Hears of budgets while a run trains: the log has them."""


@dataclass(frozen=True)
class _Word:
    """What a rank says of its share: whether it is done, whether a signal wants the run to stop, and why it
    cannot go on.
    """

    is_done: bool
    stops: bool
    why: tuple[str, ...]


class _Interrupted(Exception):
    """Some rank has to stop, or cannot go on; raised on all ranks at the same place."""

    def __init__(self, why: Sequence[str]) -> None:
        super().__init__()
        self.why = tuple(why)


class _Meeting:
    """How ranks whose shares take different times stay together."""

    def __init__(self, ranks: Ranks, stop: StopRequest, rank_monitor: RankMonitor) -> None:
        self._ranks, self._stop, self._rank_monitor = ranks, stop, rank_monitor
        self._last = time.monotonic()

    def after_each(self) -> None:
        """An item is written down. Raises _Interrupted."""
        self._rank_monitor.tick()
        if self._ranks.world_size == 1 or time.monotonic() - self._last >= _ROUND_SECONDS:
            self._hear(is_done=False)

    def end(self, why: tuple[str, ...]) -> None:
        """This rank has done its share, or cannot for this; wait for the others. Raises _Interrupted."""
        while not self._hear(is_done=True, why=why):
            self._rank_monitor.tick()

    def _hear(self, *, is_done: bool, why: tuple[str, ...] = ()) -> bool:
        """Whether all are done."""
        words = self._ranks.gather(_Word(is_done, self._stop.reason.ends, why), _Word)
        self._last = time.monotonic()
        reasons = [reason for word in words for reason in word.why]
        are_done = all(word.is_done for word in words)
        if reasons or (not are_done and any(word.stops for word in words)):
            raise _Interrupted(reasons or ["a signal asks the run to stop"])
        return are_done


def _noted(step: int, attempt: int, folder: str, run_dir: str, found: Evaluation) -> RunEvaluation:
    inside = Path(folder).relative_to(run_dir).as_posix()
    tasks = tuple(map(_task_score, found.summary.tasks))
    return RunEvaluation(step, attempt, inside, found.summary.scores_sha256, tasks)


def _task_score(task: TaskSummary) -> TaskScore:
    whole: Any = task.whole
    perplexity = None if whole.perplexity is None else whole.perplexity.per_token
    return TaskScore(task.name, whole.items, whole.judged, whole.correct, whole.chrf, perplexity)
