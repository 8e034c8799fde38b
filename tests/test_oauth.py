"""People sign in with OAuth: which access tokens the server takes, in both eras of the protocol, and who sees what."""

import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.to_thread
import httpx
import jwt
import pytest
from anyio.abc import SocketAttribute, SocketStream
from conftest import HANG_SECONDS, TLS, Sandbox, app_over, job_of, serving_sandbox, until
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from issuer import METADATA, RESOURCE, Issuer, private_key, public_jwk, segment, serving_issuer, signed
from jwt.algorithms import ECAlgorithm
from mcp.client import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import principal_components
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken, ProtectedResourceMetadata
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import ResourceTemplateReference
from pydantic import AnyUrl
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send
from test_cancellation import MODERN, HttpClient, held
from test_command_line import run, run_beside
from test_http_access import RT, HttpServer, served
from test_http_links import NOTHING, PAGE, SIGN_IN, refused
from test_transports import EVERYWHERE, address, complaints, started

from mcp_vega.cli.doctor.check import State
from mcp_vega.cli.doctor.team import check_oauth
from mcp_vega.errors import InvalidSettings, LedgerError
from mcp_vega.job import OPERATOR, JobImage
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.auth import AllowedHosts, AuthMiddleware
from mcp_vega.server.http.access.callers import is_owner, is_subject, owner_with
from mcp_vega.server.http.access.oauth import issuer as issuer_module
from mcp_vega.server.http.access.oauth.callers import METADATA_PATH, OAuthCallers, auth_settings
from mcp_vega.server.http.access.oauth.issuer import BYTES, IssuerProblem, keys_url, metadata_urls, read_issuer
from mcp_vega.server.http.access.oauth.keys import (
    FRESH_SECONDS,
    KEPT_SECONDS,
    RETRY_SECONDS,
    UNKNOWN_SECONDS,
    IssuerKeys,
)
from mcp_vega.server.http.access.oauth.verifier import OAuthTokenVerifier
from mcp_vega.server.http.access.sign_in import SignIn
from mcp_vega.server.http.access.signatures import Signatures
from mcp_vega.server.http.limits import DEFAULT_LIMITS
from mcp_vega.server.resources import GALLERY
from mcp_vega.settings import Settings
from mcp_vega.storage.gallery import Gallery

pytestmark = pytest.mark.anyio

ERAS = ["2025-11-25", MODERN]
METADATA_URL = "https://pictures.example/.well-known/oauth-protected-resource/mcp"
OTHER = "https://other.example/mcp"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """As in conftest, for the servers that all tests of this module share."""
    return "asyncio"


class Uptime:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Place:
    """A server whose callers sign in at an issuer."""

    server: HttpServer
    issuer: Issuer
    sandbox: Sandbox
    app: AppContext
    uptime: Uptime = field(default_factory=Uptime)
    version: str = MODERN

    async def ask(self, token: str | None = None, **request: Any) -> httpx.Response:
        """The answer to a tool call with a token, or with other parts of a request."""
        async with httpx.AsyncClient(trust_env=False, verify=TLS) as http:
            client = HttpClient(http, self.version)
            params = {"name": "check_job", "arguments": {}, "_meta": client.meta}
            given = [*client.headers("tools/call", "check_job").items(), *request.pop("headers", [])]
            given += [("authorization", f"Bearer {token}".encode("latin-1"))] if token is not None else []
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            return await http.post(f"{self.server.url}/mcp", json=message, headers=given, **request)

    @asynccontextmanager
    async def client(self, subject: str = "ada") -> AsyncGenerator[HttpClient]:
        headers = {"authorization": f"Bearer {self.issuer.token(sub=subject)}"}
        async with httpx.AsyncClient(base_url=self.server.url, headers=headers, verify=TLS, timeout=60) as http:
            yield HttpClient(http, self.version)


@asynccontextmanager
async def place_at(
    sandbox: Sandbox, folder: Path, version: str = MODERN, scopes: Sequence[str] = ("draw",), **options: Any
) -> AsyncGenerator[Place]:
    uptime = Uptime()
    async with serving_issuer() as issuer, app_over(sandbox.url, folder, **options) as app:
        callers = oauth_callers(app, issuer, uptime, scopes)
        async with served(app, "http", callers=callers) as server:
            yield Place(server, issuer, sandbox, app, uptime, version)


def oauth_callers(app: AppContext, issuer: Issuer, uptime: Uptime, scopes: Sequence[str] = ("draw",)) -> OAuthCallers:
    keys = IssuerKeys(issuer.url, uptime=uptime)
    return OAuthCallers(auth_settings(issuer.url, issuer.resource, scopes), keys, app.gallery)


@pytest.fixture(params=ERAS)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=ERAS)
async def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    """A server that all cases share. Its issuer has several keys."""
    async with (
        serving_sandbox() as sandbox,
        place_at(sandbox, tmp_path_factory.mktemp("oauth"), request.param) as place,
    ):
        issuer = place.issuer
        issuer.add("no-alg", "RS256")
        issuer.add("curve", "ES256", alg="ES256")
        issuer.add("edwards", "EdDSA")
        issuer.add("encrypts", "RS256", use="enc", alg="RS256")
        issuer.add("small", "weak", alg="RS256")
        issuer.keys["odd"] = {"kty": "RSA", "kid": "odd", "alg": ["RS256"], "n": 7}
        leaked = ECAlgorithm.to_jwk(private_key("leaked", "ES256"), as_dict=True)
        issuer.keys["leaked"] = {**leaked, "kid": "leaked", "alg": "ES256"}
        issuer.keys["secret"] = {"kty": "oct", "kid": "secret", "alg": "HS256", "k": segment(b"k" * 32)}
        yield place


@pytest.fixture
async def place(sandbox: Sandbox, tmp_path: Path, version: str) -> AsyncGenerator[Place]:
    async with place_at(sandbox, tmp_path, version) as place:
        yield place


# ---- which tokens count ----


def soon(seconds: float) -> float:
    return time.time() + seconds


