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
from mcp_vega.segmind.parsing import Credits
from mcp_vega.settings import Settings, is_loopback


def check_api(settings: Settings, source: str = "", *, seconds: float = 10.0) -> list[Check]:
    """Ask the API for the account's balance, which is free and proves the key: the checks api, key and balance.

    Args:
        settings: With the key, if there is one.
        source: The host in whose file the key stands, where it is not set here.
        seconds: How long the API may take.
    """
    if settings.sandbox:
        return [
            Check("api", State.GOOD, "the sandbox, inside the server, stands in its place"),
            Check("key", State.GOOD, "the sandbox needs none"),
            Check("balance", State.GOOD, "the sandbox costs nothing"),
        ]
    begun = time.monotonic()
    unusable = None
    try:
        require_usable(settings.api_key)
    except InvalidSettings as error:
        # The API is asked all the same: that it refuses this one shows that it is there.
        unusable, settings = error, settings.model_copy(update={"api_key": SecretStr("none")})
    answer: Credits | SegmindError
    try:
        answer = anyio.run(_credits, settings, seconds)
    except SegmindError as error:
        answer = error
    return [
        _api_check(settings.base_url, answer, time.monotonic() - begun),
        _key_check(unusable, answer, source),
        _balance_check(answer),
    ]


async def _credits(settings: Settings, seconds: float) -> Credits:
    """The account's balance, asked for once.

    Raises:
        SegmindError: The API did not say, or not in time.
    """
    try:
        with anyio.fail_after(seconds):
            async with open_client(settings, patience=0) as client:
                found = await client.credits()
    except TimeoutError as error:
        raise ServiceUnavailable(f"The API did not answer within {seconds:g} s") from error
    if found.credits is None and found.free is None:
        step = "Check SEGMIND_BASE_URL, and whether the network wants a login first"
        raise SegmindError("It answers, but not as the API does", next_step=step)
    return found


def _api_check(url: str, answer: Credits | SegmindError, seconds: float) -> Check:
    match answer:
        case Credits() | Unauthorized() | Forbidden():  # the latter two are about the key
            return Check("api", State.GOOD, f"{url} answers, after {seconds:.2f} s")
        case Unreachable() | ServiceUnavailable():
            said = str(answer.__cause__ or "")
            detail = f"{url}: {answer.what}{f', {quoted(said)}' if said else ''}"
            # Without a cause it was the API that said so.
            mend = _network_mend(url, said) if answer.__cause__ else "Wait a minute, then look again"
            return Check("api", State.BAD, detail, mend)
        case _:
            mend = "Check SEGMIND_BASE_URL" if isinstance(answer, NotFound) else answer.next_step
            return Check("api", State.BAD, f"{url}: {answer.what}", mend)


def _network_mend(url: str, cause: str) -> str:
    """What to look at where an address cannot be reached; a proxy is named without its password."""
    if "CERT" in cause:
        return "Have SSL_CERT_FILE name a file of this network's certificates in PEM, or unset it"
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
    proxy = getproxies().get(scheme) or getproxies().get("all")
    if proxy and not is_loopback(host) and not proxy_bypass(host):
        shown = proxy.rpartition("@")[2].rpartition("//")[2].rstrip("/")
        return f"The proxy {shown} is used for it: check that, or name the API's host in NO_PROXY"
    return "Check the network, a firewall, and SEGMIND_BASE_URL"


def _key_check(unusable: InvalidSettings | None, answer: Credits | SegmindError, source: str) -> Check:
    place = f", the one in {source}'s file" if source else ""
    mend = "; `mcp-vega install HOST` puts another one in its place" if source else ""
    if unusable:
        return Check("key", State.BAD, unusable.what + place, unusable.next_step + mend)
    match answer:
        case Credits():
            return Check("key", State.GOOD, f"is accepted{place}")
        case Unauthorized() | Forbidden():
            return Check("key", State.BAD, answer.what + place, Unauthorized.next_step + mend)
        case _:
            return Check("key", State.NOTE, f"is set{place}; whether it is accepted could not be asked")


def _balance_check(answer: Credits | SegmindError) -> Check:
    if isinstance(answer, SegmindError):
        return unknown("balance", "api or key")
    said = dollars(answer.credits) + (f", and {dollars(answer.free)} free" if answer.free else "")
    if (answer.credits or 0) + (answer.free or 0) <= 0:
        return Check("balance", State.BAD, said, "Add credits at https://cloud.segmind.com/billing")
    return Check("balance", State.GOOD, said)
