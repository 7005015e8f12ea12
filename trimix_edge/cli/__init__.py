"""The command line: one verb, one file; no logic.

Exit codes: 0; 1 for an error of a file, a model or a prompt, told in one line; 2 for wrong usage;
130 for Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from trimix_edge import __version__
from trimix_edge.cli import chat, generate, info
from trimix_edge.errors import TriMixError, UsageError

app = typer.Typer(
    name="trimix-edge",
    help="Three quantised models, one voice: TriMix logit fusion on llama.cpp.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.command)
app.command("chat")(chat.command)
app.command("info")(info.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trimix-edge {__version__}")
        raise typer.Exit


# Typer carries its own copy of click, and shows only the leaves of its errors.
_WrongUsage: type[Exception] = typer.BadParameter.__mro__[1]


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _fail(message: object, code: int) -> int:
    print(f"trimix-edge: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        code = typer.main.get_command(app).main(
            arguments, prog_name="trimix-edge", standalone_mode=False
        )
        sys.stdout.flush()
    except UsageError as error:
        return _fail(error, 2)
    except TriMixError as error:
        return _fail(error, 1)
    except _WrongUsage as error:
        return _fail(f"{str(error).rstrip('.')} (see trimix-edge --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone. Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("not enough memory", 1)
    return int(code or 0)


def main() -> None:
    """The console script."""
    sys.exit(run())
