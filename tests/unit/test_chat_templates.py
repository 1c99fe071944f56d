"""Templates in Jinja: ids and masks are those of transformers, and templates that cannot be held to their
word are refused with the place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import chat_cases as cases
from crossfoot.index.build import ensure_index
from crossfoot.index.reference_check import compare_with_files
from crossfoot.index.store import DataIndex
from index_cases import jsonl, written_run

CONVERSATIONS = cases.conversations(200)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cases.chat_tokenizer(tmp_path_factory.mktemp("chat"))


def built(folder: Path, tokenizer: str, source: str, rows: list[Any], **data: Any) -> DataIndex:
    (folder / "t.jinja").write_text(source, encoding="utf-8")
    path = jsonl(folder / "a.jsonl", *rows)
    settings = {"template": str(folder / "t.jinja"), "max_seq_len": 4096, **data}
    return ensure_index(written_run(folder, [path], tokenizer, **settings), [path], is_builder=True)


@pytest.mark.parametrize("marks", [True, False], ids=["by marks", "turn by turn"])
@pytest.mark.parametrize("family", cases.FAMILIES)
def test_ids_and_masks_are_those_of_transformers(
    tmp_path: Path, tokenizer: str, family: str, marks: bool
) -> None:
    from transformers import AutoTokenizer

    source = (cases.TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    ours = source if marks else cases.without_marks(source)
    index = built(tmp_path, tokenizer, ours, [{"messages": one} for one in CONVERSATIONS])
    oracle = AutoTokenizer.from_pretrained(tokenizer)
    assert index.num_samples == 200
    for i, one in enumerate(CONVERSATIONS):
        wanted = oracle.apply_chat_template(
            one, chat_template=source, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, trained = index.sample(i)
        assert ids.tolist() == list(wanted["input_ids"]), one
        assert trained.astype(int).tolist() == list(wanted["assistant_masks"]), one
    comparison = compare_with_files(index, tokenizer, "seed")
    assert (comparison.compared, comparison.differences, comparison.notes) == (200, [], [])
