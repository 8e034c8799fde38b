"""The floor that mcp-vega is compared with: a bare MCPServer with one tool that does only the necessary work.

    python benchmarks/floor.py FOLDER URL [--http] [--connections 16]

The tool fetches a picture with httpx, hashes it, and writes it so that a power cut cannot take it: a file of its own,
flushed, then its name, then the folder flushed. There is no ledger, no check of the picture, no recipe and no preview.
"""

import argparse
import asyncio
import hashlib
import os
import socket
import sys
import uuid
from pathlib import Path

import httpx
import uvicorn
from mcp.server.mcpserver import MCPServer


def keep(folder: Path, data: bytes) -> Path:
    """Hash and write a picture; returns its path."""
    target = folder / f"{hashlib.sha256(data).hexdigest()[:8]}-{uuid.uuid4().hex}"
    part = target.with_suffix(".part")
    with part.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.rename(target)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return target


def server(folder: Path, url: str, http: httpx.AsyncClient) -> MCPServer[None]:
    """A server whose tool has the name and the main parameter of the real one."""
    bare: MCPServer[None] = MCPServer("floor")

    @bare.tool()
    async def generate_image_vega(prompt: str) -> str:
        answer = await http.post(f"{url}/v1/segmind-vega", json={"prompt": prompt})
        answer.raise_for_status()
        return str(await asyncio.to_thread(keep, folder, answer.content))

    return bare


async def serve(folder: Path, url: str, *, over_http: bool, connections: int | None) -> None:
    """Serve over stdio, or over Streamable HTTP: then the URL is the first line on stderr.

    `connections` is how many requests are sent to the API at the same time; None means no limit.
    """
    limits = httpx.Limits(max_connections=connections)
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as http:
        bare = server(folder, url, http)
        if not over_http:
            await bare.run_stdio_async()
            return
        with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
            sys.stderr.write(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp\n")
            sys.stderr.flush()
            app = bare.streamable_http_app(stateless_http=True)
            await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve([listener])


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("--http", action="store_true", help="serve Streamable HTTP instead of stdio")
    parser.add_argument("--connections", type=int, help="requests to the API at the same time")
    options = parser.parse_args()
    asyncio.run(serve(options.folder, options.url, over_http=options.http, connections=options.connections))


if __name__ == "__main__":
    main()
