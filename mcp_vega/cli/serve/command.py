"""Runs the server. The modules for HTTP are imported only if they are needed, so that stdio does not wait for them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mcp_vega.cli.serve.stdio import run_stdio

if TYPE_CHECKING:  # a host does not wait for this import
    from argparse import Namespace


def run_serve(options: "Namespace", environment: Mapping[str, str]) -> int:
    """Serve until the end; returns the exit code.

    Raises:
        InvalidSettings: Over HTTP, a setting cannot be used, or the address needs access tokens.
        PortTaken: The address cannot be used.
    """
    if options.transport == "stdio":
        return run_stdio(environment)
    from mcp_vega.cli.serve.http import run_http

    return run_http(options, environment)
