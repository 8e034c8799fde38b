"""The Hugging Face hub over HTTP: the list of a repository's files, and their contents from any byte on.

The package huggingface_hub is not used. Since version 2 it starts a file again that was interrupted, and a file here
has more than a gigabyte. No token is sent: the repositories are open, and a token that has expired would be refused.
"""

import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, cast

import httpx

from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.weights.catalog import Repository

HUB = "https://huggingface.co"
# They become the name of a file, and its path in the cache.
_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_PATH = re.compile("([A-Za-z0-9_-][A-Za-z0-9_.-]*/)?[A-Za-z0-9_-][A-Za-z0-9_.-]*")
# How many pages a list of files may have. The hub sends all files of these repositories in one.
MOST_PAGES = 20
# What to do if the hub does not have what this version expects.
USE_THE_HUB = "Unset HF_ENDPOINT if it is set, or install a newer version of mcp-vega"
_TRY_LATER = "Run `mcp-vega weights` again later; what is fetched stays"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    Attributes:
        repository: Its repository.
        path: Its path in there, with slashes.
        bytes: Its size.
        digest: Of its content, in hexadecimal digits: 64 are SHA-256, 40 are Git's own SHA-1, which small files have.
    """

    repository: Repository
    path: str
    bytes: int
    digest: str


class Interrupted(Exception):  # noqa: N818  the connection ended, which is no end of the download
    """The hub cannot be reached, or an answer has ended too early. Trying again may help. The text says why."""


class Hub:
    """Asks the hub.

    Args:
        http: The client to ask with.
        url: The address of the hub, or of a mirror.
    """

    def __init__(self, http: httpx.Client, url: str = HUB) -> None:
        self._http = http
        self._url = url.rstrip("/")

    @property
    def host(self) -> str:
        """Its name, for people; without a password, which the address of a mirror may hold."""
        return self._url.partition("://")[2].rpartition("@")[2] or self._url

    def files(self, repository: Repository) -> list[HubFile]:
        """The files that one needs of a repository, at its pinned revision.

        Raises:
            EngineError: The hub refused, or sent no such list.
            Interrupted: It cannot be reached.
        """
        url = f"{self._url}/api/models/{repository.name}/tree/{repository.revision}?recursive=true"
        no_list = EngineError(f"{self.host} sent no list of the files of {repository.name}", _TRY_LATER)
        found: list[HubFile] = []
        for _ in range(MOST_PAGES):
            with _translated():
                response = self._http.get(url, follow_redirects=True)
            self._check(response, repository)
            try:
                found += [file for each in response.json() if (file := _file_of(repository, each))]
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
                raise no_list from error
            following = response.links.get("next", {}).get("url", "")
            if not following:
                return found
            with _translated():
                url = str(response.url.join(following))
        raise no_list

    @contextmanager
    def reading(self, file: HubFile, start: int) -> Generator[tuple[int, Iterator[bytes]]]:
        """The content of a file from a byte on, in parts: where they begin (0 if the hub sends only all), and they.

        Raises:
            EngineError: The hub refused.
            Interrupted: The connection ended, perhaps between two parts.
        """
        url = f"{self._url}/{file.repository.name}/resolve/{file.repository.revision}/{file.path}"
        # A compressed answer could not be continued.
        headers = {"accept-encoding": "identity", **({"range": f"bytes={start}-"} if start else {})}
        with _translated(), self._http.stream("GET", url, headers=headers, follow_redirects=True) as response:
            self._check(response, file.repository)
            is_rest = response.headers.get("content-range", "").startswith(f"bytes {start}-")
            yield (start if is_rest else 0), response.iter_raw()

    def _check(self, response: httpx.Response, repository: Repository) -> None:
        status = response.status_code
        if status in (408, 416, 429) or status >= 500:
            raise Interrupted(f"{self.host} answered with HTTP {status}")
        if status >= 400:
            what = f"{self.host} refused {repository.name} at revision {repository.revision} with HTTP {status}"
            raise EngineError(what, USE_THE_HUB)


def _file_of(repository: Repository, entry: Mapping[str, Any]) -> HubFile | None:
    """The file of an entry in the hub's list; None for a folder, and for a file that one does not need."""
    path = cast("str", entry["path"])
    is_needed = any(fnmatch(path, each) and path.count("/") == each.count("/") for each in repository.patterns)
    if entry["type"] != "file" or not is_needed or not _PATH.fullmatch(path):
        return None
    content = entry.get("lfs") or entry
    digest = _DIGEST.fullmatch(content["oid"])
    if digest is None:
        raise ValueError(path)
    return HubFile(repository, path, int(content["size"]), digest[0])


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except httpx.TransportError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise Interrupted(reason or type(error).__name__) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = f"The hub's answer cannot be used: {' '.join(str(error).split())}"
        raise EngineError(what, "Check HF_ENDPOINT if it is set; else try again later") from error
