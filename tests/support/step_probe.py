"""What every step of a run hands to torch.distributed, and where its time goes: many_runs with a probe in it.

`python step_probe.py JOBS.json`, on every rank, in the place of many_runs.py. Each rank writes
NAME.rankN.json beside JOBS.json: trained and all parameters as the engine has them, and of every step `bytes`
(by collective), `wall` and `cpu` (seconds by phase). With `split: true` in a job waiting is told from moving,
by a small all-reduce in front of every collective. With `weigh: true` the second step has `held`, the bytes
of all tensors after its first backward, and the page those `before` the run.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from crossfoot.training.engine import AccelerateEngine, DeepSpeedEngine
from crossfoot.training.step_recorder import StepRecorder
from support import many_runs

_HANDED = {
    **dict.fromkeys(("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor"), 0),
    **dict.fromkeys(("reduce_scatter", "reduce_scatter_tensor"), 1),
}
"""Collective -> which of its arguments is the whole of what moves."""
_PHASES = (("forward", "forward"), ("backward", "backward"), ("step", "optimizer"))


class Probe:
    """Books bytes and seconds under the phase that is running; a collective's seconds leave its caller's."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.splits = False
        self.weighs = False
        self._stack: list[str] = []
        self._since = (0.0, 0.0)

    def begin_step(self) -> None:
        """A new row."""
        self.steps.append({"bytes": Counter(), "wall": Counter(), "cpu": Counter(), "held": 0})
        self._since = (time.perf_counter(), time.process_time())

    def _book(self) -> None:
        now = (time.perf_counter(), time.process_time())
        if self.steps:
            phase = self._stack[-1] if self._stack else "rest"
            for clock, before, after in zip(("wall", "cpu"), self._since, now, strict=True):
                self.steps[-1][clock][phase] += after - before
        self._since = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Seconds until it ends belong to `name`, but for those of phases inside it."""
        self._book()
        self._stack.append(name)
        try:
            yield
        finally:
            self._book()
            self._stack.pop()

    def collective(self, name: str, argument: int, real: Callable[..., Any]) -> Callable[..., Any]:
        """The collective with its bytes and seconds booked."""

        def call(*words: Any, **options: Any) -> Any:
            moved = words[argument] if len(words) > argument else list(options.values())[argument]
            tensors = [moved] if torch.is_tensor(moved) else list(moved)
            if self.steps:
                self.steps[-1]["bytes"][name] += sum(one.numel() * one.element_size() for one in tensors)
            if self.splits and not options.get("async_op"):
                with self.phase("waiting"):
                    all_reduce(torch.zeros(1), group=options.get("group"))
            with self.phase("moving"):
                work = real(*words, **options)
            return _Timed(work, self) if options.get("async_op") else work

        return call

    def held(self) -> int:
        """Bytes of the storages of all tensors that Python knows of."""
        gc.collect()
        tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
        grads = [one.grad for one in tensors if one.is_leaf and one.grad is not None]
        storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors + grads}
        return sum(storages.values())


class _Timed:
    """A handle whose wait is booked."""

    def __init__(self, work: Any, probe: Probe) -> None:
        self._work, self._probe = work, probe

    def wait(self, *words: Any) -> Any:
        """Until it is done."""
        with self._probe.phase("moving"):
            return self._work.wait(*words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


PROBE = Probe()
all_reduce = dist.all_reduce


def install() -> None:
    """Before the process group is made: DeepSpeed's backend keeps some of the functions."""
    for name, argument in _HANDED.items():
        wrapped = PROBE.collective(name, argument, getattr(dist, name))
        setattr(dist, name, wrapped)
        setattr(dist.distributed_c10d, name, wrapped)
    for engine in (DeepSpeedEngine, AccelerateEngine):
        for method, phase in _PHASES:
            setattr(engine, method, _phased(getattr(engine, method), phase))
        engine.set_rate = _beginning(engine.set_rate)
        engine.__init__ = _counting(engine.__init__)
    StepRecorder.settle = _phased(StepRecorder.settle, "accounting")


def _phased(real: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(self: Any, *words: Any, **options: Any) -> Any:
        with PROBE.phase(name):
            result = real(self, *words, **options)
        if PROBE.weighs and name == "backward" and len(PROBE.steps) == 2 and not PROBE.steps[-1]["held"]:
            PROBE.steps[-1]["held"] = PROBE.held()
        return result

    return call


def _beginning(real: Callable[..., Any]) -> Callable[..., Any]:
    def set_rate(self: Any, rate: float) -> None:
        PROBE._book()
        PROBE.begin_step()
        real(self, rate)

    return set_rate


def _counting(real: Callable[..., Any]) -> Callable[..., Any]:
    def make(self: Any, *words: Any, **options: Any) -> None:
        real(self, *words, **options)
        parameters = [(p, getattr(p, "ds_numel", p.numel())) for p in self.module.parameters()]
        PROBE.trained = sum(count for p, count in parameters if p.requires_grad)
        PROBE.all_parameters = sum(count for _, count in parameters)

    return make


def main(jobs_path: str) -> int:
    """Run all jobs with the probe in them."""
    install()
    real = many_runs.run

    def run(config: str, overrides: list[str], world: Any, options: Any) -> int:
        job = next(job for job in jobs if job["overrides"] == overrides)
        PROBE.steps, PROBE.splits, PROBE.weighs = [], job.get("split", False), job.get("weigh", False)
        before = PROBE.held() if PROBE.weighs else 0
        code: int = real(config, overrides, world, options)
        page = {"trained": PROBE.trained, "all": PROBE.all_parameters, "before": before, "steps": PROBE.steps}
        name = f"{job['name']}.rank{world.rank}.json"
        Path(jobs_path).with_name(name).write_text(json.dumps(page), encoding="utf-8")
        PROBE.steps = []
        return code

    jobs = json.loads(Path(jobs_path).read_text(encoding="utf-8"))
    many_runs.run = run
    return many_runs.main(jobs_path)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank")]
    sys.exit(main(words[0]))
