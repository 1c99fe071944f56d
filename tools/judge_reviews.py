"""How many held-out reviews the base model tells right, and how many after training: `make reviews`.

Of each review the likelier of the two answers counts, by the log-probability of its tokens: who guesses is
right in half of them. Prompts come from the tokenizer's own chat template, models from transformers and peft:
nothing here is crossfoot's.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from real_data import ANSWERS, QUESTION

Z_95 = 1.96


def samples_of(file: Path) -> list[tuple[str, str]]:
    """(review, right answer) of each conversation."""
    with file.open(encoding="utf-8") as lines:
        turns = [json.loads(line)["messages"] for line in lines]
    return [(one[0]["content"], one[1]["content"]) for one in turns]


@torch.no_grad()
def log_probabilities(model: Any, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
    """Of each answer's tokens together, after the prompt, which is read once."""
    read = model(input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    found = []
    for answer in answers:
        ids = torch.tensor([answer])
        told = model(input_ids=ids, past_key_values=copy.deepcopy(read.past_key_values), use_cache=True)
        logits = torch.cat([read.logits, told.logits], dim=1)[0, :-1]
        found.append(float(logits.log_softmax(-1).gather(1, ids[0, :, None]).sum()))
    return found


def judged(model: Any, tokenizer: Any, samples: Sequence[tuple[str, str]]) -> Iterator[tuple[bool, float]]:
    """Of each review: whether the right answer is the likelier one, and its probability."""
    answers = list(ANSWERS.values())
    coded = [tokenizer.encode(answer, add_special_tokens=False) for answer in answers]
    for review, right in samples:
        chat = [{"role": "system", "content": QUESTION}, {"role": "user", "content": review}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        scores = dict(zip(answers, log_probabilities(model, prompt, coded), strict=True))
        yield max(scores, key=lambda answer: scores[answer]) == right, math.exp(scores[right])


def interval(right: int, count: int) -> tuple[float, float]:
    """Where the share lies in 95 of 100 draws (Wilson 1927)."""
    share, square = right / count, Z_95**2 / count
    middle = (share + square / 2) / (1 + square)
    half = Z_95 / (1 + square) * math.sqrt(share * (1 - share) / count + square / count / 4)
    return middle - half, middle + half


def row(name: str, model: Any, tokenizer: Any, samples: Sequence[tuple[str, str]]) -> str:
    """A line of the table, with progress on the way to it."""
    found = []
    for one in judged(model, tokenizer, samples):
        found.append(one)
        if sys.stderr.isatty():
            print(f"\r{name}: {len(found)}/{len(samples)}", end="\r", file=sys.stderr)
    right, count = sum(is_right for is_right, _ in found), len(found)
    low, high = interval(right, count)
    mean = sum(probability for _, probability in found) / count
    return (
        f"{name:<18}{f'{right}/{count}':>9}{right / count:>8.1%}{f'{low:.1%} - {high:.1%}':>18}{mean:>12.2g}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("adapter", type=Path, help="folder of the trained adapter")
    parser.add_argument("--real", type=Path, default=Path("real"), help="what make real-data has written")
    parser.add_argument("--most", type=int, help="only the first so many reviews")
    choice = parser.parse_args()
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = choice.real / "smollm2-135m"
    samples = samples_of(choice.real / "reviews-validation.jsonl")[: choice.most]
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False).eval()
    print(f"{'held-out reviews':<18}{'right':>9}{'share':>8}{'95 %':>18}{'p(right)':>12}")
    print(row("base", model, tokenizer, samples), flush=True)
    trained = PeftModel.from_pretrained(model, choice.adapter).eval()
    print(row("trained", trained, tokenizer, samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
