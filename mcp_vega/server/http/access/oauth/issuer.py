"""Reads the metadata and the keys of an issuer. PyJWT's client blocks, and has no limits for an answer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWK, PyJWTError

from mcp_vega.network.addresses import host_in_url

# Issuers sign with a private key. With `none` or HS256, anybody could make a token.
ALGORITHMS = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    "EdDSA",
)
# How long one request may take until its answer is complete (s), and how long its answer may be (bytes).
SECONDS, BYTES = 5.0, 500_000
# Hosts that can be asked without TLS, and without the proxy of the environment.
LOOPBACK = ("127.0.0.1", "localhost", "::1")

# A key's name (`kid`) and its algorithm (`alg`).
KeyName = tuple[str, str]


class IssuerProblem(Exception):  # noqa: N818  it says what is wrong with the issuer
    """The issuer does not answer, or its answer cannot be used. The text says why."""


@dataclass(frozen=True)
class IssuerState:
    """An issuer's metadata, and its keys that can sign tokens."""

    metadata: Mapping[str, Any]
    keys: Mapping[KeyName, PyJWK]


async def read_issuer(issuer: str) -> IssuerState:
    """Ask an issuer for its metadata and its keys.

    Raises:
        IssuerProblem: It does not answer, or the answer cannot be used.
    """
    try:
        # In a thread: it reads the certificates of the machine.
        http = await anyio.to_thread.run_sync(_client)
    except (OSError, ImportError, ValueError) as error:
        raise IssuerProblem(f"the proxy or the certificates of the environment cannot be used: {error}") from error
    async with http:
        metadata = await _metadata(http, issuer)
        found = await _keys(http, keys_url(metadata, issuer))
    # In a thread: there may be many keys.
    keys = await anyio.to_thread.run_sync(_signing_keys, found)
    if not keys:
        raise IssuerProblem(f"{issuer} has no key that can sign tokens")
    return IssuerState(metadata, keys)


# ---- the metadata ----


def metadata_urls(issuer: str) -> list[str]:
    """Return the addresses at which an issuer's metadata may be: RFC 8414, then both forms of OpenID Connect."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    openid = "/.well-known/openid-configuration"
    urls = [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{openid}{path}",
        f"{origin}{path}{openid}",
    ]
    return list(dict.fromkeys(urls))


async def _metadata(http: httpx.AsyncClient, issuer: str) -> Mapping[str, Any]:
    """Return the first metadata that are those of the issuer. Many issuers have them at one of the addresses only."""
    problems: list[str] = []
    for url in metadata_urls(issuer):
        status, data = await _read(http, url)
        if status != HTTPStatus.OK:
            problems.append(f"{url} answered with status {status}")
        elif not isinstance(data, dict):
            problems.append(f"{url} did not answer with a JSON object")
        elif (named := cast("dict[str, Any]", data).get("issuer")) != issuer:
            problems.append(f"{url} has the metadata of another issuer: {str(named)[:200]!r}")
        else:
            return cast("dict[str, Any]", data)
    raise IssuerProblem("; ".join(problems))


def keys_url(metadata: Mapping[str, Any], issuer: str) -> str:
    """Return the address of the keys. Only an issuer on this machine may have its keys on this machine, without TLS.

    Raises:
        IssuerProblem: Somebody else could change what comes from this address.
    """
    url = metadata.get("jwks_uri")
    try:
        parsed = httpx.URL(url if isinstance(url, str) else "")
    except (httpx.InvalidURL, ValueError):
        parsed = httpx.URL("")
    is_here = issuer.startswith("http:") and parsed.scheme == "http" and parsed.host in LOOPBACK
    if not (parsed.scheme == "https" or is_here) or not parsed.host or parsed.userinfo:
        raise IssuerProblem(f"its jwks_uri is {str(url)[:200]!r}, and must begin with https:// and a host")
    return str(parsed)


# ---- the keys ----


async def _keys(http: httpx.AsyncClient, url: str) -> Sequence[Any]:
    status, data = await _read(http, url)
    if status != HTTPStatus.OK:
        raise IssuerProblem(f"{url} answered with status {status}")
    match data:
        case {"keys": list()}:
            return cast("dict[str, list[Any]]", data)["keys"]
        case _:
            raise IssuerProblem(f"{url} did not answer with a list of keys")


def _signing_keys(found: Sequence[Any]) -> Mapping[KeyName, PyJWK]:
    """Return the keys that can sign tokens. A key that cannot be used does not keep the others from use."""
    keys: dict[KeyName, PyJWK] = {}
    for fields in (each for key in found for each in _usable(key)):
        with suppress(PyJWTError, UnsupportedAlgorithm, TypeError, ValueError, RecursionError):
            key = PyJWK(fields)
            keys.setdefault((fields["kid"], key.algorithm_name), key)
    return keys


def _usable(key: Any) -> Iterator[dict[str, Any]]:
    """Give a key once for each algorithm that it may be used with. An RSA key without `alg` may be used with six.

    A private key (`d`) that is published is not used: everybody could sign with it.
    """
    match key:
        case {"kty": "RSA" | "EC" | "OKP" as kind, "kid": str(kid)} if kid and "d" not in key:
            fields = cast("dict[str, Any]", key)
        case _:
            return
    operations = fields.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return
    if fields.get("use") not in (None, "sig"):
        return
    if "alg" in fields:
        if fields["alg"] in ALGORITHMS:
            yield fields
    elif kind == "RSA":
        yield from ({**fields, "alg": each} for each in ALGORITHMS if each.startswith(("RS", "PS")))
    else:
        yield fields


# ---- the network ----


def _client() -> httpx.AsyncClient:
    """Return a client that asks this machine without the proxy of the environment."""
    here = {f"all://{host_in_url(host)}": None for host in LOOPBACK}
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "mcp-vega"}
    return httpx.AsyncClient(mounts=here, timeout=SECONDS, headers=headers)


async def _read(http: httpx.AsyncClient, url: str) -> tuple[int, Any]:
    """Return the status of an answer, and its JSON; None if it is not JSON. No redirect is followed.

    Raises:
        IssuerProblem: There is no complete answer within the limits.
    """
    data = bytearray()
    try:
        # The limits of the client are for each step: an answer that comes slowly would never reach them.
        with anyio.fail_after(SECONDS):
            async with http.stream("GET", url) as answer:
                async for piece in answer.aiter_raw():
                    data += piece
                    if len(data) > BYTES:
                        raise IssuerProblem(f"the answer of {url} is larger than {BYTES:,} bytes")
    except TimeoutError as error:
        raise IssuerProblem(f"the answer of {url} took more than {SECONDS:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise IssuerProblem(f"{url} does not answer: {error or type(error).__name__}") from error
    try:
        return answer.status_code, json.loads(data)
    except (ValueError, RecursionError):
        return answer.status_code, None
