"""The API, the key, the balance."""

import time

import anyio
from pydantic import SecretStr

from mcp_vega.cli.api_client import key_of, open_client
from mcp_vega.cli.doctor.check import Check, State, unknown
from mcp_vega.cli.output import command_line
from mcp_vega.errors import (
    Forbidden,
    InvalidSettings,
    NotFound,
    SegmindError,
    ServiceUnavailable,
    Unauthorized,
)
from mcp_vega.segmind.http import RetryPolicy
from mcp_vega.segmind.parsing import Credits
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger.spending import dollars


def check_api(settings: Settings, source: str = "", *, seconds: float = 10.0) -> list[Check]:
    """Ask the API for the account's balance, which is free and shows whether the key is accepted.

    Args:
        settings: With the key, if there is one.
        source: The host whose file the key was read from; empty if the key is set here.
        seconds: How long the API may take to answer.

    Returns:
        The checks api, key and balance.
    """
    if settings.sandbox:
        return [
            Check("api", State.GOOD, "the sandbox, a part of the server, is used instead"),
            Check("key", State.GOOD, "the sandbox needs no key"),
            Check("balance", State.GOOD, "the sandbox costs nothing"),
        ]
    if settings.local:
        return [
            Check("api", State.GOOD, "the engine on this machine is used instead"),
            Check("key", State.GOOD, "the engine needs no key of yours"),
            Check("balance", State.GOOD, "to draw on this machine costs nothing"),
        ]
    file = f"{source}'s file" if source else settings.api_key_file
    place = f" (the key in {file})" if file else ""
    key_fix = f"; `{command_line('install', 'HOST')}` replaces the key" if source else ""
    unusable = None
    try:
        key_of(settings).usable()
    except InvalidSettings as error:
        # The API is asked all the same: if it refuses this key, it can be reached.
        unusable, settings = error, settings.model_copy(update={"api_key": SecretStr("none")})
    begun, balance, drawing = time.monotonic(), unknown("balance", "api or key"), ""
    try:
        found = anyio.run(ask_credits, settings, seconds)
    except (Unauthorized, Forbidden) as error:
        problem, key = None, Check("key", State.BAD, error.what + place, Unauthorized.next_step + key_fix)
    except SegmindError as error:
        problem = error
        key = Check("key", State.NOTE, f"is set{place}; the API could not be asked whether it accepts the key")
    else:
        problem, key, balance = None, Check("key", State.GOOD, f"is accepted{place}"), _balance_check(found)
        drawing = f"; it draws on {found.engine}" if found.engine else ""
    api = Check("api", State.GOOD, f"{settings.base_url} answered in {time.monotonic() - begun:.2f} s{drawing}")
    if unusable:
        key = Check("key", State.BAD, unusable.what + place, unusable.next_step + key_fix)
    return [_unreached(settings.base_url, problem) if problem else api, key, balance]


async def ask_credits(settings: Settings, seconds: float) -> Credits:
    """The account's balance, asked for once.

    Raises:
        SegmindError: The API does not answer in time, or not with a balance.
    """
    try:
        with anyio.fail_after(seconds):
            async with open_client(settings, RetryPolicy(retry_seconds=0)) as client:
                found = await client.credits()
    except TimeoutError as error:
        raise ServiceUnavailable(f"The API did not answer within {seconds:g} s") from error
    if found.credits is None and found.free is None:
        step = "Check SEGMIND_BASE_URL. If the network has a login page, log in first"
        raise SegmindError("Something answers there, but it is not the Segmind API", next_step=step)
    return found


def _unreached(url: str, error: SegmindError) -> Check:
    """The check api if the answer was not a balance."""
    step = "Check SEGMIND_BASE_URL" if isinstance(error, NotFound) else error.next_step
    return Check("api", State.BAD, f"{url}: {error.what}", step)


def _balance_check(found: Credits) -> Check:
    if found.costs_nothing:
        return Check("balance", State.GOOD, "none is needed: an engine of your own costs nothing")
    said = dollars(found.credits) + (f", and {dollars(found.free)} free" if found.free else "")
    if (found.credits or 0) + (found.free or 0) <= 0:
        return Check("balance", State.BAD, said, "Add credits at https://cloud.segmind.com/billing")
    return Check("balance", State.GOOD, said)
