"""The command line: runs one command and returns its exit code."""

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from mcp_vega.server.stdio.early_answers import serves_stdio, start_early_answers

if TYPE_CHECKING:  # a host does not wait for this import
    from argparse import Namespace

USAGE = 2
FAILED = 1
# The modules of the commands; each has a function `run_COMMAND`.
MODULES = {
    "draw": "draw.command",
    "jobs": "jobs.command",
    "gallery": "gallery.command",
    "recipe": "recipe",
    "install": "install.command",
    "uninstall": "install.command",
    "doctor": "doctor.command",
    "export": "transfer.command",
    "import": "transfer.command",
    "completion": "completion",
    "sandbox": "sandbox",
    "engine": "engine.command",
    "weights": "engine.weights",
    "serve": "serve.command",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage.
    """
    # The import of pydantic creates thousands of lasting objects. Garbage collection during it costs 5 % of a start.
    gc.disable()
    _open_closed_streams()
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")
    # Otherwise pydantic reads the metadata of all installed packages at each start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if serves_stdio(arguments, os.environ):
            start_early_answers(arguments, os.environ)
        return _main(arguments)
    except KeyboardInterrupt:
        return 130
    except (ImportError, SystemError) as error:  # pydantic raises the second if its parts do not fit together
        sys.stderr.write(f"This program cannot be loaded: {' '.join(str(error).split())}. Install mcp-vega again.\n")
        return FAILED


def _main(arguments: Sequence[str]) -> int:
    from mcp_vega.cli.output import OutputError, print_error
    from mcp_vega.errors import InvalidArguments, InvalidSettings, VegaError

    options = None
    try:
        options = _options(arguments)
        return _run(options)
    except VegaError as error:
        print_error(error, draws=options is not None and _draws(options))
        return USAGE if isinstance(error, InvalidArguments | InvalidSettings) else FAILED
    except OutputError as error:
        sys.stderr.write(f"The output cannot be written: {error}.\n")
        return FAILED
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _options(arguments: Sequence[str]) -> "Namespace":
    if serves_stdio(arguments, os.environ):  # to build the parser as well would take 4 % of a start
        switches = {name: f"--{name}" in arguments for name in ("sandbox", "local")}
        return cast("Namespace", SimpleNamespace(command=None, transport="stdio", **switches))
    from mcp_vega.cli.parser.commands import build_parser

    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the user has pressed Tab in a shell
        from mcp_vega.cli.completion import answer_shell

        answer_shell(parser)
    if arguments and arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    options = parser.parse_args(arguments)
    over_network = options.serve_host or options.serve_port is not None or options.insecure
    if options.transport == "stdio" and over_network:
        parser.error("--host, --port and --insecure go with --transport sse or http")
    if options.sandbox and options.local:
        parser.error("--sandbox and --local exclude each other: leave one of them out")
    return options


def _draws(options: "Namespace") -> bool:
    """Whether the command draws, so that each of its errors has to say whether something was charged."""
    return options.command == "draw" or (options.command == "doctor" and options.paid)


def _open_closed_streams() -> None:
    """Replace standard streams that were closed before the start: nothing can be read, and output is discarded.

    In this order each gets its usual file descriptor.
    """
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_WRONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, flags)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  open until the process ends


def _run(options: "Namespace") -> int:
    run = _command(options.command)
    gc.freeze()
    gc.enable()
    return run(options, {**os.environ, **_variables_of(options)})


def _variables_of(options: "Namespace") -> dict[str, str]:
    """The variables that options stand for. One place to draw replaces the other that the environment names."""
    if options.sandbox:
        return {"MCP_VEGA_SANDBOX": "1", "MCP_VEGA_LOCAL": ""}
    return {"MCP_VEGA_LOCAL": "1", "MCP_VEGA_SANDBOX": ""} if options.local else {}


def _command(name: str | None) -> "Callable[[Namespace, Mapping[str, str]], int]":
    """The function of a command. Each command imports only the modules that it needs."""
    command = name or "serve"
    return getattr(import_module(f"mcp_vega.cli.{MODULES[command]}"), f"run_{command}")
