"""The model that is tuned: asked with a trial's values, on the same prompts and seeds each time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import torch

from crossfoot.data.prompts import Prompt, read_prompts
from crossfoot.digests import sha256_of_document
from crossfoot.findings.finding import Finding
from crossfoot.generating.asking import Asking
from crossfoot.generating.findings import float16_on_cpu
from crossfoot.generating.generate import batches_of, limits_of, tell_findings
from crossfoot.generating.options import FolderValues, read_folder_values, settle
from crossfoot.generating.speaker import Speaker, choose_device, load_speaker
from crossfoot.generating.voice import asking, find_voice
from crossfoot.model_source.source import ModelSource
from crossfoot.output import tell
from crossfoot.phrases import first_line
from crossfoot.tuning.judge import Judge, judge_of, refuse_missing_references
from crossfoot.tuning.space import Choice
from crossfoot.tuning.trials import Trial
from crossfoot.tuning.tuning_file import TuningFile
from crossfoot.written.model_facts import read_model_facts

_SEEDS_OF_A_REPEAT = 1_000_003
"""So far apart that no batch has the seed of another repeat; torch on a CPU takes the last 32 bits of one."""
_ROOM = 1.5
"""A second model is kept beside others while so many times its size is free."""


@dataclass
class Subject:
    """All that is measured again and again. own: of the model's generation_config.json. window: tokens that
    the model was made for.
    """

    file: TuningFile
    voice: ModelSource
    asking: Asking
    device: str
    prompts: list[Prompt]
    ids: list[list[int]]
    own: FolderValues
    window: int | None
    judge: Judge
    _speakers: dict[str, Speaker] = field(default_factory=dict)

    @property
    def made_of(self) -> dict[str, Any]:
        """All that decides what a trial gives, but for the values of a trial."""
        import optuna

        config = self.file.config.model_dump(mode="json", exclude={"trials", "dir"})
        references = [prompt.reference for prompt in self.prompts]
        return {
            "config": config,
            "prompts": sha256_of_document([self.ids, references]),
            "weights": self.voice.mark,
            "end_tokens": list(self.asking.end_ids),
            "own_values": dict(self.own.values),
            "device": self.device,
            "versions": {"torch": torch.__version__, "optuna": optuna.__version__},
        }

    def begin(self, own_values: Mapping[str, Any]) -> None:
        """Own values are those with which the search began."""
        self.own = FolderValues(own_values)

    def effective(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What transformers generates with: the trial's values, else the model's own, else defaults."""
        given = {"do_sample": False, **values}
        given.pop("dtype", None)
        return dict(settle(given, self.own)[0].values)

    def repeats_of(self, values: Mapping[str, Any]) -> int:
        """How often a trial is measured: greedy answers are the same each time."""
        goal = self.file.config.goal
        return self.file.config.repeats if goal.is_timed or values.get("do_sample", False) else 1

    def measure(self, number: int, values: Mapping[str, Any], repeats: Sequence[int]) -> Trial:
        """A trial. repeats: each has its own seeds. What the model cannot do is said in it; what the user's
        command cannot do raises Refused.
        """
        trial = Trial(number, values)
        for repeat in repeats:
            try:
                trial = trial.beside(self._once(number, values, repeat))
            except (RuntimeError, ValueError, MemoryError) as error:
                self._speakers.clear()
                return Trial(number, values, failed=first_line(error))
        return trial

    def _once(self, number: int, values: Mapping[str, Any], repeat: int) -> Trial:
        config, effective = self.file.config, self.effective(values)
        speaker = self._speaker(str(values.get("dtype", self.voice.dtype)))
        settings = replace(speaker.settings, values=effective)
        speaker = replace(speaker, settings=settings)
        most, room = settings.max_new_tokens, self.window or 2**62
        limits = [min(most, room - len(one)) for one in self.ids]
        answers, tokens, seconds = [""] * len(self.ids), [0] * len(self.ids), 0.0
        for batch in batches_of(self.ids, limits, config.batch_size):
            seed = (config.seed + repeat * _SEEDS_OF_A_REPEAT + batch[0]) % 2**63
            begun = time.perf_counter()
            told = speaker.answers([self.ids[index] for index in batch], limits[batch[0]], seed)
            seconds += time.perf_counter() - begun
            for index, answer in zip(batch, told, strict=True):
                answers[index] = self.asking.text(answer.ids).replace("\0", "\ufffd")
                tokens[index] = len(answer.ids)
        total = sum(tokens)
        scores = [total / seconds] if config.goal.is_timed else self.judge(answers, tokens)
        return Trial(number, values, (tuple(scores),), (tuple(answers),), (total,), (round(seconds, 4),))

    def _speaker(self, dtype: str) -> Speaker:
        """The model in this precision: loaded once, and kept as long as there is room."""
        if dtype in self._speakers:
            return self._speakers[dtype]
        if self._speakers and not self._has_room():
            self._speakers.clear()
        tell(f"loading {self.voice.what} in {dtype} on {self.device} ...")
        settings = settle({"do_sample": False}, self.own)[0]
        speaker = load_speaker(
            self.voice, self.asking, settings, dtype=dtype, quantization="none", device=self.device
        )
        shortest = min(self.ids, key=len)
        speaker.answers([shortest], 1, 0)  # what only the first answer waits for is in no measurement
        self._speakers[dtype] = speaker
        return speaker

    def _has_room(self) -> bool:
        one = next(iter(self._speakers.values()))
        needed = _ROOM * sum(each.numel() * each.element_size() for each in one.model.parameters())
        if one.device.startswith("cuda"):
            return bool(torch.cuda.mem_get_info()[0] > needed)
        return bool(psutil.virtual_memory().available > needed)


def find_subject(file: TuningFile) -> Subject:
    """What is tuned, and all that is wrong with it before a weight is read. Raises Refused."""
    config = file.config
    voice = find_voice(config.model, config.step, config.base)
    own = read_folder_values(voice.base_folder)
    device = choose_device(config.device_map)
    prompts = read_prompts(config.prompts, voice.columns)
    refuse_missing_references(config.goal, config.prompts, prompts)
    asks = asking(voice, config.template, config.system_prompt)
    ids = asks.ids([prompt.turns for prompt in prompts])
    facts = read_model_facts(voice.base)
    judge = judge_of(config.goal, prompts, file.place("goal", "command"))
    subject = Subject(file, voice, asks, device, prompts, ids, own, facts.positions if facts else None, judge)
    tell_findings([*file.warnings, *_of_precision(file, voice, device), *settle({"do_sample": True}, own)[1]])
    most = file.space.get("max_new_tokens")
    longest = subject.effective({})["max_new_tokens"]
    if most is not None:
        longest = max(most.options) if isinstance(most, Choice) else int(most.high)
    limits_of(longest, subject.window, ids)
    return subject


def _of_precision(file: TuningFile, voice: ModelSource, device: str) -> list[Finding]:
    tried = file.space.get("dtype", Choice((voice.dtype,)))
    if device == "cpu" and tried.holds("float16"):
        return [float16_on_cpu(file.place("parameters", "dtype"), "leave float16 to a GPU")]
    return []
