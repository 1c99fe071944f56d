"""Finding an index by content, and counting records without one. Light: no torch, no transformers."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from crossfoot import durable
from crossfoot.arithmetic.batch import ceil_div
from crossfoot.data.file_look import file_finding
from crossfoot.data.findings import Problem, no_samples, tokenizer_unusable
from crossfoot.data.numbering import kind_of
from crossfoot.data.records import KINDS, Task, count_file
from crossfoot.data.samples import BYTES_PER_TOKEN
from crossfoot.data.template_source import template_of
from crossfoot.data.tokenizer import identity, load_at_hand, local_folder, tokenizer_path
from crossfoot.data.train_sources import is_data_file, place_of, train_files
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.index.findings import index_unwritable
from crossfoot.index.sources import SourceState, source_states
from crossfoot.index.store import CONTENT_VERSION, DataIndex, IndexDamaged, open_index
from crossfoot.phrases import first_line, said_by
from crossfoot.written.hub import not_here
from crossfoot.written.look_alikes import to_ascii
from crossfoot.written.near_paths import near_help

if TYPE_CHECKING:
    from crossfoot.written.config import DataSection
    from crossfoot.written.run_file import RunFile


def refuse_unopenable(files: Sequence[str], task: Task, run: RunFile | None = None) -> None:
    """Raise Refused, all at once, for files that are missing, folders, or not what the task reads."""
    findings = []
    columns = None if run is None else run.config.data.field_names
    for file in files:
        if (finding := file_finding(file, task, columns)) is not None:
            placed = replace(finding, place=Place(file) if run is None else place_of(run, file))
            findings.append(_with_near(placed, file, task))
    if findings:
        raise Refused(findings)


def _with_near(finding: Finding, file: str, task: Task) -> Finding:
    """With what was probably meant: the files of a folder, several in one entry, or one of a like name."""
    if os.path.isdir(file):
        return _of_folder(finding, file, task)
    if os.path.lexists(file):
        return finding
    several = [part for part in re.split(r"[,;\s]+", to_ascii(file)) if part]
    if len(several) > 1 and all(map(os.path.isfile, several)):
        return replace(finding, helps=(f"make {len(several)} entries of it: {', '.join(several)}",))
    if re.search(r"\{.*,.*\}", file):
        return replace(finding, helps=("{a,b} is not filled in: make one entry of each",))
    if glob.has_magic(file):
        helps = (f"correct the pattern; it is looked for from {os.getcwd()} on",)
        return replace(finding, label=f"no file matches {file}", helps=helps)
    near = near_help(file) or near_help(file, os.path.isdir)
    if not near and re.fullmatch(r"[\w-]+/[\w-]+", file):
        near = ("a data set of the hub is not fetched: download it, and name its files",)
    return replace(finding, helps=near or finding.helps)


def _of_folder(finding: Finding, folder: str, task: Task) -> Finding:
    """data.train means its files, where it has any; data.validation names them."""
    names = sorted(name for name in os.listdir(folder) if is_data_file(name, task))
    if not names:
        helps = (f"put data files into it ({', '.join(KINDS[task])}), or name another folder",)
        return replace(finding, label=f"{folder} is a folder without a data file", helps=helps)
    more = ", ..." if len(names) > 3 else ""
    return replace(
        finding, helps=(f"name its files: {', '.join(os.path.join(folder, one) for one in names[:3])}{more}",)
    )


def address_of(run: RunFile, sources: Sequence[SourceState], tokenizer: str) -> str:
    """The address of the index of these sources: 16 hex digits over everything that decides its content.

    A file's name is not in it, its kind is: the same bytes read as .txt and as .jsonl are other records.
    """
    data = run.config.data
    content = {
        "format": CONTENT_VERSION,
        "task": data.task,
        "template": template_of(run).sha256 if data.task == "sft" else None,
        "columns": data.field_names,
        "max_seq_len": data.max_seq_len,
        "bad_samples": data.bad_samples,
        "special_text": data.special_text,
        "tokenizer": tokenizer,
        "sources": [[kind_of(source.path), source.sha256] for source in sources],
    }
    if data.over_long != "truncate" and data.task == "sft":  # so that indexes of before keep their address
        content["over_long"] = data.over_long
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def tokenizer_mark(run: RunFile) -> str | None:
    """What decides the ids that the run's tokenizer makes; None when it is not on this machine yet.

    Raises Refused (CF520) when it names a folder that is not there, or that holds no tokenizer.
    """
    path = tokenizer_path(run.config)
    try:
        folder = local_folder(path, run.index_dir, may_write=False)
        return identity(path, folder) if folder is not None else None
    except (OSError, ValueError) as error:
        raise Refused(tokenizer_refusal(run, error)) from error


def tokenizer_refusal(run: RunFile, error: Exception) -> Finding:
    """Why the run's tokenizer cannot be had: CF060 where it is one of a hub that is not here, else CF520."""
    path = tokenizer_path(run.config)
    if missing := not_here(run):
        return missing[-1]
    finding = tokenizer_unusable(run.tokenizer_place, first_line(error))
    near = () if os.path.exists(path) else near_help(path, os.path.isdir)
    return replace(finding, helps=(*near, *finding.helps))


