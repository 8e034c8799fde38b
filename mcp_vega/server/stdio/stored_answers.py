"""The SDK's answers to the first requests of a host, in files, for the next start.

This module is imported before anything is answered, so it imports only small modules.
"""

import json
import os
import zlib
from contextlib import suppress
from typing import Any, NamedTuple, cast

OPENINGS = ("initialize", "server/discover")
# These answers are always the same. Those that depend on the pictures or the jobs wait for the SDK.
METHODS = (*OPENINGS, "ping", "tools/list", "prompts/list", "resources/templates/list")

# The folder of the files, next to the ledger. A file has about 12 kB.
FOLDER = "early-answers"
MOST_FILE_BYTES = 300_000
CHECKSUM_BYTES = 8
# Longer requests wait for the SDK.
LINE_CHARS = 10_000


class Request(NamedTuple):
    """A request whose answer may be stored. Its parameters are JSON with sorted keys."""

    id: int | str
    method: str
    params: str


class StoredAnswers:
    """The SDK's answers to the first requests of a host.

    Each opening request has a file of its own, because the later answers depend on it: on the version of the protocol
    and on the client's name.

    Args:
        folder: The folder of the files.
        fingerprint: A number that changes with everything else that the answers depend on.

    Attributes:
        file: The path of the file; empty before the opening request.
        key: What the answers in the file depend on.
        answers: The parameters and the result of each method.
    """

    def __init__(self, folder: str, fingerprint: int) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._is_over = False
        self.file = self.key = ""
        self.answers: dict[str, tuple[str, dict[str, Any]]] = {}

    def request_in(self, line: str) -> Request | None:
        """The request of a line if its answer may be stored, and sent early.

        The first request decides the version of the protocol. If it does not open a session, nothing is sent early. The
        same holds for everything after a second opening, a line that is not plainly valid, or the call of a tool.
        """
        if self._is_over or not line.strip():
            return None
        try:
            request = _parsed(line)
        except (ValueError, RecursionError):
            self._is_over = True
            return None
        if request is None:
            return None
        if (request.method in OPENINGS) == bool(self.file) or request.method == "tools/call":
            self._is_over = True
            return None
        if not self.file:
            self.key = json.dumps([self._fingerprint, request.method, request.params])
            self.file = os.path.join(self._folder, f"{zlib.crc32(self.key.encode()):08x}.json")
        return request if request.method in METHODS else None

    def result_for(self, request: Request) -> dict[str, Any] | None:
        """The result of exactly this request; None if it is not known."""
        params, result = self.answers.get(request.method, ("", None))
        return result if params == request.params else None

    def load(self) -> None:
        """Read the file. This may take long, for example if its disk is in the network."""
        with suppress(OSError):  # there is no such file
            descriptor = os.open(self.file, os.O_RDONLY | os.O_NONBLOCK)
            try:
                content = os.read(descriptor, MOST_FILE_BYTES)
                # Another user may have made the folder. An agent reads these answers, and trusts them.
                is_own = os.fstat(descriptor).st_uid == os.getuid()
            finally:
                os.close(descriptor)
            checksum, stored = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
            if is_own and checksum == _checksum(stored):
                key, answers = json.loads(stored)
                # If the SDK has no result for the opening request, everything after it waits as well.
                if key == self.key and not answers.keys().isdisjoint(OPENINGS):
                    self.answers = answers

    def as_bytes(self) -> bytes:
        """The content of the file. It begins with a checksum, so that a damaged file gives no answers."""
        content = json.dumps([self.key, self.answers]).encode()
        return _checksum(content) + content


def _checksum(content: bytes) -> bytes:
    return b"%08x" % zlib.crc32(content)


def _parsed(line: str) -> Request | None:
    """The request of a line; None for a notification.

    Raises:
        ValueError: The line is unusual, so `messages.py` has to read it.
    """
    message: Any = json.loads(line) if len(line) <= LINE_CHARS else None
    fields = cast("dict[str, Any]", message if isinstance(message, dict) else {})
    id_, method, params = fields.get("id"), fields.get("method"), fields.get("params")
    is_plain = fields.get("jsonrpc") == "2.0" and fields.keys() <= {"jsonrpc", "id", "method", "params"}
    if not (is_plain and isinstance(method, str) and isinstance(params, dict | None)):
        raise ValueError
    if "id" not in fields:
        return None
    if type(id_) is int or (isinstance(id_, str) and id_.isascii()):
        return Request(id_, method, json.dumps(params, sort_keys=True))
    raise ValueError
