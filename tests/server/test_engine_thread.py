"""The thread that steps the engine, without a server around it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from server.fake_engine import FakeChunk, FakeEngine, FakeRun

from trimix_edge.server.engine_thread import EngineThread


class Forgetful(FakeEngine):
    """Like the real engine, it keeps no run that has ended, and tells the end of cancelled ones."""

    def __init__(self) -> None:
        super().__init__(n_parallel=1000)
        self._mine: list[FakeRun] = []
        self._turn = threading.Lock()

    @property
    def is_idle(self) -> bool:
        return not self._mine

    def submit(self, prompt: Any, **options: Any) -> FakeRun:
        time.sleep(0.002)  # as a template and a tokenizer take
        run = FakeRun([1], prompt.encode(), options)
        with self._turn:
            self._mine.append(run)
        return run

    def step(self) -> list[tuple[FakeRun, FakeChunk]]:
        time.sleep(0.001)
        with self._turn:
            running, self._mine = self._mine, []
            for run in running:
                run.place += 1
                run.finished = run.cancelled or run.place == 3
            self._mine = [run for run in running if not run.finished]
        reasons = ["end" if run.finished else None for run in running]
        texts = [run.says.decode() for run in running]
        chunks = [
            FakeChunk(t, 1, b"", finish_reason=r) for t, r in zip(texts, reasons, strict=True)
        ]
        return list(zip(running, chunks, strict=True))


def test_nobody_reads_what_was_meant_for_a_client_that_left() -> None:
    """A new run may be made where a forgotten one was in memory."""
    wrong: list[str] = []

    async def client(thread: EngineThread, name: str, leaves: bool) -> None:
        group = await thread.submit([(name, {})])
        if not leaves:
            said = [item[1] async for item in group.chunks()]
            wrong.extend(name for chunk in said if getattr(chunk, "text", None) != name)
        thread.release(group)

    async def serve() -> None:
        thread = EngineThread(Forgetful, 10_000)  # type: ignore[arg-type,type-abstract]
        thread.start(asyncio.get_running_loop())
        while not thread.ready:
            await asyncio.sleep(0.01)
        clients = []
        for i in range(800):
            clients.append(asyncio.create_task(client(thread, str(i), i % 2 == 0)))
            if i % 8 == 7:
                await asyncio.sleep(0.016)
        await asyncio.wait_for(asyncio.gather(*clients), 60)
        assert thread.n_active == 0
        thread.close()

    asyncio.run(serve())
    assert wrong == []