def refuse_broken_tokenizer(run: RunFile) -> None:
    """Refused when the run's tokenizer is on this machine and cannot be loaded, or names no end token. One
    that only transformers can read is not looked into.
    """
    load_at_hand(tokenizer_path(run.config), run.index_dir, place=run.tokenizer_place)


def refuse_unwritable_index(run: RunFile) -> None:
    """Refused when the index is not there and its folder cannot be made or written. Leaves nothing behind."""
    folder = run.index_dir
    if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
        return
    data = run.config.data
    with contextlib.suppress(Refused):  # data that cannot be opened is another finding
        if os.path.isdir(folder) and all(find_index(run, list(files)) for files in _lists(data)):
            return
    try:
        durable.prove_writable(folder)
    except OSError as error:
        raise Refused(index_unwritable(run.place("data.index_dir"), f"{folder}: {said_by(error)}")) from error


def _lists(data: DataSection) -> list[list[str]]:
    return [files for files in (train_files(data), data.validation_files) if files]


def find_index(run: RunFile, files: list[str]) -> DataIndex | None:
    """The index of these files under this config, or None when it is still to be built.

    Raises Refused when a data file or the tokenizer is missing.
    """
    refuse_unopenable(files, run.config.data.task, run)
    mark = tokenizer_mark(run)
    if mark is None or not _has_any_index(run.index_dir):
        return None  # nothing to compare with: large files need not be read for a hash
    address = address_of(run, source_states(files, run.index_dir), mark)
    try:
        return open_index(os.path.join(run.index_dir, address), files)
    except IndexDamaged:
        return None


def _has_any_index(index_dir: str) -> bool:
    try:
        return any(re.fullmatch("[0-9a-f]{16}", name) for name in os.listdir(index_dir))
    except OSError:
        return False


def count_records(files: Sequence[str], task: Task) -> int:
    """Records in the files (documents for pretrain), without tokenising; large files are estimated from their
    beginning.

    Raises Refused for files that cannot be opened, a broken list or Parquet file, or no record at all.
    """
    refuse_unopenable(files, task)
    records = 0
    for file in files:
        counted = count_file(file)
        if isinstance(counted, Problem):
            raise Refused(counted.finding(file))
        records += counted
    if not records:
        raise Refused(no_samples(Place(files[0]), f"{', '.join(files)}: no record"))
    return records


def estimate_samples(files: Sequence[str], task: Task, max_seq_len: int) -> int:
    """Samples that the index will have, about: the records (sft), or the blocks (pretrain, from the size of
    the text).
    """
    records = count_records(files, task)
    if task == "sft":
        return records
    text_bytes = sum(os.path.getsize(file) for file in files)
    tokens = int(text_bytes / BYTES_PER_TOKEN) + records
    return ceil_div(tokens, max_seq_len)
