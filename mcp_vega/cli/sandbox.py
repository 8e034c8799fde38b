"""`mcp-vega sandbox`: serves a stand-in for the Segmind API on a fixed port."""

import signal
import sys
from argparse import Namespace
from collections.abc import Mapping

import anyio

from mcp_vega.errors import PortTaken
from mcp_vega.network.serving import serving
from mcp_vega.sandbox.account import Account
from mcp_vega.sandbox.app import build_sandbox


def run_sandbox(options: Namespace, _: Mapping[str, str]) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    account = Account(speed=float(options.speed), credits=options.credits, rate_limit=options.rate_limit)
    anyio.run(_serve, account, options.host, options.port)
    return 0


async def _serve(account: Account, host: str, port: int) -> None:
    try:
        async with serving(build_sandbox(account), host=host, port=port) as url:
            sys.stderr.write(
                f"{url}\n"
                f"A stand-in for the Segmind API; it costs nothing. Point a server at it with\n"
                f"  SEGMIND_BASE_URL={url} SEGMIND_API_KEY=SG_anything mcp-vega\n"
                f"A prompt with [fault:failed] fails; GET {url}/_sandbox lists every such word. To leave: Ctrl-C.\n"
            )
            sys.stderr.flush()
            if sys.platform == "win32":  # no signal receivers there; Ctrl-C raises KeyboardInterrupt
                await anyio.sleep_forever()
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    break
    except OSError as error:
        raise PortTaken(host, port, error) from error
