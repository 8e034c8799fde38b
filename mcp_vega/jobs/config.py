"""What decides how jobs are worked on, the same for all parts of this package."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mcp_vega.storage.ledger.spending import Limits


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """The limits, the clock and the waits. Times are in seconds.

    Attributes:
        api: What the ledger calls the API, whose jobs alone are worked on.
        limits: What may be spent.
        pace: What documented drawing times and waits are multiplied by; 0 expects every response at once.
        clock: The time (UTC).
        heartbeat: How often a job is shown though nothing happens to it; hosts want to hear within five seconds.
        longest_wait: How long a call waits until the limits let it be sent; a later one is the user's to decide on.
        note_wait_after: After which a job says that it waits.
        early_look: After which a queued job that takes long is first asked for, to see whether it is being drawn.
        store_retries: For how long the job store is asked again while another program has locked it.
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
