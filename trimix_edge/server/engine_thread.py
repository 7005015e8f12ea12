"""The one thread that computes, and the way from it to the event loop.

Three threads take part. The event loop never waits for a model. A second thread prepares requests
one after the other: templates, tokenization, grammars. The third loads the trio and then steps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from trimix_edge.errors import TriMixError
from trimix_edge.server.errors import ApiError, unavailable
from trimix_edge.server.protocol import Chunk, Engine, Run

_log = logging.getLogger("trimix_edge.server")

_T = TypeVar("_T")
_Event = Chunk | BaseException


class Group:
    """The runs of one request, and their chunks as they come.

    Attributes:
        runs: one for each choice.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self._events: asyncio.Queue[tuple[int, _Event]] = asyncio.Queue()
        self._n_left = len(runs)

    def push(self, index: int, event: _Event) -> None:
        self._events.put_nowait((index, event))

    async def chunks(
        self, patience: float | None = None
    ) -> AsyncIterator[tuple[int, Chunk] | None]:
        """Which run, and its chunk, until all runs have finished.

        Args:
            patience: yield None whenever nothing has come for so many seconds.

        Raises:
            BaseException: what ended a run, if that was an error.
        """
        while self._n_left:
            if self._events.empty() and patience is not None:
                try:
                    index, event = await asyncio.wait_for(self._events.get(), patience)
                except asyncio.TimeoutError:
                    yield None
                    continue
            else:
                index, event = await self._events.get()
            if isinstance(event, BaseException):
                raise event
            if event.finish_reason == "error":
                raise self.runs[index].error or RuntimeError("a run failed without an error")
            self._n_left -= event.finish_reason is not None
            yield index, event


class EngineThread:
    """Owns the engine. All methods but :meth:`start` are of the event loop.

    Args:
        load: makes the engine; called in the engine's thread.
        max_waiting: requests that may wait beside those that run.
        on_failure: called in the loop when loading or a step has failed for good.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        max_waiting: int,
        on_failure: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._load = load
        self._max_waiting = max_waiting
        self._on_failure = on_failure
        self._wake = threading.Event()
        self._stopping = False
        self._preparing = 0
        self._active: dict[Run, tuple[Group, int]] = {}
        self._early: dict[Run, list[Chunk]] = {}
        self._workers = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self.failure: BaseException | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    @property
    def ready(self) -> bool:
        return self._engine is not None and self.failure is None and not self._stopping

    @property
    def engine(self) -> Engine:
        """The loaded engine.

        Raises:
            ApiError: 503; it is not loaded yet, or no more.
        """
        if self.failure is not None:
            raise unavailable("the engine has failed; the server's log says why", "failed", 60)
        if self._stopping:
            raise unavailable("the server is shutting down", "shutting_down", 10)
        if self._engine is None:
            raise unavailable("the models are being loaded", "loading", 2)
        return self._engine

    @property
    def n_active(self) -> int:
        """Requests that are prepared, wait or run."""
        return len(self._active) + self._preparing

    @property
    def n_running(self) -> int:
        return min(self.n_active, self._engine.n_parallel) if self._engine else 0

    async def prepare(self, work: Callable[[], _T]) -> _T:
        """Run something short that would block the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    async def submit(self, jobs: Sequence[tuple[Any, dict[str, Any]]]) -> Group:
        """Enqueue runs, all of them or none.

        Raises:
            ApiError: 503; the queue is full.
            TriMixError: one of the jobs is wrong.
        """
        engine = self.engine
        room = engine.n_parallel + self._max_waiting - self.n_active
        if len(jobs) > engine.n_parallel + self._max_waiting:
            raise ApiError(400, f"{len(jobs)} choices are more than the queue holds", param="n")
        if len(jobs) > room:
            raise unavailable("too many requests are waiting: try again later", "queue_full", 2)
        self._preparing += len(jobs)
        runs: list[Run] = []
        future = asyncio.get_running_loop().run_in_executor(
            self._workers, self._submit_all, engine, jobs, runs
        )
        try:
            await asyncio.shield(future)
        except BaseException:
            if future.done():
                self._forget(runs, len(jobs))
            else:  # the client left meanwhile
                future.add_done_callback(lambda done: self._abandoned(done, runs, len(jobs)))
            raise
        group = Group(runs)
        for index, run in enumerate(runs):
            self._active[run] = (group, index)
            for event in self._early.pop(run, ()):  # it began before the loop knew of it
                self._push(run, event)
        self._prepared(len(jobs))
        if self.failure is not None:
            self.end_all(self.failure)
        return group

    def _submit_all(
        self, engine: Engine, jobs: Sequence[tuple[Any, dict[str, Any]]], runs: list[Run]
    ) -> None:
        for prompt, options in jobs:
            runs.append(engine.submit(prompt, **options))
        self._wake.set()

    def _abandoned(self, future: asyncio.Future[None], runs: list[Run], count: int) -> None:
        if not future.cancelled():
            future.exception()  # nobody is left to hear of it
        self._forget(runs, count)

    def _forget(self, runs: list[Run], count: int) -> None:
        for run in runs:
            run.cancel()
            self._early.pop(run, None)
        self._prepared(count)
        self._wake.set()

    def _prepared(self, count: int) -> None:
        self._preparing -= count
        if not self._preparing:
            self._early.clear()

    def release(self, group: Group) -> None:
        """A group that nobody reads any more; what runs of it is cancelled."""
        for run in group.runs:
            if self._active.pop(run, None) is not None:
                run.cancel()
        self._wake.set()

    def end_all(self, error: BaseException) -> None:
        """End all streams with an error, and cancel their runs."""
        for group, index in list(self._active.values()):
            group.push(index, error)
            group.runs[index].cancel()
        self._active.clear()
        self._wake.set()

    def stop_accepting(self) -> None:
        self._stopping = True

    def close(self) -> None:
        """Stop the engine after its step, and free the models."""
        self._stopping = True
        self._wake.set()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._thread.join(timeout=10)
        if self._engine is not None and not self._thread.is_alive():
            self._engine.close()
        self._engine = None

    def _deliver(self, events: Sequence[tuple[Run, Chunk]]) -> None:
        for run, chunk in events:
            if run in self._active:
                self._push(run, chunk)
            elif self._preparing:
                self._early.setdefault(run, []).append(chunk)

    def _push(self, run: Run, chunk: Chunk) -> None:
        place = self._active[run]
        if chunk.finish_reason is not None:
            del self._active[run]
        place[0].push(place[1], chunk)

    def _failed(self, error: BaseException) -> None:
        self.failure = error
        self.end_all(error)
        self._on_failure(error)

    def _call_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(call, *arguments)

    def _work(self) -> None:
        try:
            engine = self._load()
            self._engine = engine
            while True:
                self._wake.clear()
                if self._stopping and not self._active:
                    return
                if engine.is_idle:
                    self._wake.wait()
                    continue
                events = engine.step()
                if events:
                    self._call_loop(self._deliver, events)
        except BaseException as error:
            if not isinstance(error, TriMixError):
                _log.error("the engine has failed", exc_info=error)
            self._call_loop(self._failed, error)
