"""Which addresses media may be fetched from."""

import re

import httpx

VENDOR_HOST = "images.segmind.com"
# A host in letters, digits, dots, - and _, or an address in brackets; a port without zeros or signs in front.
_PLAIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]*)?([/?#]|\Z)", re.IGNORECASE | re.ASCII)


class AllowedUrls:
    """The API's own scheme, host and port, and https from the vendor's media host and the exact `hosts`."""

    def __init__(self, base_url: str, hosts: tuple[str, ...] = ()) -> None:
        self._own = _origin(httpx.URL(base_url))
        self._hosts = {host.lower() for host in (VENDOR_HOST, *hosts)}

    def permits(self, url: str) -> bool:
        """Whether `url` may be fetched; one with credentials, that cannot be read or is oddly spelt may not."""
        # An odd spelling (`:+443`, `images。segmind.com`) may be corrected differently by a proxy.
        if not _PLAIN.match(url):
            return False
        try:
            # The parser of the library that will fetch it: two parsers could disagree about the host.
            origin = scheme, host, port = _origin(httpx.URL(url))
        except (httpx.InvalidURL, ValueError):
            return False
        return origin == self._own or (scheme == "https" and port is None and host in self._hosts)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port, the scheme's own port as None."""
    return url.scheme, url.host, url.port
