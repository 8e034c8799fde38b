"""The API, the key, the balance."""

import time
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
from pydantic import SecretStr

from mcp_vega.cli.application import open_client
from mcp_vega.cli.doctor.check import Check, State, unknown
from mcp_vega.errors import (
    Forbidden,
    InvalidSettings,
    NotFound,
    SegmindError,
    ServiceUnavailable,
    Unauthorized,
    Unreachable,
)
from mcp_vega.job import dollars
from mcp_vega.redaction import quoted
from mcp_vega.segmind.api_key import require_usable
from mcp_vega.segmind.http import RetryPolicy
from mcp_vega.segmind.parsing import Credits
from mcp_vega.settings import Settings, is_loopback

API_SECONDS = 10.0
# What is sent where there is no key: the API refuses it, and is there.
NO_KEY = SecretStr("none")


async def look_at_api(settings: Settings, source: str = "") -> list[Check]:
    """Ask the API for the account's balance, which is free and proves the key: the checks api, key and balance.

    Args:
        settings: With the key, if there is one.
        source: The host in whose file the key stands, where it is not set here.
    """
    if settings.sandbox:
        return [
            Check("api", State.GOOD, "the sandbox, inside the server, stands in its place"),
            Check("key", State.GOOD, "the sandbox needs none"),
            Check("balance", State.GOOD, "the sandbox costs nothing"),
        ]
    begun = time.monotonic()
    unusable = _key_problem(settings)
    answer: Credits | SegmindError
    try:
        answer = await _asked(settings.model_copy(update={"api_key": NO_KEY}) if unusable else settings)
    except SegmindError as error:
        answer = error
    seconds = time.monotonic() - begun
    return [
        _api_check(settings.base_url, answer, seconds),
        _key_check(unusable, answer, source),
        _balance_check(answer),
    ]


async def _asked(settings: Settings) -> Credits:
    """The account's balance, asked for once.

    Raises:
        SegmindError: The API did not say, or not in time.
    """
    try:
        with anyio.fail_after(API_SECONDS):
            async with open_client(settings, RetryPolicy(retry_seconds=0)) as client:
                return await client.credits()
    except TimeoutError as error:
        raise ServiceUnavailable(f"The API did not answer within {API_SECONDS:g} s") from error


def _key_problem(settings: Settings) -> InvalidSettings | None:
    """Why no call could be made with the key that is set, or not set."""
    try:
        require_usable(settings.api_key)
    except InvalidSettings as error:
        return error
    return None


def _api_check(url: str, answer: Credits | SegmindError, seconds: float) -> Check:
    match answer:
        case Unauthorized() | Forbidden():
            pass  # it is there: this is about the key
        case NotFound():
            return Check("api", State.BAD, f"{url}: {answer.what}", "Check SEGMIND_BASE_URL")
        case Unreachable() | ServiceUnavailable():
            return Check("api", State.BAD, f"{url}: {answer.what}{_cause(answer)}", _network_mend(url, answer))
        case SegmindError():
            return Check("api", State.BAD, f"{url}: {answer.what}", answer.next_step)
        case Credits(credits=None, free=None):
            said = f"{url} answers, but not as the API does"
            return Check("api", State.BAD, said, "Check SEGMIND_BASE_URL, and whether the network wants a login first")
        case Credits():
            pass
    return Check("api", State.GOOD, f"{url} answers, after {seconds:.2f} s")


def _cause(error: SegmindError) -> str:
    """What the network said, where it was not the API that spoke."""
    said = str(error.__cause__ or "")
    return f", {quoted(said)}" if said else ""


def _network_mend(url: str, error: SegmindError) -> str:
    if error.__cause__ is None:  # it has answered
        return "Wait a minute, then look again"
    said = str(error.__cause__)
    if "SSL_CERT_FILE" in said:
        return "Have SSL_CERT_FILE name a file of certificates in PEM, or unset it"
    if "socksio" in said:
        return "Install socksio beside mcp-vega (`uv tool install --with socksio mcp-vega`), or use a proxy of HTTP"
    if "CERTIFICATE" in said:
        return "If the network opens TLS, have SSL_CERT_FILE name its certificates; if not, check this machine's clock"
    if proxy := _proxy(url):
        return f"The proxy {proxy} is used for it: check that, or name the API's host in NO_PROXY"
    return "Check the network, a firewall, and SEGMIND_BASE_URL"


def _proxy(url: str) -> str:
    """The proxy, without a password, by which an address is reached; empty where there is none."""
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
    proxies = getproxies()
    named = proxies.get(scheme) or proxies.get("all") or ""
    if not named or is_loopback(host) or proxy_bypass(host):
        return ""
    return named.rpartition("@")[2].rpartition("//")[2].rstrip("/")


def _key_check(unusable: InvalidSettings | None, answer: Credits | SegmindError, source: str) -> Check:
    place = f", the one in {source}'s file" if source else ""
    mend = "; `mcp-vega install HOST` puts another one in its place" if source else ""
    if unusable:
        return Check("key", State.BAD, unusable.what + place, unusable.next_step + mend)
    match answer:
        case Unauthorized() | Forbidden():
            return Check("key", State.BAD, answer.what + place, Unauthorized.next_step + mend)
        case SegmindError() | Credits(credits=None, free=None):
            return Check("key", State.NOTE, f"is set{place}; whether it is accepted could not be asked")
        case Credits():
            return Check("key", State.GOOD, f"is accepted{place}")


def _balance_check(answer: Credits | SegmindError) -> Check:
    if isinstance(answer, SegmindError) or (answer.credits is None and answer.free is None):
        return unknown("balance", "api or key")
    said = dollars(answer.credits) + (f", and {dollars(answer.free)} free" if answer.free else "")
    if (answer.credits or 0) + (answer.free or 0) <= 0:
        return Check("balance", State.BAD, said, "Add credits at https://cloud.segmind.com/billing")
    return Check("balance", State.GOOD, said)
