"""Bytes from one socket into another."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

_SIZE = 1 << 18


def pump(
    source: socket.socket, target: socket.socket, count: Callable[[int], None] | None = None
) -> bool:
    """Copy bytes until a side has ended.

    Args:
        count: called with the number of bytes of each piece.

    Returns:
        Whether it was the source that ended.
    """
    buffer = memoryview(bytearray(_SIZE))
    while True:
        try:
            n = source.recv_into(buffer)
        except OSError:
            n = 0
        if not n:
            return True
        try:
            target.sendall(buffer[:n])
        except OSError:
            return False
        if count is not None:
            count(n)


def shut(*sockets: socket.socket) -> None:
    """End connections, and wake the threads that read from them."""
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            one.close()
