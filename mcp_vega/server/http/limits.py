"""The limits for clients of the server over HTTP. SECURITY.md promises these numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HttpLimits:
    """The limits of the server over HTTP.

    Attributes:
        connections: How many connections all callers may have at the same time. A caller has shown an access token; if
            the server asks for none, the caller has made a request. `capacity` says which connection is closed if there
            are too many.
        connections_each: How many of these connections one caller may have.
        unknown_connections: How many more connections there may be whose caller is not known yet. A new connection
            counts here until the server has read its first request.
        header_seconds: How long the headers of a request may take, since the connection or the last answer (seconds).
        unread_seconds: How long a client may read nothing of an answer (seconds).
        header_bytes: How large the headers of a request may be (bytes).
        body_bytes: How large the body of a request may be (bytes). Real calls are far smaller.
        body_seconds: How long the body of a request may take (seconds).
        drained_bytes: How much of a rejected request's body is read and dropped (bytes). A client that writes
            everything before it reads then gets to see the answer.
        wrong_token_seconds: How long the answer to a sign-in with a wrong token is delayed (seconds).
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
