"""The index that the digests of plan and ledger come from, held against the lock, its checksums and the files
it was made of.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from crossfoot.data.tokenizer import fingerprint, local_folder
from crossfoot.digests import sha256_of_file
from crossfoot.index.checksums import ReadingLine, damage_of
from crossfoot.index.reference_chat import words_of
from crossfoot.index.reference_check import Comparison, compare_with_files
from crossfoot.index.store import (
    CONTENT_VERSION,
    DataIndex,
    IndexDamaged,
    IndexHeader,
    OtherFormat,
    open_index,
)
from crossfoot.ledger.entry import NO_STEP, Cause
from crossfoot.receipts.cause_summary import summarise
from crossfoot.receipts.receipt import MOST_CAUSES_WRITTEN
from crossfoot.receipts.run_promise import index_dirs
from crossfoot.receipts.verdict import Receipt
from crossfoot.runs.attempts import Attempt
from crossfoot.runs.reader import RunRecord
from crossfoot.written.paths import at_home

HASHED_BYTES = 4 << 30
"""Data files up to this size in all are hashed for every receipt; larger ones only when a record differs."""


def held_against_index(receipt: Receipt, run: RunRecord) -> Receipt:
    """The run's receipt with what its index says: a fault of it is a cause, and what was compared a note."""
    causes, notes = index_faults(run.run_dir, run.lock, run.started)
    return replace(
        receipt,
        foots=receipt.foots and not causes,
        foots_so_far=receipt.foots_so_far and not causes,
        causes=(*causes, *receipt.causes)[:MOST_CAUSES_WRITTEN],
        cause_count=receipt.cause_count + len(causes),
        summary=(*summarise(causes, (), {}, {}), *receipt.summary),
        notes=(*receipt.notes, *notes),
    )


def index_faults(
    run_dir: str, lock: Mapping[str, Any], attempts: Sequence[Attempt] = ()
) -> tuple[list[Cause], list[str]]:
    """(causes, notes): the index that `lock` names, looked at where it and its files lie now, by the config
    or by what the attempts noted. That it is nowhere is told by `promise_of_run`.

    What is not there, or has changed since on purpose (a data file, the tokenizer), is a note. The whole
    index is read, and of its data files what holds 200 records drawn by the lock's sha256.
    """
    promised = lock.get("index")
    if not isinstance(promised, Mapping) or not isinstance(lock.get("config"), Mapping):
        return [], []
    files = [str(source["path"]) for source in promised.get("sources", ())]
    address = str(promised.get("address"))
    here = [one for one in index_dirs(run_dir, lock, attempts) if os.path.isdir(os.path.join(one, address))]
    if not here:
        return [], []
    index_dir, folder = here[0], os.path.join(here[0], address)
    try:
        index = open_index(folder, files)
        damage = damage_of(folder, index.header, ReadingLine())
    except IndexDamaged as error:
        if isinstance(error, OtherFormat) and "arrays_sha256" not in promised:
            return [], [f"the index {error}: nothing of it was looked at; crossfoot index builds it anew"]
        return [_cause("index differs", f"the index {error}")], []
    except ValueError as error:
        return [_cause("index differs", f"the index {folder} is of other files: {error}")], []
    if damage is not None:
        return [_cause("index differs", f"the index {folder}: {damage}")], []
    causes, notes = _against_lock(index, lock, promised)
    if causes or _is_of_another_version(promised):
        return causes, notes
    compared, words = _compared(index, index_dir, lock, promised)
    return [*causes, *compared], [*notes, *index.spelled_notes, *words]


def _against_lock(
    index: DataIndex, lock: Mapping[str, Any], promised: Mapping[str, Any]
) -> tuple[list[Cause], list[str]]:
    """The content and the address that the lock promises."""
    header, causes, notes = index.header, [], []
    addresses = {header.address}
    if _is_of_another_version(promised):
        words = "the index was made by another version of crossfoot: not compared with its files"
        notes.append(words)
    else:
        addresses.add(_address(lock["config"]["data"], promised, header))
    said = _over_long(lock["config"]["data"])
    if addresses != {promised["address"]} or header.over_long != said:
        message = f"the index {index.folder} is not of the data, the tokenizer and the settings of the lock"
        causes.append(_cause("index differs", message))
    arrays = promised.get("arrays_sha256")
    if arrays is None:
        notes.append("the lock is of an older version, and does not say what its index held")
    elif arrays != header.arrays_sha256:
        message = f"the index {index.folder} holds other samples than the one that the run was planned with"
        planned, real = str(arrays)[:7], header.arrays_sha256[:7]
        causes.append(_cause("index differs", message, planned=planned, real=real))
    return causes, notes


