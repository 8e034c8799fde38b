"""What a client of the server over HTTP may use; SECURITY.md promises these figures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HttpLimits:
    """The limits of the server over HTTP.

    Attributes:
        connections: How many connections callers may have at once: those who have shown an access token, or have made
            a request where none is asked for. See `capacity` for who gives way to one more.
        connections_each: How many of them one caller may have.
        unknown_connections: How many connections there may be beside them whose caller is not known yet. Callers who
            come all at once have theirs among these until the server gets to read what they send.
        header_seconds: How long the headers of a request may take, from the connection or the last answer on (seconds).
        unread_seconds: How long a client may take nothing of an answer (seconds).
        header_bytes: How large the headers of a request may be (bytes).
        body_bytes: How large the body of a request may be (bytes). No call is larger, by far.
        body_seconds: How long the body of a request may take (seconds).
        drained_bytes: How much of the body of a rejected request is read and dropped (bytes), so that its sender, who
            writes before he reads, gets to see the answer.
        wrong_token_seconds: How long a wrong token at the sign-in waits for its answer (seconds).
    """

    connections: int = 256
    connections_each: int = 192
    unknown_connections: int = 256
    header_seconds: float = 10.0
    unread_seconds: float = 30.0
    header_bytes: int = 16_000
    body_bytes: int = 1_000_000
    body_seconds: float = 30.0
    drained_bytes: int = 16_000_000
    wrong_token_seconds: float = 1.0


DEFAULT_LIMITS = HttpLimits()
