"""Which pictures are taken: where they stand in an answer, what whole ones look like, which addresses may be asked."""

import re
from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from mcp_vega import errors

MAX_BYTES = 25_000_000
VENDOR_HOSTS = ("images.segmind.com",)


def _jpeg_is_whole(data: bytes) -> bool:
    # The end marker cannot stand inside a scan; what follows it (padding, metadata) is nobody's loss.
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")


def _png_is_whole(data: bytes) -> bool:
    return b"IEND\xaeB`\x82" in data


def _webp_is_whole(data: bytes) -> bool:
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


@dataclass(frozen=True)
class Format:
    """A picture format: its MIME type, its file name's ending, and whether bytes of it are all there."""

    mime_type: str
    suffix: str
    is_whole: Callable[[bytes], bool]


JPEG = Format("image/jpeg", ".jpg", _jpeg_is_whole)
PNG = Format("image/png", ".png", _png_is_whole)
WEBP = Format("image/webp", ".webp", _webp_is_whole)
SUFFIXES = (JPEG.suffix, PNG.suffix, WEBP.suffix)


def recognise(data: bytes) -> Format | None:
    """The format of picture bytes by their first bytes, or None; no header or file name is believed."""
    if data.startswith(b"\xff\xd8\xff"):
        return JPEG
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WEBP
    return None


def find_pictures(body: dict[str, Any]) -> tuple[bytes | str, ...]:
    """The pictures of a JSON answer, wherever they are: the field that names most of them wins.

    One that cannot be read among others that can is left out, so that the others are not lost with it.

    Raises:
        UnreadableAnswer: There are some, and none can be read.
    """
    texts = max((list(_texts(body.get(name))) for name in ("image", "images", "output")), key=len)
    pictures: list[bytes | str] = []
    problem: errors.UnreadableAnswer | None = None
    for text in dict.fromkeys(texts):
        try:
            pictures.append(_medium(text))
        except errors.UnreadableAnswer as error:
            problem = error
    if problem and not pictures:
        raise problem
    return tuple(pictures)


def _texts(value: Any, depth: int = 4) -> Iterable[str]:
    match value if depth else None:
        case str() if value:
            yield value
        case list():
            for each in value:  # pyright: ignore[reportUnknownVariableType]
                yield from _texts(each, depth - 1)
        case dict():
            inner: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  JSON
            yield from _texts(inner.get("url") or inner.get("image_url") or inner.get("image"), depth - 1)
        case _:
            return


_BASE64_FOR_URLS = str.maketrans("-_", "+/", " \t\r\n")


def _medium(text: str) -> bytes | str:
    """One picture from its address, its data URI or its bare base64.

    Raises:
        UnreadableAnswer: It is none of these, or no whole picture.
    """
    text = text.strip()
    if re.match(r"[a-z][a-z0-9+.-]{0,20}://", text, re.IGNORECASE):
        return text
    digits = text.partition(",")[2] if text.startswith("data:") else text
    digits = digits.translate(_BASE64_FOR_URLS).rstrip("=")
    try:
        data = b64decode(digits + "=" * (-len(digits) % 4))
    except ValueError:
        said = "The API's answer holds neither a picture nor an address of one"
        raise errors.UnreadableAnswer(said, received=text.encode(errors="replace")) from None
    return whole(data)


def whole(data: bytes) -> bytes:
    """`data` itself.

    Raises:
        UnreadableAnswer: It is not the bytes of a whole picture.
    """
    found = recognise(data)
    if found is None:
        said = "The API's answer holds bytes that are no JPEG, PNG or WebP picture"
        raise errors.UnreadableAnswer(said, received=data)
    if not found.is_whole(data):
        raise errors.UnreadableAnswer("The picture in the API's answer is cut off", received=data)
    return data


# A host in letters, digits, dots, - and _, or an address in brackets; a port without zeros or signs in front.
_PLAIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]*)?([/?#]|\Z)", re.IGNORECASE | re.ASCII)


class Allowance:
    """The addresses that media may be fetched from.

    https from the vendor's media host and from the hosts the user named, and the API's own scheme, host and port.

    Args:
        base_url: The API's base URL.
        hosts: Further host names, exact.
    """

    def __init__(self, base_url: str, hosts: tuple[str, ...] = ()) -> None:
        self._own = _origin(httpx.URL(base_url))
        self._hosts = {host.lower() for host in (*VENDOR_HOSTS, *hosts)}

    def permits(self, url: str) -> bool:
        """Whether `url` may be fetched; one with credentials, that cannot be read or is oddly spelt may not."""
        # Whatever needs mending (`:+443`, `images。segmind.com`), another program on the way may mend differently.
        if not _PLAIN.match(url):
            return False
        try:
            # The parser of the library that will fetch it: two parsers could disagree about the host.
            scheme, host, port = _origin(httpx.URL(url))
        except (httpx.InvalidURL, ValueError):
            return False
        return (scheme, host, port) == self._own or (scheme == "https" and port is None and host in self._hosts)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Scheme, host and port, the scheme's own port as None."""
    return url.scheme, url.host, url.port
