"""The configuration that all parts of this package share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mcp_vega.storage.ledger.spending import Limits


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """The limits, the clock and the waits. Times are in seconds.

    Attributes:
        api: The ledger's name for the API. Only the jobs of this API are worked on.
        limits: What may be spent.
        pace: The factor for documented drawing times and waits. With 0, every response is expected immediately.
        clock: The time (UTC).
        heartbeat: How often an unchanged job is reported again. Hosts expect a message within five seconds.
        longest_wait: How long a call may wait for the limits. After that, the user decides whether to call again.
        note_wait_after: How long a job waits until a note says so.
        early_look: When the status of a slow queued job is first requested, to see whether it is being drawn.
        store_retries: How long the job store is tried again while another program has locked it.
    """

    api: str
    limits: Limits = field(default_factory=Limits)
    pace: float = 1
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    heartbeat: float = 2.0
    longest_wait: float = 300.0
    note_wait_after: float = 1.0
    early_look: float = 1.0
    store_retries: float = 30.0
