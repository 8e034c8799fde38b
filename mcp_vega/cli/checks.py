"""What `mcp-vega doctor` looks at in the world outside: the settings, the API, the gallery, the ledger.

Each look gives its checks, or raises the error that stands for the first of them. None changes anything, but that the
ledger, where there is one, is opened as any server opens it.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
from pydantic import SecretStr

from mcp_vega.cli.wiring import gallery_of, opened_client, opened_ledger
from mcp_vega.errors import (
    Forbidden,
    GalleryError,
    InvalidSettings,
    LedgerError,
    NotFound,
    SegmindError,
    ServiceUnavailable,
    Unauthorized,
    Unreachable,
)
from mcp_vega.segmind.answers import Credits
from mcp_vega.segmind.responses import quoted
from mcp_vega.settings import Settings, is_loopback
from mcp_vega.studio import files
from mcp_vega.studio.gallery import ROOM
from mcp_vega.studio.limits import dollars
from mcp_vega.studio.servers import Activity

API_SECONDS = 10.0
# What is sent where there is no key: the API refuses it, and is there.
NO_KEY = SecretStr("none")
PREFIXES = ("MCP_VEGA_", "SEGMIND_")


class State(StrEnum):
    """How a check came out; a note is neither good nor bad."""

    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


@dataclass(frozen=True)
class Check:
    """One line of the page: what was looked at, how it is and, where that is not good, what to do about it."""

    name: str
    state: State
    detail: str
    mend: str = ""


# ---- settings ----


def read_settings(environment: Mapping[str, str]) -> tuple[Settings, dict[str, InvalidSettings]]:
    """The settings without the variables that cannot be used, and what is wrong with each of these."""
    problems: dict[str, InvalidSettings] = {}
    for field in Settings.model_fields.values():
        name = str(field.alias)
        try:
            Settings.from_environment({name: environment.get(name, "")})
        except InvalidSettings as error:
            problems[name] = error
    usable = {name: value for name, value in environment.items() if name not in problems}
    return Settings.from_environment(usable), problems


def look_at_settings(environment: Mapping[str, str], problems: Mapping[str, InvalidSettings]) -> list[Check]:
    """Look whether each variable can be used, and whether one is misspelled: the check settings."""
    if problems:
        return [Check("settings", State.BAD, "; ".join(error.what for error in problems.values()), MEND_SETTINGS)]
    names = [str(field.alias) for field in Settings.model_fields.values()]
    unknown = sorted(name for name in environment if name.startswith(PREFIXES) and name not in names)
    if unknown:
        nearest = get_close_matches(unknown[0], names, n=1)
        mend = f"Did you mean {nearest[0]}?" if nearest else "Its name may be misspelled"
        return [Check("settings", State.NOTE, f"This is no setting: {', '.join(unknown)}", mend)]
    given = [name for name in names if environment.get(name, "").strip()]
    return [Check("settings", State.GOOD, f"set: {', '.join(given)}" if given else "none is set, so all have defaults")]


MEND_SETTINGS = "Correct it where it is set, for a host in the `env` block of this server's entry in its configuration"


# ---- the API ----


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
    unusable = await _key_problem(settings)
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
            async with opened_client(settings, patience=0) as client:
                return await client.credits()
    except TimeoutError as error:
        raise ServiceUnavailable(f"The API did not answer within {API_SECONDS:g} s") from error


async def _key_problem(settings: Settings) -> InvalidSettings | None:
    """Why no call could be made with the key that is set, or not set."""
    async with opened_client(settings) as client:
        try:
            client.require_key()
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


def unknown(name: str, reason: str) -> Check:
    """A check that another one stands in the way of."""
    return Check(name, State.NOTE, f"not known, see {reason}")


# ---- the folders ----


def look_at_gallery(settings: Settings) -> list[Check]:
    """Look whether a picture could be kept: the check gallery.

    Raises:
        GalleryError: It could not.
    """
    gallery = gallery_of(settings)
    is_there = gallery.probe()
    free = shutil.disk_usage(files.nearest(gallery.folder)).free
    if free < ROOM:
        raise GalleryError(f"The disk of {gallery.folder} is full", next_step="Make room on the disk")
    said = f"{gallery.folder} can be {'written' if is_there else 'made'}, {free / 1e9:,.1f} GB are free"
    return [Check("gallery", State.GOOD, said)]


def look_at_ledger(settings: Settings) -> list[Check]:
    """Look who works on what, in a loop of its own: the checks ledger, servers and jobs.

    Raises:
        LedgerError: The ledger cannot be read or written, or could not be made.
    """
    activity = anyio.run(_activity, settings)
    file = settings.ledger_file
    if activity is None:
        return [
            Check("ledger", State.GOOD, f"{file} is not there yet and can be made"),
            Check("servers", State.GOOD, "none has work"),
            Check("jobs", State.GOOD, "none yet"),
        ]
    said = f"{file} can be read and written"
    return [Check("ledger", State.GOOD, said), _servers_check(activity), _jobs_check(activity)]


async def _activity(settings: Settings) -> Activity | None:
    """What is done on the ledger; None where there is none yet."""
    async with opened_ledger(settings) as ledger:
        if ledger:
            return await ledger.activity()
    try:
        files.probe(settings.home_folder)
    except OSError as error:
        raise LedgerError(f"The folder {settings.home_folder} cannot be written: {error.strerror}") from error
    return None


def _servers_check(activity: Activity) -> Check:
    # Servers sign in with their first job, so those that idle are not seen.
    if not activity.processes:
        return Check("servers", State.GOOD, "none has work")
    numbers = ", ".join(map(str, activity.processes))
    return Check("servers", State.GOOD, f"{len(activity.processes)} at work on this ledger (process {numbers})")


def _jobs_check(activity: Activity) -> Check:
    total = activity.under_way + activity.unknown
    if not total:
        return Check("jobs", State.GOOD, "none under way")
    said = f"{activity.under_way} under way, {activity.unknown} of unknown outcome"
    if activity.unattended:
        return Check(
            "jobs",
            State.NOTE,
            f"{said}; no server works on {activity.unattended} of them",
            "Start a host: its server takes up those of its SEGMIND_BASE_URL. Do not repeat them",
        )
    return Check("jobs", State.NOTE, said, "Wait: `mcp-vega jobs` shows how they end. Do not repeat them")
