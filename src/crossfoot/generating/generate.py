"""`crossfoot generate`: what a trained model answers to a text, or to each record of a file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from crossfoot.data.conversation import Turn
from crossfoot.data.prompts import Prompt, is_file, read_prompts
from crossfoot.digests import sha256_of_document
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.findings.formats import in_colour
from crossfoot.findings.render import render
from crossfoot.generating.answer_file import AnswerFile
from crossfoot.generating.asking import Asking
from crossfoot.generating.findings import float16_on_cpu, generation_without_effect, window_full
from crossfoot.generating.options import Settings, read_folder_values, settle
from crossfoot.generating.speaker import Speaker, choose_device, load_speaker
from crossfoot.generating.streaming import Streamer
from crossfoot.generating.voice import asking, find_voice
from crossfoot.line_file import line_of
from crossfoot.model_source.source import ModelSource
from crossfoot.output import say, tell
from crossfoot.phrases import clock, counted
from crossfoot.written.findings import COMMAND_LINE
from crossfoot.written.model_facts import read_model_facts

BATCH_SIZE = 16
_PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Asked:
    """A voice, and how it will be asked: all that is known before a weight is read. values: what the command
    line gives. window: tokens the model was made for.
    """

    voice: ModelSource
    asking: Asking
    settings: Settings
    device: str
    values: Mapping[str, Any]
    window: int | None

    @property
    def dtype(self) -> str:
        """Of the base."""
        return str(self.values.get("dtype", self.voice.dtype))

    def load(self) -> Speaker:
        """Load the model. Raises Refused."""
        tell(f"loading {self.voice.what} in {self.dtype} on {self.device} ...")
        kept = self.values.get("quantization", "none")
        return load_speaker(
            self.voice,
            self.asking,
            self.settings,
            dtype=self.dtype,
            quantization=kept,
            device=self.device,
        )


def prepare(path: str, values: Mapping[str, Any]) -> Asked:
    """What a path names, and how it is asked; says what is odd about that. Raises Refused for what is
    wrong.
    """
    voice = find_voice(path, values.get("step"), values.get("base"))
    settings, findings = settle(values, read_folder_values(voice.base_folder))
    device = choose_device(values.get("device_map"))
    asks = asking(voice, values.get("template"), values.get("system_prompt"))
    found = list(findings)
    if values.get("dtype", voice.dtype) == "float16" and device == "cpu":
        found.append(float16_on_cpu(Place(COMMAND_LINE)))
    if asks.template is None and "system_prompt" in values:
        why, help_ = "there is no template, and texts are continued as they stand", "leave it out"
        found.append(generation_without_effect(["--system-prompt"], why, Place(COMMAND_LINE), help_))
    tell_findings(found)
    facts = read_model_facts(voice.base)
    tell(f"{'sampling' if settings.samples else 'greedy'}: {settings}")
    if asks.template is None:
        tell(f"{voice.what} has no chat_template: texts are continued as they stand")
    return Asked(voice, asks, settings, device, values, facts.positions if facts else None)


def tell_findings(found: Sequence[Finding]) -> None:
    """Say them; what is an error is raised with all."""
    if any(finding.severity == "error" for finding in found):
        raise Refused(found)
    if found:
        tell(render(found, in_colour()))


def generate(path: str, prompts: str, values: Mapping[str, Any], out: str | None) -> int:
    """The verb; returns the exit code. prompts: a text, or a file. values: options that were given, by the
    names of transformers. Raises Refused.
    """
    is_one = not is_file(prompts)
    asked = prepare(path, values)
    columns = asked.voice.columns
    listed = [Prompt((Turn("user", prompts),))] if is_one else read_prompts(prompts, columns)
    ids = asked.asking.ids([prompt.turns for prompt in listed])
    limits = limits_of(asked.settings.max_new_tokens, asked.window, ids)
    if is_one and out is None:
        _answer_one(asked.load(), ids[0], limits[0])
        return 0
    size = asked.values.get("batch_size", BATCH_SIZE)
    with ExitStack() as stack:
        kept: dict[int, dict[str, Any]] = {}
        file = None if out is None else stack.enter_context(AnswerFile(out, _made_of(asked, ids)))
        if file is not None and file.answers:
            kept = file.answers
            tell(f"{len(kept):,} of {counted(len(ids), 'answer')} are there already")
        batches = [one for one in batches_of(ids, limits, size) if not kept.keys() >= set(one)]
        if batches:
            speaker = asked.load()
            for answer in _answers(speaker, listed, ids, limits, batches, total=len(ids) - len(kept)):
                kept[answer["index"]] = answer
                if file is not None:
                    file.add(answer)
        if file is not None:
            file.finish()
            tell(f"{out}: {counted(len(ids), 'answer')}")
        else:
            for index in sorted(kept):
                say(line_of(kept[index]))
    return 0


def limits_of(most: int, window: int | None, ids: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of the longest answer to each prompt. most: that are asked for. window: of the model. Says which
    have no room for all; raises Refused (CF808) for those without room for any.
    """
    if window is None:
        return [most] * len(ids)
    lengths = [len(one) for one in ids]
    if full := [length for length in lengths if length >= window]:
        raise Refused(window_full(len(full), max(full), window, 0))
    if tight := [length for length in lengths if length + most > window]:
        tell_findings([window_full(len(tight), max(tight), window, most)])
    return [min(most, window - length) for length in lengths]


