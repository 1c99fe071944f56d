"""How a task is asked: the words of each scorer around items and worked examples.

Two families. clean has the words of C-Eval and no chat around them, and compares log-likelihoods. alpaca2 has
the words of Chinese-LLaMA-Alpaca-2's scripts/ceval and scripts/cmmlu, so that numbers can be compared with
that project's tables. The only difference: its scripts read tables with pandas, which makes `2.5` of a cell
`2.50` and `nan` of `None`; here a cell is the text that it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from crossfoot.findings.finding import Place, Refused
from crossfoot.tasks.findings import too_few_shots
from crossfoot.tasks.items import Asking, Decoding, Form, Item, Request, Task

DEFAULT_SHOTS = 5
GENERATED = Decoding(max_new_tokens=256, until=("\n\n",))
"""How a text of one's own task is generated: greedily, up to the first blank line."""
_LETTER = Decoding(1, do_sample=True, temperature=0.2, repetition_penalty=1.1)
_SAMPLED = Decoding(20, do_sample=True, temperature=0.2, top_k=40, top_p=0.9, repetition_penalty=1.1)
_SYSTEM: Mapping[Form, str] = {
    "ceval": "You are a helpful assistant. 你是一个乐于助人的助手。",
    "cmmlu": "你是一个乐于助人的助手。",
}
"""Of alpaca2's chat; a task of one's own has that of C-Eval."""


@dataclass(frozen=True)
class Wording:
    """heading: before the worked examples of a subject. stays: also where there are none. example: one of
    them, with its answer. question: what is asked. continuations: one a choice, where they are compared.
    """

    heading: Callable[[str], str]
    example: Callable[[Item], str]
    question: Callable[[Item], str]
    continuations: Callable[[Item], tuple[str, ...]] = lambda item: ()
    stays: bool = False


@dataclass(frozen=True)
class Scorer:
    """How choices are asked. wording: of a task."""

    asking: Asking
    wording: Callable[[Task], Wording]
    decoding: Decoding | None = None


def requests_of(task: Task, scorer: str, shots: int | None = None) -> tuple[Request, ...]:
    """One for each item, in their order. scorer: of SCORERS, for tasks of choices; texts are asked as they
    stand. shots: worked examples before each question; None: DEFAULT_SHOTS, of one's own task as many of
    them as every subject has. Raises Refused (CF861) where a subject has fewer.
    """
    if task.kind != "choice":
        kind: Asking = "generate" if task.kind == "generate" else "rolling"
        decoding = GENERATED if task.kind == "generate" else None
        return tuple(Request(item, kind, ("",), 0, item.question, (), decoding) for item in task.items)
    fewest = min(len(task.shots.get(subject, ())) for subject in task.subjects)
    usual = min(DEFAULT_SHOTS, fewest) if task.form == "own" else DEFAULT_SHOTS
    number = usual if shots is None else shots
    _refuse_too_few(task, number, fewest)
    way, wording = SCORERS[scorer], wording_of(task, scorer)
    prefixes = {subject: _prefixes(wording, task, subject, number) for subject in task.subjects}
    return tuple(
        Request(
            item,
            way.asking,
            prefixes[item.subject],
            number,
            wording.question(item),
            wording.continuations(item),
            way.decoding,
        )
        for item in task.items
    )


def wording_of(task: Task, scorer: str) -> Wording:
    """Of a task of choices."""
    return SCORERS[scorer].wording(task)


def _refuse_too_few(task: Task, number: int, fewest: int) -> None:
    found = []
    for subject in task.subjects if number else ():
        has = len(task.shots.get(subject, ()))
        file = task.shots_from.get(subject, task.name)
        if has < number:
            said = f"{has or 'none'} of {subject}" if os.path.exists(file) else "it is not there"
            found.append((Place(file), said))
    if found:
        raise Refused(too_few_shots(number, fewest, len(task.subjects), found))


def _prefixes(wording: Wording, task: Task, subject: str, number: int) -> tuple[str, ...]:
    heading = wording.heading(subject)
    prefixes = [heading]
    for shot in task.shots.get(subject, ())[:number]:
        prefixes.append(prefixes[-1] + wording.example(shot))
    return tuple(prefixes if wording.stays else ["", *prefixes[1:]])


def listed_choices(item: Item) -> str:
    """The question, and behind it a line for each choice: `A. ...`."""
    lines = (f"\n{letter}. {choice}" for letter, choice in zip(item.letters, item.choices, strict=True))
    return item.question + "".join(lines)


def answer_word(task: Task) -> tuple[str, str]:
    """(what asks for the answer, what stands between that and it), in the language of most questions."""
    chinese = sum(any("\u4e00" <= one <= "\u9fff" for one in item.question) for item in task.items)
    return ("\n答案：", "") if 2 * chinese >= len(task.items) else ("\nAnswer:", " ")


def heading_of(task: Task, subject: str) -> str:
    """C-Eval's, of the two exams; a task of one's own has none."""
    return "" if task.form == "own" else _heading(subject)


def _heading(subject: str) -> str:
    return f"以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n"


def _clean(task: Task, asked: Callable[[Item], str], answers: Callable[[Item], Sequence[str]]) -> Wording:
    word, between = answer_word(task)

    def example(item: Item) -> str:
        return f"{asked(item)}{word}{between}{answers(item)[item.gold or 0]}\n\n"

    return Wording(
        lambda subject: heading_of(task, subject),
        example,
        lambda item: asked(item) + word,
        lambda item: tuple(between + answer for answer in answers(item)),
        stays=True,
    )


def _by_letter(task: Task) -> Wording:
    return _clean(task, listed_choices, lambda item: item.letters)


def _by_choice(task: Task) -> Wording:
    return _clean(task, lambda item: item.question, lambda item: item.choices)


def _alpaca2(task: Task) -> Wording:
    def example(item: Item) -> str:
        return f"{listed_choices(item)}\n答案：{item.letters[item.gold or 0]}\n\n"

    return Wording(_heading, example, lambda item: f"{listed_choices(item)}\n答案：")


def _alpaca2_chat(task: Task) -> Wording:
    system = _SYSTEM.get(task.form, _SYSTEM["ceval"])

    def chat(instruction: str) -> str:
        return f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{instruction} [/INST]"

    def heading(subject: str) -> str:
        return f"{chat(_heading(subject))}好的，我会结合{subject}相关知识回答"

    def example(item: Item) -> str:
        return f"[INST] {listed_choices(item)}\n答案：[/INST]{item.letters[item.gold or 0]}\n"

    return Wording(heading, example, lambda item: chat(listed_choices(item) + "\n答案："))


SCORERS: Mapping[str, Scorer] = {
    "clean": Scorer("loglikelihood", _by_letter),
    "clean-choices": Scorer("loglikelihood", _by_choice),
    "alpaca2": Scorer("letter", _alpaca2, _LETTER),
    "alpaca2-chat": Scorer("letter", _alpaca2_chat, _LETTER),
    "alpaca2-text": Scorer("generate", _alpaca2, _SAMPLED),
    "alpaca2-chat-text": Scorer("generate", _alpaca2_chat, _SAMPLED),
}
"""clean compares the letters behind a question and its choices, clean-choices the choices behind the
question alone. alpaca2 takes the likeliest letter, alpaca2-text the letter in a sampled text; chat: with
the prompt of that project's chat models.
"""
