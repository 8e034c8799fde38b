"""What is written for a host that reaches this server over HTTP: the address and the access token."""

import re
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

from mcp_vega.cli.install.hosts import Host
from mcp_vega.errors import InvalidArguments, InvalidSettings
from mcp_vega.network.addresses import is_loopback
from mcp_vega.redaction import printable
from mcp_vega.segmind.api_key import character_name

# Where this server answers, unless a proxy puts it below another path.
PATH = "/mcp"
HEADER = "Authorization"
# The members of an entry that hold the address, by host and version.
URLS = ("url", "serverUrl", "httpUrl")
# Hosts fill in variables where a $ or a brace is; neither is in the address of a server.
_ADDRESS = re.compile(r"[A-Za-z0-9._~:/\[\]@!&'()*+,;=%?#-]+")
_TOKEN = re.compile("[!-~]+")
_FILLED_IN = re.compile("[${}]")
_NAMED = re.compile(r"[\w.@+-]{1,64}:.")
SIGN_IN = " People sign in to it with OAuth: a host that supports OAuth opens the sign-in page when it connects."
# For each step of a request, such as to connect.
ANSWER_SECONDS = 5


@dataclass(frozen=True)
class RemoteEntry:
    """How a host reaches this server over Streamable HTTP.

    Attributes:
        url: The address.
        token: The access token that each request carries; empty if there is none.
        signs_in: Whether the server has said that people sign in with OAuth.
    """

    url: str
    token: str = field(default="", repr=False)
    signs_in: bool = False

    def data(self, host: Host) -> dict[str, Any]:
        """The entry as the host spells it.

        Raises:
            InvalidArguments: The host takes no URL in its file.
        """
        form = host.remote
        if form is None:
            raise takes_no_url(host)
        headers = {form.headers: {HEADER: f"Bearer {self.token}"}} if self.token else {}
        return {**form.members, form.url: self.url, **headers}


def takes_no_url(host: Host) -> InvalidArguments:
    """The error of a host whose file holds no servers with a URL."""
    return InvalidArguments(f"{host.title} takes no URL in its file", next_step=host.connect)


def server_url(text: str) -> str:
    """The address of a server, from what the user typed; if it has no path, `/mcp` is added.

    Raises:
        InvalidArguments: It is not an address that a host can use, or it would show a secret to others.
    """
    url = text.strip()
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _unusable("is not a URL") from error
    if problem := _problem(url, parts, host, port):
        raise _unusable(problem)
    if parts.path in ("", "/"):
        sys.stderr.write(f"Note: the URL has no path, so {PATH} was added.\n")
        parts = parts._replace(path=PATH)
    return parts.geturl()


def _problem(url: str, parts: SplitResult, host: str, port: int | None) -> str:
    """Why a URL cannot be used; empty if it can."""
    if not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))) or not host:
        return "must begin with https:// (or http:// on this machine) and a host"
    if port == 0:
        return "must have a port from 1 to 65535"
    if not _ADDRESS.fullmatch(url):
        return "has a character that no address of a server has"
    if parts.username is not None or parts.query or parts.fragment:
        return "must hold no user name, password, query or fragment: the token is asked for, and sent in a header"
    if parts.path.rstrip("/").endswith("/sse"):
        return f"ends in /sse, and this entry is for Streamable HTTP: serve with --transport http, and use {PATH}"
    return ""


def usable_token(text: str) -> str:
    """The access token in what the user gave; empty if there is none.

    Raises:
        InvalidSettings: No header can carry it.
    """
    token = re.sub(r"^bearer\s+", "", text.strip(), flags=re.IGNORECASE)
    if invalid := _TOKEN.sub("", token):
        found = character_name(invalid[0])
        raise InvalidSettings(f"The access token holds {found}, which no header can carry", next_step="Copy it again")
    if _FILLED_IN.search(token):
        sys.stderr.write("Note: the token holds a $ or a brace; some hosts fill in a variable there.\n")
    if _NAMED.match(token):
        sys.stderr.write("Note: only the server has a name in front of a token (name:token); clients send the token.\n")
    return token


def url_of(entry: dict[str, Any]) -> str:
    """The address in an entry; empty if it starts a program."""
    found = [entry[name] for name in URLS if isinstance(entry.get(name), str)]
    return found[0] if found and "command" not in entry else ""


def same_server(one: str, other: str) -> bool:
    """Whether two addresses name the same scheme, host and port: what is sent to one may be sent to the other."""
    try:
        first, second = ((each.scheme, each.host, each.port) for each in map(httpx.URL, (one, other)))
    except httpx.InvalidURL:
        return False
    return first == second


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        sentence: A sentence about it; if it is not good, without its full stop.
        is_good: Whether the server is there and takes the token.
        signs_in: Whether people sign in with OAuth.
    """

    sentence: str
    is_good: bool = False
    signs_in: bool = False


def answer_of(url: str, token: str) -> Answer:
    """Ask the server whether it is there and takes the token.

    The token is sent to this address alone: no redirect is followed, and on this machine no proxy is used.
    """
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    if token:
        headers[HEADER] = f"Bearer {token}"
    ping = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
    is_here = is_loopback(httpx.URL(url).host)
    try:
        with httpx.Client(trust_env=not is_here, timeout=ANSWER_SECONDS, headers={"user-agent": "mcp-vega"}) as client:
            with client.stream("GET", urljoin(url.rstrip("/"), "health")) as health:
                is_healthy = health.status_code == HTTPStatus.OK
            with client.stream("POST", url, headers=headers, content=ping) as answer:
                status, challenge = answer.status_code, answer.headers.get("www-authenticate", "")
    except httpx.RemoteProtocolError:  # its text may hold the answer
        return Answer(f"what answers at {url} speaks no HTTP; check the URL")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ImportError, ValueError) as error:
        # The last three are about the proxy and the certificates of the environment.
        reason = printable(re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__)
        return Answer(f"the server does not answer, so it is not known whether it takes the token: {reason}")
    if status == HTTPStatus.OK:
        said = f"The server answered and {'takes the token' if token else 'asks for no token'}."
        return Answer(said, is_good=True)
    if status == HTTPStatus.UNAUTHORIZED:
        signs_in = "resource_metadata=" in challenge
        said = "the server does not take this token" if token else f"The server answered.{SIGN_IN if signs_in else ''}"
        return Answer(said, is_good=not token, signs_in=signs_in)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Answer("the URL leads to another address, and hosts may not send a token there; use that address")
    where = "the server" if is_healthy else "something other than this server"
    return Answer(f"{where} answered at {url}, with status {status}; check the URL")


def _unusable(why: str) -> InvalidArguments:
    return InvalidArguments(
        f"The URL {why}", next_step="Give the URL of the server, as in https://pictures.example/mcp"
    )
