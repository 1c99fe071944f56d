"""crossfoot's scorer as a model of lm-evaluation-harness: requests of any of its tasks become rows as those
of an evaluation, and what they begin with is computed once. Importing this file makes the harness know it.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lm_eval.models  # noqa: F401  (the harness lists its own models where it knows none yet)
import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import AutoTokenizer

from crossfoot.environment.world import read_world
from crossfoot.evaluation.alike import pieces_alike
from crossfoot.evaluation.answering import Answering
from crossfoot.evaluation.budget import Budget
from crossfoot.evaluation.harness_findings import contexts_cut, not_asked
from crossfoot.evaluation.loading import Loading, begin_budget, least_rows, load_scorer
from crossfoot.evaluation.memory import Memory
from crossfoot.evaluation.placing import first_device, place_of_rank
from crossfoot.evaluation.progress import Progress
from crossfoot.evaluation.rows import Piece, pieces_of
from crossfoot.evaluation.scorer import Found, Letters
from crossfoot.evaluation.scoring import Result, Scoring
from crossfoot.findings.finding import Finding, Refused
from crossfoot.generating.generate import tell_findings
from crossfoot.generating.voice import asking, find_voice
from crossfoot.model_source.source import ModelSource
from crossfoot.output import tell
from crossfoot.phrases import counted
from crossfoot.tasks.items import Asking, Decoding, Item, Request
from crossfoot.tasks.prompts import GENERATED
from crossfoot.tasks.questions import Question, Windows, in_tokens
from crossfoot.written.model_facts import model_folder, read_model_facts

NAME = "crossfoot"
"""In `--model`."""
_KNOWN: Mapping[str, Callable[[Any], Any]] = {
    "do_sample": bool,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "repetition_penalty": float,
}
"""What says how a text is generated, by the names of transformers."""
_POSITIONS = 2048
"""The harness' own number, of a model that does not tell."""


