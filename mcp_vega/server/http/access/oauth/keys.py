"""The keys of an issuer that are known, and when they are fetched again."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping

import anyio
from jwt import PyJWK

from mcp_vega.redaction import printable
from mcp_vega.server.http.access.oauth.issuer import IssuerProblem, IssuerState, KeyName, read_issuer
from mcp_vega.server.http.access.rejections import AuthUnavailable

logger = logging.getLogger(__name__)

# Keys are fetched again after this time: an issuer may remove one.
FRESH_SECONDS = 300.0
# If the issuer does not answer, known keys are used for so long after the last answer.
KEPT_SECONDS = 3600.0
# The pause after a fetch that failed.
RETRY_SECONDS = 5.0
# The pause between two fetches for keys that are not known. An issuer may just have made such a key; but strangers can
# send tokens with any name of a key.
UNKNOWN_SECONDS = 5.0
# How long all requests of a fetch may take together.
FETCH_SECONDS = 10.0


class IssuerKeys:
    """The keys of an issuer. They are first fetched for the first token: a server starts without its issuer.

    `uptime` is a monotonic clock (s).
    """

    def __init__(
        self,
        issuer: str,
        read: Callable[[str], Awaitable[IssuerState]] = read_issuer,
        uptime: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._read = read
        self._uptime = uptime
        self._lock = anyio.Lock()
        self._known: Mapping[KeyName, PyJWK] = {}
        self._fetched: float | None = None  # when the keys came
        self._failed: float | None = None  # when the last fetch failed; None if it did not
        self._asked_for_unknown: float | None = None
        self._fetches = 0

    async def find(self, name: KeyName) -> PyJWK | None:
        """Return the key with this name; None if the issuer has none.

        Raises:
            AuthUnavailable: The issuer would have to be asked, and does not answer.
        """
        found = self._kept().get(name)
        # While keys are fetched, no request waits that has a key.
        if not found or (self._is_older(FRESH_SECONDS, self._fetched) and not self._lock.locked()):
            await self._fetch(is_known=bool(found))
            found = self._kept().get(name)
        if not found and self._failed is not None:
            raise AuthUnavailable("The issuer of access tokens does not answer, so this token cannot be checked")
        return found

    def _kept(self) -> Mapping[KeyName, PyJWK]:
        return {} if self._is_older(KEPT_SECONDS, self._fetched) else self._known

    def _is_older(self, seconds: float, moment: float | None) -> bool:
        return moment is None or self._uptime() - moment >= seconds

    async def _fetch(self, *, is_known: bool) -> None:
        """Fetch the keys, unless that would be too soon. One fetch is enough for all requests that wait for it."""
        fetches = self._fetches
        async with self._lock:
            if self._fetches != fetches or not self._may_fetch(is_known=is_known):
                return
            try:
                with anyio.fail_after(FETCH_SECONDS):
                    state = await self._read(self._issuer)
            except (IssuerProblem, TimeoutError) as error:
                if self._failed is None:
                    reason = printable(str(error) or f"no answer within {FETCH_SECONDS:g} s")
                    logger.warning("The issuer %s cannot be asked for its keys: %s", self._issuer, reason)
                self._failed = self._uptime()
            else:
                if self._failed is not None:
                    logger.warning("The issuer %s answers again", self._issuer)
                self._known, self._fetched, self._failed = state.keys, self._uptime(), None
            self._fetches += 1

    def _may_fetch(self, *, is_known: bool) -> bool:
        if self._failed is not None:
            return self._is_older(RETRY_SECONDS, self._failed)
        if is_known or self._is_older(FRESH_SECONDS, self._fetched):
            return True
        if not self._is_older(UNKNOWN_SECONDS, self._asked_for_unknown):
            return False
        self._asked_for_unknown = self._uptime()
        return True
