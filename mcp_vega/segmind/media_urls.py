"""The addresses from which media may be downloaded."""

import re

import httpx

VENDOR_HOST = "images.segmind.com"
# A host of letters, digits, dots, - and _, or an address in brackets; a port without leading zeros or signs.
_PLAIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]*)?([/?#]|\Z)", re.IGNORECASE | re.ASCII)


class AllowedUrls:
    """Allows the API's own scheme, host and port; and https on the vendor's media host and on exactly these `hosts`."""

    def __init__(self, base_url: str, hosts: tuple[str, ...] = ()) -> None:
        self._own = _origin(httpx.URL(base_url))
        self._hosts = {host.lower() for host in (VENDOR_HOST, *hosts)}

    def permits(self, url: str) -> bool:
        """Whether `url` may be downloaded. It must be readable, without credentials, and in its usual spelling."""
        # A proxy may correct an unusual spelling (`:+443`, `images。segmind.com`) in another way than httpx does.
        if not _PLAIN.match(url):
            return False
        try:
            # This is the parser of the library that downloads. Two parsers could disagree about the host.
            origin = scheme, host, port = _origin(httpx.URL(url))
        except (httpx.InvalidURL, ValueError):
            return False
        return origin == self._own or (scheme == "https" and port is None and host in self._hosts)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port. The default port of the scheme is None."""
    return url.scheme, url.host, url.port
