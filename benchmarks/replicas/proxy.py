"""nginx in front of the replicas, and in front of the bucket: there it records uploads and can answer with 503."""

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

# nginx must not send a paid call to a second replica. So `proxy_next_upstream` has no `non_idempotent`.
CONFIG = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/nginx-errors.txt error;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    log_format requests '$request_method $status $uri $upstream_addr $upstream_status $request_time';
    access_log {folder}/calls.txt requests;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_read_timeout 300s;

    upstream replicas {{
{replicas}
    }}
    server {{
        listen 127.0.0.1:{port};
        location = /nginx {{ return 204; }}
        location / {{
            proxy_pass http://replicas;
            proxy_buffering off;
            proxy_connect_timeout 1s;
            proxy_next_upstream error timeout;
        }}
    }}
{bucket}
}}
"""
BUCKET = """
    server {{
        listen {address}:{port};
        access_log {folder}/requests.txt requests;
        location / {{
            if (-f {folder}/bucket-is-away) {{ return 503; }}
            proxy_pass {server};
        }}
    }}
"""


class Nginx:
    """nginx, with its files in a folder.

    Args:
        folder: A folder of its own.
        port: Where it serves the replicas, on loopback.
        bucket_port: Where it serves the S3 server.
        bucket_server: The URL of the S3 server; empty if there is none.
        address: The address at which it serves the S3 server.
    """

    def __init__(
        self, folder: Path, port: int, bucket_port: int = 0, bucket_server: str = "", address: str = "127.0.0.1"
    ) -> None:
        folder.mkdir()
        self.url = f"http://127.0.0.1:{port}/mcp"
        self.bucket_url = f"http://{address}:{bucket_port}"
        self._folder = folder
        self._port = port
        self._bucket = bucket_server and BUCKET.format(
            folder=folder, address=address, port=bucket_port, server=bucket_server
        )

    def write(self, addresses: Sequence[str]) -> None:
        """Write the configuration: requests go to the replicas at these addresses by turns."""
        config = CONFIG.format(
            folder=self._folder,
            user="user root;" if os.geteuid() == 0 else "",
            replicas="\n".join(f"        server {each} max_fails=1 fail_timeout=1s;" for each in addresses),
            port=self._port,
            bucket=self._bucket,
        )
        (self._folder / "nginx.conf").write_text(config, encoding="utf-8")

    @contextmanager
    def running(self, addresses: Sequence[str]) -> Generator[None]:
        """Serve while the block runs."""
        self.write(addresses)
        with subprocess.Popen(self._command()) as process:
            try:
                self._wait()
                self.pid = process.pid
                yield
            finally:
                process.terminate()

    def reload(self, addresses: Sequence[str]) -> None:
        """Send requests to other replicas from now on."""
        self.write(addresses)
        subprocess.run([*self._command(), "-s", "reload"], check=True)

    @contextmanager
    def without_bucket(self) -> Generator[None]:
        """Answer all requests to the bucket with 503 while the block runs."""
        mark = self._folder / "bucket-is-away"
        mark.touch()
        try:
            yield
        finally:
            mark.unlink()

    def uploads(self) -> Counter[str]:
        """How often each object was stored, by its path."""
        stored = [path for method, status, path, *_ in self._requests() if method == "PUT" and status.startswith("2")]
        return Counter(path for path in stored if path.endswith(".jpg"))

    def refused(self) -> int:
        """How many requests to the bucket were answered with 503."""
        return sum(status == "503" for _, status, *_ in self._requests())

    def failures(self) -> Counter[str]:
        """How many requests of agents were answered with each status of 500 and more."""
        with (self._folder / "calls.txt").open(encoding="utf-8") as lines:
            statuses = Counter(line.split()[1] for line in lines)
        return Counter({status: count for status, count in statuses.items() if status >= "5"})

    def _requests(self) -> Iterator[list[str]]:
        with (self._folder / "requests.txt").open(encoding="utf-8") as lines:
            yield from (line.split() for line in lines)

    def _command(self) -> list[str]:
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise SystemExit("This needs nginx")
        return [program, "-p", str(self._folder), "-c", str(self._folder / "nginx.conf")]

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{self._port}/nginx", trust_env=False)
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return
