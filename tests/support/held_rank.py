"""The rank's side of support/steering.py: puts holds around crossfoot's parts as they are imported.

Every Python process of a steered run begins here, launchers too, so nothing is imported that is not light.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

LONGEST_SECONDS = 900.0
"""A rank that nobody lets go ends by itself: its test is gone."""
_LOOK_SECONDS = 0.005


class _Rank:
    """This process, as far as it is known. rank: None before it is one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rank: int | None = None
        self.is_asked = False

    def visit(self, place: str, number: int = 0, tick: Callable[[], None] = lambda: None) -> None:
        """Stand here while a hold says so. tick: called meanwhile, where who stands is taken for stuck."""
        for hold in sorted(self.folder.glob(f"{place}-*")):
            if number >= int(hold.name.rpartition("-")[2]):
                self._stand(hold, tick)

    def _stand(self, hold: Path, tick: Callable[[], None]) -> None:
        go, asked = hold / "go", hold / f"asked-{self.rank}"
        if go.exists() or asked.exists():
            return
        (hold / f"rank-{self.rank}-{os.getpid()}").touch()
        deadline = time.monotonic() + LONGEST_SECONDS
        while not go.exists():
            if self.is_asked:
                asked.touch()
                return
            if time.monotonic() > deadline:
                os._exit(70)
            tick()
            time.sleep(_LOOK_SECONDS)


def _rank_monitor(module: ModuleType, here: _Rank) -> None:
    monitor = module.RankMonitor
    real_enter, real_tick, real_phase = monitor.__enter__, monitor.tick, monitor.phase

    @functools.wraps(real_enter)
    def enter(self):
        here.rank = self.rank
        return real_enter(self)

    @functools.wraps(real_phase)
    def phase(self, name, step=None):
        real_phase(self, name, step)
        if name not in ("training", "ended"):
            here.visit(name, step or 0)

    @functools.wraps(real_tick)
    def tick(self, step=None):
        if step is not None:
            here.visit("step", step, lambda: real_tick(self))
        real_tick(self, step)

    monitor.__enter__, monitor.tick, monitor.phase = enter, tick, phase


def _stopping(module: ModuleType, here: _Rank) -> None:
    real = module.StopRequest.ask

    @functools.wraps(real)
    def ask(self, reason):
        real(self, reason)
        here.is_asked = here.is_asked or self.reason.ends

    module.StopRequest.ask = ask


def _saving(module: ModuleType, here: _Rank) -> None:
    real = module.commit

    @functools.wraps(real)
    def commit(partial):
        here.visit("commit")
        return real(partial)

    module.commit = commit


def _rendezvous(module: ModuleType, here: _Rank) -> None:
    real = module.meet

    @functools.wraps(real)
    def meet(world, *rest, **more):
        here.rank = world.rank
        here.visit("meeting")
        return real(world, *rest, **more)

    module.meet = meet


HOOKS: dict[str, tuple[tuple[str, ...], Callable[[ModuleType, _Rank], None]]] = {
    "crossfoot.liveness.rank_monitor": (
        ("RankMonitor.__enter__", "RankMonitor.tick", "RankMonitor.phase"),
        _rank_monitor,
    ),
    "crossfoot.liveness.stopping": (("StopRequest.ask",), _stopping),
    "crossfoot.training.saving": (("commit",), _saving),
    "crossfoot.rendezvous.meeting_point": (("meet",), _rendezvous),
}
"""Module -> what of it is wrapped, and by what."""


class _Loader(Loader):
    """Runs a module as its own loader does, and then puts the holds around it."""

    def __init__(self, real: Loader, here: _Rank) -> None:
        self._real, self._here = real, here

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        HOOKS[module.__name__][1](module, self._here)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


class _Finder(MetaPathFinder):
    """Asked for every module first; finds none but those of HOOKS."""

    def __init__(self, here: _Rank) -> None:
        self._here = here

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if self._here.rank is not None:
            self._here.visit(f"import.{name}")
        if name not in HOOKS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._here)
        return spec


def begin(folder: str) -> None:
    """Called by the sitecustomize.py of a steered run. folder: of its holds."""
    sys.meta_path.insert(0, _Finder(_Rank(Path(folder))))