def raw(issuer: Issuer, name: str, value: str) -> str:
    """A good token with a claim that is written as this JSON."""
    claims = json.dumps(issuer.claims(**{name: "PLACE"})).replace('"PLACE"', value)
    return signed({"alg": "RS256", "kid": "one"}, claims, private_key("one"))


def with_secret(issuer: Issuer, secret: bytes, kid: str = "one") -> str:
    return signed({"alg": "HS256", "kid": kid}, json.dumps(issuer.claims()), secret)


def pem() -> bytes:
    return private_key("one").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def unsigned(issuer: Issuer, alg: str = "none") -> str:
    return f"{segment(json.dumps({'alg': alg, 'kid': 'one'}))}.{segment(json.dumps(issuer.claims()))}."


def with_key_inside(issuer: Issuer, **header: Any) -> str:
    """A token of a stranger that brings the stranger's key."""
    return issuer.token({"kid": "evil", **header}, private_key("evil"))


def other_signature(issuer: Issuer) -> str:
    """A good token with the claims of another subject."""
    header, _, signature = issuer.token().split(".")
    return f"{header}.{segment(json.dumps(issuer.claims(sub='eve')))}.{signature}"


GOOD: dict[str, Callable[[Issuer], str]] = {
    "good": lambda i: i.token(),
    "several audiences": lambda i: i.token(aud=[OTHER, RESOURCE]),
    "an audience with a slash at the end": lambda i: i.token(aud=f"{RESOURCE}/"),
    "an audience in capitals": lambda i: i.token(aud="HTTPS://Pictures.Example:443/mcp"),
    "scopes in scp as text": lambda i: i.token(scope=None, scp="read draw"),
    "scopes in scp as a list": lambda i: i.token(scope=None, scp=["read", "draw"]),
    "scopes in scope as a list": lambda i: i.token(scope=["read", "draw"]),
    "a fraction in exp": lambda i: i.token(exp=soon(100.5)),
    "expired a moment ago": lambda i: i.token(exp=soon(-10)),
    "nbf a moment ahead": lambda i: i.token(nbf=soon(10)),
    "no typ": lambda i: i.token({"typ": None}),
    "the typ JWT": lambda i: i.token({"typ": "JWT"}),
    "RS384 with a key that names no alg": lambda i: i.token({"alg": "RS384", "kid": "no-alg"}, private_key("no-alg")),
    "PS256 with a key that names no alg": lambda i: i.token({"alg": "PS256", "kid": "no-alg"}, private_key("no-alg")),
    "ES256": lambda i: i.token({"alg": "ES256", "kid": "curve"}, private_key("curve", "ES256")),
    "EdDSA": lambda i: i.token({"alg": "EdDSA", "kid": "edwards"}, private_key("edwards", "EdDSA")),
    "a # in sub": lambda i: i.token(sub="ada#1"),
    "a sub as in LDAP": lambda i: i.token(sub="CN=Ada Lovelace,O=Pictures <x>"),
    "a sub in another script": lambda i: i.token(sub="Ünal-愛"),
    "a sub of 255 characters": lambda i: i.token(sub="a" * 255),
}

