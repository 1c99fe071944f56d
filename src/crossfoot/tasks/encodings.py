"""In which encoding the files of a task are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from crossfoot.data.file_findings import other_file
from crossfoot.data.file_kind import Other, begins_as_text, other_bytes
from crossfoot.data.file_look import HEAD_BYTES
from crossfoot.data.packing import UTF8, open_bytes
from crossfoot.findings.finding import Finding, Refused
from crossfoot.tasks.findings import mixed_encodings
from crossfoot.written.git_lfs import is_pointer, lfs_pointer

ANY = ""
"""Of a file that has ASCII alone, as far as it was looked at: every encoding that is read writes it so."""


def encoding_of(path: str) -> str | Other:
    """As iconv calls it, ANY, or what the file is instead of a text. Raises Refused (CF565), OSError."""
    if is_pointer(path):
        raise Refused(lfs_pointer(None, path))
    with open_bytes(path) as stream:
        head = stream.read(HEAD_BYTES)
    if begins_as_text(head):
        return ANY if head.isascii() else UTF8
    return other_bytes(path, head) or UTF8


def refuse_other(path: str) -> None:
    """Refused (CF557, CF558, CF559) for what is not a text in UTF-8."""
    found = encoding_of(path)
    if isinstance(found, Other):
        raise Refused(other_file(path, found))


def common_encoding(paths: Iterable[str]) -> str:
    """The one of all of them. Raises Refused: CF853 for several, CF557 to CF559 for what is none."""
    by_path: dict[str, str] = {}
    wrong: list[Finding] = []
    for path in paths:
        found = encoding_of(path)
        if isinstance(found, str):
            by_path[path] = found
        elif found.encoding:
            by_path[path] = found.encoding
        else:
            wrong.append(other_file(path, found))
    if wrong:
        raise Refused(wrong)
    return _only(by_path)


def _only(by_path: Mapping[str, str]) -> str:
    counts = Counter(encoding for encoding in by_path.values() if encoding != ANY)
    ((most, _),) = counts.most_common(1) or ((UTF8, 0),)
    if others := [(path, encoding) for path, encoding in by_path.items() if encoding not in (ANY, most)]:
        raise Refused(mixed_encodings(most, others))
    return most
