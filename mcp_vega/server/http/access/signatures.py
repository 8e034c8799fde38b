"""Signatures that identify a caller without a token. Each is valid for one purpose and until a given time.

A signature does not contain its caller, so each possible caller is tried. The caller's identity is signed as well. So
if a token is removed, its signatures are no longer valid, even if its caller has another token.
"""

import hmac
import json
import logging
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from datetime import datetime

import anyio

from mcp_vega.errors import LedgerError
from mcp_vega.server.http.access.callers import Caller, Callers
from mcp_vega.storage.ledger.secrets import Secrets

logger = logging.getLogger(__name__)

# The name of the key in the ledger. The key signs cookies as well.
KEY = "links"
# The pause after a failure until the ledger is asked again. Without it, each request would wait for the ledger.
RETRY_SECONDS = 5
# The form of a Unix time in links and cookies.
_TIME = re.compile("[1-9][0-9]{0,11}")


class Signatures:
    """Signs for callers, and finds the caller of a signature."""

    def __init__(self, callers: Callers, ledger: Secrets, clock: Callable[[], datetime]) -> None:
        self.callers = callers
        self._ledger = ledger
        self._clock = clock
        # The first key signs. This one is the process's own: other servers do not accept its signatures.
        self._keys = [secrets.token_bytes(32)]
        self._tries = anyio.Lock()
        self._failed: int | None = None

    @property
    def now(self) -> int:
        """The Unix time (s)."""
        return int(self._clock().timestamp())

    async def prepare(self) -> None:
        """Use the key in the ledger from now on; if the ledger cannot be read, the process's own."""
        async with self._tries:
            if len(self._keys) > 1 or (self._failed and 0 <= self.now - self._failed < RETRY_SECONDS):
                return
            try:
                self._keys.insert(0, await self._ledger.get(KEY))
            except LedgerError as error:
                if not self._failed:
                    what = "Until the ledger works again, new links to pictures are only valid until this server ends"
                    logger.warning("%s: %s", what, error.what)
                self._failed = self.now

    def sign(self, caller: Caller, expires: int, *purpose: str) -> str:
        """Return a signature for a caller, valid for this purpose until a Unix time (s)."""
        return self._signature(self._keys[0], caller, str(expires), purpose)

    def caller(self, callers: Iterable[Caller], signature: str, expires: str, *purpose: str) -> Caller | None:
        """Return which caller has a signature; None if it is not valid. Does not check whether it has expired."""
        if not _TIME.fullmatch(expires):
            return None
        found = [
            caller
            for caller in callers
            for key in self._keys
            if hmac.compare_digest(self._signature(key, caller, expires, purpose).encode(), signature.encode())
        ]
        return found[0] if found else None

    @staticmethod
    def _signature(key: bytes, caller: Caller, expires: str, purpose: tuple[str, ...]) -> str:
        signed = json.dumps([*purpose, caller.owner, caller.identity, expires])
        return urlsafe_b64encode(hmac.digest(key, signed.encode(), "sha256")).decode().rstrip("=")