INVALID: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "expired": (lambda i: i.token(exp=soon(-60)), "it has expired"),
    "nbf in the future": (lambda i: i.token(nbf=soon(100)), "its time has not come yet"),
    "iat in the future": (lambda i: i.token(iat=soon(100)), "its time has not come yet"),
    "another audience": (lambda i: i.token(aud=OTHER), f"its aud does not contain {RESOURCE}"),
    "other audiences": (lambda i: i.token(aud=[OTHER, f"{RESOURCE}/x", 7]), "its aud does not contain"),
    "an audience that is a number": (lambda i: i.token(aud=7), "its aud does not contain"),
    "an audience with a user": (lambda i: i.token(aud="https://@pictures.example/mcp"), "its aud does not contain"),
    "an audience without slashes": (lambda i: i.token(aud="https:pictures.example/mcp"), "its aud does not contain"),
    "an audience with backslashes": (lambda i: i.token(aud=RESOURCE.replace("/", "\\")), "its aud does not contain"),
    "an audience with a line break": (lambda i: i.token(aud=f"{RESOURCE}\n"), "its aud does not contain"),
    "an audience with dots": (lambda i: i.token(aud="https://pictures.example/x/../mcp"), "its aud does not contain"),
    "an audience in wide letters": (lambda i: i.token(aud="https://pictures。example/mcp"), "its aud does not contain"),
    "a longer audience": (lambda i: i.token(aud=f"{RESOURCE}2"), "its aud does not contain"),
    "another issuer": (lambda i: i.token(iss="https://evil.example"), "it is from another issuer"),
    "the issuer with a slash": (lambda i: i.token(iss=f"{i.url}/"), "it is from another issuer"),
    "an issuer that is a list": (lambda i: i.token(iss=[i.url]), "it is from another issuer"),
    "no exp": (lambda i: i.token(exp=None), "it has no exp"),
    "no iss": (lambda i: i.token(iss=None), "it has no iss"),
    "no aud": (lambda i: i.token(aud=None), "it has no aud"),
    "no sub": (lambda i: i.token(sub=None), "it has no sub"),
    "an infinite exp": (lambda i: raw(i, "exp", "Infinity"), "not a signed JWT"),
    "a huge exp": (lambda i: raw(i, "exp", "1e400"), "not a signed JWT"),
    "an exp of 400 digits": (lambda i: raw(i, "exp", "9" * 400), "its exp is not a time"),
    "an exp of 5000 digits": (lambda i: raw(i, "exp", "9" * 5000), "not a signed JWT"),
    "an exp that is no number": (lambda i: raw(i, "exp", "NaN"), "not a signed JWT"),
    "an exp as text": (lambda i: raw(i, "exp", '"9999999999"'), "its exp is not a number"),
    "an exp that is true": (lambda i: raw(i, "exp", "true"), "it has expired"),
    "a negative exp": (lambda i: raw(i, "exp", "-1"), "it has expired"),
    "an exp that is a list": (lambda i: raw(i, "exp", "[9999999999]"), "not a signed JWT"),
    "an nbf as text": (lambda i: raw(i, "nbf", '"1"'), "its nbf is not a number"),
    "an iat that is true": (lambda i: raw(i, "iat", "true"), "its iat is not a number"),
    "an infinite negative nbf": (lambda i: raw(i, "nbf", "-Infinity"), "not a signed JWT"),
    "an empty sub": (lambda i: i.token(sub=""), "its sub is not a text"),
    "a sub that is a number": (lambda i: i.token(sub=7), "not a signed JWT"),
    "a sub of 256 characters": (lambda i: i.token(sub="a" * 256), "its sub is not a text"),
    "a sub with a line break": (lambda i: i.token(sub="ada\nRoot"), "its sub is not a text"),
    "a sub that controls a terminal": (lambda i: i.token(sub="\x1b[31mada"), "its sub is not a text"),
    "a sub that reverses text": (lambda i: i.token(sub="ada\u202e"), "its sub is not a text"),
    "a sub with an invisible letter": (lambda i: i.token(sub="ada\u3164"), "its sub is not a text"),
    "a sub with a joiner": (lambda i: i.token(sub="a\u200dda"), "its sub is not a text"),
    "a sub with half a letter": (lambda i: raw(i, "sub", '"ada\\ud83e"'), "its sub is not a text"),
    "a sub with a mark of its own": (lambda i: i.token(sub="A\u030a"), "its sub is not a text"),
    "a sub in another form of Unicode": (lambda i: i.token(sub="\u212b"), "its sub is not a text"),
    "a sub that ends with a space": (lambda i: i.token(sub="ada "), "its sub is not a text"),
    "a sub with two spaces": (lambda i: i.token(sub="ada  l"), "its sub is not a text"),
    "a sub of spaces": (lambda i: i.token(sub=" "), "its sub is not a text"),
    "claims that are a list": (
        lambda _: signed({"alg": "RS256", "kid": "one"}, "[]", private_key("one")),
        "not a signed",
    ),
    "claims with deep lists": (lambda i: raw(i, "x", "[" * 3000 + "]" * 3000), "not a signed JWT"),
    "alg none": (unsigned, "its alg is not one of"),
    "alg None": (partial(unsigned, alg="None"), "its alg is not one of"),
    "HS256 with the public key as secret": (lambda i: with_secret(i, pem()), "its alg is not one of"),
    "HS256 with the secret of a published key": (
        lambda i: with_secret(i, b"k" * 32, "secret"),
        "its alg is not one of",
    ),
    "another algorithm than the key's": (lambda i: i.token({"alg": "PS256"}), "a key that its issuer does not have"),
    "a key that encrypts": (
        lambda i: i.token({"kid": "encrypts"}, private_key("encrypts")),
        "a key that its issuer does not have",
    ),
    "a key that is too small": (lambda i: i.token({"kid": "small"}, private_key("small", "weak")), "not a signed JWT"),
    "a private key that everybody can read": (
        lambda i: i.token({"alg": "ES256", "kid": "leaked"}, private_key("leaked", "ES256")),
        "a key that its issuer does not have",
    ),
    "an unknown key": (lambda i: i.token({"kid": "evil"}, private_key("evil")), "a key that its issuer does not have"),
    "another key under a known name": (lambda i: i.token(key=private_key("evil")), "its signature is wrong"),
    "the claims of another token": (other_signature, "its signature is wrong"),
    "no kid": (lambda i: i.token({"kid": None}), "it does not name its key"),
    "a kid that is a number": (lambda i: i.token({"kid": 1}), "not a signed JWT"),
    "a key in the token": (lambda i: with_key_inside(i, jwk=public_jwk(private_key("evil"))), "its header has jwk"),
    "the address of a key": (lambda i: with_key_inside(i, jku=f"{i.url}/evil"), "its header has jku"),
    "the address of a certificate": (lambda i: i.token({"x5u": f"{i.url}/evil"}), "its header has x5u"),
    "crit": (lambda i: i.token({"crit": ["exp"], "exp": 1}), "not a signed JWT"),
    "b64": (lambda i: i.token({"crit": ["b64"], "b64": False}), "not a signed JWT"),
    "a token for another purpose": (lambda i: i.token({"typ": "logout+jwt"}), "its typ is not"),
    "JWE": (lambda _: ".".join([segment('{"alg":"RSA-OAEP","enc":"A256GCM"}'), *["eA"] * 4]), "not a signed JWT"),
    "garbage": (lambda _: "garbage", "not a signed JWT"),
    "three parts of garbage": (lambda _: "a.b.c", "not a signed JWT"),
    "beyond ASCII": (lambda _: "tök.en.x", "not a signed JWT"),
    "only dots": (lambda _: "..", "not a signed JWT"),
}


@pytest.mark.parametrize("case", GOOD)
async def test_a_token_of_the_issuer_for_this_server_is_taken(shared: Place, case: str) -> None:
    answer = await shared.ask(GOOD[case](shared.issuer))
    assert (answer.status_code, "No jobs yet" in answer.text) == (200, True), answer.text


def challenge(answer: httpx.Response) -> str:
    return answer.headers.get("www-authenticate", "")


def bearer(error: str = "") -> str:
    code = f'error="{error}", ' if error else ""
    return f'Bearer {code}scope="draw", resource_metadata="{METADATA_URL}"'


@pytest.mark.parametrize("case", INVALID)
async def test_any_other_token_is_refused_with_a_reason_and_the_way_to_sign_in(shared: Place, case: str) -> None:
    make, reason = INVALID[case]
    answer = await shared.ask(make(shared.issuer))
    said, charged, step = answer.text.splitlines()
    assert (answer.status_code, challenge(answer)) == (401, bearer("invalid_token")), answer.text
    assert said.startswith("Error: The access token is not valid: ")
    assert said.endswith(" (invalid_token).")
    assert reason in said
    assert charged == "Charged: no."
    assert step == f"Next: Sign in again. The token must be from {shared.issuer.url}, for {RESOURCE}."
    assert shared.issuer.requests["/evil"] == 0


