"""``trimix-edge serve``: an OpenAI-compatible server, and a page."""

from __future__ import annotations

import importlib.util
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimix_edge.cli import groups
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import announce_kernels, stderr
from trimix_edge.config import MAX_PARALLEL
from trimix_edge.errors import TriMixError, UsageError

if TYPE_CHECKING:
    from trimix_edge.server.protocol import Engine

_PANEL = "Server"
_NEEDED = ("starlette", "uvicorn", "h11", "pydantic", "prometheus_client")


def _option(help_: str, *names: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, help=help_, rich_help_panel=_PANEL)
    return option


@groups.expanded
def command(
    trio: opt.Trio = None,
    host: Annotated[
        str, _option("Where to listen; 0.0.0.0 is all of this machine's networks.")
    ] = "127.0.0.1",
    port: Annotated[int, _option("0 takes any free one.")] = 8080,
    parallel: Annotated[int, _option("Generations that run at once.", "--parallel", "-np")] = 4,
    queue: Annotated[int, _option("Requests that may wait for a place.")] = 64,
    api_key: Annotated[str | None, _option("What clients have to send as their key.")] = None,
    api_key_file: Annotated[
        Path | None, _option("A file of keys, one a line; empty lines and # lines are none.")
    ] = None,
    cors: Annotated[
        list[str] | None,
        _option("Pages of this origin may use the server, as https://example.org; * for all."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        _option("A name that clients call this server by, beside its addresses."),
    ] = None,
    timeout: Annotated[
        float, _option("Seconds in which a request must arrive, and an answer be read.")
    ] = 60.0,
    log_prompts: Annotated[bool, _option("Write prompts into the log.", "--log-prompts")] = False,
    max_tokens: opt.MaxTokens = None,
    stop: opt.Stop = None,
    draft: opt.DraftLength = None,
    repeatable: opt.Repeatable = False,
    *,
    models: groups.Models,
    fusion: groups.Fusion,
    sampling: groups.Sampling,
    machine: groups.Machine,
) -> None:
    """Serve a trio to programs, as OpenAI's API, and to people, as a page.

    How to sample, --max-tokens, --stop and --draft are for requests that say nothing themselves.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"serve needs {', '.join(missing)}: .venv/bin/pip install -e '.[serve]' adds them"
        )
    if not 1 <= parallel <= MAX_PARALLEL:
        raise UsageError(f"parallel is {parallel}, it must be from 1 to {MAX_PARALLEL}")
    if not 0 <= queue <= 10_000:
        raise UsageError(f"queue is {queue}, it must be from 0 to 10000")
    if not 0 < timeout <= 86_400:
        raise UsageError(f"timeout is {timeout:g}, it must be above 0 and at most 86400")
    from trimix_edge.config import Role
    from trimix_edge.decoding.options import GenerationOptions
    from trimix_edge.server.security import Access, is_loopback
    from trimix_edge.server.serving import listen, serve
    from trimix_edge.server.state import Limits
    from trimix_edge.trimix import TriMix
    from trimix_edge.trios.manifest import TrioManifest

    files = models.paths
    manifest = TrioManifest.find(trio, files)
    if max_tokens == 0:
        raise UsageError("max-tokens is 0: requests that name no limit would get no answer")
    defaults = GenerationOptions(
        sampling=sampling.given(manifest), max_tokens=max_tokens, stop=stop or None
    )
    length = opt.draft(draft, manifest, fusion.weights, repeatable=repeatable)
    manifest = replace(
        manifest,
        sampling=defaults.sampling_over(manifest.sampling),
        max_tokens=manifest.max_tokens if max_tokens is None else max_tokens,
        stop=tuple(defaults.stop or manifest.stop),
        draft=length or manifest.draft,
    )
    context = machine.context(manifest, repeatable=repeatable)
    keys = _keys(api_key, api_key_file)
    access = Access(keys, frozenset(cors or ()), frozenset([*(allow_host or ()), host]))
    limits = Limits(receive=min(timeout, 60.0), stall=timeout, waiting=queue)
    _check_origins(cors or [])
    listener = listen(host, port)
    address = _url(host, listener.getsockname()[1])
    if not is_loopback(host) and not keys:
        stderr.print(
            f"trimix-edge: whoever reaches {host} can use this server: set a key with "
            f"--api-key-file where that is not wanted",
            soft_wrap=True,
        )
    if "*" in (cors or ()) and not keys:
        stderr.print(
            "trimix-edge: --cors '*' lets every page that this machine's browsers open use the "
            "server: set a key, or name the origins",
            soft_wrap=True,
        )
    announce_kernels()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("trimix_edge.server").setLevel(logging.INFO)

    def load() -> Engine:
        available = {*manifest.models, *manifest.adapters}
        engine = TriMix.load(
            manifest,
            context=context,
            n_parallel=parallel,
            roles=tuple(role for role in Role if role in available),
            weights=fusion.weights,
            rule=fusion.rule,
            plausibility=fusion.plausibility,
        )
        # The kernels are compiled, or read from their cache, before somebody waits for them.
        engine.generate("x", chat=False, max_tokens=2, explain=True, logprobs=1)
        stderr.print(f"{manifest.name}: {address} (the API is at {address}/v1)", soft_wrap=True)
        return engine

    with listener:
        serve(load, listener, access, limits, log_prompts=log_prompts)


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _keys(key: str | None, file: Path | None) -> list[str]:
    """The keys of flag, file and environment.

    Raises:
        UsageError: a key is empty or can't be sent in a header, or the file holds none.
    """
    keys = [] if key is None else [key]
    if file is not None:
        lines = opt.read_text(file, "api-key-file", TriMixError).splitlines()
        found = [text for line in lines if (text := line.strip()) and not text.startswith("#")]
        if not found:
            raise UsageError(f"api-key-file {file} holds no key")
        keys += found
    if not keys and (own := os.environ.get("TRIMIX_API_KEY")):
        keys.append(own)
    if any(not key.strip() or not key.isascii() or not key.isprintable() for key in keys):
        raise UsageError("api-key: a key must be printable ASCII characters, at least one")
    return keys


def _check_origins(origins: list[str]) -> None:
    for origin in origins:
        scheme, separator, rest = origin.partition("://")
        if origin != "*" and (not separator or not scheme or not rest or "/" in rest):
            raise UsageError(f"cors: {origin!r} is no origin, as in https://example.org")
