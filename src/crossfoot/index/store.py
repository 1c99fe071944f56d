"""The index on disk: its header, its arrays (memory-mapped), and the digests that witness a sample's
identity.

A folder named by its address holds header.json, rejects.jsonl and one little-endian array a file. Pure numpy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b, sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from crossfoot.arithmetic.epoch_order import Ids
from crossfoot.arithmetic.held_out import HeldOut, hold_out
from crossfoot.data.numbering import Numbering, record_place
from crossfoot.data.samples import OverLong, TokenizerFacts
from crossfoot.data.special_text import NOTHING_SPELLED, SpecialText, SpelledRecords
from crossfoot.data.templates import Template
from crossfoot.documents import Malformed, parse_object, read_object, value_of
from crossfoot.findings.finding import Place
from crossfoot.phrases import counted

FORMAT_VERSION = 5
"""Of the files of an index. One of another format is built anew, at the same address."""
CONTENT_VERSION = 3
"""Goes up when the same data come to other samples: it is part of the address, and a run is not continued
with another address.
"""
HEADER = "header.json"
REJECTS = "rejects.jsonl"
TOKENIZER = "tokenizer.json"
"""What transformers made of the tokenizer, where that is not what the tokenizer's own tokenizer.json says."""
TOKEN_ARRAYS: dict[str, str] = {"tokens": "<i4", "trained": "|u1"}
"""Arrays with one entry a token."""
SAMPLE_ARRAYS: dict[str, str] = {
    "lengths": "<i4",
    "trained_tokens": "<i4",
    "token_digests": "<u8",
    "digests": "<u8",
    "lost_tokens": "<i4",
    "file_ids": "<i4",
    "numbers": "<i8",
}
"""Arrays with one entry a sample; offsets has one more."""


class IndexDamaged(ValueError):
    """A folder that is not a whole index of this format: it is built anew, never repaired."""


class OtherFormat(IndexDamaged):
    """An index that another version of the program has written."""


@dataclass(frozen=True)
class Source:
    """One data file as it was read: its size in bytes, the sha256 of its bytes, how many records it held, and
    how they are numbered.
    """

    path: str
    bytes: int
    sha256: str
    records: int
    numbering: Numbering


@dataclass(frozen=True)
class IndexHeader:
    """Counts over the whole index.

    template: of sft. columns: as in the config. reader: the library of the tokenizer's files, with its
    version. real_tokens: all tokens. trained_tokens: tokens with a label after the causal shift.
    truncated_samples, lost_tokens: samples cut at max_seq_len and the trained tokens cut off with them.
    duplicate_samples: samples equal to an earlier one. empty_samples: samples without a trained token (none
    is ever written; counted, not assumed). rejected_records: records left out, listed in rejects;
    over_long_records: of them, left out for their length (data.over_long: drop). split_records: that became
    several samples.
    left_out_tokens: pretrain's last block, when it is a single token (after the causal shift it has no
    target). special_text_records, template_records: whose data spells out a special token, or the template's
    own words. unread_fields: of good records, those that hold something and are not read, with the number of
    records. judged_characters, lost_characters, lost_words: as `LostCharacters` counted them. checksums:
    sha256 of every other file of the folder, by its name.
    """

    format_version: int
    address: str
    task: str
    template: Template | None
    columns: Mapping[str, str]
    max_seq_len: int
    bad_samples: str
    special_text: SpecialText
    sources: tuple[Source, ...]
    tokenizer: TokenizerFacts
    reader: str
    num_samples: int
    real_tokens: int
    trained_tokens: int
    truncated_samples: int
    lost_tokens: int
    duplicate_samples: int
    empty_samples: int
    rejected_records: int
    left_out_tokens: int
    special_text_records: SpelledRecords = NOTHING_SPELLED
    template_records: SpelledRecords = NOTHING_SPELLED
    unread_fields: Mapping[str, int] = field(default_factory=dict)
    judged_characters: int = 0
    lost_characters: int = 0
    lost_words: tuple[str, ...] = ()
    over_long: OverLong = "truncate"
    split_records: int = 0
    over_long_records: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict)

    @property
    def arrays_sha256(self) -> str:
        """One sha256 for the content of all arrays: equal for equal samples, whenever they were built."""
        arrays = {name: sha for name, sha in self.checksums.items() if name.endswith(".bin")}
        return _sha256_of(arrays)


