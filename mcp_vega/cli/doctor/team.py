"""The ledger in PostgreSQL, the gallery in a bucket, the issuer of OAuth, and the figures for Prometheus."""

import time
from datetime import UTC, datetime

import anyio

from mcp_vega.cli.application import INSTALL_TEAM, bucket_of
from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.errors import GalleryError
from mcp_vega.job import new_id
from mcp_vega.redaction import printable
from mcp_vega.settings import Settings

# The clocks of the servers and the database may differ by so many seconds.
CLOCK_SECONDS = 2.0
_TEXT = b"mcp-vega doctor checks whether pictures can be kept here. This object can be deleted.\n"


def check_database(settings: Settings, url: str) -> Check:
    """The state of the ledger's database, which can be read and written: the check ledger.

    Raises:
        LedgerError: It cannot be reached any more.
    """
    from mcp_vega.storage.database.postgres.address import CONNECTIONS_OF_A_SERVER
    from mcp_vega.storage.database.postgres.inspection import inspect

    state = inspect(url)
    said = (
        f"{settings.ledger_name} can be read and written: PostgreSQL {state.version}, a round trip takes "
        f"{state.seconds * 1000:.1f} ms; {state.used} of {state.most} connections are in use, and there is room for "
        f"{state.room} more {'server' if state.room == 1 else 'servers'} with up to {CONNECTIONS_OF_A_SERVER} each"
    )
    fixes: list[str] = []
    if not state.room:
        fixes.append("Raise max_connections in PostgreSQL, or run fewer servers")
    if abs(state.ahead) > CLOCK_SECONDS:
        direction = "ahead of" if state.ahead > 0 else "behind"
        said += f"; its clock is {abs(state.ahead):,.1f} s {direction} this machine's"
        fixes.append("Synchronize both clocks, for example with NTP: they decide about days and waiting times")
    return Check("ledger", State.NOTE if fixes else State.GOOD, said, ". ".join(fixes))


def check_bucket(settings: Settings) -> list[Check]:
    """Whether a picture can be written, read and deleted: the check gallery."""
    began = time.perf_counter()
    anyio.run(_try_bucket, settings)
    seconds = time.perf_counter() - began
    said = f"{settings.gallery_url} can be written, read and deleted from; a small object took {seconds * 1000:,.0f} ms"
    return [Check("gallery", State.GOOD, said)]


def check_oauth(settings: Settings) -> list[Check]:
    """Whether the issuer answers with its metadata and with keys: the check oauth."""
    from mcp_vega.server.http.access.oauth.issuer import IssuerProblem, read_issuer

    issuer, began = settings.oauth_issuer, time.perf_counter()
    try:
        state = anyio.run(read_issuer, issuer)
    except IssuerProblem as error:
        said = f"{issuer} cannot be used: {error}"
        return [Check("oauth", State.BAD, said, "Check MCP_VEGA_OAUTH_ISSUER, the network and the issuer")]
    names = {name for name, _ in state.keys}
    keys = "1 key" if len(names) == 1 else f"{len(names)} keys"
    said = f"{issuer} answered in {time.perf_counter() - began:.2f} s and has {keys} that can sign tokens"
    offered = state.metadata.get("scopes_supported")
    unknown_scopes = [each for each in settings.oauth_scopes if isinstance(offered, list) and each not in offered]
    if unknown_scopes:
        said += f"; it does not list the scope {', '.join(unknown_scopes)}"
        return [Check("oauth", State.NOTE, said, "Add it at the issuer, or correct MCP_VEGA_OAUTH_SCOPES")]
    return [Check("oauth", State.GOOD, said)]


def check_metrics(settings: Settings) -> list[Check]:
    """Whether a server over HTTP can serve figures: the check metrics.

    Its port is not tried, because a server that runs already uses it.
    """
    try:
        import prometheus_client  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        said = f"the figures need the extra `team` of this package, which cannot be loaded: {printable(str(error))}"
        return [Check("metrics", State.BAD, said, INSTALL_TEAM)]
    host, port = settings.metrics_address or ("", 0)
    return [Check("metrics", State.GOOD, f"a server over HTTP serves figures for Prometheus at {host}, port {port}")]


async def _try_bucket(settings: Settings) -> None:
    """Write, read and delete a small object; raises a `GalleryError` if that fails."""
    bucket = bucket_of(settings)
    place = await bucket.save(_TEXT, "mcp-vega-doctor.txt", new_id(), datetime.now(UTC).date())
    try:
        if await bucket.read(place.key) != _TEXT:
            raise GalleryError(f"The bucket {bucket.address} returns other data than was written")
    finally:
        await bucket.delete(place.key)
