"""Follows a request: whether any of it was sent to the API and, if not, the reason and the setting to check.

A call that failed before its own headers were written reached a proxy at most, so nobody charged it. httpcore reports
every step to the request's extension `trace`. The request that asks a proxy for a tunnel has the method CONNECT.
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
CERTIFICATES_STEP = "Set SSL_CERT_FILE to a PEM file with this network's certificates, or unset it and SSL_CERT_DIR"
_URL_STEP = "Check SEGMIND_BASE_URL (https or http, the host, the port), and start the server again"
_CLOCK_STEP = "Check this machine's clock, then call again; if the clock is right, the API's certificate has expired"
# OpenSSL's error numbers: not yet valid, expired, wrong host name, wrong address. Any other: not trusted.
_CERTIFICATE_STEPS = {9: _CLOCK_STEP, 10: _CLOCK_STEP, 62: _URL_STEP, 64: _URL_STEP}

# Errors that prove that nothing was sent, if the transport reports no steps.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
_PORTS = {"http": 80, "https": 443}


class RequestTrace:
    """Follows one request to `url` as its extension `trace`. It calls `on_its_way` before the headers are sent."""

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
        """Seconds since the request began."""
        return time.monotonic() - self._begun

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Record a step, such as `http11.send_request_headers.started`."""
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
        """Whether the request failed with an error before any of it was sent to the API."""
        if not self._reported:
            return isinstance(error, _NEVER_SENT)
        # Headers that are not allowed are refused before their first byte is written.
        illegal = isinstance(error, httpx.LocalProtocolError) and not self._headers_written
        return illegal or not self._headers_begun

    def unreachable(self, error: Exception) -> errors.Unreachable:
        """The error of a request that was not sent."""
        return unreachable(error, scheme=self._url.scheme, by_proxy=self._proxied)


# ---- reasons ----


def _certificate_step(cause: ssl.SSLCertVerificationError) -> str:
    return _CERTIFICATE_STEPS.get(cause.verify_code, CERTIFICATES_STEP)


# For each kind of cause: the reason in words, and the next step (None: check the network and SEGMIND_BASE_URL). The
# first match counts.
_REASONS: tuple[tuple[tuple[type[BaseException], ...], Callable[[Any], str], Callable[[Any], str | None]], ...] = (
    ((socket.gaierror,), lambda _: "its host name is not known", lambda _: None),
    (
        (ssl.SSLCertVerificationError,),
        lambda cause: f"its certificate is not valid here: {quoted(cause.verify_message, 100)}",
        _certificate_step,
    ),
    ((TimeoutError, httpx.TimeoutException), lambda _: "no answer in time", lambda _: None),
    (
        (ssl.SSLEOFError, ssl.SSLZeroReturnError),
        lambda _: "it was closed before TLS was set up",
        lambda _: None,
    ),
    ((ssl.SSLError,), lambda cause: f"TLS could not be set up ({cause.reason})", lambda _: _URL_STEP),
    ((OSError,), lambda cause: os.strerror(cause.errno).lower() if cause.errno else "", lambda _: None),
    ((OverflowError,), lambda _: "its port is not valid", lambda _: _URL_STEP),
)


def unreachable(error: Exception, *, scheme: str, by_proxy: bool = False) -> errors.Unreachable:
    """The error of a request that was not sent, made from an error of httpx.

    `scheme` is the scheme of the request's URL. `by_proxy` says whether the request went to a proxy first.
    """
    answer = str(error) if isinstance(error, httpx.ProxyError) else None
    reason, step = _reason_and_step(error)
    through = " through the proxy" if by_proxy or answer is not None else ""
    if through and step not in (CERTIFICATES_STEP, _CLOCK_STEP):
        step = (
            f"Check the proxy that {scheme.upper()}_PROXY or ALL_PROXY names (address, user name, password), or add "
            "the API's host to NO_PROXY, and start the server again"
        )
    message = f"{NO_CONNECTION}{through}: {reason if answer is None else quoted(answer, 100)}"
    failure = errors.Unreachable(message, next_step=step)
    # A proxy that refused will refuse again. Only its 5xx answers are likely to be temporary.
    failure.repeatable = answer is None or answer.startswith("5")
    return failure


def _reason_and_step(error: Exception) -> tuple[str, str | None]:
    for kinds, words, step in _REASONS:
        for cause in _causes(error):
            if isinstance(cause, kinds) and (reason := words(cause)):
                return reason, step(cause)
    return type(error).__name__, None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The causes of an error, the deepest first, then the error itself. Of several attempts, only the first counts."""
    if error is None:
        return
    if isinstance(error, BaseExceptionGroup):
        yield from _causes(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    else:
        yield from _causes(error.__cause__ or error.__context__)
    yield error
