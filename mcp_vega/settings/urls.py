"""The addresses of the API, and of a server that signs people in."""

from typing import Annotated

import httpx
from pydantic import AfterValidator, AnyHttpUrl, ConfigDict, TypeAdapter

from mcp_vega.network.addresses import is_loopback

VENDOR_URL = "https://api.segmind.com"
# The URL of an issuer is a part of its callers' names, which the ledger has in its indexes.
LONGEST_EXACT_URL = 500
VENDOR_HISTORY_URL = "https://api.spotprod.segmind.com/inference-request/request-history"


def usual_url(url: str) -> str:
    """An address of the API in its usual spelling.

    Raises:
        ValueError: The key must not be sent to such an address.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError("it is not a URL") from error
    if not parsed.host or not (parsed.scheme == "https" or (parsed.scheme == "http" and is_loopback(parsed.host))):
        raise ValueError("it must begin with https:// and a host (or http:// on loopback): secrets are sent there")
    if (parsed.port or 0) > 65535:
        raise ValueError("its port must be at most 65535")
    if parsed.userinfo:
        raise ValueError("it must not contain a user name or password, because the address is stored")
    # The ledger compares addresses, so each needs one spelling. Only the second parsing removes the port of
    # HTTPS://host:443: httpx knows the default ports of schemes in lower case only.
    return str(httpx.URL(str(parsed))).rstrip("/")


UsualUrl = Annotated[str, AfterValidator(usual_url)]


def exact_url(url: str) -> str:
    """The URL of an issuer or a resource of OAuth, unchanged: such URLs are compared character by character.

    Raises:
        ValueError: Nobody can be identified with such a URL.
    """
    usual_url(url)
    if not url.isascii() or "?" in url or "#" in url:
        raise ValueError("it must be in ASCII, without ? and #")
    if len(url) > LONGEST_EXACT_URL:
        raise ValueError(f"it must have at most {LONGEST_EXACT_URL} characters")
    # The MCP SDK publishes the URL in this spelling, and clients compare it.
    adapter = TypeAdapter(AnyHttpUrl, config=ConfigDict(url_preserve_empty_path=True))
    if (spelled := str(adapter.validate_python(url))) != url:
        raise ValueError(f"write it as clients will see it: {spelled}")
    return url


ExactUrl = Annotated[str, AfterValidator(exact_url)]
