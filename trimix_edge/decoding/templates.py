"""Chat templates, rendered in a child process that can be ended: see :mod:`.template_worker`."""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any

import psutil

from trimix_edge.errors import TemplateError

MAX_TEMPLATE = 200_000
MAX_SECONDS = 5.0
"""Seconds of the child's own time on a processor that one rendering may take."""

MAX_WAIT = 60.0
"""Seconds by the clock, for a machine that is busy with other things."""

MAX_MEMORY = 512 << 20
"""Bytes that the child may hold, where the system has no limit of its own for that."""

_LOOK = 0.05
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1].split('\\n'); "
    "from trimix_edge.decoding.template_worker import main; main()"
)
_ENVIRONMENT = ("PATH", "TZ", "TZDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""All that the child gets to know of the environment: no keys, no names."""


class TemplateRefusal(TemplateError):
    """The template itself raised an error: it does not accept the conversation."""


class _Child:
    """A running child process, and the thread that reads what it says."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # The paths of this process, not of the folder that it happens to stand in.
            [sys.executable, "-I", "-c", _PROGRAM, "\n".join(filter(None, sys.path))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C in a terminal is for the parent
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        assert self._process.stdout is not None
        thread = threading.Thread(target=_read, args=(self._process.stdout, self._lines))
        thread.daemon = True
        thread.start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, line: bytes) -> dict[str, str] | None:
        """The answer to a request; None where the child has ended.

        Raises:
            TemplateError: it takes too long, or too much memory.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:
            return None
        reply = self._wait()
        answer: dict[str, str] | None = json.loads(reply) if reply.endswith(b"\n") else None
        return answer

    def _wait(self) -> bytes:
        waited, began = 0.0, None
        while True:
            try:
                return self._lines.get(timeout=_LOOK)
            except queue.Empty:
                waited += _LOOK
            try:
                process = psutil.Process(self._process.pid)
                times, held = process.cpu_times(), process.memory_info().rss
            except psutil.Error:
                continue  # it has just ended: the reader will say so
            spent = times.user + times.system
            began = spent if began is None else began
            if spent - began > MAX_SECONDS or waited > MAX_WAIT:
                raise TemplateError(
                    f"the chat template does not end: it was stopped after {MAX_SECONDS:g} seconds"
                )
            if held > MAX_MEMORY:
                raise TemplateError("the chat template fails: it needs too much memory")

    def end(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # of what was not yet written to a dead child
                    pipe.close()
        self._process.wait()


def _read(pipe: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    try:
        for line in pipe:
            lines.put(line)
    except (OSError, ValueError):  # closed by the other thread
        pass
    lines.put(b"")


class TemplateRenderer:
    """Renders templates one after another; may be called from any thread.

    The child is started by the first call, and again whenever it has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """The text that a template makes of its variables, which are values of JSON.

        Raises:
            TemplateRefusal: the template raises an error of its own.
            TemplateError: it is broken, does what it must not, or does not end.
        """
        if len(template) > MAX_TEMPLATE:
            raise TemplateError(
                f"the chat template is {len(template)} characters long: at most {MAX_TEMPLATE} "
                f"are read"
            )
        line = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        with self._lock:
            reply = self._ask(line) or self._ask(
                line
            )  # the first child may have been idle too long
        if reply is None:
            raise TemplateError("the chat template fails: it crashes the process that renders it")
        if "refused" in reply:
            raise TemplateRefusal(f"the chat template refuses the conversation: {reply['refused']}")
        if "failed" in reply:
            raise TemplateError(f"the chat template fails: {reply['failed']}")
        return reply["text"]

    def _ask(self, line: bytes) -> dict[str, str] | None:
        if self._child is not None and not self._child.is_alive:
            self.close()
        try:
            reply = self._started().ask(line)
        except BaseException:  # Ctrl-C too: its answer would be taken for that of the next request
            self.close()
            raise
        if reply is None or "failed" in reply:
            self.close()
        return reply

    def _started(self) -> _Child:
        if self._child is None:
            try:
                self._child = _Child()
            except OSError as error:
                raise TemplateError(
                    f"chat templates are rendered in a process of their own, which can't be "
                    f"started: {error.strerror or error}"
                ) from None
        return self._child

    def warm_up(self) -> None:
        """Start the child, if there is none, without waiting for it: before models load, say."""
        with self._lock, suppress(TemplateError):  # then the first rendering will say so
            self._started()

    def close(self) -> None:
        """End the child; the next call starts another one."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def forget(self) -> None:
        """After a fork, the child is the other process's."""
        self._lock = threading.Lock()
        self._child = None


renderer = TemplateRenderer()
"""One for the whole process: a child takes a tenth of a second to start."""

atexit.register(renderer.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renderer.forget)
