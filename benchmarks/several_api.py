"""The stand-in for Segmind (`api.py`) whose answers are four pictures, as base64 in JSON.

python benchmarks/several_api.py [--picture png] [--delay 0.3] [--port 0]
"""

import base64
import json
from functools import cache

import api

PICTURES = 4


@cache
def body(kind: api.Picture) -> bytes:
    """The body of an answer. Each picture has a byte of its own behind its end, because equal ones count once."""
    texts = [base64.b64encode(api.picture(kind) + bytes([index])).decode() for index in range(PICTURES)]
    return json.dumps({"image": texts}).encode()


class Connection(api.Connection):
    """Answers each paid call with several pictures."""

    def drawn(self, path: str) -> tuple[str, bytes]:  # noqa: ARG002  all paths are alike here
        """The type and the bytes of the answer to a paid call."""
        return "application/json", body(self.kind)


if __name__ == "__main__":
    api.main(__doc__, Connection)
