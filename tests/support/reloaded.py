"""A saved model loaded as its user would load it, and its loss on data, taken by another road than ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossfoot.index.store import DataIndex, open_index, read_header


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
