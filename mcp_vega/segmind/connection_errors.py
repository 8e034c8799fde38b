"""Why no connection was made: in words that hold no header and no password, and with the setting to look at."""

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, cast

import httpx

from mcp_vega import errors
from mcp_vega.redaction import quoted

NO_CONNECTION = "No connection to the API could be made"
CERTIFICATES_STEP = "Have SSL_CERT_FILE name a file of this network's certificates in PEM, or unset it"
_TLS_STEP = "Check SEGMIND_BASE_URL (https or http, and the port), and start the server again"

# What the kinds of causes mean, and what to do where that is not to look at the network and SEGMIND_BASE_URL; the
# first that fits counts.
_REASONS: tuple[tuple[tuple[type[BaseException], ...], Callable[[Any], str], str | None], ...] = (
    ((socket.gaierror,), lambda _: "the name of its host is not known", None),
    (
        (ssl.SSLCertVerificationError,),
        lambda cause: f"its certificate is not trusted: {quoted(cause.verify_message, 100)}",
        CERTIFICATES_STEP,
    ),
    ((ssl.SSLEOFError, ssl.SSLZeroReturnError), lambda _: "it was closed before TLS was agreed on", None),
    ((ssl.SSLError,), lambda cause: f"TLS could not be agreed on ({cause.reason})", _TLS_STEP),
    ((TimeoutError, httpx.TimeoutException), lambda _: "no answer in time", None),
    ((OSError,), lambda cause: os.strerror(cause.errno).lower() if cause.errno else "", None),
)


def unreachable(error: Exception, *, scheme: str, by_proxy: bool = False) -> errors.Unreachable:
    """What to say of a request of which nothing was sent, because of an error of httpx.

    `scheme` is that of the request's URL, `by_proxy` whether it went to a proxy first.
    """
    answer = str(error) if isinstance(error, httpx.ProxyError) else None
    reason, step = _reason_and_step(error)
    through = " through the proxy" if by_proxy or answer is not None else ""
    if through and step != CERTIFICATES_STEP:
        step = (
            f"Check the proxy that {scheme.upper()}_PROXY or ALL_PROXY names (address, user name, password), or add "
            "the API's host to NO_PROXY, and start the server again"
        )
    said = f"{NO_CONNECTION}{through}: {reason if answer is None else quoted(answer, 100)}"
    found = errors.Unreachable(said, next_step=step)
    # A proxy that said no says so again; of its answers only a 5xx is likely to pass.
    found.repeatable = answer is None or answer.startswith("5")
    return found


def _reason_and_step(error: Exception) -> tuple[str, str | None]:
    for cause in _causes(error):
        for kinds, words, step in _REASONS:
            if isinstance(cause, kinds) and (reason := words(cause)):
                return reason, step
    return type(error).__name__, None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """What lies behind an error, then the error itself; of several attempts the first."""
    if error is None:
        return
    if isinstance(error, BaseExceptionGroup):
        yield from _causes(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    else:
        yield from _causes(error.__cause__ or error.__context__)
    yield error
