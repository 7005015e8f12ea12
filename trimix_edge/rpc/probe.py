"""Ask a server who it is, before llama.cpp does: that would end the process, or wait for ever.

The wire format is that of ``ggml-rpc.cpp``: a command of one byte, eight bytes of size, the data;
and the answer likewise without a command.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from trimix_edge.errors import RpcError
from trimix_edge.values import endpoint

HELLO = 14
"""``RPC_CMD_HELLO``, which stays the same in all versions."""

PROTOCOL = (7, 0)
"""``RPC_PROTO_MAJOR_VERSION`` and the newest minor one that the pinned llama.cpp speaks."""

_CAPABILITIES = 24  # RPC_CONN_CAPS_SIZE
_REQUEST = struct.pack("<BQ", HELLO, _CAPABILITIES) + bytes(_CAPABILITIES)
_ANSWER = struct.Struct(f"<QBBBB{_CAPABILITIES}s")

BUSY = _ANSWER.pack(_ANSWER.size - 8, 0, 0, 0, 0, b"busy")
"""What ``trimix-edge rpc-server`` answers to a second client; llama.cpp lets it wait."""

ALIVE = b"trimix-edge: alive?\n"
"""What ``trimix-edge rpc-server`` sends back to who sends it; no command of llama.cpp's."""

CONNECT_SECONDS = 4.0
HELLO_SECONDS = 4.0


def connect(address: str, seconds: float = CONNECT_SECONDS) -> socket.socket:
    """A TCP connection without delays.

    Args:
        address: ``HOST:PORT``.

    Raises:
        RpcError: nobody listens there, or the host can't be reached in time.
    """
    try:
        connection = socket.create_connection(endpoint(address), timeout=seconds)
    except socket.gaierror as error:
        raise RpcError(f"{address}: there is no such host ({error.strerror})") from None
    except TimeoutError:
        raise RpcError(
            f"{address} can't be reached: no answer in {seconds:g} seconds; is the machine on, and "
            f"does its firewall let you in?"
        ) from None
    except ConnectionRefusedError:
        raise RpcError(
            f"{address} refuses the connection: is `trimix-edge rpc-server` running there, at that "
            f"port?"
        ) from None
    except OSError as error:
        raise RpcError(f"{address} can't be reached: {error.strerror or error}") from None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def probe(address: str) -> bool:
    """Check that a server of the right version answers.

    Args:
        address: ``HOST:PORT``.

    Returns:
        Whether it also says that it lives when it is asked: ``trimix-edge rpc-server`` does,
        llama.cpp's own program does not.

    Raises:
        RpcError: it can't be reached, does not answer in time, is something else, speaks another
            version, or is at work for another client.
    """
    with connect(address) as connection:
        connection.settimeout(HELLO_SECONDS)
        try:
            connection.sendall(_REQUEST)
            answer = read_exactly(connection, _ANSWER.size)
        except TimeoutError:
            raise RpcError(
                f"{address} does not answer in {HELLO_SECONDS:g} seconds: it has stopped, is "
                f"something else, or works for another client"
            ) from None
        except OSError:
            answer = b""
    if answer == BUSY:
        raise RpcError(f"{address} works for another client: a server has one at a time")
    size, major, minor, patch, *_ = _ANSWER.unpack(answer.ljust(_ANSWER.size, b"\0"))
    if len(answer) < _ANSWER.size or size != _ANSWER.size - 8:
        raise RpcError(f"{address} is no RPC server of llama.cpp: start `trimix-edge rpc-server`")
    if (major, minor) > PROTOCOL or major != PROTOCOL[0]:
        raise RpcError(
            f"{address} speaks version {major}.{minor}.{patch} of llama.cpp's RPC, "
            f"{PROTOCOL[0]}.{PROTOCOL[1]} is spoken here: install the same trimix-edge on both"
        )
    with connect(address) as connection:
        connection.settimeout(HELLO_SECONDS)
        with suppress(OSError):
            return alive(connection)
    return False


def alive(connection: socket.socket) -> bool:
    """Ask whether the server lives.

    Raises:
        OSError: its machine does not answer, or not in time.
    """
    connection.sendall(ALIVE)
    return read_exactly(connection, len(ALIVE)) == ALIVE


def read_exactly(connection: socket.socket, n: int) -> bytes:
    """``n`` bytes, or fewer where the other side ends the connection before."""
    data = b""
    while len(data) < n and (part := connection.recv(n - len(data))):
        data += part
    return data
