"""The stand-in of `api.py` for the APIs of other image servers: the same picture, as each of these APIs sends it.

    python benchmarks/peer_api.py [--picture png] [--delay 0.3] [--port 0]

    POST /v1/segmind-vega                        Segmind: the picture itself
    POST /VERSION/models/MODEL:generateContent   Gemini: JSON with the picture as base64
    POST /v1/images/generations                  OpenAI: JSON with the picture as base64
    POST /v1/image_generation                    MiniMax: JSON with the picture's URL
    GET /picture                                 the picture itself, without a delay
    GET /v1/models                               OpenAI: the list of models

Each answer is made once and kept: making it again would take processor time from the servers that are measured.
"""

import json
from base64 import b64encode
from functools import cache
from typing import Any

import api
from api import NOT_FOUND, Picture, picture


@cache
def gemini(kind: Picture) -> bytes:
    """Gemini's answer."""
    part = {"inlineData": {"mimeType": f"image/{kind}", "data": b64encode(picture(kind)).decode()}}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 4, "candidatesTokenCount": 1290, "totalTokenCount": 1294}
    return json.dumps({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "stand-in"}).encode()


@cache
def openai(kind: Picture) -> bytes:
    """OpenAI's answer."""
    return json.dumps({"created": 1, "data": [{"b64_json": b64encode(picture(kind)).decode()}]}).encode()


def ok(content_type: str, data: bytes) -> bytes:
    """A complete answer."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


class Connection(api.Connection):
    """One connection of any of these APIs."""

    def drawn(self, path: str) -> tuple[str, bytes]:
        """The type and the bytes of the answer to a paid call."""
        if path.endswith(":generateContent"):
            return "application/json", gemini(self.kind)
        if path == "/v1/images/generations":
            return "application/json", openai(self.kind)
        if path == "/v1/image_generation":
            return "application/json", self._minimax()
        return super().drawn(path)

    def _minimax(self) -> bytes:
        host, port = self.address
        answer: dict[str, Any] = {
            "data": {"image_urls": [f"http://{host}:{port}/picture"]},
            "base_resp": {"status_code": 0, "status_msg": "success"},
        }
        return json.dumps(answer).encode()

    def found(self, path: str) -> bytes:
        """The answer to any other request."""
        if path == "/picture":
            return ok(f"image/{self.kind}", picture(self.kind))
        if path == "/v1/models":
            models = [{"id": "gpt-image-2", "object": "model", "created": 1, "owned_by": "stand-in"}]
            return ok("application/json", json.dumps({"object": "list", "data": models}).encode())
        return NOT_FOUND


if __name__ == "__main__":
    api.main(__doc__, Connection)
