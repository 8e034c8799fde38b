"""The interface for notices: short messages between the servers on a database."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

# Called with a notice; with None if notices of others may have been lost, so that everything must be checked again.
Listener = Callable[[Mapping[str, Any] | None], None]


class Notices(Protocol):
    """Sends notices to the other servers. No method raises. Notices may be lost: all lasting facts are in tables."""

    @property
    def reach_others(self) -> bool:
        """Whether other servers receive notices. If not, changes by others are found only by polling."""
        ...

    def open(self) -> None:
        """Receive notices from now on, in the running event loop. Does nothing if that was called before."""
        ...

    def send(self, topic: str, content: Mapping[str, Any]) -> None:
        """Send a notice to all other servers soon. The content is JSON of at most 7,000 bytes. Does not wait."""
        ...

    def listening(self, topic: str, listener: Listener) -> AbstractContextManager[None]:
        """Call a listener in this event loop with each notice of other servers on a topic, while the block runs."""
        ...


class NoNotices:
    """The notices of a database that cannot send any."""

    reach_others = False

    def open(self) -> None:
        """Nothing is needed."""

    def send(self, topic: str, content: Mapping[str, Any]) -> None:
        """Nothing is sent."""

    def listening(self, topic: str, listener: Listener) -> AbstractContextManager[None]:  # noqa: ARG002  there are no notices
        """No notice comes."""
        return nullcontext()
