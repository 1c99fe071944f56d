"""A saved model loaded as its user would load it, and its loss on data, taken by another road than ours."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossfoot.index.store import DataIndex, open_index, read_header
from index_cases import alpaca2


def indexes_of(index_dir: Path, file: Path) -> list[DataIndex]:
    """The indexes that were built of this one data file, the smallest vocabulary first."""
    folders = [str(path.parent) for path in index_dir.glob("*/header.json")]
    found = [
        open_index(folder)
        for folder in folders
        if [source.path for source in read_header(folder).sources] == [str(file)]
    ]
    assert found, f"no index of {file} in {index_dir}"
    return sorted(found, key=lambda index: index.header.tokenizer.vocabulary)


def mean_loss(model: torch.nn.Module, index: DataIndex) -> float:
    """Mean cross entropy per trained token over an index: one unpadded sample at a time, by the model's own
    loss.
    """
    model.eval()
    total = count = 0.0
    with torch.no_grad():
        for number in range(index.num_samples):
            ids, trained = index.sample(number)
            labels = np.where(trained, ids, -100).astype(np.int64)
            targets = int(trained[1:].sum())
            told = model(
                input_ids=torch.from_numpy(ids.astype(np.int64))[None], labels=torch.from_numpy(labels)[None]
            )
            total, count = total + float(told.loss) * targets, count + targets
    return total / count


def validation_loss_of(run_dir: Path) -> float:
    """What the run took at its end, of the model it had trained."""
    ending: dict[str, Any] = json.loads(
        (sorted(run_dir.glob("attempt-*/ending.json"))[-1]).read_text(encoding="utf-8")
    )
    loss = ending["validation_loss"]
    assert isinstance(loss, float)
    return loss


def choose(
    model: torch.nn.Module, folder: Path, file: Path, answers: tuple[str, str], most: int
) -> tuple[float, float]:
    """(share of samples whose right answer is the likelier of two, mean probability of the right answer's
    tokens) over the first `most` samples. The prompt is put together here, not taken from an index.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:most]]
    right, probability = 0, 0.0
    for sample in samples:
        prompt = tokenizer.encode(alpaca2(sample["instruction"], sample["input"]))
        endings = [tokenizer.encode(answer, add_special_tokens=False) for answer in answers]
        scores = dict(zip(answers, _log_probabilities(model, prompt, endings), strict=True))
        right += max(scores, key=lambda answer: scores[answer]) == sample["output"]
        probability += math.exp(scores[sample["output"]])
    return right / len(samples), probability / len(samples)


@torch.no_grad()
def _log_probabilities(model: torch.nn.Module, prompt: list[int], answers: list[list[int]]) -> list[float]:
    """Of each answer's tokens together, after the prompt, which is read once."""
    read = model(input_ids=torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    found = []
    for answer in answers:
        ids = torch.tensor([answer])
        told = model(input_ids=ids, past_key_values=copy.deepcopy(read.past_key_values), use_cache=True)
        logits = torch.cat([read.logits, told.logits], dim=1)[0, :-1]
        found.append(float(logits.log_softmax(-1).gather(1, ids[0, :, None]).sum()))
    return found
