"""A request on its way: whether any of it was sent to the API, and why not, in words and with the setting to look at.

A call that failed before its own headers were written reached a proxy at most, so nobody charged it. httpcore tells its
extension `trace` of every step; a proxy is asked for a tunnel with a request of its own, whose method is CONNECT.
"""

import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import httpx

from mcp_vega import errors
from mcp_vega.redaction import quoted

NO_CONNECTION = "No connection to the API could be made"
CERTIFICATES_STEP = "Have SSL_CERT_FILE name a file of this network's certificates in PEM, or unset it and SSL_CERT_DIR"
_URL_STEP = "Check SEGMIND_BASE_URL (https or http, the host, the port), and start the server again"
_CLOCK_STEP = "Check this machine's clock, then call again; if it is right, the API's certificate has run out"
# OpenSSL's numbers of what is wrong with a certificate; with any other it is not trusted.
_CERTIFICATE_STEPS = {9: _CLOCK_STEP, 10: _CLOCK_STEP, 62: _URL_STEP, 64: _URL_STEP}

# What shows by itself that nothing was sent, where the transport reports no steps.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
_PORTS = {"http": 80, "https": 443}


class RequestTrace:
    """Follows one request to `url`, as its extension `trace`; calls `on_its_way` before its headers are sent."""

    def __init__(self, url: httpx.URL) -> None:
        self._url = url
        self._begun = time.monotonic()
        self._reported = False
        self._headers_begun = False
        self._headers_written = False
        self._proxied = False
        self.on_its_way: Callable[[], None] = lambda: None

    @property
    def seconds(self) -> float:
        """How long ago it was begun."""
        return time.monotonic() - self._begun

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Note a step, such as `http11.send_request_headers.started`."""
        self._reported = True
        match event.partition(".")[2]:
            case "connect_tcp.started":
                target = (self._url.raw_host.decode(), self._url.port or _PORTS.get(self._url.scheme))
                self._proxied = (info["host"], info["port"]) != target
            case "send_request_headers.started":
                self._headers_begun = info["request"].method != b"CONNECT"
                if self._headers_begun:
                    self.on_its_way()
            case "send_request_headers.complete":
                self._headers_written = self._headers_begun
            case _:
                pass

    def nothing_sent(self, error: Exception) -> bool:
        """Whether the request failed with an error before any of it was written to the API."""
        if not self._reported:
            return isinstance(error, _NEVER_SENT)
        # Headers that are not allowed are noticed before the first byte of them is written.
        illegal = isinstance(error, httpx.LocalProtocolError) and not self._headers_written
        return illegal or not self._headers_begun

    def unreachable(self, error: Exception) -> errors.Unreachable:
        """What to say of a request of which nothing was sent."""
        return unreachable(error, scheme=self._url.scheme, by_proxy=self._proxied)


# ---- why not ----


def _certificate_step(cause: ssl.SSLCertVerificationError) -> str:
    return _CERTIFICATE_STEPS.get(cause.verify_code, CERTIFICATES_STEP)


# What the kinds of causes mean, and what to do where that is not to look at the network and SEGMIND_BASE_URL; the
# first that fits counts.
_REASONS: tuple[tuple[tuple[type[BaseException], ...], Callable[[Any], str], Callable[[Any], str | None]], ...] = (
    ((socket.gaierror,), lambda _: "the name of its host is not known", lambda _: None),
    (
        (ssl.SSLCertVerificationError,),
        lambda cause: f"its certificate is not valid here: {quoted(cause.verify_message, 100)}",
        _certificate_step,
    ),
    ((TimeoutError, httpx.TimeoutException), lambda _: "no answer in time", lambda _: None),
    (
        (ssl.SSLEOFError, ssl.SSLZeroReturnError),
        lambda _: "it was closed before TLS was agreed on",
        lambda _: None,
    ),
    ((ssl.SSLError,), lambda cause: f"TLS could not be agreed on ({cause.reason})", lambda _: _URL_STEP),
    ((OSError,), lambda cause: os.strerror(cause.errno).lower() if cause.errno else "", lambda _: None),
    ((OverflowError,), lambda _: "its port is none", lambda _: _URL_STEP),
)


def unreachable(error: Exception, *, scheme: str, by_proxy: bool = False) -> errors.Unreachable:
    """What to say of a request of which nothing was sent, because of an error of httpx.

    `scheme` is that of the request's URL, `by_proxy` whether it went to a proxy first.
    """
    answer = str(error) if isinstance(error, httpx.ProxyError) else None
    reason, step = _reason_and_step(error)
    through = " through the proxy" if by_proxy or answer is not None else ""
    if through and step not in (CERTIFICATES_STEP, _CLOCK_STEP):
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
    for kinds, words, step in _REASONS:
        for cause in _causes(error):
            if isinstance(cause, kinds) and (reason := words(cause)):
                return reason, step(cause)
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
