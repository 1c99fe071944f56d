"""How tests are dealt out to the processes of `pytest -n`: a file whose tests share something goes whole to
one of them, longest first; the tests of all other files go one by one, and fill what is left.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[2]
_SHARED = ('scope="module"', 'scope="session"')


class ByWhatTheyShare(LoadScopeScheduling):
    """Scopes are files, or single tests. Those with the most tests go first, so the single ones go last."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if shares(file) else nodeid


@cache
def shares(file: str) -> bool:
    """Whether tests of this file, or of its folder, have a fixture in common that is made once."""
    path = ROOT / file
    texts = [one.read_text(encoding="utf-8") for one in (path, path.with_name("conftest.py")) if one.exists()]
    return any(word in text for word in _SHARED for text in texts)
