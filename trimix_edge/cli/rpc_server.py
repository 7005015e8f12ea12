"""``trimix-edge rpc-server``: compute for another machine."""

from __future__ import annotations

from typing import Annotated

import typer

from trimix_edge.cli.console import stderr
from trimix_edge.errors import UsageError


def command(
    host: Annotated[
        str, typer.Option(help="The address to listen at; other machines need another one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 is one that the system chooses.")] = 50052,
    threads: Annotated[
        int,
        typer.Option(
            "--threads", "-t", help="CPU threads; 0 is one a physical core.", show_default=False
        ),
    ] = 0,
) -> None:
    """Compute layers for a trimix-edge on another machine, which names this one with --rpc.

    The protocol is llama.cpp's own: it asks for no password and encrypts nothing. Whoever reaches
    the port can use this machine's memory, and must be trusted. Keep to 127.0.0.1 and an SSH
    tunnel.
    """
    from trimix_edge.rpc.server import serve

    if not 0 <= port < 65536:
        raise UsageError(f"port is {port}, it must be from 0 to 65535")
    if not 0 <= threads <= 1024:
        raise UsageError(f"threads is {threads}, it must be from 0 to 1024")
    serve(host, port, threads, _announce)


def _announce(host: str, port: int, threads: int) -> None:
    if not (host.startswith("127.") or host in ("localhost", "::1")):
        stderr.print(
            f"WARNING: whoever reaches {host}:{port} controls this server. llama.cpp's RPC asks "
            f"for no password, encrypts nothing, and trusts what it is sent. Use it in a network "
            f"where you trust every machine, or keep to 127.0.0.1 and an SSH tunnel.",
            style="bold red",
            soft_wrap=True,
        )
    stderr.print(
        f"trimix-edge: rpc-server at {host}:{port}, {threads} threads; Ctrl-C ends it",
        soft_wrap=True,
    )
