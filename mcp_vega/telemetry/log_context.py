"""The job that the server works on and the request that it answers, for the lines that are logged meanwhile."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class JobIds(Protocol):
    """The ids of a job, as they are when a line is logged: the API's id is not known at first."""

    @property
    def local_id(self) -> str:
        """The local id."""
        ...

    @property
    def request_id(self) -> str:
        """The id that users see: the API's once that is known, else the local one."""
        ...


@dataclass
class Subject(Generic[T]):
    """What the server is concerned with. None after that: a task that was started meanwhile may live longer."""

    value: T | None


# The job that is worked on.
JOB: ContextVar[Subject[JobIds] | None] = ContextVar("JOB", default=None)
# The JSON-RPC id of the request that is answered.
REQUEST: ContextVar[Subject[int | str] | None] = ContextVar("REQUEST", default=None)


def working_on(job: JobIds) -> AbstractContextManager[None]:
    """Log with this job's ids what is logged in the block, and in the tasks that it starts, until it ends."""
    return _concerned_with(job, JOB)


def answering(rpc_id: int | str | None) -> AbstractContextManager[None]:
    """Log with this JSON-RPC id what is logged in the block, and in the tasks that it starts, until it ends."""
    return _concerned_with(rpc_id, REQUEST)


@contextmanager
def _concerned_with(value: T | None, variable: ContextVar[Subject[T] | None]) -> Generator[None]:
    subject = Subject(value)
    token = variable.set(subject)
    try:
        yield
    finally:
        subject.value = None
        variable.reset(token)