SCOPES: dict[str, dict[str, Any]] = {
    "another scope": {"scope": "read"},
    "a longer scope": {"scope": "drawing"},
    "the scope after another kind of space": {"scope": "read\u00a0draw"},
    "no scope": {"scope": None},
    "a scope that is a number": {"scope": 7},
    "the scope in a map": {"scope": {"draw": True}},
}


@pytest.mark.parametrize("case", SCOPES)
async def test_a_token_without_the_scope_is_refused_with_the_scope(shared: Place, case: str) -> None:
    answer = await shared.ask(shared.issuer.token(**SCOPES[case]))
    assert refused(answer, 403, "insufficient_scope")
    assert challenge(answer) == bearer("insufficient_scope")
    assert "does not have the scope draw" in answer.text


WITHOUT: dict[str, Callable[[str], dict[str, Any]]] = {
    "nothing": lambda _: {},
    "a token in the URL": lambda token: {"params": {"access_token": token, "token": token}},
    "a token in a cookie": lambda token: {"headers": [("cookie", f"token={token}; mcp_vega={token}")]},
    "another scheme": lambda token: {"headers": [("authorization", f"DPoP {token}")]},
    "an empty token": lambda _: {"headers": [("authorization", "Bearer")]},
}


@pytest.mark.parametrize("case", WITHOUT)
async def test_a_request_without_a_token_is_told_how_to_sign_in(shared: Place, case: str) -> None:
    answer = await shared.ask(**WITHOUT[case](shared.issuer.token()))
    assert refused(answer, 401, "missing_token")
    assert challenge(answer) == bearer()
    assert f"finds the issuer in {METADATA_URL}" in answer.text
    assert "MCP_VEGA_AUTH_TOKENS" not in answer.text


async def test_two_tokens_are_refused(shared: Place) -> None:
    token = shared.issuer.token()
    answer = await shared.ask(token, headers=[("authorization", f"Bearer {token}")])
    assert refused(answer, 401, "invalid_token")
    assert challenge(answer) == bearer("invalid_token")


async def test_a_token_that_is_too_long_is_refused(shared: Place) -> None:
    assert refused(await shared.ask(shared.issuer.token(x="x" * 16_000)), 413, "request_too_large")


async def test_without_scopes_in_the_settings_a_token_needs_none(sandbox: Sandbox, tmp_path: Path) -> None:
    async with place_at(sandbox, tmp_path, scopes=()) as place:
        assert (await place.ask(place.issuer.token(scope=None))).status_code == 200
        assert challenge(await place.ask()) == f'Bearer resource_metadata="{METADATA_URL}"'


# ---- the keys of the issuer ----


def fetches(place: Place) -> int:
    return place.issuer.requests["/keys"]


async def test_a_rotated_key_works_immediately_and_strangers_cause_no_more_fetches(place: Place) -> None:
    issuer = place.issuer
    old = issuer.token()
    assert (await place.ask(old)).status_code == 200
    issuer.rotate("two")
    assert (await place.ask(issuer.token())).status_code == 200
    assert fetches(place) == 2
    assert refused(await place.ask(old), 401, "invalid_token"), "the issuer has removed this key"
    for number in range(5):
        stranger = issuer.token({"kid": f"evil-{number}"}, private_key("evil"))
        assert refused(await place.ask(stranger), 401, "invalid_token")
    assert fetches(place) == 2
    issuer.rotate("three")
    place.uptime.seconds += UNKNOWN_SECONDS
    assert (await place.ask(issuer.token())).status_code == 200
    assert fetches(place) == 3


async def test_a_key_that_the_issuer_has_removed_counts_no_longer(place: Place) -> None:
    old = place.issuer.token()
    assert (await place.ask(old)).status_code == 200
    place.issuer.rotate("two")
    assert (await place.ask(old)).status_code == 200
    place.uptime.seconds += FRESH_SECONDS
    assert refused(await place.ask(old), 401, "invalid_token")


async def test_known_keys_go_on_for_an_hour_without_the_issuer(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    assert (await place.ask(place.issuer.token())).status_code == 200
    place.issuer.away = True
    new = place.issuer.token({"kid": "two"}, private_key("two"))
    for seconds in (FRESH_SECONDS, RETRY_SECONDS, KEPT_SECONDS - FRESH_SECONDS - RETRY_SECONDS - 1):
        place.uptime.seconds += seconds
        assert (await place.ask(place.issuer.token())).status_code == 200
        answer = await place.ask(new)
        assert refused(answer, 503, "auth_unavailable"), "the issuer may have this key"
        assert (answer.headers["retry-after"], challenge(answer)) == ("5", "")
    place.uptime.seconds += 1
    assert refused(await place.ask(place.issuer.token()), 503, "auth_unavailable")
    assert caplog.text.count("cannot be asked for its keys") == 1
    place.issuer.away = False
    assert refused(await place.ask(place.issuer.token()), 503, "auth_unavailable"), "it was asked a moment ago"
    place.uptime.seconds += RETRY_SECONDS
    assert (await place.ask(place.issuer.token())).status_code == 200
    assert "answers again" in caplog.text


async def test_a_server_starts_without_its_issuer(place: Place) -> None:
    place.issuer.away = True
    for _ in range(3):
        assert refused(await place.ask(place.issuer.token()), 503, "auth_unavailable")
    assert place.issuer.requests[METADATA] == 1
    assert refused(await place.ask(), 401, "missing_token")
    assert refused(await place.ask("garbage"), 401, "invalid_token")
    assert (await place.server.ask("GET", "/health")).status_code == 200
    assert (await place.server.ask("GET", METADATA_PATH)).status_code == 200


async def test_one_fetch_is_enough_for_all_requests_that_wait(place: Place) -> None:
    place.issuer.hold = anyio.Event()
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await place.ask(place.issuer.token()))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)
        await until(lambda: place.issuer.requests[METADATA])
        place.issuer.hold.set()
    assert {each.status_code for each in answers} == {200}
    assert (place.issuer.requests[METADATA], fetches(place)) == (1, 1)


LARGE = b" " * (BYTES + 1)