def _is_of_another_version(promised: Mapping[str, Any]) -> bool:
    """Whether today the same data would come to other samples, at another address."""
    return bool(promised.get("content_version", 1) != CONTENT_VERSION)


def _address(data: Mapping[str, Any], promised: Mapping[str, Any], header: IndexHeader) -> str:
    """Worked out without the code that gives addresses. data: that section of the config."""
    content = {
        "format": CONTENT_VERSION,
        "task": data["task"],
        "template": _template(header, data) if data["task"] == "sft" else None,
        "columns": data.get("columns", {}),
        "max_seq_len": data["max_seq_len"],
        "bad_samples": data["bad_samples"],
        "special_text": data.get("special_text"),
        "tokenizer": f"{header.tokenizer.fingerprint} {header.reader}",
        "sources": [[_ending(source["path"]), source["sha256"]] for source in promised["sources"]],
    }
    if _over_long(data) != "truncate":
        content["over_long"] = _over_long(data)
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _over_long(data: Mapping[str, Any]) -> str:
    """What becomes of long records; blocks of documents have no length of their own."""
    return str(data.get("over_long", "truncate")) if data["task"] == "sft" else "truncate"


def _ending(path: str) -> str:
    return os.path.splitext(re.sub(r"\.gz$", "", path.lower()))[1]


def _template(header: IndexHeader, data: Mapping[str, Any]) -> str | None:
    """Of its words, and of what the config says beside them."""
    if header.template is None:
        return None
    words = words_of(header.template)
    if not header.template.source:
        words = [data["template"], *words]
    content = [words, data.get("system_prompt"), data.get("train_on", "all")]
    return sha256(json.dumps(content).encode()).hexdigest()


def _compared(
    index: DataIndex, index_dir: str, lock: Mapping[str, Any], promised: Mapping[str, Any]
) -> tuple[list[Cause], list[str]]:
    """Records tokenised again, where their files and the tokenizer are what they were."""
    why: str | None = None
    try:
        if sum(os.path.getsize(file) for file in index.files) <= HASHED_BYTES:
            why = _changed(index.files, promised["sources"])
        folder, tokenizer = _tokenizer(lock["config"], index_dir, index.header.tokenizer.fingerprint)
        if why := why or tokenizer:
            return [], [_not_compared(why)]
        comparison = compare_with_files(index, folder, str(lock.get("sha256")))
        if comparison.differences and (why := _changed(index.files, promised["sources"])):
            return [], [_not_compared(why)]
    except OSError as error:
        return [], [_not_compared(f"{error.filename}: {error.strerror}")]
    causes = [
        _cause(
            "index differs",
            one.message,
            sample=one.sample,
            origin=one.origin,
        )
        for one in comparison.differences
    ]
    return causes, [*comparison.notes, *_counted(index, comparison)]


def _counted(index: DataIndex, comparison: Comparison) -> list[str]:
    if not comparison.compared:
        return []
    kind = index.unit
    differ = len(comparison.differences)
    words = f"{differ:,} differ" if differ > 1 else "1 differs" if differ else "none differs"
    return [
        f"the index was held against its files: {comparison.compared:,} of {comparison.total:,} {kind} "
        f"re-tokenised, {words}"
    ]


def _changed(files: Sequence[str], sources: Sequence[Mapping[str, Any]]) -> str | None:
    """Which data files are not what they were, in words. Reads all of them. Raises OSError."""
    changed = []
    for file, source in zip(files, sources, strict=True):
        if sha256_of_file(file) != source["sha256"]:
            changed.append(file)
    return f"changed since the plan: {', '.join(changed)}" if changed else None


def _tokenizer(config: Mapping[str, Any], index_dir: str, mark: str) -> tuple[str, str | None]:
    """The tokenizer's folder, and why it is of no use, in words."""
    own = config.get("tokenizer")
    path = at_home(str(own["path"] if own else config["model"]["path"]))
    try:
        folder = local_folder(path, index_dir, may_write=False)
        if folder is None:
            return path, f"the tokenizer {path} is not on this machine"
        is_same = fingerprint(path, folder) == mark
    except (OSError, ValueError) as error:
        return path, f"the tokenizer {path}: {error}"
    return folder, None if is_same else f"the tokenizer {path} has changed since the plan"


def _not_compared(why: str) -> str:
    return f"the index is whole, and was not compared with its files: {why}"


def _cause(kind: str, message: str, **more: Any) -> Cause:
    return Cause(NO_STEP, None, None, kind, message, **more)
