"""All of an evaluation that is known before a weight is read: what is asked, of what, where the scores go."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from crossfoot.digests import sha256_of_document
from crossfoot.environment.world import World
from crossfoot.evaluation.origin import How, origin_of
from crossfoot.evaluation.paper import Paper
from crossfoot.evaluation.placing import first_device, place_of_rank
from crossfoot.extras import refuse_missing
from crossfoot.findings.finding import Place
from crossfoot.generating.asking import Asking
from crossfoot.generating.findings import float16_on_cpu
from crossfoot.generating.generate import tell_findings
from crossfoot.generating.voice import asking, find_voice
from crossfoot.model_source.source import ModelSource
from crossfoot.runs.nearby import is_run
from crossfoot.scores.item_log import Origin
from crossfoot.tasks.prompt_length import too_long
from crossfoot.tasks.questions import Windows, ask, windows_of
from crossfoot.tasks.requests import Requests, read_requests
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.model_facts import read_model_facts


@dataclass(frozen=True)
class Options:
    """The words of the command line. tasks: as they stand there. budget: tokens; None: auto. out: the folder
    of the results; None: beside the run. drops: shots of prompts that are too long. window, stride: of texts
    whose perplexity is measured, in tokens. seed: of sampled texts.
    """

    tasks: tuple[str, ...]
    scorer: str = "clean"
    shots: int | None = None
    split: str | None = None
    subjects: tuple[str, ...] = ()
    budget: int | None = None
    out: str | None = None
    step: int | None = None
    base: str | None = None
    dtype: str | None = None
    quantization: str = "none"
    device: str | None = None
    drops: bool = True
    window: int | None = None
    stride: int | None = None
    seed: int = 0


def options_of(given: Namespace) -> Options:
    """given: of the command line."""
    return Options(
        tasks=tuple(given.tasks),
        scorer=given.scorer,
        shots=given.shots,
        split=given.split,
        subjects=tuple(given.subjects),
        budget=given.budget,
        out=given.out,
        step=given.step,
        base=given.base,
        dtype=given.dtype,
        quantization=given.quantization,
        device=given.device_map,
        drops=given.too_long == "drop-shots",
        window=given.window,
        stride=given.stride,
        seed=given.seed,
    )


@dataclass(frozen=True)
class Prepared:
    """All that is known before a weight is read. sharing: ranks on this machine."""

    voice: ModelSource
    asks: Asking
    paper: Paper
    out: str
    device: str
    dtype: str
    sharing: int = 1

    @property
    def first_device(self) -> str:
        """The one device, or the first of those that the model is divided over."""
        return first_device(self.device)


def prepare(path: str, options: Options, world: World) -> Prepared:
    """Raises Refused for all that can be known before a weight is read."""
    requests = read_requests(
        options.tasks, options.scorer, options.shots, split=options.split, subjects=options.subjects
    )
    if requests.has_answers:
        refuse_missing("evaluate", "eval")  # what compares texts
    voice = find_voice(path, options.step, options.base, "evaluate")
    asks = asking(voice, None, None)
    facts = read_model_facts(voice.base)
    positions = facts.positions if facts is not None else None
    windows = windows_of(positions, options.window, options.stride)
    asked = ask(asks.encoder, requests.every, positions, windows, drops=options.drops)
    device, dtype = place_of_rank(options.device, world), options.dtype or voice.dtype
    found = [*requests.warnings, *too_long(asked, positions, drops=options.drops)]
    if dtype == "float16" and device == "cpu":
        found.append(float16_on_cpu(Place(COMMAND_LINE)))
    if world.local_rank == 0 or any(finding.severity == "error" for finding in found):
        tell_findings(found)
    return Prepared(
        voice,
        asks,
        Paper(
            asked.questions,
            requests.indexes,
            asks.encoder,
            _origin(voice, asks, options, dtype, device, windows if requests.has_texts else None),
        ),
        options.out or _folder(path, options, requests),
        device,
        dtype,
        world.local_world_size,
    )


def _origin(
    voice: ModelSource, asks: Asking, options: Options, dtype: str, device: str, windows: Windows | None
) -> Origin:
    """Of what the scores are made."""
    how = How(options.scorer, dtype, options.quantization, first_device(device), windows, options.seed)
    return origin_of(sha256_of_document(voice.mark), voice.what, asks.encoder, how)


def _folder(path: str, options: Options, requests: Requests) -> str:
    """Where results go that nobody has said a place for: into the folder of a run, else here."""
    above = os.path.dirname(os.path.abspath(path))
    run = path if is_run(path) else above if is_run(above) else None
    given = sorted({one.shots for one in requests.every if one.item.choices})
    shots = f"-{'+'.join(map(str, given))}shot" if given else ""
    seed = f"-seed{options.seed}" if options.seed else ""
    step = "" if options.step is None else f"step{options.step}-"
    name = f"{step}{'+'.join(task.name for task in requests.tasks)}-{options.scorer}{shots}{seed}"
    where = Path(run) if run is not None else Path()
    own = () if run is not None else (os.path.basename(os.path.abspath(path)),)
    return str(where.joinpath("evaluations", *own, name))
