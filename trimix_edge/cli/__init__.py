"""The command line: one verb, one file; no logic.

Exit codes: 0; 1 for an error of a file, a model or a prompt, told in one line; 2 for wrong usage;
130 for Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from trimix_edge import __version__
from trimix_edge.cli import (
    bench,
    bundle,
    chat,
    compare,
    compare_quants,
    convert,
    evaluate,
    fit,
    generate,
    imatrix,
    info,
    inspect,
    plan,
    presets,
    pull,
    quantize,
    rpc_server,
    score,
    serve,
)
from trimix_edge.cli.flags import name_flags
from trimix_edge.cli.streams import (
    fill_closed_streams,
    one_line,
    restart_in_utf8,
    shown_notices,
    use_utf8,
)
from trimix_edge.errors import (
    ContextError,
    ContextOverflowError,
    DecodeError,
    PromptError,
    TriMixError,
    TrioConfigError,
    UsageError,
    take_process,
)

app = typer.Typer(
    name="trimix-edge",
    help="Three quantised models, one voice: TriMix logit fusion on llama.cpp.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.command)
app.command("chat")(chat.command)
app.command("serve")(serve.command)
app.command("rpc-server")(rpc_server.command)
app.command("score")(score.command)
app.command("fit")(fit.command)
app.command("bench")(bench.command)
app.command("evaluate")(evaluate.command)
app.command("compare")(compare.command)
app.command("info")(info.command)
app.command("plan")(plan.command)
app.command("presets")(presets.command)
app.command("pull")(pull.command)
app.command("convert")(convert.command)
app.command("quantize")(quantize.command)
app.command("imatrix")(imatrix.command)
app.command("compare-quants")(compare_quants.command)
app.command("inspect")(inspect.command)
app.command("bundle")(bundle.command)


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


_WORDS = {"int": "N", "float": "NUMBER", "str": "TEXT", "path": "PATH", "file": "PATH"}
"""What help shows for a value, by the name that Typer has for its type."""


def _name_values(command: Any) -> None:
    """Show people's words where newer versions of Typer show Python's types, as ``<list[str]>``."""
    context = command.make_context("trimix-edge", [], resilient_parsing=True)
    for parameter in command.get_params(context):
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None  # beside the name, which says it all
        elif getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.metavar is None and hasattr(parameter, "display_type"):
            name = parameter.display_type(context).strip("<>")
            name = name.removeprefix("list[").removesuffix("]").removesuffix(" range")
            parameter.metavar = _WORDS.get(name, name)
    for inner in getattr(command, "commands", {}).values():
        _name_values(inner)


def _fail(message: object, code: int) -> int:
    print("trimix-edge:", one_line(message), file=sys.stderr)
    return code


def _reader_has_gone() -> int:
    """Success, as for any filter; Python would complain once more while closing stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with shown_notices():
        return _run(arguments)


def _run(arguments: list[str] | None) -> int:
    try:
        command = typer.main.get_command(app)
        if {"-h", "--help"} & {*(sys.argv if arguments is None else arguments)}:
            _name_values(command)
        code = command.main(arguments, prog_name="trimix-edge", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        return _fail(name_flags(str(error)), 2)
    except (TrioConfigError, PromptError, ContextError, ContextOverflowError, DecodeError) as error:
        return _fail(name_flags(str(error)), 1)
    except TriMixError as error:
        return _fail(error, 1)
    except _WrongUsage as error:
        told = getattr(error, "format_message", error.__str__)()
        where = getattr(getattr(error, "ctx", None), "command_path", "trimix-edge")
        return _fail(f"{told.rstrip('.')} (see {where} --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        return _reader_has_gone()
    except SystemExit as leaving:  # Typer's answer to a closed pipe
        if isinstance(leaving.__context__, BrokenPipeError):
            return _reader_has_gone()
        raise
    except OSError as error:  # a full disk under stdout, say
        code = _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
        _reader_has_gone()
        return code
    except MemoryError:
        return _fail("not enough memory", 1)
    return int(code or 0)


def main() -> None:
    """The console script."""
    take_process()
    restart_in_utf8()
    has_output = fill_closed_streams()
    use_utf8()
    sys.exit(run() if has_output else _fail("standard output is closed", 1))
