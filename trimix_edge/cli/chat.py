"""``trimix-edge chat``: a conversation with history."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trimix_edge.cli import groups
from trimix_edge.cli import options as opt
from trimix_edge.cli.console import Bar, announce_kernels, stderr, write
from trimix_edge.cli.conversation import Conversation
from trimix_edge.errors import ContextOverflowError, PromptError

if TYPE_CHECKING:
    from trimix_edge.trios.manifest import TrioManifest

_HINT = "/help lists the commands, Ctrl-C interrupts an answer, Ctrl-D leaves."


@groups.expanded
def command(
    trio: opt.Trio = None,
    system: Annotated[
        str | None, typer.Option(help="A system message.", show_default=False)
    ] = None,
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
    """Talk to a trio. /help lists the commands, Ctrl-C interrupts an answer, Ctrl-D leaves."""
    from trimix_edge.config import FusionWeights
    from trimix_edge.trimix import TriMix
    from trimix_edge.trios.manifest import TrioManifest

    files = models.paths
    manifest = TrioManifest.find(trio, files)
    settings = sampling.given(manifest)
    context = machine.context(manifest, repeatable=repeatable)
    length = opt.draft(draft, manifest, fusion.weights, repeatable=repeatable)
    announce_kernels()
    with Bar() as bar:
        trimix = TriMix.load(
            trio,
            models=files,
            weights=fusion.weights,
            rule=fusion.rule,
            plausibility=fusion.plausibility,
            context=context,
            on_progress=bar.loading,
        )
        bar.close()
        with trimix:
            interactive = sys.stdin.isatty()
            if interactive:
                _tell(banner(trimix.manifest))
            talk = Conversation(system, _tell)
            for line in _lines(interactive):
                if talk.obey(line):
                    if talk.is_over:
                        break
                    continue
                talk.ask(line)
                answer, in_force = "", None
                try:
                    for chunk in trimix.stream(
                        talk.messages,
                        max_tokens=max_tokens,
                        stop=stop,
                        sampling=settings,
                        draft=length,
                        on_progress=bar.prompt,
                    ):
                        answer += chunk.text
                        in_force = chunk.weights
                        write(chunk.text)
                except KeyboardInterrupt:
                    bar.close()
                    stderr.print(" (interrupted)", style="dim", end="")
                except ContextOverflowError as error:
                    talk.take_back()
                    _tell(f"{error}; or forget the conversation with /reset")
                    continue
                write("\n")
                chosen = not isinstance(trimix.manifest.weights, FusionWeights)
                if chosen and in_force is not None and interactive:
                    _tell(f"(weights {in_force}, chosen for this prompt)")
                talk.answer(answer)


def banner(manifest: TrioManifest) -> str:
    """What a person should know before the first line."""
    what = f": {manifest.description}" if manifest.description else ""
    return f"{manifest.name}{what}\n{_HINT}"


def _tell(text: str) -> None:
    stderr.print(text, style="dim", soft_wrap=True)


def _lines(interactive: bool) -> Iterator[str]:
    """The lines that are typed or piped, but for empty ones."""
    while (line := _read_line(interactive)) is not None:
        if line:
            yield line


def _read_line(interactive: bool) -> str | None:
    """The next line; None at the end of the input. Ctrl-C clears the line, as in a shell."""
    while True:
        try:
            return input("> " if interactive else "").removeprefix("\ufeff").strip()
        except KeyboardInterrupt:
            write("\n")
        except EOFError:
            if interactive:
                write("\n")
            return None
        except UnicodeDecodeError:
            raise PromptError("standard input is not UTF-8") from None