def _answer_one(speaker: Speaker, ids: Sequence[int], limit: int) -> None:
    """On the terminal as it comes; with several beams, at its end."""
    if speaker.settings.values.get("num_beams", 1) > 1:
        (answer,) = speaker.answers([ids], limit, speaker.settings.seed)
        say(speaker.asking.text(answer.ids))
        return
    (answer,) = speaker.answers([ids], limit, speaker.settings.seed, Streamer(speaker.asking))
    if answer.stopped_by == "length":
        tell(f"stopped after {counted(limit, 'token')}: --max-new-tokens gives it more")


def batches_of(ids: Sequence[Sequence[int]], limits: Sequence[int], size: int) -> list[list[int]]:
    """The prompts of each batch, at most `size`, of about one length, the longest first: what does not fit
    into memory shows at once. They are the same whatever was answered already, so that what is drawn is too.
    """
    order = sorted(range(len(ids)), key=lambda index: (limits[index], -len(ids[index]), index))
    batches: list[list[int]] = []
    for index in order:
        if not batches or len(batches[-1]) == size or limits[batches[-1][0]] != limits[index]:
            batches.append([])
        batches[-1].append(index)
    return batches


def _answers(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    ids: Sequence[Sequence[int]],
    limits: Sequence[int],
    batches: Sequence[Sequence[int]],
    total: int,
) -> Iterator[dict[str, Any]]:
    begun = told = time.monotonic()
    done = 0
    for batch in batches:
        seed = (speaker.settings.seed + batch[0]) % 2**63
        answers = speaker.answers([ids[index] for index in batch], limits[batch[0]], seed)
        for index, answer in zip(batch, answers, strict=True):
            prompt = prompts[index]
            yield {
                "index": index,
                "prompt": prompt.text,
                "answer": speaker.asking.text(answer.ids),
                **({} if prompt.reference is None else {"reference": prompt.reference}),
                "tokens": len(answer.ids),
                "stopped_by": answer.stopped_by,
            }
        done, now = done + len(batch), time.monotonic()
        if now - told > _PROGRESS_SECONDS and done < total:
            told, left = now, (now - begun) / done * (total - done)
            tell(f"{done:,} of {total:,} answered, about {clock(left)} left")


def _made_of(asked: Asked, ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """All that decides the answers to a file."""
    return {
        "weights": asked.voice.mark,
        "prompts": sha256_of_document([list(one) for one in ids]),
        "ends": list(asked.asking.end_ids),
        "values": dict(asked.settings.values),
        "seed": asked.settings.seed,
        "batch_size": asked.values.get("batch_size", BATCH_SIZE),
        "dtype": asked.dtype,
        "quantization": asked.values.get("quantization", "none"),
        "device": asked.device,
        "torch": torch.__version__,
    }
