"""One engine, shared by several threads: whoever waits for a token runs the next step."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trimix_edge.decoding.engine import Engine, Output
from trimix_edge.decoding.run import Generation, GenerationChunk, Run
from trimix_edge.errors import UsageError
from trimix_edge.llama.backend import deferred_interrupt


class EngineLoop:
    """Steps of the engine, and their results to the runs they belong to.

    A thread that waits for a run steps the engine for all runs, unless another thread does so
    already; then it waits for that one's results. So no thread of its own is needed, and a stream
    that nobody reads on does not stop the others.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runs: dict[int, Run] = {}
        self._turn = threading.Condition()
        self._owner: int | None = None  # the thread whose turn it is
        self._is_inside = False

    @property
    def is_idle(self) -> bool:
        """Whether no run is waiting or running."""
        return self._engine.is_idle

    def add(self, run: Run) -> None:
        """Queue a run.

        Raises:
            PromptError, ContextOverflowError: see :meth:`Engine.add`.
        """
        with self._turn:
            self._runs[id(run.sequence)] = run
            try:
                self._engine.add(run.sequence)
            except BaseException:
                del self._runs[id(run.sequence)]
                raise

    def step(self) -> list[tuple[Run, GenerationChunk]]:
        """Run one step, and say what it brought."""
        with self._stepping():
            events = self._step()
        for run, chunk in events:
            if chunk.finish_reason is not None:
                run.tell()
        return events

    def next_chunk(self, run: Run) -> GenerationChunk | None:
        """The next chunk of a run, None after the last; steps the engine until it is there.

        Raises:
            DecodeError: what ended the run.
        """
        while True:
            self._refuse_callbacks()
            try:
                with self._turn:
                    self._turn.wait_for(lambda: run.is_ready or self._may_begin())
                    if run.is_ready:
                        return run.take()
                    self._owner = threading.get_ident()
                self._step()
            finally:
                self._end_turn()

    def run_all(self, runs: Sequence[Run]) -> list[Generation]:
        """Let these runs come to their ends, as many at once as there are places.

        Raises:
            DecodeError: what ended one of them.
        """
        with self._cancelling(runs):
            for run in runs:
                self.add(run)
            for run in runs:
                while self.next_chunk(run) is not None:
                    pass
        return [run.result() for run in runs]

    def follow(self, runs: Sequence[Run]) -> Iterator[tuple[int, GenerationChunk]]:
        """The chunks of these runs as they come: the index of a run, and its next chunk.

        Raises:
            DecodeError: what ended one of them.
        """
        with self._cancelling(runs):
            for run in runs:
                self.add(run)
            left = dict(enumerate(runs))
            while left:
                for i, run in tuple(left.items()):
                    # Only one waits; what the others got meanwhile is there already.
                    while run.is_ready or run is next(iter(left.values())):
                        chunk = self.next_chunk(run)
                        if chunk is None:
                            del left[i]
                            break
                        yield i, chunk
                        if not run.is_ready:
                            break

    @contextmanager
    def _cancelling(self, runs: Sequence[Run]) -> Iterator[None]:
        try:
            yield
        finally:
            for run in runs:
                run.cancel()

    @contextmanager
    def exclusive(self) -> Iterator[int]:
        """Nobody else steps in this block.

        Yields:
            A place in the contexts that no sequence uses. Others run on until there is one.
        """
        while True:
            with self._stepping():
                self._deliver(self._engine.remove_cancelled())
                free = self._engine.scheduler.free
                if free:
                    self._is_inside = True
                    try:
                        yield free[0]
                    finally:
                        self._is_inside = False
                    return
                self._step()

    @property
    def last_used(self) -> int:
        """The place that was used last, of those that are free: see :meth:`exclusive`."""
        return self._engine.scheduler.free[-1]

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        self._refuse_callbacks()
        try:
            with self._turn:
                self._turn.wait_for(self._may_begin)
                self._owner = threading.get_ident()
            yield
        finally:
            self._end_turn()

    def _may_begin(self) -> bool:
        """Whether it is nobody's turn. One that Ctrl-C has left with this thread is nobody's."""
        return self._owner in (None, threading.get_ident())

    def _refuse_callbacks(self) -> None:
        """Raise UsageError where a callback of a step would wait for that step's end."""
        if self._is_inside and self._owner == threading.get_ident():
            raise UsageError("a callback can't use the trio whose generation it belongs to")

    def _end_turn(self) -> None:
        if self._owner == threading.get_ident():
            with self._turn:
                self._owner = None
                self._turn.notify_all()

    def _step(self) -> list[tuple[Run, GenerationChunk]]:
        # Ctrl-C waits for the end of the step: nothing is lost between the models and the runs.
        with deferred_interrupt():
            self._is_inside = True
            try:
                events = self._deliver(self._engine.step())
                if any([chunk.finish_reason == "stop" for _, chunk in events]):
                    self._deliver(self._engine.remove_cancelled())  # their places are free at once
                return events
            finally:
                self._is_inside = False

    def _deliver(self, outputs: list[Output]) -> list[tuple[Run, GenerationChunk]]:
        events = []
        for sequence, token in outputs:
            run = self._runs.get(id(sequence))
            if run is not None:
                chunk = run.put(token)
                if chunk is not None:
                    events.append((run, chunk))
                if run.finished:  # not the sequence: drafted tokens end it before they are told
                    del self._runs[id(sequence)]
        return events

    def end_all(self) -> None:
        """End every run, before the models are freed."""
        with self._stepping():
            for run in self._runs.values():
                run.abandon()
            self._runs.clear()
