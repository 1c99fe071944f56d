"""Runs of a study as a job array of SLURM's: each task starts the batch script that `crossfoot launch --to
slurm` renders for its run, which queues itself again when its time is over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from crossfoot.findings.finding import Refused
from crossfoot.launch.job import Job, LaunchOptions, Rendered, script_file
from crossfoot.launch.resolving import make_job, read_run_for
from crossfoot.launch.shell_text import comment, directive
from crossfoot.launch.slurm_says import ENDED, QueueState
from crossfoot.launch.start import Signals
from crossfoot.launch.submit import LOOK_SECONDS, look, refuse_impossible, submit, submitted_job
from crossfoot.launch.verb import ready, write_rendered, written_for_queue
from crossfoot.output import tell
from crossfoot.phrases import counted
from crossfoot.runs.attempts import ENDING_FILE, attempt_numbers, attempt_path
from crossfoot.runs.ending import Ending, read_ending
from crossfoot.runs.resume_command import LAUNCH_FOLDER
from crossfoot.shell_words import quoted_path
from crossfoot.studies.running import LOG, Start

_SURE_LOOKS = 2
"""A task that is being queued again may be missing from one look."""
_STEM = "array"
_OF_ONE_RUN = ("#SBATCH --output=", "#SBATCH --job-name=")


class ArrayRunner:
    """Trains runs as one array. stopped: the signal that ended the waiting; the array runs on. detached:
    submitted, and not waited for.
    """

    def __init__(
        self,
        config: str,
        folder: str,
        options: LaunchOptions,
        at_once: int | None,
        made_by: Sequence[str],
        is_over: Callable[[Start, int, float], None],
    ) -> None:
        """folder: of the study. at_once: tasks at a time, None: as SLURM likes. made_by: the words after
        `crossfoot`. is_over: told of each run that has ended, with its exit code and its seconds.
        """
        self._config, self._folder, self._options = config, folder, options
        self._at_once, self._made_by, self._is_over = at_once, tuple(made_by), is_over
        self.stopped: int | None = None
        self.detached = False

    def train(self, starts: Iterable[Start]) -> None:
        """Submit all of them, and wait until they have ended. Where the array that was submitted last is
        still in the queue it is waited for first: of its runs alone anything is said then. Raises Refused.
        """
        waiting, more = list(starts), ""
        job_id = submitted_job(self._folder)
        if job_id is None or _state(job_id) is None:
            job_id = self._submit(waiting)
        elif others := [start for start in waiting if not self._is_submitted(start)]:
            waiting = [start for start in waiting if start not in others]
            more = f", and submits {counted(len(others), 'run')} more"
        if self._options.detach:
            self.detached = True
            tell(f"job {job_id} trains; when it has ended the same command collects{more}")
            return
        self._wait(job_id, waiting)

    def _is_submitted(self, start: Start) -> bool:
        """Whether the newest array holds a run: a larger study asks for others too."""
        script = Path(self._folder, LAUNCH_FOLDER, f"{_STEM}.sbatch")
        try:
            lines = script.read_text(encoding="utf-8").splitlines()
        except OSError:
            return True
        return f"  {quoted_path(start.run_dir)}" in lines

    def _submit(self, starts: Sequence[Start]) -> str:
        written = [self._written(start) for start in starts]
        job, first = written[0]
        job = replace(
            job,
            name=os.path.basename(self._folder),
            run_dir=self._folder,
            stem=os.path.join(self._folder, LAUNCH_FOLDER, _STEM),
            made_by=self._made_by,
        )
        scripts = [rendered.files[0][0] for _, rendered in written]
        array = _rendered(job, first, scripts, [start.run_dir for start in starts], self._at_once)
        refuse_impossible(array, job)
        write_rendered(array)
        job_id = submit(array, job)
        tell(f"submitted job {job_id}: {counted(len(starts), 'run')}, each on {job.topology}")
        tell(f"cancel it with: scancel {job_id}")
        return job_id

    def _written(self, start: Start) -> tuple[Job, Rendered]:
        """The batch script of one run, in its folder."""
        checked = read_run_for(self._config, start.words, self._options)
        job = make_job(checked, start.words, self._options, os.environ)
        return written_for_queue(ready(job, checked), checked)

    def _wait(self, job_id: str, waiting: list[Start]) -> None:
        begun, absent, told = time.monotonic(), 0, ""
        with Signals() as signals:
            while absent < _SURE_LOOKS:
                if numbers := signals.take():
                    self.stopped = numbers[0]
                    tell(f"job {job_id} runs on; the same command collects what it has trained")
                    return
                try:
                    state = _state(job_id)
                except Refused as refused:
                    told = _tell_once(f"{refused.findings[0].title}; asking again ...", told)
                else:
                    absent = 0 if state is not None else absent + 1
                    if state is not None and state.is_pending:
                        told = _tell_once(state.in_words(job_id), told)
                for start in [one for one in waiting if _is_done(one.run_dir)]:
                    waiting.remove(start)
                    self._is_over(start, 0, time.monotonic() - begun)
                time.sleep(LOOK_SECONDS)
        for start in waiting:
            ending = _ending(start.run_dir)
            self._is_over(start, ending.exit_code if ending else 1, time.monotonic() - begun)


def _state(job_id: str) -> QueueState | None:
    """What squeue says of an array; None when none of its tasks is to be waited for."""
    state = look(job_id)
    return None if state is None or state.state in ENDED else state


def _tell_once(words: str, told: str) -> str:
    if words != told:
        tell(words)
    return words


def _rendered(
    job: Job, first: Rendered, scripts: Sequence[str], folders: Sequence[str], at_once: int | None
) -> Rendered:
    """The batch script of the array. Its head is that of every run; first: what the first of them starts."""
    path = f"{job.stem}.sbatch"
    some = f"%{at_once}" if at_once else ""
    heads = [line for line in first.files[0][1].splitlines() if line.startswith("#SBATCH")]
    lines = [
        *job.heading("an array of SLURM's, a task for each run"),
        comment(f"submit with: sbatch {quoted_path(path)}"),
        directive("--job-name", job.name),
        directive("--output", f"{job.run_dir.replace('%', '%%')}/slurm-%A_%a.log"),
        directive("--array", f"0-{len(scripts) - 1}{some}"),
        *(line for line in heads if not line.startswith(_OF_ONE_RUN)),
        "",
        *_listed("scripts", scripts),
        *_listed("folders", folders),
        f'exec bash "${{scripts[$SLURM_ARRAY_TASK_ID]}}" >> "${{folders[$SLURM_ARRAY_TASK_ID]}}/{LOG}" 2>&1',
    ]
    return Rendered(((path, script_file(lines)),), ("sbatch", "--parsable", path), first.needs)


def _listed(name: str, paths: Sequence[str]) -> Iterator[str]:
    """An array of the shell's."""
    yield f"{name}=("
    yield from (f"  {quoted_path(path)}" for path in paths)
    yield ")"


def _ending(run_dir: str) -> Ending | None:
    """Of the newest attempt, where it has written one that can be read."""
    numbers = attempt_numbers(run_dir)
    try:
        return read_ending(attempt_path(run_dir, numbers[-1], ENDING_FILE)) if numbers else None
    except Refused:
        return None


def _is_done(run_dir: str) -> bool:
    ending = _ending(run_dir)
    return ending is not None and ending.reason == "finished"
