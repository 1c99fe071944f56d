"""What a data file is by its first bytes, when it is not the text or the Parquet that its name says: packed,
of another program, in another encoding.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from crossfoot.data import converting
from crossfoot.data.numbering import kind_of


@dataclass(frozen=True)
class Other:
    """code: of its finding. what: in words, behind "is". helps: ways to make a file of it that is read.
    encoding: of a text, as iconv calls it; empty: not known, or no text.
    """

    code: str
    what: str
    helps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    encoding: str = ""


_PACKERS = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"BZh": ("bzip2", ".bz2"),
    b"\xfd7zXZ\0": ("xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".zst"),
    b"\x04\x22\x4d\x18": ("lz4", ".lz4"),
}
"""By their first bytes: the program, which unpacks with -dk, and the ending that it wants."""
_FORMATS = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"SQLite format 3\0": "an SQLite database",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Office document (.xls, .doc)",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"\x93NUMPY": "a numpy array",
    b"\x89HDF": "an HDF5 file",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"FEA1": "a Feather file",
    b"\x80\x02": "a Python pickle",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"\x7fELF": "a program",
}
_EXPORT = "export the records as .json, .jsonl or .parquet, and name that file"
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""By the mark at the beginning, the longer ones first."""
_FREQUENT = frozenset(
    "的一是不了在人有我他这這个個们們中来來上大为為和国國地到以说說时時要就出会會可也你对對生能而子那得于於着著下自之年"
    "过過发發后後作里裡用道行所然家种種事成方多经經么麼去法学學如都同现現当當没沒动動面起看定天分还還进進好小部其些主样樣"
    "理心她本前开開但因只从從想实實请請问問，。、？！：；“”（）《》"
)
"""A fifth and more of any Chinese text; text that is read in a wrong encoding has hardly any of them."""
_FREQUENT_SHARE = 0.1
_TRIED_CHARACTERS = 4000
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
MOST_CONTROLS = 0.01
"""A text has fewer by accident."""


def begins_as_text(head: bytes) -> bool:
    """Whether a file begins as text in UTF-8. A damaged place and a few odd characters make no other one."""
    controls = len(_CONTROLS.findall(head))
    return controls <= MOST_CONTROLS * len(head) and not _is_mostly_invalid(head)


def other_bytes(path: str, head: bytes) -> Other | None:
    """What a file is that does not begin as text; None for Parquet of that name."""
    return _packed(path, head) or _of_a_program(path, head) or _encoded(path, head)


def packed(path: str) -> Other:
    """Of a Parquet file that is packed once more."""
    return _packed(path, b"\x1f\x8b") or Other("CF557", "packed")


def _packed(path: str, head: bytes) -> Other | None:
    found = next((packer for magic, packer in _PACKERS.items() if head.startswith(magic)), None)
    if found is None:
        return _archive(path, head)
    name, ending = found
    quoted = shlex.quote(path)
    if name == "gzip" and _begins_a_tar(head):
        return _unpacked("a tar archive, packed with gzip", _into_a_folder(path, f"tar -xzf {quoted} -C"))
    inside = path.removesuffix(ending)
    if inside != path and not os.path.lexists(inside):
        return _unpacked(name, f"unpack it (the packed file stays), and name {inside}: {name} -dk {quoted}")
    new = converting.new_name(path, f".unpacked{kind_of(inside)}")
    return _unpacked(name, f"unpack it beside, and name {new}: {name} -dc {quoted} > {shlex.quote(new)}")


def _unpacked(what: str, help_: str) -> Other:
    return Other("CF557", f"packed: {what}", (help_,))


def _archive(path: str, head: bytes) -> Other | None:
    quoted = shlex.quote(path)
    if head[257:262] == b"ustar":
        return _unpacked("a tar archive", _into_a_folder(path, f"tar -xf {quoted} -C"))
    if not head.startswith(b"PK\x03\x04"):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []
    for begin, what in (("xl/", "an Excel workbook"), ("word/", "a Word document")):
        if any(name.startswith(begin) for name in names):
            return Other("CF558", what, (_EXPORT,))
    return _unpacked("a zip archive", _into_a_folder(path, f"unzip {quoted} -d"))


def _into_a_folder(path: str, command: str) -> str:
    folder = shlex.quote(converting.new_name(path, ".unpacked"))
    return f"unpack it into a folder, and name the files in there: mkdir {folder} && {command} {folder}"


def _begins_a_tar(head: bytes) -> bool:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 600)[257:262] == b"ustar"
    except zlib.error:
        return False


def _of_a_program(path: str, head: bytes) -> Other | None:
    if head.startswith(b"PAR1"):
        is_named = kind_of(path) == ".parquet"
        return None if is_named else Other("CF558", "Parquet", (converting.renamed(path, ".parquet"),))
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        opens = "open_file" if head.startswith(b"ARROW1") else "open_stream"
        return Other("CF558", "an Arrow file", (converting.from_arrow(path, opens),))
    if head[8:10] == b'{"' and head[2:8] == bytes(6):
        return Other(
            "CF558", "a safetensors file (weights of a model)", ("name the file that holds the data",)
        )
    what = next((what for magic, what in _FORMATS.items() if head.startswith(magic)), None)
    return Other("CF558", what, (_EXPORT,)) if what is not None else None


def _encoded(path: str, head: bytes) -> Other | None:
    """Text in another encoding, or no text."""
    if kind_of(path) == ".parquet":
        return None  # what is wrong with it is for pyarrow to say
    name = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    name = name or (_wide(head) if b"\0" in head else None)
    if name is None and len(_CONTROLS.findall(head)) > MOST_CONTROLS * len(head):
        return Other("CF558", "binary, not text", (_EXPORT,))
    name = name or _legacy(head)
    if name is None:
        return Other(
            "CF559",
            "text in an encoding that is not known here",
            ("save it as UTF-8 in the program that made it",),
        )
    return Other("CF559", f"{name} text", (converting.recoded(path, name),), encoding=name)


def _wide(head: bytes) -> str | None:
    """UTF-32 or UTF-16 without a mark: nearly every text has letters or line ends, with zeros beside."""
    best: tuple[float, str] = (0.0, "")
    for codec in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE"):
        try:
            text = codecs.getincrementaldecoder(codec)().decode(head)[:_TRIED_CHARACTERS]
        except UnicodeDecodeError:
            continue
        plain = sum(one.isprintable() or one.isspace() for one in text)
        if text and plain > 0.97 * len(text):
            best = max(best, (sum(one < "\x80" for one in text) / len(text), codec))
    return best[1] or None


def _is_mostly_invalid(head: bytes) -> bool:
    """Whether most of what is not ASCII is no UTF-8; else a place in the file is damaged, and is named."""
    high = sum(byte >= 0x80 for byte in head)
    valid = sum(len(one.encode()) for one in head.decode("utf-8", "ignore") if one >= "\x80")
    cut_off = 3
    return high - valid > max(cut_off, high / 2)


def _legacy(head: bytes) -> str | None:
    found = ((_share_of_frequent(head, codec), codec) for codec in ("GB18030", "Big5"))
    share, codec = max(found)
    return codec if share >= _FREQUENT_SHARE else None


def _share_of_frequent(head: bytes, codec: str) -> float:
    letters = list(islice(_wide_letters(head.decode(codec, "ignore")), _TRIED_CHARACTERS))
    return sum(one in _FREQUENT for one in letters) / max(1, len(letters))


def _wide_letters(text: str) -> Iterator[str]:
    return (one for one in text if one >= "\x80")