@register_model(NAME)
class HarnessModel(LM):  # type: ignore[misc]
    """`--model crossfoot --model_args pretrained=RUN_DIR`. pretrained: a run, a model or an adapter. step,
    base, dtype, quantization, budget, seed: as the options of `crossfoot evaluate`. device: of the harness,
    which says cuda:0 where nobody does; without a GPU it is the CPU. batch_size, max_batch_size: decide
    nothing. Raises Refused.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        step: int | None = None,
        base: str | None = None,
        dtype: str | None = None,
        quantization: str = "none",
        budget: int | str = "auto",
        seed: int = 0,
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        world = read_world(os.environ)
        if world.world_size > 1:
            help_ = "start one process; crossfoot evaluate deals its own tasks over ranks"
            raise Refused(not_asked("several ranks ask for the harness", help_))
        voice = find_voice(str(pretrained), step, base)
        asks = asking(voice, None, None)
        facts = read_model_facts(voice.base)
        where = place_of_rank(device if torch.cuda.is_available() else None, world)
        self._encoder = asks.encoder
        self._before = _first_token(voice, asks.encoder.facts.eos_id)
        self._positions: int = (facts.positions if facts is not None else None) or _POSITIONS
        first = first_device(where)
        self._memory = Memory(first)
        self._seed = int(seed)
        self._budget = None if budget == "auto" else int(budget)
        self._least_rows = least_rows(first)
        self._device = torch.device(first)
        loading = Loading(dtype or voice.dtype, quantization, where, first)
        self._scorer = load_scorer(voice, asks, loading, self._memory, tell)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation): its log-probability, and whether each of its tokens is the
        likeliest. Requests of one context are rows of one question.
        """
        by_context: dict[str, dict[str, Any]] = {}
        for one in requests:
            context, continuation = one.args
            by_context.setdefault(context, {}).setdefault(continuation, one)
        asked = [
            _request("loglikelihood", next(iter(choices.values())), context, tuple(choices))
            for context, choices in by_context.items()
        ]
        whole = Windows(self._positions, self._positions)
        found = self._scored(self._fitting(map(self._begun, in_tokens(self._encoder, asked, whole))))
        answers = {
            (request.context, continuation): (one.total, one.is_greedy)
            for request, choices in zip(asked, found, strict=True)
            for continuation, one in zip(request.continuations, choices, strict=True)
        }
        told = [answers[one.args] for one in requests]
        for one, answer in zip(requests, told, strict=True):
            self.cache_hook.add_partial("loglikelihood", one.args, answer)
        return told

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of each text, in windows of the model's positions, each of which is predicted as a whole."""
        begin = self._encoder.facts.bos_ids
        windows = Windows(self._positions, self._positions)
        ids = self._encoder.encode([one.args[0] for one in requests])
        texts = {
            number: Question(
                _request("rolling", requests[number], ""), windows.pairs((*begin, *own), self._before)
            )
            for number, own in enumerate(ids)
            if begin or own
        }
        found = dict(zip(texts, self._scored(list(texts.values())), strict=True))
        told = [math.fsum(one.total for one in found.get(number, ())) for number in range(len(requests))]
        for one, answer in zip(requests, told, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", one.args, answer)
        return told

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Of each (context, how): the text, up to what ends it. The same request again is another draw."""
        before: Counter[str] = Counter()
        asked = []
        for one in requests:
            context, how = one.args
            key = repr((_task(one), one.doc_id, context, how))
            number, before[key] = before[key], before[key] + 1
            request = _request("generate", one, context, decoding=decoding_of(how, _task(one)))
            if number:
                request = replace(request, item=replace(request.item, id=f"{request.item.id}#{number}"))
            asked.append(request)
        whole = Windows(self._positions, self._positions)
        questions = self._fitting(map(self._begun, in_tokens(self._encoder, asked, whole)))
        told = self._answered(questions)
        for one, text in zip(requests, told, strict=True):
            self.cache_hook.add_partial("generate_until", one.args, text)
        return told

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        """Raises Refused (CF885)."""
        raise Refused(not_asked("a chat template is asked for", "leave --apply_chat_template out"))

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps prepared requests under."""
        return str(self._encoder.facts.fingerprint)

    def _begun(self, question: Question) -> Question:
        """With the harness' own token in the place of an empty context."""
        if question.request.context:
            return question
        return replace(question, pairs=tuple(((self._before,), after) for _, after in question.pairs))

    def _fitting(self, questions: Iterable[Question]) -> list[Question]:
        """With so much of their contexts, the end of it, as the model has positions for."""
        cut, lost = [], []
        for question in questions:
            longest = max(len(after) for _, after in question.pairs)
            if longest > self._positions:
                what = f"{question.request.item.place}: a continuation of {longest:,} tokens"
                raise Refused(not_asked(what, f"the model has {self._positions:,} positions"))
            decoding = question.request.decoding
            room = self._positions + 1 if decoding is None else self._positions - decoding.max_new_tokens
            if room < 1:
                what = f"{question.request.item.place}: an answer of {question.later_tokens + 1:,} tokens"
                raise Refused(not_asked(what, f"the model has {self._positions:,} positions"))
            over = max(len(context) + len(after) for context, after in question.pairs) - room
            if over > 0:
                lost.append(over)
                pairs = ((context[-max(1, room - len(after)) :], after) for context, after in question.pairs)
                question = replace(question, pairs=tuple(pairs))
            cut.append(question)
        if lost:
            tell_findings([contexts_cut(len(lost), max(lost), self._positions)])
        return cut

    def _answered(self, questions: Sequence[Question]) -> list[str]:
        """Of each question its text."""
        pieces = pieces_of(questions)
        found: dict[int, str] = {}
        progress = Progress(len(questions), sum(one.row_tokens for one in pieces), speaks=True)

        def take(result: Result) -> None:
            found[result.number] = result.text
            progress.add(result.token_slots)

        budget = self._begin_budget(pieces)
        is_cuda = self._device.type == "cuda"
        Answering(self._scorer, questions, budget, self._memory, take, _warn, is_cuda, self._seed).run(pieces)
        return [found[number] for number in range(len(questions))]

    def _begin_budget(self, pieces: Sequence[Piece]) -> Budget:
        return begin_budget(
            self._budget,
            self._memory,
            pieces,
            self._scorer,
            lambda tokens, why, _: tell(f"budget: {counted(tokens, 'token')} a forward ({why})"),
        )

    def _scored(self, questions: Sequence[Question]) -> list[list[Found]]:
        """Of each question what each of its continuations or windows gave."""
        pieces = pieces_alike(questions, shares=self._scorer.shares_prefix)
        if not pieces:
            return []
        found: list[dict[int, Found]] = [{} for _ in questions]
        parts = sum(len({row.number for row in piece.rows}) for piece in pieces)
        progress = Progress(parts, sum(piece.row_tokens for piece in pieces), speaks=True)

        def take(result: Result) -> None:
            found[result.number] |= result.found  # its rows may be in several pieces
            progress.add(result.token_slots)

        budget = self._begin_budget(pieces)
        Scoring(
            self._scorer, questions, _no_letters, budget, self._memory, take, _warn, self._least_rows
        ).run(pieces)
        return [[one[choice] for choice in sorted(one)] for one in found]


def _first_token(voice: ModelSource, end: int) -> int:
    """What stands before the first token of a text: the begin token that the tokenizer names, whether it adds
    it to texts or not; else the end token.
    """
    folder = str(model_folder(voice.tokenizer) or voice.tokenizer)
    begin = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).bos_token_id
    return end if begin is None else int(begin)


def decoding_of(how: Mapping[str, Any], task: str) -> Decoding:
    """how: `generation_kwargs` of a task, by the harness' names. Raises Refused (CF885)."""
    given = normalize_gen_kwargs(dict(how), GENERATED.max_new_tokens)
    until, most = given.pop("until", None) or (), given.pop("max_gen_toks")
    known = {key: kind(given.pop(key)) for key, kind in _KNOWN.items() if given.get(key) is not None}
    given.pop("use_cache", None)
    if left := [key for key, value in given.items() if value is not None]:
        help_ = f"leave it out of generation_kwargs; there are until, max_gen_toks, {', '.join(_KNOWN)}"
        raise Refused(not_asked(f"{task} asks for generated texts with {left[0]}", help_))
    if not known["do_sample"] or not known.get("temperature", 1.0):
        known = {"do_sample": False, "repetition_penalty": known.get("repetition_penalty", 1.0)}
    texts = tuple(filter(None, [until] if isinstance(until, str) else until))
    return Decoding(max_new_tokens=int(most), until=texts, **known)


def _warn(finding: Finding) -> None:
    tell_findings([finding])


def _request(
    kind: Asking,
    instance: Any,
    context: str,
    continuations: tuple[str, ...] = (),
    decoding: Decoding | None = None,
) -> Request:
    """Of an instance of the harness."""
    task = _task(instance)
    item = Item(task, "", str(instance.doc_id), f"{task}:{instance.doc_id}", context, continuations)
    return Request(item, kind, ("",), 0, context, continuations, decoding)


def _task(instance: Any) -> str:
    return str(instance.task_name or "a task")


def _no_letters(request: Request) -> Letters:
    raise ValueError(f"the harness asks for no letters: {request.item.place}")
