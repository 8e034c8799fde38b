"""`mcp-vega draw`: draws pictures from the command line, by the same tools as an agent."""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

from mcp_vega.cli.desktop import open_on_desktop
from mcp_vega.cli.draw.arguments import calls_of
from mcp_vega.cli.draw.calls import make_calls
from mcp_vega.cli.draw.output import output_of
from mcp_vega.cli.draw.report import Report
from mcp_vega.cli.draw.screen import Screen
from mcp_vega.cli.output import OutputError
from mcp_vega.errors import VegaError
from mcp_vega.settings import Settings
from mcp_vega.telemetry.logs import log_to_stderr


def run_draw(options: Namespace, environment: Mapping[str, str]) -> int:
    """Draw, and print one path or address per picture on stdout, or JSON, and all else on stderr.

    Returns:
        The exit code: 0, or 1 if a picture was not drawn, not copied or not opened.

    Raises:
        VegaError: The command was wrong; nothing was drawn.
        OutputError: stdout cannot be written.
    """
    settings = Settings.from_environment(environment)
    log_to_stderr(settings.log_level, settings.log_format)
    calls = calls_of(options, settings)
    output = output_of(options.output, sum(call.parameters.pictures for call in calls), settings)
    report = Report(Screen.of(environment), as_json=options.json, sandbox=settings.sandbox, local=settings.local)
    broken: BaseException | None = None
    try:
        anyio.run(make_calls, settings, calls, output, report)
    except* (VegaError, OutputError, OSError) as group:
        broken = _first(group)
    if broken:
        raise broken
    code = report.close(calls, output)
    return (_open(report.files, environment) if options.open else 0) or code


def _first(group: BaseExceptionGroup[VegaError | OutputError | OSError]) -> BaseException:
    """The exception that ended the task groups."""
    return _first(group.exceptions[0]) if isinstance(group.exceptions[0], BaseExceptionGroup) else group.exceptions[0]


def _open(files: Sequence[Path | str], environment: Mapping[str, str]) -> int:
    """Open pictures with the program of the desktop; returns the exit code."""
    for file in files:
        in_bucket = "it is in a bucket; write it to a file with -o, or see it with `mcp-vega gallery`"
        if why_not := open_on_desktop(str(file), environment) if isinstance(file, Path) else in_bucket:
            sys.stderr.write(f"{file} was not opened: {why_not}\n")
            return 1
    return 0
