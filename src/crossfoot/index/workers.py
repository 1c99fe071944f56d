"""Processes that tokenise chunks for one that reads and writes: results in the order of the chunks, whatever
process is how fast.

A worker is a plain interpreter that reads chunks from a pipe and writes parts to another. When whoever
started it is gone, however that came, its pipe ends, and so does the worker.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, cast

from crossfoot.data.encoders import ONE_THREAD
from crossfoot.data.samples import Shape
from crossfoot.data.special_text import SpecialText
from crossfoot.data.tokenizer import load_encoder
from crossfoot.index.chunks import Chunk
from crossfoot.index.tokenised import Part, Tokeniser

WORKER_BYTES = 8_000_000
"""Of data files for each worker: it takes about as long to start one as to tokenise a third of this."""
MOST_WORKERS = 16
"""One process reads and writes for all of them: more of them would wait for it, and each takes memory."""
PATIENCE_SECONDS = 10.0
"""For a process to end whose pipes have."""
_START = "import sys; sys.path[:] = sys.argv[1:]; from crossfoot.index.workers import work; work()"
_ONE_THREAD = dict([ONE_THREAD, ("RAYON_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1")])


class WorkerLost(Exception):
    """A worker ended before its work was done. The message says how, in words."""


@dataclass(frozen=True)
class Recipe:
    """What a worker makes its tokeniser of: `load_encoder`'s arguments, and the shape."""

    tokenizer: str
    index_dir: str
    special_text: SpecialText
    shape: Shape

    def tokeniser(self) -> Tokeniser:
        """The same as everybody else's of this recipe."""
        encoder = load_encoder(self.tokenizer, self.index_dir, special_text=self.special_text)
        return Tokeniser(encoder, self.shape)


def workers_for(size_bytes: int, cores: int) -> int:
    """How many workers pay for data files of this size; 0: the process itself is done sooner."""
    paying, _ = divmod(size_bytes, WORKER_BYTES)
    count = min(cores, paying, MOST_WORKERS)
    return count if count > 1 else 0


class Workers:
    """Some workers of one recipe. Leaving the context ends them at once."""

    def __init__(self, recipe: Recipe, count: int) -> None:
        self._recipe = recipe
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: list[_Worker] = []
        self._count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="tokenising")

    def __enter__(self) -> Workers:
        with contextlib.ExitStack() as undo:
            undo.push(self.__exit__)
            for _ in range(self._count):
                self._all.append(_Worker(self._recipe))
                self._idle.put(self._all[-1])
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()

    def parts(self, chunks: Iterable[Chunk]) -> Iterator[Part]:
        """The parts of the chunks, in order. At most two chunks a worker are held. Raises WorkerLost, and
        what a worker raised.
        """
        waiting: deque[Future[Part]] = deque()
        for chunk in chunks:
            waiting.append(self._threads.submit(self._part, chunk))
            if len(waiting) > 2 * self._count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _part(self, chunk: Chunk) -> Part:
        worker = self._idle.get()
        try:
            return worker.part(chunk)
        finally:
            self._idle.put(worker)  # also a lost one: who takes it then hears of it, and nobody waits


class _Worker:
    """One worker process, from outside."""

    def __init__(self, recipe: Recipe) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            start_new_session=True,  # what a terminal sends is for the process that started it
        )
        self._pipes = cast("tuple[IO[bytes], IO[bytes]]", (self._process.stdin, self._process.stdout))
        self._recipe: Recipe | None = recipe

    def part(self, chunk: Chunk) -> Part:
        """Its answer to a chunk. Raises WorkerLost, and what it raised itself."""
        to_it, from_it = self._pipes
        try:
            if self._recipe is not None:
                _send(to_it, self._recipe)
                self._recipe = None
            _send(to_it, chunk)
            answer = pickle.load(from_it)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise WorkerLost(self._how_it_ended()) from error
        if isinstance(answer, MemoryError):
            raise WorkerLost("it found no more memory") from answer
        if isinstance(answer, BaseException):
            raise answer
        part: Part = answer
        return part

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            return "its answer cannot be read"
        if code == -signal.SIGKILL:
            return "it was killed (SIGKILL), as the system does when memory runs out"
        return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Close its pipes, when nobody reads or writes any more."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()


def _send(stream: IO[bytes], value: Any) -> None:
    pickle.dump(value, stream, protocol=5)
    stream.flush()


def work() -> None:
    """The life of a worker: a recipe, then chunks, until no more come."""
    pipe_out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints
    with contextlib.suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):
        answer: Callable[[Chunk], Any] = _answers(pickle.load(sys.stdin.buffer))
        while True:
            _send(pipe_out, answer(pickle.load(sys.stdin.buffer)))
    os._exit(0)


def _answers(recipe: Recipe) -> Callable[[Chunk], Any]:
    """Parts of chunks, or what was raised instead."""
    tokeniser: list[Tokeniser] = []

    def answer(chunk: Chunk) -> Any:
        try:
            if not tokeniser:
                tokeniser.append(recipe.tokeniser())
            return tokeniser[0](chunk)
        except Exception as error:  # raised anew where it is awaited
            return error

    return answer