def metadata_of(i: Issuer, /, **changes: Any) -> dict[str, Response]:
    return {METADATA: JSONResponse(i.metadata | changes)}


def keys_as(content: Any) -> Callable[[Issuer], dict[str, Response]]:
    return lambda _: {"/keys": JSONResponse(content)}


BROKEN: dict[str, tuple[Callable[[Issuer], dict[str, Response]], str]] = {
    "no metadata": (lambda _: {METADATA: Response(status_code=404)}, "status 404"),
    "the metadata of another issuer": (partial(metadata_of, issuer="https://evil.example"), "another issuer"),
    "an issuer that is a list": (partial(metadata_of, issuer=["x"]), "another issuer"),
    "metadata that are a page": (lambda _: {METADATA: Response("<html>")}, "did not answer with a JSON object"),
    "metadata elsewhere": (lambda i: {METADATA: RedirectResponse(f"{i.url}/elsewhere")}, "status 307"),
    "no jwks_uri": (partial(metadata_of, jwks_uri=None), "jwks_uri is 'None'"),
    "keys without TLS": (partial(metadata_of, jwks_uri="http://keys.example/"), "must begin with https://"),
    "keys in a file": (partial(metadata_of, jwks_uri="file:///etc/passwd"), "must begin with https://"),
    "keys for a user": (partial(metadata_of, jwks_uri="https://user:secret@keys.example/"), "must begin with https://"),
    "keys elsewhere": (lambda i: {"/keys": RedirectResponse(f"{i.url}/elsewhere")}, "/keys answered with status 307"),
    "too much": (lambda _: {"/keys": Response(LARGE)}, f"larger than {BYTES:,} bytes"),
    "keys that are a page": (lambda _: {"/keys": Response("<html>")}, "did not answer with a list of keys"),
    "keys that are a list": (keys_as([]), "did not answer with a list of keys"),
    "no keys": (keys_as({"keys": []}), "no key that can sign tokens"),
    "only odd keys": (keys_as({"keys": [7, {}, {"kty": "RSA", "kid": "x", "n": {}}, {"kty": ["RSA"]}]}), "no key"),
    "a key without a name": (
        lambda _: {"/keys": JSONResponse({"keys": [public_jwk(private_key("one"), alg="RS256")]})},
        "no key that can sign tokens",
    ),
    "a key that may only sign": (
        lambda i: {"/keys": JSONResponse({"keys": [{**i.keys["one"], "key_ops": ["sign"]}]})},
        "no key that can sign tokens",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_an_issuer_that_cannot_be_used_is_named_by_doctor_and_its_tokens_get_503(
    sandbox: Sandbox, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    break_it, reason = BROKEN[case]
    async with place_at(sandbox, tmp_path) as place:
        place.issuer.answers = break_it(place.issuer)
        assert refused(await place.ask(place.issuer.token()), 503, "auth_unavailable")
        variables = {"MCP_VEGA_OAUTH_ISSUER": place.issuer.url, "MCP_VEGA_OAUTH_RESOURCE": RESOURCE}
        (check,) = await anyio.to_thread.run_sync(check_oauth, Settings.from_environment(variables))
    assert reason in caplog.text
    assert (check.name, check.state, reason in check.detail) == ("oauth", State.BAD, True), check
    assert place.issuer.requests["/elsewhere"] == 0


async def test_doctor_says_that_an_issuer_is_good_and_which_scope_it_does_not_list(
    tmp_path: Path,
) -> None:
    async with serving_issuer() as issuer:
        variables = {"MCP_VEGA_OAUTH_ISSUER": issuer.url, "MCP_VEGA_OAUTH_RESOURCE": RESOURCE}
        more = {"MCP_VEGA_SANDBOX": "1", "MCP_VEGA_METRICS_PORT": "9464"}
        done = await run_beside("doctor", "--json", folder=tmp_path, **variables, **more)
        checks = {each["name"]: each for each in json.loads(done.stdout)}
        assert (checks["settings"]["state"], checks["oauth"]["state"]) == ("good", "good"), checks
        assert f"{issuer.url} answered in " in checks["oauth"]["detail"]
        assert "metrics" in checks
        issuer.answers = metadata_of(issuer, scopes_supported=["read"])
        settings = Settings.from_environment({**variables, "MCP_VEGA_OAUTH_SCOPES": "draw read"})
        (check,) = await anyio.to_thread.run_sync(check_oauth, settings)
    assert (check.state, "it does not list the scope draw" in check.detail) == (State.NOTE, True)


@pytest.mark.parametrize("number", range(3))
async def test_the_metadata_of_an_issuer_with_a_path_are_found_at_each_of_their_addresses(number: int) -> None:
    async with serving_issuer() as issuer:
        name = f"{issuer.url}/tenant/7"
        url = metadata_urls(name)[number]
        issuer.answers = {urlsplit(url).path: JSONResponse({**issuer.metadata, "issuer": name})}
        state = await read_issuer(name)
        assert [*state.keys] == [("one", "RS256")]
        with pytest.raises(IssuerProblem, match="another issuer"):
            await read_issuer(f"{name}/")


def test_only_an_issuer_on_this_machine_may_have_its_keys_here_without_tls() -> None:
    for url in ("http://127.0.0.1:1/keys", "http://localhost/keys", "http://[::1]:1/keys"):
        assert keys_url({"jwks_uri": url}, "http://127.0.0.1:2") == url
        with pytest.raises(IssuerProblem, match="must begin with https://"):
            keys_url({"jwks_uri": url}, "https://login.example")


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["headers", "body"])
async def test_an_issuer_that_answers_byte_by_byte_is_left_after_a_while(
    beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_module, "SECONDS", 0.3)
    was_left = anyio.Event()

    async def drip(client: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError):
            await client.send(beginning)
            while True:
                await client.send(b" ")
                await anyio.sleep(0.02)
        was_left.set()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, drip)
        issuer = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610  not Django's
        with anyio.fail_after(10):
            with pytest.raises(IssuerProblem, match="took more than 0"):
                await read_issuer(issuer)
            await was_left.wait()
        tasks.cancel_scope.cancel()


# ---- what clients find ----


@pytest.mark.parametrize("path", [METADATA_PATH, f"{METADATA_PATH}/mcp"])
async def test_everybody_can_read_where_to_sign_in(shared: Place, path: str) -> None:
    for origin in ({}, {"origin": "https://inspector.example"}):
        answer = await shared.server.ask("GET", path, headers=origin)
        found = ProtectedResourceMetadata.model_validate_json(answer.content)
        assert (str(found.resource), [str(each) for each in found.authorization_servers]) == (
            RESOURCE,
            [shared.issuer.url],
        )
        assert (found.scopes_supported, found.bearer_methods_supported) == (["draw"], ["header"])
        assert answer.headers.get("access-control-allow-origin") == ("*" if origin else None)
    preflight = {"origin": "https://inspector.example", "access-control-request-method": "GET"}
    assert (await shared.server.ask("OPTIONS", path, headers=preflight)).status_code == 200
    assert refused(await shared.server.ask("GET", path, headers={"host": "evil.example"}), 421, "host_not_allowed")


async def test_the_gallery_page_is_off_and_says_what_to_do_instead(shared: Place) -> None:
    page = await shared.server.ask("GET", "/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert all(each in page.text for each in ("OAuth", "vega://gallery", "mcp-vega gallery"))
    assert "<script" not in page.text
    token = {"authorization": f"Bearer {shared.issuer.token()}"}
    for method, path in (("GET", "/gallery/state"), ("GET", NOTHING), ("POST", SIGN_IN), ("POST", "/gallery/sign-out")):
        for headers in ({}, PAGE, {**PAGE, **token}, {"cookie": "mcp_vega=1.x"}):
            answer = await shared.server.ask(method, path, headers=headers)
            assert refused(answer, 404, "page_off"), (path, headers)
            assert "vega://gallery" in answer.text


class Storage:
    """Where the SDK's client keeps its tokens."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


def provider(url: str, storage: Storage) -> OAuthClientProvider:
    """The SDK's client of OAuth, with a browser whose user allows everything."""
    visited: list[str] = []

    async def visit(address: str) -> None:
        async with httpx.AsyncClient(verify=TLS) as browser:
            visited.append((await browser.get(address)).headers["location"])

    async def callback() -> AuthorizationCodeResult:
        found = {name: value[0] for name, value in parse_qs(urlsplit(visited[-1]).query).items()}
        return AuthorizationCodeResult(**found)

    metadata = OAuthClientMetadata(
        redirect_uris=[AnyUrl("http://127.0.0.1:1/callback")], token_endpoint_auth_method="none", client_name="test"
    )
    return OAuthClientProvider(url, metadata, storage, visit, callback)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_sdks_own_client_signs_in_and_draws(sandbox: Sandbox, tmp_path: Path, mode: Any) -> None:
    storage = Storage()
    async with serving_issuer() as issuer, app_over(sandbox.url, tmp_path) as app:

        def callers(url: str) -> OAuthCallers:
            issuer.resource = f"{url}/mcp"
            return oauth_callers(app, issuer, Uptime())

        async with (
            served(app, "http", callers=callers) as server,
            create_mcp_http_client(auth=provider(server.endpoint, storage)) as http,
            Client(streamable_http_client(server.endpoint, http_client=http), mode=mode) as client,
        ):
            result = await client.call_tool(RT, {"prompt": "a fox"})
            assert not result.is_error
            assert storage.tokens
            said = jwt.decode(storage.tokens.access_token, options={"verify_signature": False})
            assert (said["aud"], said["scope"]) == (server.endpoint, "draw")
            assert issuer.requests["/register"] == issuer.requests["/token"] == 1
            (job,) = await app.service.store.latest(1)
            assert job.owner == f"{issuer.url}#ada"


# ---- who sees what ----


async def link_of(client: HttpClient, number: int = 1) -> tuple[str, str]:
    """The request id of a new job, and the path and query of the link to its picture."""
    answer = await client.call(number)
    url: str = answer.message["result"]["_meta"]["mcp-vega/job"]["images"][0]["url"]
    return answer.request_id, url.removeprefix(str(client.http.base_url).rstrip("/"))


async def test_each_subject_sees_only_their_own_jobs_pictures_and_gallery(place: Place) -> None:
    async with place.client("ada") as ada, place.client("ada#1") as other:
        request_id, link = await link_of(ada)
        image = link.partition("?")[0]
        assert "(unknown_job)" in (await other.call(1, "check_job", {"request_id": request_id})).text
        assert "No jobs yet" in (await other.call(2, "check_job", {})).text
        assert (await ada.call(3, "check_job", {"request_id": request_id})).pictures == 1
        assert (await ada.http.get(image)).status_code == 200
        assert refused(await other.http.get(image), 404, "unknown_image")
        assert refused(await other.http.get(link), 404, "unknown_image"), "a token counts alone"
        again = await link_of(other)
        assert again[0] != request_id, "another subject's call is another job"
    owners = {job.owner for job in await place.app.service.store.latest(9)}
    assert owners == {owner_with(place.issuer.url, subject) for subject in ("ada", "ada#1")}


async def test_another_subject_finds_a_picture_nowhere_and_is_not_notified_of_it(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.account.speed = 100  # so the job does not end before both listen
    async with place_at(sandbox, tmp_path, wait_seconds=0) as place:
        tokens = [place.issuer.token(sub=subject) for subject in ("ada", "eve")]
        async with place.server.agent(tokens[0]) as ada, place.server.agent(tokens[1]) as eve:
            job = job_of(await ada.call_tool("submit_job", {"prompt": "a fox", "model": "segmind-vega-rt-v1"}))
            uris = [f"vega://jobs/{job['request_id']}", GALLERY]
            async with (
                ada.listen(resources_list_changed=True) as hers,
                eve.listen(resources_list_changed=True, resource_subscriptions=uris) as others,
            ):
                with anyio.fail_after(HANG_SECONDS):
                    await until(lambda: sandbox.account.calls)
                    sandbox.account.skip(1000)
                    assert isinstance(await anext(hers), ResourcesListChanged)
                    # What eve finds; each notification of ada's picture would have come before that of her own.
                    uri = (await ada.list_resources()).resources[-1].uri
                    for known in (uri, f"{uri}/preview", uris[0]):
                        with pytest.raises(MCPError, match="unknown_"):
                            await eve.read_resource(known)
                    assert (await eve.list_resources()).resources[-1].uri == GALLERY
                    for template, name in (("vega://images/{id}", "id"), ("vega://jobs/{request_id}", "request_id")):
                        asked = ResourceTemplateReference(uri=template)
                        offered = await eve.complete(asked, {"name": name, "value": ""})
                        assert offered.completion.values == []
                    with pytest.raises(MCPError, match="unknown_image"):
                        await eve.get_prompt("vary", {"image": uri, "change": "snow"})
                    sandbox.account.speed = 0
                    await eve.call_tool(RT, {"prompt": "an owl"})
                    assert await anext(others) == ResourceUpdated(uri=GALLERY)
                    assert isinstance(await anext(others), ResourcesListChanged)


async def test_a_link_opens_its_picture_without_a_token(place: Place) -> None:
    async with place.client() as ada:
        _, link = await link_of(ada)
        _, other = await link_of(ada, 2)
    ask = partial(place.server.ask, "GET")
    assert (await ask(path=link)).status_code == 200
    for changed in (
        link.replace(link.partition("?")[0], other.partition("?")[0]),
        link[:-1] + ("A" if link[-1] != "A" else "B"),
        f"/images/{'0' * 32}?{link.partition('?')[2]}",
        f"/images/x?{link.partition('?')[2]}",
    ):
        answer = await ask(path=changed)
        assert refused(answer, 403, "invalid_link"), answer.text
        assert "changed, or there is no such picture" in answer.text
    assert refused(await ask(path=link.partition("?")[0]), 401, "missing_token")
    place.issuer.away = True
    place.uptime.seconds += KEPT_SECONDS
    assert (await ask(path=link)).status_code == 200, "the issuer is not needed for a link"


async def test_the_same_subject_of_another_issuer_is_another_caller(place: Place) -> None:
    async with place.client() as ada:
        request_id, link = await link_of(ada)
    async with serving_issuer() as issuer:
        callers = oauth_callers(place.app, issuer, place.uptime)
        async with served(place.app, "http", callers=callers) as server:
            elsewhere = replace(place, server=server, issuer=issuer)
            async with elsewhere.client() as other:
                assert "(unknown_job)" in (await other.call(1, "check_job", {"request_id": request_id})).text
            assert refused(await server.ask("GET", link), 403, "invalid_link")


async def test_the_sdk_knows_a_person_by_issuer_and_subject_whatever_the_token(place: Place) -> None:
    callers = oauth_callers(place.app, place.issuer, place.uptime)
    tokens = [place.issuer.token(client_id="a-client", jti=each) for each in ("1", "2")]
    first, second = [await callers.with_token(each) for each in tokens]
    assert first == second
    assert first.access_token
    assert second.access_token
    assert principal_components(first.access_token) == ("a-client", place.issuer.url, "ada")
    assert principal_components(first.access_token) == principal_components(second.access_token)
    assert first.access_token.token not in tokens, "a token is needed no more"
    verifier = OAuthTokenVerifier(auth_settings(place.issuer.url, RESOURCE, ()), RESOURCE, IssuerKeys(place.issuer.url))
    assert (found := await verifier.verify_token(tokens[0]))
    assert (found.resource, found.subject) == (RESOURCE, "ada")
    assert await verifier.verify_token("garbage") is None


async def test_a_request_tells_the_sdk_who_its_caller_is(place: Place) -> None:
    callers, users = oauth_callers(place.app, place.issuer, place.uptime), list[AuthenticatedUser]()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        users.append(scope["user"])
        await Response()(scope, receive, send)

    signatures = Signatures(callers, place.app.service.store.secrets, place.app.service.config.clock)
    sign_in = SignIn(signatures, DEFAULT_LIMITS)
    asgi = AuthMiddleware(application, AllowedHosts(()), DEFAULT_LIMITS, signatures, sign_in)
    headers = {"authorization": f"Bearer {place.issuer.token()}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://localhost") as http:
        assert (await http.get("/mcp", headers=headers)).status_code == 200
    (user,) = users
    assert principal_components(user.access_token) == ("ada", place.issuer.url, "ada")
    assert user.scopes == ["draw"]


async def test_a_cancellation_of_another_subject_ends_nothing(place: Place) -> None:
    async with place.client("ada") as ada, place.client("eve") as eve, anyio.create_task_group() as tasks:
        with held(place.sandbox):
            call = await ada.begin(tasks, 7)
            await eve.cancel(7)
        await until(lambda: call.message)
        assert call.pictures == 1


async def test_a_call_goes_on_when_its_token_is_valid_no_more_and_a_new_token_gets_its_result(place: Place) -> None:
    old = place.issuer.token()
    async with place.client() as client, anyio.create_task_group() as tasks:
        with held(place.sandbox):
            call = await client.begin(tasks, 7)
            place.issuer.rotate("two")
            place.uptime.seconds += FRESH_SECONDS
            assert refused(await place.ask(old), 401, "invalid_token")
        await until(lambda: call.message)
        assert call.pictures == 1
        client.http.headers["authorization"] = f"Bearer {place.issuer.token()}"
        assert call.request_id in (await client.call(8, "check_job", {})).text


async def test_a_ledger_that_is_away_gives_503_for_a_link(sandbox: Sandbox, tmp_path: Path) -> None:
    async with place_at(sandbox, tmp_path, busy_seconds=0.1, gallery=BrokenGallery) as place:
        answer = await place.server.ask("GET", "/images/0?expires=9999999999&signature=x")
        assert refused(answer, 503, "auth_unavailable")
        assert "The ledger cannot be read" in answer.text


class BrokenGallery(Gallery):
    """A gallery whose ledger cannot be read."""

    async def find(self, image_id: str, owner: str = OPERATOR) -> JobImage:
        raise LedgerError(f"no ledger for {image_id} and {owner!r} in /secret/place")


# ---- names of callers ----


OWNERS = [
    "ada",
    "a@b.example",
    "0" * 32,
    "https://login.example#ada",
    "https://l.example/t/7#a#b",
    "http://127.0.0.1:1#x",
]
NO_OWNERS = ["", "#", "#ada", "ada#x", "https://login.example", "https://login.example#", "https://l.example# a", "a/b"]


def test_an_owner_is_a_name_a_hash_or_issuer_and_subject() -> None:
    assert [each for each in OWNERS if not is_owner(each)] == []
    assert [each for each in NO_OWNERS if is_owner(each)] == []
    assert is_subject("愛" * 255)


async def test_export_and_import_take_a_caller_of_oauth(place: Place, tmp_path: Path) -> None:
    async with place.client("Ada Lovelace") as client:
        await client.call(1)
    owner = f"{place.issuer.url}#Ada Lovelace"
    variables = {"MCP_VEGA_HOME": str(tmp_path.with_name(f"{tmp_path.name}-home")), "MCP_VEGA_GALLERY": str(tmp_path)}

    async def move(*arguments: str, **variables: str) -> Any:
        return await run_beside(*arguments, folder=tmp_path, **variables)

    file = str(tmp_path / "ada.zip")
    assert "Exported: 1 job and 1 picture" in (await move("export", file, "--owner", owner, **variables)).stderr
    new = {"MCP_VEGA_HOME": str(tmp_path / "new")}
    done = await move("import", file, "--owner", owner, **new)
    assert "Imported: 1 job and 1 picture" in done.stderr, done.stderr
    spent = await move("jobs", "--spent", "--by", "caller", **new)
    assert owner in spent.stdout, spent
    done = await move("import", file, "--owner", "https://login.example#\x1b[31m", **new)
    assert (done.returncode, "\x1b" in done.stderr, "ISSUER#SUBJECT" in done.stderr) == (2, False, True)


# ---- the command ----

OAUTH = {"MCP_VEGA_OAUTH_ISSUER": "https://login.example", "MCP_VEGA_OAUTH_RESOURCE": RESOURCE}


def test_oauth_does_not_go_with_sse(tmp_path: Path) -> None:
    done = run("--transport", "sse", "--port", "0", "--sandbox", folder=tmp_path, **OAUTH)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        "MCP_VEGA_OAUTH_ISSUER is set, and --transport sse does not work with OAuth (invalid_settings)" in done.stderr
    )
    assert "http://" not in done.stderr


async def test_the_command_serves_other_machines_with_oauth_and_logs_no_token(tmp_path: Path) -> None:
    async with serving_issuer() as issuer:
        variables = {**OAUTH, "MCP_VEGA_OAUTH_ISSUER": issuer.url, "MCP_VEGA_LOG_LEVEL": "DEBUG"}
        with started(tmp_path, *EVERYWHERE, "--sandbox", **variables):
            url = (await anyio.to_thread.run_sync(address, tmp_path)).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
            server = HttpServer(url.removesuffix("/mcp"), "http")
            place = Place(server, issuer, *cast("Any", (None, None)))
            token = issuer.token()
            assert refused(await place.ask(), 401, "missing_token")
            assert refused(await place.ask(token[:-9]), 401, "invalid_token")
            assert (await place.ask(token)).status_code == 200
            assert refused(await server.ask("GET", f"/images/0?expires=9&signature={token}"), 403, "invalid_link")
    log = complaints(tmp_path)
    assert f"People sign in at {issuer.url}\n" in log
    assert "can draw at your cost" not in log
    assert not [part for part in token.split(".") if part in log]


@pytest.mark.parametrize("token", ["", "a.b.c"])
async def test_install_writes_an_entry_without_a_token_and_says_that_people_sign_in(
    shared: Place, tmp_path: Path, token: str
) -> None:
    variables = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "MCP_VEGA_TOKEN": token}
    url = f"{shared.server.url}/mcp"
    done = await run_beside("install", "claude-code", "--url", url, "--yes", folder=tmp_path, **variables)
    entry = json.loads((tmp_path / ".claude.json").read_text(encoding="utf-8"))["mcpServers"]["vega"]
    assert (done.returncode, "headers" in entry, entry["url"]) == (0, bool(token), url), done
    assert ("People sign in to it with OAuth" in done.stdout) == (not token)
    assert ("remove the token" in done.stderr) == bool(token)
    assert "no access token" not in done.stderr


WRONG_SETTINGS = {
    "MCP_VEGA_OAUTH_ISSUER": ["HTTPS://Login.example", "https://login.example:443/x", "https://l.example/a b", "login"],
    "MCP_VEGA_OAUTH_RESOURCE": ["https://pictures.example/mcp?x=1", "https://pictures.example/" + "a" * 500],
    "MCP_VEGA_OAUTH_SCOPES": ['draw"', "dr\\aw", "zeichnen-ü"],
}


@pytest.mark.parametrize(("name", "value"), [(name, each) for name in WRONG_SETTINGS for each in WRONG_SETTINGS[name]])
def test_a_wrong_setting_of_oauth_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{name} cannot be used"):
        Settings.from_environment({**OAUTH, name: value})


def test_scopes_may_be_separated_by_commas_or_spaces() -> None:
    settings = Settings.from_environment({**OAUTH, "MCP_VEGA_OAUTH_SCOPES": "draw, read  write"})
    assert settings.oauth_scopes == ("draw", "read", "write")


def test_doctor_names_a_setting_of_oauth_that_lacks_another(tmp_path: Path) -> None:
    done = run("doctor", "--json", folder=tmp_path, MCP_VEGA_SANDBOX="1", MCP_VEGA_OAUTH_SCOPES="draw")
    check = next(each for each in json.loads(done.stdout) if each["name"] == "settings")
    said = "The environment variable MCP_VEGA_OAUTH_SCOPES is set, and MCP_VEGA_OAUTH_ISSUER is not"
    assert (check["state"], check["detail"]) == ("bad", said)
