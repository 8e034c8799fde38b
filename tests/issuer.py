"""A small OAuth 2.1 authorization server: metadata, keys, and a code with PKCE for everybody who asks."""

import hashlib
import json
import secrets
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qs, urlencode

import anyio
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_vega.network.serving import serving

RESOURCE = "https://pictures.example/mcp"
METADATA = "/.well-known/oauth-authorization-server"
KINDS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "weak": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505  to be refused
}


def private_key(name: str, kind: str = "RS256") -> Any:
    """The private key with this name. To make one takes long, so the tests share them."""
    return _private_key(name, kind)


@cache
def _private_key(_: str, kind: str) -> Any:
    return KINDS[kind]()


def public_jwk(key: Any, **fields: str | None) -> dict[str, Any]:
    """A public key as issuers publish it, with other fields; None removes a field."""
    kind: Any = RSAAlgorithm
    if isinstance(key, ec.EllipticCurvePrivateKey):
        kind = ECAlgorithm
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        kind = OKPAlgorithm
    found = json.loads(kind.to_jwk(key.public_key())) | {"use": "sig"} | fields
    return {name: value for name, value in found.items() if value is not None}


def segment(data: bytes | str) -> str:
    data = data.encode() if isinstance(data, str) else data
    return urlsafe_b64encode(data).decode().rstrip("=")


def signed(header: dict[str, Any], claims: str, key: Any) -> str:
    """A token with this header and these claims (JSON), whether or not they make sense."""
    text = f"{segment(json.dumps(header))}.{segment(claims)}"
    signature = jwt.get_algorithm_by_name(header["alg"]).sign(text.encode(), key)
    return f"{text}.{segment(signature)}"


@dataclass
class Issuer:
    """An issuer that can be away, and that counts its requests. `answers` replaces the answers at some paths."""

    url: str = ""
    resource: str = RESOURCE
    keys: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    current: str = "one"
    away: bool = False
    hold: anyio.Event | None = None
    answers: dict[str, Response] = field(default_factory=dict[str, Response])
    requests: Counter[str] = field(default_factory=Counter[str])
    _codes: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])

    def __post_init__(self) -> None:
        self.rotate(self.current)

    def rotate(self, name: str) -> None:
        """Sign with another key from now on. Tokens of the earlier keys are not valid any more."""
        self.current = name
        self.keys = {name: public_jwk(private_key(name), kid=name, alg="RS256")}

    def add(self, name: str, kind: str, **fields: str | None) -> None:
        """Publish one more key."""
        self.keys[name] = public_jwk(private_key(name, kind), **({"kid": name} | fields))

    # ---- tokens ----

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a good token with changes; None removes a claim."""
        now = int(time.time())
        good = {"iss": self.url, "sub": "ada", "aud": self.resource, "scope": "draw", "iat": now, "exp": now + 300}
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(self, header: dict[str, Any] | None = None, key: Any = None, **changes: Any) -> str:
        """A good token, signed with the current key, with changes in the header and the claims."""
        fields = {"alg": "RS256", "kid": self.current, "typ": "at+jwt"} | (header or {})
        fields = {name: value for name, value in fields.items() if value is not None}
        return signed(fields, json.dumps(self.claims(**changes)), key or private_key(self.current))

    # ---- the server ----

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "registration_endpoint": f"{self.url}/register",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "authorization_response_iss_parameter_supported": True,
        }

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        self.requests[path] += 1
        if self.hold:
            await self.hold.wait()
        if self.away or path in self.answers:
            return Response("away", 503) if self.away else self.answers[path]
        if path == "/authorize":
            return self._authorize(request)
        if path == "/token":
            return self._give_token(parse_qs((await request.body()).decode()))
        if path == "/register":
            return JSONResponse({**await request.json(), "client_id": "the-client"}, 201)
        found = {METADATA: self.metadata, "/keys": {"keys": [*self.keys.values()]}}
        return JSONResponse(found[path]) if path in found else Response(status_code=404)

    def _authorize(self, request: Request) -> Response:
        """Give a code without asking anybody."""
        asked = dict(request.query_params)
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        code = secrets.token_urlsafe()
        self._codes[code] = asked
        found = urlencode({"code": code, "state": asked["state"], "iss": self.url})
        return RedirectResponse(f"{asked['redirect_uri']}?{found}")

    def _give_token(self, form: dict[str, list[str]]) -> Response:
        """Give a token for the resource and scopes that were asked for, if the code and its verifier are right."""
        asked = self._codes.pop(form["code"][0])
        assert segment(hashlib.sha256(form["code_verifier"][0].encode()).digest()) == asked["code_challenge"]
        assert form["resource"][0] == asked["resource"]
        token = self.token(aud=asked["resource"], scope=asked.get("scope"), client_id=form["client_id"][0])
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": 300})


@asynccontextmanager
async def serving_issuer(**options: Any) -> AsyncGenerator[Issuer]:
    issuer = Issuer(**options)
    routes = [Route("/{path:path}", issuer.answer, methods=["GET", "POST"])]
    async with serving(Starlette(routes=routes)) as url:
        issuer.url = url
        yield issuer
