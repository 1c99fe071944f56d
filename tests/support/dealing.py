"""How tests are dealt out to the processes of `pytest -n`: a file whose tests share something goes whole to
one of them; the tests of all other files go one by one, and fill what is left. What takes minutes goes first,
or one worker would be alone with it at the end.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[2]
MINUTES = ("tests/distributed/test_nothing_lost.py",)
_SHARED = ('scope="module"', 'scope="session"')


class ByWhatTheyShare(LoadScopeScheduling):
    """Scopes are files, or single tests. Those with the most tests go first, so the single ones go last."""

    def schedule(self) -> None:
        super().schedule()
        for scope in [scope for scope in self.workqueue if scope.startswith(MINUTES)]:
            self.workqueue.move_to_end(scope, last=False)

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if shares(file) else nodeid


@cache
def shares(file: str) -> bool:
    """Whether tests of this file, or of its folder, have a fixture in common that is made once."""
    path = ROOT / file
    texts = [one.read_text(encoding="utf-8") for one in (path, path.with_name("conftest.py")) if one.exists()]
    return any(word in text for word in _SHARED for text in texts)
