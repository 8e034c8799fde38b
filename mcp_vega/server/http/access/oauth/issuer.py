"""Reads the metadata and the keys of an issuer. The functions block, so they run in a thread."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
from jwt import PyJWK, PyJWKClient, PyJWTError

# Issuers sign with a private key. With `none` or HS256, anybody could make a token.
ALGORITHMS = (
    *("RS256", "RS384", "RS512"),
    *("PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512"),
    "EdDSA",
)
# How long one request may take in all (s), and how long its answer may be (bytes).
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


def read_issuer(issuer: str) -> IssuerState:
    """Ask an issuer for its metadata and its keys.

    Raises:
        IssuerProblem: It does not answer, or the answer cannot be used.
    """
    metadata = _metadata(issuer)
    try:
        signing = _KeyClient(_keys_url(metadata)).get_signing_keys()
    except (PyJWTError, TypeError, ValueError, RecursionError) as error:
        raise IssuerProblem(f"it has no key that can sign tokens: {error}") from error
    return IssuerState(metadata, {(cast("str", key.key_id), key.algorithm_name): key for key in reversed(signing)})


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


def _metadata(issuer: str) -> Mapping[str, Any]:
    """Return the first metadata that are those of the issuer. Many issuers have them at one of the addresses only."""
    problems: list[str] = []
    for url in metadata_urls(issuer):
        status, data = _read(url)
        if status != HTTPStatus.OK:
            problems.append(f"{url} answered with status {status}")
        elif not isinstance(data, dict):
            problems.append(f"{url} did not answer with a JSON object")
        elif (named := cast("dict[str, Any]", data).get("issuer")) != issuer:
            problems.append(f"{url} has the metadata of another issuer: {str(named)[:200]!r}")
        else:
            return cast("dict[str, Any]", data)
    raise IssuerProblem("; ".join(problems))


def _keys_url(metadata: Mapping[str, Any]) -> str:
    """Return the address of the keys.

    Raises:
        IssuerProblem: Somebody else could change what comes from this address.
    """
    url = metadata.get("jwks_uri")
    try:
        parsed = httpx.URL(url if isinstance(url, str) else "")
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    is_safe = parsed.scheme == "https" or (parsed.scheme == "http" and parsed.host in LOOPBACK)
    if not is_safe or not parsed.host or parsed.userinfo:
        raise IssuerProblem(f"its jwks_uri is {str(url)[:200]!r}, and must begin with https:// and a host")
    return str(parsed)


# ---- the keys ----


class _KeyClient(PyJWKClient):
    """PyJWT's client, for one fetch. By itself it has no limits for an answer, and loses its keys in an outage."""

    def __init__(self, url: str) -> None:
        super().__init__(url, cache_jwk_set=False)

    def fetch_data(self) -> dict[str, Any]:
        """Return the keys that can be used."""
        status, data = _read(self.uri)
        if status != HTTPStatus.OK:
            raise IssuerProblem(f"{self.uri} answered with status {status}")
        match data:
            case {"keys": list()}:
                keys = cast("dict[str, list[Any]]", data)["keys"]
                return {"keys": [each for key in keys for each in _usable(key)]}
            case _:
                raise IssuerProblem(f"{self.uri} did not answer with a list of keys")


def _usable(key: Any) -> Iterator[dict[str, Any]]:
    """Give a key once for each algorithm that it may be used with. An RSA key without `alg` may be used with six."""
    match key:
        case {"kty": "RSA" | "EC" | "OKP" as kind, "kid": str(kid)} if kid:
            fields = cast("dict[str, Any]", key)
        case _:
            return
    operations = fields.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return
    if "alg" in fields:
        if fields["alg"] in ALGORITHMS:
            yield fields
    elif kind == "RSA":
        yield from ({**fields, "alg": each} for each in ALGORITHMS if each.startswith(("RS", "PS")))
    else:
        yield fields


# ---- the network ----


def _read(url: str) -> tuple[int, Any]:
    """Return the status of an answer, and its JSON; None if it is not JSON. No redirect is followed.

    Raises:
        IssuerProblem: There is no complete answer within the limits.
    """
    deadline, data = time.monotonic() + SECONDS, bytearray()
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "mcp-vega"}
    try:
        is_here = httpx.URL(url).host in LOOPBACK
        with (
            httpx.Client(trust_env=not is_here, timeout=SECONDS, headers=headers) as http,
            http.stream("GET", url) as answer,
        ):
            for piece in answer.iter_raw(1000):
                data += piece
                if len(data) > BYTES:
                    raise IssuerProblem(f"the answer of {url} is larger than {BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise IssuerProblem(f"the answer of {url} took more than {SECONDS:g} s")
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ImportError, ValueError) as error:
        # The last three are about the proxy and the certificates of the environment.
        raise IssuerProblem(f"{url} does not answer: {error or type(error).__name__}") from error
    try:
        return status, json.loads(data)
    except (ValueError, RecursionError):
        return status, None
