"""Takes the figures of this server. By default nobody wants them, and nothing is recorded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from mcp_vega.telemetry.failures import reporting_failure


class Outcome(StrEnum):
    """How a piece of work ended. `CANCELLED`: nobody waited for it any more, or the server ended."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"


class JobOutcome(StrEnum):
    """How the work on a job ended."""

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


class TransactionKind(StrEnum):
    """The kinds of transactions. `DEFERRED`: they are written while nobody waits."""

    READ = "read"
    WRITE = "write"
    DEFERRED = "deferred"


@dataclass(frozen=True)
class Load:
    """What a server does at this moment.

    Attributes:
        jobs: How many jobs it works on, by state.
        slots_used: How many paid calls it has at the API.
        slots: How many paid calls all servers on the ledger may have at the API.
        calls_waiting: How many calls wait for their turn.
        pictures_on_own_disk: How many pictures wait on this server's disk or in its memory for the gallery.
    """

    jobs: Mapping[str, int]
    slots_used: int
    slots: int
    calls_waiting: int
    pictures_on_own_disk: int


class Recorder:
    """Takes figures and does nothing with them. A method may be called in any thread. It must not block.

    Each text among the arguments is from a small, fixed set: never a prompt, a caller or an id. All times are in
    seconds, amounts in US dollars.
    """

    def tool_called(self, tool: str, outcome: Outcome, seconds: float) -> None:
        """A call of a tool was answered."""

    def job_ended(self, model: str, outcome: JobOutcome, seconds: float) -> None:
        """The work on a job has ended, so many seconds after its call."""

    def spent(self, model: str, usd: float) -> None:
        """A job that ended cost this much, or probably did."""

    def pictures_kept(self, model: str, count: int) -> None:
        """Pictures of a job were saved."""

    def api_requested(self, operation: str, status: int | None, seconds: float) -> None:
        """A request to the API has ended; `status` is that of the answer, None if there was none."""

    def previews_made(self, count: int, seconds: float) -> None:
        """The previews of one result were made; a sheet of several pictures counts as one."""

    def preview_reused(self) -> None:
        """A preview that was made before was used."""

    def ledger_used(self, kind: TransactionKind, outcome: Outcome, seconds: float) -> None:
        """A transaction of the ledger has ended."""

    def bucket_requested(self, operation: str, outcome: Outcome, seconds: float) -> None:
        """A request to the bucket has ended."""


class _Safe:
    """Takes figures with another recorder. If that one raises an error, the figure is lost, and the work goes on."""

    def __init__(self, inner: Recorder) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Callable[..., None]:
        record = getattr(self._inner, name)

        def safely(*values: Any) -> None:
            with reporting_failure():
                record(*values)

        return safely


_NOBODY = Recorder()
_recorder = _NOBODY


def recorder() -> Recorder:
    """The recorder of this process."""
    return _recorder


def set_recorder(wanted: Recorder | None) -> None:
    """Use this recorder from now on; None: nobody wants figures."""
    global _recorder  # noqa: PLW0603  one for the process, as its log and its tracer
    _recorder = cast("Recorder", _Safe(wanted)) if wanted else _NOBODY