@dataclass(frozen=True)
class Reject:
    """A record that was left out, with its code and why."""

    file_id: int
    place: Place
    code: str
    reason: str


@dataclass(frozen=True)
class _Rejected:
    """A line of rejects.jsonl."""

    file_id: int
    number: int
    code: str
    reason: str


@dataclass(frozen=True)
class DataIndex:
    """A whole index, memory-mapped and read-only. i below is a sample id, 0 to num_samples - 1, in file
    order.

    tokens and trained hold all samples one after the other; sample i begins at offsets[i]. trained is 1
    where the token is a label as written (position 0 included); trained_tokens counts after the causal shift.
    files: the data files by the names they have now (the content decides the address, not the name).
    held_out: of a part of the samples, what was split; the header counts the whole.
    """

    address: str
    folder: str
    header: IndexHeader
    files: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32]
    trained: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int32]
    trained_tokens: npt.NDArray[np.int32]
    token_digests: npt.NDArray[np.uint64]
    digests: npt.NDArray[np.uint64]
    lost_tokens: npt.NDArray[np.int32]
    file_ids: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int64]
    held_out: HeldOut | None = None

    @property
    def num_samples(self) -> int:
        """Samples that an id can name."""
        return len(self.lengths)

    @property
    def unit(self) -> str:
        """What a sample is of its files."""
        if self.header.task == "pretrain":
            return "blocks"
        return "samples" if self.header.split_records else "records"

    def picked(self, ids: Ids, held_out: HeldOut | None = None) -> DataIndex:
        """These samples in this order, under the ids 0, 1, ... The tokens stay where they are."""
        arrays = {name: getattr(self, name)[ids] for name in (*SAMPLE_ARRAYS, "offsets")}
        return replace(self, held_out=held_out, **arrays)

    def parted(self, part: int | float | None) -> tuple[DataIndex, DataIndex | None]:
        """(what is trained on, what is held out for validation) when so much is, as `hold_out` has it; all of
        it and None when nothing is. Raises NothingLeft.
        """
        if part is None:
            return self, None
        held_out = hold_out(self.digests, part)
        return self.picked(held_out.training, held_out), self.picked(held_out.validation, held_out)

    def sample(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Token ids and label mask of sample i, both [length]. Raises IndexError outside the index."""
        if not 0 <= i < self.num_samples:
            raise IndexError(f"sample {i} of {self.num_samples}")
        begin = int(self.offsets[i])
        part = slice(begin, begin + int(self.lengths[i]))
        return self.tokens[part], self.trained[part].astype(np.bool_)

    def place(self, i: int) -> Place:
        """Where sample i is written; for a pretrain block, where it starts."""
        return self.record_place(int(self.file_ids[i]), int(self.numbers[i]))

    def origin(self, i: int) -> str:
        """The same in words: `a.jsonl:17`, or `a.json, record 17`."""
        return str(self.place(i))

    def record_place(self, file_id: int, number: int) -> Place:
        """Where a record is written, by the number of its file and its own."""
        return record_place(self.files[file_id], self.header.sources[file_id].numbering, number)

    @property
    def spelled_notes(self) -> tuple[str, ...]:
        """What is worth saying of data that spells out special tokens, or the template's own words."""
        header = self.header
        became = "text" if header.special_text == "text" else "those tokens (data.special_text: tokens)"
        told = (
            (header.special_text_records, f"special tokens of the tokenizer, which became {became}"),
            (
                header.template_records,
                f"the words of the template {header.template and header.template.name}",
            ),
        )
        found = ((names, one.named(self.record_place)) for one, names in told if one.records)
        return tuple(
            f"{counted(one.records, 'record')} {'spells' if one.records == 1 else 'spell'} out {names}: "
            f"{'; '.join(one.first)}{'; ...' if one.records > len(one.first) else ''}"
            for names, one in found
        )

    @cached_property
    def rejects(self) -> tuple[Reject, ...]:
        """The records that were left out, in file order."""
        with open(os.path.join(self.folder, REJECTS), "rb") as stream:
            rows = [value_of(_Rejected, parse_object(line)) for line in stream]
        if wrong := [row.file_id for row in rows if not 0 <= row.file_id < len(self.files)]:
            raise Malformed(f"there is no file {wrong[0]}")
        return tuple(
            Reject(row.file_id, self.record_place(row.file_id, row.number), row.code, row.reason)
            for row in rows
        )


def segment_digests(ids: npt.ArrayLike, trained: npt.ArrayLike) -> tuple[int, int]:
    """The identity of one sample: (digest of its token ids, digest of ids and label mask), unsigned 64-bit
    blake2b.

    ids [L] as little-endian int32. trained [L]: true where the token is a label; entry 0 is taken as false,
    because after the causal shift the first token is never a target. Used when the index is built and when a
    batch is met.
    """
    id_bytes = np.ascontiguousarray(ids, dtype="<i4").tobytes()
    mask = np.array(trained, dtype=np.bool_)
    if len(id_bytes) != 4 * mask.size:
        raise ValueError(f"{len(id_bytes) // 4} ids but {mask.size} mask entries")
    mask[:1] = False
    token_digest = blake2b(id_bytes, digest_size=8)
    digest = token_digest.copy()
    digest.update(mask.tobytes())
    return int.from_bytes(token_digest.digest(), "little"), int.from_bytes(digest.digest(), "little")


def array_path(folder: str, name: str) -> str:
    """The file of one array."""
    return os.path.join(folder, f"{name}.bin")


def read_header(folder: str) -> IndexHeader:
    """The header alone. Raises IndexDamaged when the folder holds no whole header of this format."""
    try:
        values = read_object(os.path.join(folder, HEADER))
        if values.get("format_version") != FORMAT_VERSION:
            raise OtherFormat(f"{folder}: format {values.get('format_version')}, not {FORMAT_VERSION}")
        if values.pop("sha256", None) != _sha256_of(values):
            raise IndexDamaged(f"{folder}: {HEADER} is not as it was written")
        header = value_of(IndexHeader, values)
        if header.num_samples < 1 or header.real_tokens < 1:
            raise IndexDamaged(f"{folder}: {HEADER} says {header.num_samples:,} samples")
        if strange := [name for name in header.checksums if os.path.basename(name) != name]:
            raise IndexDamaged(f"{folder}: {strange[0]!r} is no file of an index")
        return header
    except (OSError, Malformed) as error:
        raise IndexDamaged(f"{folder}: {HEADER}: {error}") from error


def header_text(header: IndexHeader) -> str:
    """The header as it is written to header.json, with its own sha256."""
    values = asdict(header)
    return json.dumps({**values, "sha256": _sha256_of(values)}, ensure_ascii=False, indent=1) + "\n"


def _sha256_of(values: Mapping[str, Any]) -> str:
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def open_index(folder: str, files: Sequence[str] | None = None) -> DataIndex:
    """Memory-map an index. files: today's names of the sources, same order (default: the names it was built
    from).

    Raises IndexDamaged when an array is missing or has not the length that the header says.
    """
    header = read_header(folder)
    names = tuple(source.path for source in header.sources) if files is None else tuple(files)
    if len(names) != len(header.sources):
        raise ValueError(f"{len(names)} names for {len(header.sources)} sources")
    lengths = {name: (dtype, header.real_tokens) for name, dtype in TOKEN_ARRAYS.items()}
    lengths |= {name: (dtype, header.num_samples) for name, dtype in SAMPLE_ARRAYS.items()}
    lengths["offsets"] = ("<i8", header.num_samples + 1)
    arrays: dict[str, Any] = {
        name: _map(folder, name, dtype, length) for name, (dtype, length) in lengths.items()
    }
    index = DataIndex(address=header.address, folder=folder, header=header, files=names, **arrays)
    try:
        if len(index.rejects) != header.rejected_records:
            raise IndexDamaged(f"{folder}: {REJECTS} lists {len(index.rejects):,} records")
    except (OSError, Malformed) as error:
        raise IndexDamaged(f"{folder}: {REJECTS}: {error}") from error
    return index


def _map(folder: str, name: str, dtype: str, length: int) -> npt.NDArray[Any]:
    path = array_path(folder, name)
    if not length:
        raise IndexDamaged(f"{path}: it has no entries")
    try:
        size = os.path.getsize(path)
        if size != length * np.dtype(dtype).itemsize:
            raise IndexDamaged(f"{path}: {size} bytes, not {length} entries of {dtype}")
        return np.memmap(path, dtype=dtype, mode="r", shape=(length,))
    except OSError as error:
        raise IndexDamaged(f"{path}: {error}") from error
