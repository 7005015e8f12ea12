"""``trimix-edge inspect``: what is in a GGUF file, and what running it takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimix_edge.cli import making
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import show_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trimix_edge.planning.summary import GgufSummary


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.gguf|TRIO",
            help="TRIO: an embedded trio's name, a trio.toml or its folder.",
            show_default=False,
        ),
    ],
    ctx: opt.Ctx = None,
    kv_type: opt.KvType = None,
    as_json: making.AsJson = False,
) -> None:
    """Tell what is in a GGUF file, from its metadata alone, and what memory it needs; or what a
    trio.toml says."""
    from trimix_edge.config import ContextParams
    from trimix_edge.gguf import read_gguf
    from trimix_edge.planning.summary import summarise
    from trimix_edge.trios.manifest import embedded_trios

    if file.suffix == ".toml" or file.is_dir() or str(file) in embedded_trios():
        _show_trio(file, as_json=as_json)
        return
    wanted = ContextParams(n_ctx=ctx or 0, kv_type=kv_type or "f16")
    summary = summarise(read_gguf(file), wanted.n_ctx or None, wanted.kv_type)
    if as_json:
        memory = summary.memory and {**asdict(summary.memory), "total": summary.memory.total}
        facts = {**asdict(summary), "path": str(summary.path), "memory": memory}
        print(json.dumps(facts, ensure_ascii=False))
        return
    show_table(("", ""), [(name, _plain(value)) for name, value in _facts(summary)])
    rows = [
        (
            _plain(group.name),
            f"{group.n_parameters / 1e6:,.2f} M",
            f"{group.n_bytes / 1e6:,.2f} MB",
            ", ".join(f"{n} {kind}" for kind, n in group.types.items()),
        )
        for group in summary.groups
    ]
    print()
    show_table(("tensors", "parameters", "size", "types"), rows, right=(1, 2))


def _show_trio(file: Path, *, as_json: bool) -> None:
    """The models and the weights of a manifest, and where the weights come from."""
    from trimix_edge.trios.manifest import TrioManifest

    manifest = TrioManifest.find(file)
    source = manifest.source
    facts = {
        "name": manifest.name,
        "description": manifest.description,
        **{str(role): str(path) for role, path in manifest.models.items()},
        **{str(role): f"{a.base} with {a.path}" for role, a in manifest.adapters.items()},
        "weights": str(manifest.weights),
    }
    if as_json:
        told = None if source is None else source.as_table()
        print(json.dumps({**facts, "source": told}, ensure_ascii=False))
        return
    facts["weights from"] = "not told" if source is None else str(source)
    rows = [(name, _plain(value)) for name, value in facts.items() if value]
    show_table(("", ""), rows)


def _facts(summary: GgufSummary) -> Iterator[tuple[str, str]]:
    from trimix_edge.files import megabytes

    kind = "" if summary.kind == "model" else f" ({summary.kind})"
    yield (
        "file",
        f"{summary.path}, {megabytes(summary.n_bytes)}"
        + (f" in {summary.n_parts} parts" if summary.n_parts > 1 else ""),
    )
    yield "name", summary.name
    yield "architecture", f"{summary.architecture}{kind}"
    yield "parameters", f"{summary.n_parameters / 1e6:,.1f} M"
    yield "quantisation", f"{summary.quantization}, {summary.bits_per_weight:g} bits a weight"
    if vocabulary := summary.vocabulary:
        pre = f", pre-tokenizer {vocabulary.pre}" if vocabulary.pre else ""
        yield "vocabulary", f"{vocabulary.n_tokens:,} tokens, {vocabulary.model}{pre}"
    template = summary.chat_template
    yield "chat template", f"{len(template):,} characters" if template else "none"
    yield "licence", summary.license or "not told"
    if summary.languages:
        yield "languages", ", ".join(summary.languages)
    if summary.base_models:
        yield "based on", ", ".join(summary.base_models)
    if summary.n_ctx_train:
        yield "trained context", f"{summary.n_ctx_train:,} tokens"
    if memory := summary.memory:
        yield (
            f"memory at {memory.n_ctx:,}",
            f"{megabytes(memory.total)}: weights {megabytes(memory.weights)}, KV cache "
            f"{megabytes(memory.kv_cache)}, computing about {megabytes(memory.compute)}",
        )


def _plain(text: str) -> str:
    """Text by a stranger, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:400]
