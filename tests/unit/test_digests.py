"""sha256 of files and documents."""

from __future__ import annotations

import hashlib
from pathlib import Path

from crossfoot.digests import sha256_of_document, sha256_of_file


def test_a_documents_digest_is_that_of_its_canonical_json() -> None:
    text = '{"a":[1,2.5,null],"b":"\N{GREEK SMALL LETTER ALPHA}"}'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert sha256_of_document({"b": "\N{GREEK SMALL LETTER ALPHA}", "a": [1, 2.5, None]}) == expected
    assert len(sha256_of_document("\udc80")) == 64


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * ((1 << 24) + 3))
    assert sha256_of_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
