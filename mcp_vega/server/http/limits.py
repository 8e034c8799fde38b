"""What a client of the server over HTTP may use; SECURITY.md promises these figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HttpLimits:
    """The limits of the server over HTTP.

    Attributes:
        connections: How many connections there may be at once. One more takes the place of that which has said nothing
            for the longest; where each is at work, it is turned away.
        header_seconds: How long the headers of a request may take, from the connection or the last answer on (seconds).
        unread_seconds: How long a client may take nothing of an answer (seconds).
        header_bytes: How large the headers of a request may be (bytes).
        body_bytes: How large the body of a request may be (bytes). No call is larger, by far.
        body_seconds: How long the body of a request may take (seconds).
        drained_bytes: How much of a larger body is read and dropped (bytes), so that its sender, who writes before he
            reads, gets to see the answer.
    """

    connections: int = 256
    header_seconds: float = 10.0
    unread_seconds: float = 30.0
    header_bytes: int = 16_000
    body_bytes: int = 1_000_000
    body_seconds: float = 30.0
    drained_bytes: int = 16_000_000


DEFAULT_LIMITS = HttpLimits()
