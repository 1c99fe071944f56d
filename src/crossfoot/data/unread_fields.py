"""Fields of a record that the task does not read: which, and whether training without them means something
else. Formats meant: LLaMA-Factory's alpaca and sharegpt, OpenAI's messages, Dolly, preference data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from crossfoot.data.conversation import ALPACA, DOCUMENT, Columns, fields_of_turns, form_of_fields
from crossfoot.data.records import Task

MOST_NAMES, LONGEST_NAME = 200, 80
"""Different names that are counted, and their characters: a file may have any in every record."""


def _words(*texts: str) -> frozenset[str]:
    return frozenset(" ".join(texts).split())


_PICTURES = "image images img video videos audio audios sound sounds picture pictures"
_WEIGHTS = "weight weights loss_weight sample_weight loss_mask label_mask"
_CONVERSATION = "history chat_history conversation conversations messages dialog dialogs dialogue turns chat"
_PROMPT = "system system_prompt system_message meta_instruction context contexts documents passages knowledge"
_MORE_PROMPT = "inputs input_text query prefix suffix"
_TOOLS = "tool tools function functions function_call function_calls tool_call tool_calls api apis"
_PREFERENCE = "chosen rejected kto_tag"

OF_MEANING: Mapping[str, frozenset[str]] = {
    "sft": _words(_CONVERSATION, _PROMPT, _MORE_PROMPT, _TOOLS, _PREFERENCE, _PICTURES, _WEIGHTS),
    "pretrain": _words(_PICTURES, _WEIGHTS, "prefix suffix"),
}
"""What a record says beside the fields that are read: without it the model is trained on something else."""

ABOUT_THE_RECORD = _words(
    "author category categories comment comments count created created_at data_source dataset date",
    "difficulty domain file filename generator hash id idx index key kind label labels lang language length",
    "level license link locale md5 meta metadata model model_name name note notes num_tokens origin path",
    "quality rating row score scores section sha256 source sources split status subject subset tag tags",
    "task task_name task_type text time timestamp title token_count tokens topic topics type uid updated",
    "updated_at url user uuid version",
)
"""What is commonly known of a record and not said to the model. `text` beside an instruction is the same once
more, with a template around it.
"""


def unread_fields(value: Mapping[str, Any], task: Task, columns: Columns) -> tuple[str, ...]:
    """The fields of a record, and of its turns (`messages.name`), that are not read and hold something."""
    form = DOCUMENT if task == "pretrain" else form_of_fields(value) or ALPACA
    others = [(name, one) for name, one in value.items() if name not in form.reads]
    if task == "sft":
        others += fields_of_turns(value, columns)
    return tuple(dict.fromkeys(name[:LONGEST_NAME] for name, one in others if _is_filled(one)))


def _is_filled(value: Any, depth: int = 0) -> bool:
    """Whether a value says anything: no null, no blank text, and no list or object of such alone."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list | tuple | dict):
        parts = value.values() if isinstance(value, dict) else value
        return depth > 9 or any(_is_filled(part, depth + 1) for part in parts)
    return value is not None


def count_unread(counts: Counter[str], names: Iterable[str]) -> None:
    """Count a record's unread fields; of new names no more than MOST_NAMES."""
    add_unread(counts, dict.fromkeys(names, 1))


def add_unread(counts: Counter[str], more: Mapping[str, int]) -> None:
    """Add what was counted of later records, in the order in which they have the names."""
    for name, records in more.items():
        if name in counts or len(counts) < MOST_NAMES:
            counts[name] += records


def changes_meaning(name: str, task: Task) -> bool:
    """Whether training without a field of this name is training on something else."""
    return _plain(name.rpartition(".")[2]) in OF_MEANING[task]


def is_about_the_record(name: str) -> bool:
    """Whether a field of this name is commonly not meant for the model."""
    plain = _plain(name.rpartition(".")[2])
    return plain in ABOUT_THE_RECORD or plain.startswith("_") or plain.endswith(("_id", "_url", "_hash"))


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
