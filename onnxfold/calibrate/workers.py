"""Hands chunks to workers, and again when a worker dies."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from types import TracebackType
from typing import Self

from onnxfold.calibrate.chunks import Chunk, Tensors, forget_session, observe_remotely
from onnxfold.errors import CannotRunError

_MOST_ATTEMPTS = 3
"""When so many workers died over the same chunk, the cause stays."""


_Running = dict[Future[Tensors | None], Chunk]


class Workers:
    """Worker processes of its own, or any executor; a context.

    An executor that breaks, as a process pool does when one of its processes is killed, is replaced
    by processes of its own. One that mends itself, as a Dask cluster does, is kept.
    """

    def __init__(self, executor: Executor | None, count: int) -> None:
        """Start the processes when there is no executor.

        Args:
            executor: Where to run; left running.
            count: How many chunks run at a time.
        """
        self._count = count
        self._own = _processes(count) if executor is None else None
        self._executor: Executor = self._own or executor or _processes(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        forget_session()
        if self._own is not None:
            self._own.shutdown(wait=True, cancel_futures=True)

    def finish(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Tensors]]:
        """Yield each chunk with its result, in the order in which they are done.

        Raises:
            CannotRunError: Workers die again and again.
            OnnxfoldError: What a worker raises on purpose.
        """
        waiting = deque(chunks)
        running: _Running = {}
        try:
            while waiting or running:
                broken = self._fill(waiting, running)
                for future in _done(running):
                    chunk = running.pop(future)
                    result, loss = _outcome(future)
                    if result is not None:
                        yield chunk, result
                    elif loss is None:
                        waiting.appendleft(chunk.with_model())
                    else:
                        waiting.appendleft(_again(chunk, loss))
                        broken |= isinstance(loss, BrokenExecutor)
                if broken:
                    waiting.extendleft(chunk.again() for chunk in running.values())
                    running.clear()
                    self._replace()
        finally:
            for future in running:
                future.cancel()

    def _fill(self, waiting: deque[Chunk], running: _Running) -> bool:
        """Give the workers something to do; whether there are none any more."""
        try:
            while waiting and len(running) < 2 * self._count:
                future = self._executor.submit(observe_remotely, waiting[0])
                running[future] = waiting.popleft()
        except BrokenExecutor:
            return True
        return False

    def _replace(self) -> None:
        if self._own is not None:
            self._own.shutdown(wait=True, cancel_futures=True)
        self._executor = self._own = _processes(self._count)


def _processes(count: int) -> ProcessPoolExecutor:
    """New processes, started afresh: a fork of one whose runtime has threads may hang."""
    return ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_die_quietly
    )


def _die_quietly() -> None:
    """Ctrl-C reaches every process of the terminal; this one has nothing to say about it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _done(running: _Running) -> list[Future[Tensors | None]]:
    """The chunks that are done, in the order in which they were begun; waits for one at least."""
    done = wait(running, return_when=FIRST_COMPLETED).done
    return [future for future in running if future in done]


def _outcome(future: Future[Tensors | None]) -> tuple[Tensors | None, BaseException | None]:
    """The result; without one, the exception that says that the worker is lost."""
    if future.cancelled():
        return None, CancelledError()
    error = future.exception()
    if error is None:
        return future.result(), None
    # Dask says so with exceptions of its own, and it may not be installed.
    if isinstance(error, BrokenExecutor) or type(error).__module__.startswith("distributed."):
        return None, error
    raise error


def _again(chunk: Chunk, loss: BaseException) -> Chunk:
    """The chunk for another attempt.

    Raises:
        CannotRunError: There were enough.
    """
    if chunk.attempt < _MOST_ATTEMPTS:
        return chunk.again()
    raise CannotRunError(
        f"worker processes died {chunk.attempt} times over the samples {chunk.indices[0]} to "
        f"{chunk.indices[-1]}",
        "they may have run out of memory: use fewer workers or smaller inputs; a script that "
        'starts them has to begin under `if __name__ == "__main__":`',
    ) from loss
