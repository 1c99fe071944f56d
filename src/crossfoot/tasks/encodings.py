"""In which encoding the files of a task are written."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Mapping

from crossfoot.data.file_findings import other_file
from crossfoot.data.file_kind import Other, begins_as_text, other_bytes
from crossfoot.data.file_look import HEAD_BYTES
from crossfoot.data.packing import BROKEN, UTF8, open_bytes
from crossfoot.data.records import broken_packing
from crossfoot.findings.finding import Refused
from crossfoot.tasks.findings import mixed_encodings
from crossfoot.written.git_lfs import is_pointer, lfs_pointer

ANY = ""
"""Of a file that has ASCII alone, which every encoding writes so, or too little else to tell."""


def encoding_of(path: str) -> str | Other:
    """As iconv calls it, ANY, or what the file is instead. Raises Refused (CF526, CF565), OSError."""
    if is_pointer(path):
        raise Refused(lfs_pointer(None, path))
    try:
        with open_bytes(path) as stream:
            head = stream.read(HEAD_BYTES)
    except BROKEN as error:
        raise Refused(broken_packing(error, 0).finding(path)) from error
    if begins_as_text(head):
        return UTF8 if _is_telling(head) else ANY
    return other_bytes(path, head) or ANY


def _is_telling(head: bytes) -> bool:
    """Whether it is UTF-8 without a doubt."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not head.isascii()


def refuse_other(path: str) -> None:
    """Refused (CF557, CF558, CF559) for what is not a text in UTF-8."""
    found = encoding_of(path)
    if isinstance(found, Other):
        raise Refused(other_file(path, found))


def common_encoding(paths: Iterable[str]) -> str:
    """The one of all of them. Raises Refused: CF853 for several, CF557 to CF559 for what is none."""
    by_path: dict[str, str] = {}
    unknown: dict[str, Other] = {}
    for path in paths:
        found = encoding_of(path)
        if isinstance(found, str):
            by_path[path] = found
        elif found.encoding:
            by_path[path] = found.encoding
        else:
            unknown[path] = found
    most = _only(by_path)
    is_short_text = most != UTF8  # too few characters to know GB18030 by; the reader decodes it strictly
    if wrong := [(path, one) for path, one in unknown.items() if one.code != "CF559" or not is_short_text]:
        raise Refused([other_file(path, one) for path, one in wrong])
    return most


def _only(by_path: Mapping[str, str]) -> str:
    counts = Counter(encoding for encoding in by_path.values() if encoding != ANY)
    ((most, _),) = counts.most_common(1) or ((UTF8, 0),)
    if others := [(path, encoding) for path, encoding in by_path.items() if encoding not in (ANY, most)]:
        raise Refused(mixed_encodings(most, others))
    return most
