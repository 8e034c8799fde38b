"""A stand-in for the Hugging Face hub on loopback, and files like those of the weights, but small and without sense."""

import hashlib
import json
import struct
import threading
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from conftest import LOOK_SECONDS
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_vega.engine.weights.catalog import COMPONENTS, CONFIGS, LORA, REPOSITORIES, TRANSFORMERS, VEGA, weights_file

UNET = weights_file("unet", "fp16")
# Each tensor has so many bytes.
TENSOR_BYTES = 1000


def safetensors(names: Collection[str]) -> bytes:
    """A safetensors file with these tensors."""
    header = {
        name: {"dtype": "U8", "shape": [TENSOR_BYTES], "data_offsets": [at * TENSOR_BYTES, (at + 1) * TENSOR_BYTES]}
        for at, name in enumerate(sorted(names))
    }
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(TENSOR_BYTES * len(names))


def files_of_vega(variant: str | None = "fp16", transformers: Collection[str] = TRANSFORMERS) -> dict[str, bytes]:
    """The files of Segmind-Vega. Each has another content."""
    weights = {each: safetensors({f"{each}.conv_in.weight"}) for each in COMPONENTS}
    weights["unet"] = safetensors({f"{name}.attn1.to_q.weight" for name in transformers})
    return {
        **{name: json.dumps({"_name": name}).encode() for name in CONFIGS},
        **{f"{name}/vocab.json": b'{"a": 0}' for name in ("tokenizer", "tokenizer_2")},
        **{f"{name}/merges.txt": b"#version: 0.2\n" for name in ("tokenizer", "tokenizer_2")},
        **{weights_file(each, variant): data for each, data in weights.items()},
    }


def lora(transformers: Collection[str] = TRANSFORMERS, form: str = "unet.{}.attn1.to_q.lora_A.weight") -> bytes:
    """The file of Segmind-VegaRT."""
    return safetensors({form.format(name) for name in transformers})


def written(folder: Path, vega: Mapping[str, bytes] | None = None, vega_rt: bytes | None = None) -> Path:
    """A folder for `--weights` with these files."""
    files = {f"Segmind-Vega/{path}": data for path, data in (vega or files_of_vega()).items()}
    for path, data in {**files, f"Segmind-VegaRT/{LORA}": vega_rt or lora()}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@dataclass
class HubServer:
    """The repositories, what goes wrong, and what was asked.

    Attributes:
        files: The content of each file that has one, by repository and path.
        stated_bytes: Sizes that the list states in place of the true ones, by path.
        wrong: Paths whose content is sent with a wrong byte.
        cut: Paths whose first answer ends after so many bytes.
        held: Paths whose answers stop after so many bytes, until `go`.
        has_ranges: Whether it sends the rest of a content. If not, it sends all.
        answer: What is answered to everything, if it is set.
        ranges: The header `Range` of each request for a content, by path.
    """

    files: dict[str, dict[str, bytes]] = field(
        default_factory=lambda: {
            VEGA.name: {
                **files_of_vega(),
                "README.md": b"not needed",
                "unet/diffusion_pytorch_model.safetensors": b"not needed",
                "segmind-vega.fp16.safetensors": b"not needed",
            },
            "segmind/Segmind-VegaRT": {LORA: lora(), "README.md": b"not needed"},
        }
    )
    stated_bytes: dict[str, int] = field(default_factory=dict[str, int])
    wrong: set[str] = field(default_factory=set[str])
    cut: dict[str, int] = field(default_factory=dict[str, int])
    held: dict[str, int] = field(default_factory=dict[str, int])
    has_ranges: bool = True
    answer: Response | None = None
    ranges: dict[str, list[str | None]] = field(default_factory=dict[str, list[str | None]])
    go: threading.Event = field(default_factory=threading.Event)

    @property
    def fetched(self) -> list[str]:
        """The paths of the contents that were asked for."""
        return sorted(self.ranges)

    def app(self) -> Starlette:
        """The hub."""
        return Starlette(
            routes=[
                Route("/api/models/{owner}/{name}/tree/{revision}", self._tree),
                Route("/{owner}/{name}/resolve/{revision}/{path:path}", self._resolve),
                Route("/contents/{owner}/{name}/{path:path}", self._content),
            ]
        )

    async def _tree(self, request: Request) -> Response:
        repository = self._repository(request)
        if self.answer or repository is None:
            return self.answer or JSONResponse({"error": "Repository not found"}, 401)
        entries: list[dict[str, Any]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "unet"}]
        for path, data in self.files[repository].items():
            size = self.stated_bytes.get(path, len(data))
            entry: dict[str, Any] = {"type": "file", "oid": git_digest(data), "size": size, "path": path}
            if is_large(path):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 135}
            entries.append(entry)
        half = len(entries) // 2
        if "cursor" in request.query_params:
            return JSONResponse(entries[half:])
        following = request.url.include_query_params(cursor="x")
        return JSONResponse(entries[:half], headers={"link": f'<{following}>; rel="next"'})

    async def _resolve(self, request: Request) -> Response:
        repository, path = self._repository(request), request.path_params["path"]
        if self.answer or repository is None or path not in self.files[repository]:
            return self.answer or PlainTextResponse("Entry not found", 404)
        data = self.files[repository][path]
        digest = hashlib.sha256(data).hexdigest() if is_large(path) else git_digest(data)
        headers = {"x-repo-commit": request.path_params["revision"], "etag": f'"{digest}"'}
        if is_large(path):
            headers |= {"x-linked-etag": f'"{digest}"', "x-linked-size": str(len(data))}
            # The real hub has another host for contents.
            host = f"http://localhost:{request.url.port}"
            return RedirectResponse(f"{host}/contents/{repository}/{path}", 302, headers)
        if request.method == "HEAD":
            return Response(headers={**headers, "content-length": str(len(data))})
        return self._sent(request, path, data, headers)

    async def _content(self, request: Request) -> Response:
        path = request.path_params["path"]
        data = self.files[f"{request.path_params['owner']}/{request.path_params['name']}"][path]
        return self._sent(request, path, data, {})

    def _repository(self, request: Request) -> str | None:
        name = f"{request.path_params['owner']}/{request.path_params['name']}"
        known = {each.name: each.revision for each in REPOSITORIES}
        return name if known.get(name) == request.path_params["revision"] else None

    def _sent(self, request: Request, path: str, data: bytes, headers: Mapping[str, str]) -> Response:
        asked = request.headers.get("range")
        self.ranges.setdefault(path, []).append(asked)
        if path in self.wrong:
            data = data[:-1] + b"\xff"
        if not self.has_ranges:
            asked = None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        headers = {**headers, "content-length": str(len(data) - start)}
        if asked:
            headers["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return StreamingResponse(self._parts(path, data[start:]), 206 if asked else 200, headers)

    async def _parts(self, path: str, data: bytes) -> AsyncGenerator[bytes]:
        if (end := self.cut.pop(path, None)) is not None:
            yield data[:end]
            raise ConnectionAbortedError
        if path in self.held:
            yield data[: self.held[path]]
            while not self.go.is_set():  # noqa: ASYNC110  it is set in another thread
                await anyio.sleep(LOOK_SECONDS)
            data = data[self.held[path] :]
        yield data


def is_large(path: str) -> bool:
    """Whether the hub keeps a file in Git LFS."""
    return path.endswith(".safetensors")


def git_digest(data: bytes) -> str:
    """The name that Git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
