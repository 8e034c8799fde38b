"""What a caller can be known by without a token: signatures that are good for one purpose and until a time.

Nothing in them tells whose they are: each caller is tried. The hash of the token is signed as well, so that what was
signed for a token ends with it, also where its caller has another.
"""

import hmac
import json
import logging
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime

import anyio

from mcp_vega.errors import LedgerError
from mcp_vega.server.http.access.callers import Caller, Callers
from mcp_vega.storage.ledger.secrets import Secrets

logger = logging.getLogger(__name__)

# What the key is called in the ledger; it signs cookies as well.
KEY = "links"
# How long after a failure the ledger is not asked again: each request would wait for it.
RETRY_SECONDS = 5
# A Unix time as it is written here.
_TIME = re.compile("[1-9][0-9]{0,11}")


class Signatures:
    """Signs for callers, and knows whose a signature is."""

    def __init__(self, callers: Callers, ledger: Secrets, clock: Callable[[], datetime]) -> None:
        self.callers = callers
        self._ledger = ledger
        self._clock = clock
        # The first signs. This one is the process's own, and no other server knows what it has signed.
        self._keys = [secrets.token_bytes(32)]
        self._tries = anyio.Lock()
        self._failed: int | None = None

    @property
    def now(self) -> int:
        """The Unix time (s)."""
        return int(self._clock().timestamp())

    async def prepare(self) -> None:
        """Sign with the key in the ledger from now on; where that cannot be read, with the process's own."""
        async with self._tries:
            if len(self._keys) > 1 or (self._failed and 0 <= self.now - self._failed < RETRY_SECONDS):
                return
            try:
                self._keys.insert(0, await self._ledger.get(KEY))
            except LedgerError as error:
                if not self._failed:
                    what = "Until the ledger works, links to pictures are good until this server ends"
                    logger.warning("%s: %s", what, error.what)
                self._failed = self.now

    def sign(self, caller: Caller, expires: int, *purpose: str) -> str:
        """A signature for a caller, good for this purpose until a Unix time (s)."""
        return self._signature(self._keys[0], caller, str(expires), purpose)

    def caller(self, signature: str, expires: str, *purpose: str) -> Caller | None:
        """For whom this was signed; None where it was not, or was changed. Whether it has expired is not looked at."""
        if not _TIME.fullmatch(expires):
            return None
        found = [
            caller
            for caller in self.callers
            for key in self._keys
            if hmac.compare_digest(self._signature(key, caller, expires, purpose).encode(), signature.encode())
        ]
        return found[0] if found else None

    @staticmethod
    def _signature(key: bytes, caller: Caller, expires: str, purpose: tuple[str, ...]) -> str:
        signed = json.dumps([*purpose, caller.owner, caller.token_hash, expires])
        return urlsafe_b64encode(hmac.digest(key, signed.encode(), "sha256")).decode().rstrip("=")
