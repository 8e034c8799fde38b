"""The whole set-up on loopback: replicas behind nginx, PostgreSQL, an S3 server behind nginx, a stand-in for the API.

With the embedded ledger, the replicas share one home folder and one gallery folder instead. This is not for several
machines, but shows what the programs here measure without PostgreSQL and S3.
"""

import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import bucket
import vendor
from proxy import Nginx
from replica import COMMAND, Replica

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from http_client import TOKENS
from processes import processor_seconds
from services import PostgresServer, folder_of_postgres

# 20 characters and more, as a real token.
CALLERS = {f"caller{number:02}": f"token-of-caller-{number:02}" for number in range(20)}
LOAD = {f"load{number}": token for number, token in enumerate(TOKENS)}
Record = dict[str, Any]


def callers(number: int) -> dict[str, str]:
    """The names and tokens of so many callers."""
    return dict(list(CALLERS.items())[:number])


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody uses now."""
    with socket.create_server((address, 0)) as listener:
        return listener.getsockname()[1]


class Postgres:
    """PostgreSQL on a port of loopback, with fsync. It may also listen at another address, and trust its network."""

    def __init__(self, server: PostgresServer, address: str = "", connections: int = 100) -> None:
        self._server = server
        if address:
            with (server.folder / "data" / "pg_hba.conf").open("a", encoding="utf-8") as rules:
                rules.write(f"host all all {address}/30 trust\n")
        self._options = {
            "listen_addresses": ",".join(["127.0.0.1", *([address] if address else [])]),
            "port": str(free_port()),
            "fsync": "on",
            "autovacuum": "on",
            "max_connections": str(connections),
            "shared_buffers": "128MB",
            "shared_preload_libraries": "pg_stat_statements",
        }
        self.port = int(self._options["port"])
        self.url = f"postgresql://vega@127.0.0.1:{self.port}/postgres"

    @classmethod
    @contextmanager
    def running(cls, address: str = "", connections: int = 100) -> Generator["Postgres"]:
        """Run it while the block runs."""
        if (programs := folder_of_postgres()) is None:
            raise SystemExit("This needs PostgreSQL")
        server = PostgresServer(programs)
        try:
            postgres = cls(server, address, connections)
            postgres.start()
            yield postgres
        finally:
            server.close()

    @property
    def pids(self) -> list[int]:
        """Its processes (Linux)."""
        (first, *_) = (self._server.folder / "data" / "postmaster.pid").read_text(encoding="utf-8").split()
        children = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="utf-8").split()
        return [int(first), *map(int, children)]

    def processor_seconds(self) -> float:
        """The processor time of its processes, and of those that have ended (Linux)."""
        total = processor_seconds(self.pids[0], ended_children=True)
        for pid in self.pids[1:]:
            with suppress(OSError):  # it ends just now
                total += processor_seconds(pid)
        return total

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        self._server.start(**self._options)

    def crash(self) -> None:
        """End it as a crash does."""
        self._server.stop(immediate=True)

    def rows(self, query: str) -> list[Record]:
        """Run a statement."""
        import psycopg
        from psycopg.rows import dict_row
        from psycopg.sql import SQL

        with (
            psycopg.connect(self.url, autocommit=True) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            cursor.execute(SQL(query))  # pyright: ignore[reportArgumentType]  # these programs write it
            return cursor.fetchall() if cursor.description else []


@dataclass
class Team:
    """The parts of the set-up. `postgres` is None with the embedded ledger."""

    folder: Path
    replicas: list[Replica]
    vendor: vendor.Vendor
    nginx: Nginx
    settings: Mapping[str, str]
    contents: Callable[[], Counter[str]]
    postgres: Postgres | None = None
    s3: bucket.Bucket | None = None
    program: Sequence[str] = COMMAND  # what reads the ledger

    @property
    def url(self) -> str:
        """Where agents reach all replicas."""
        return self.nginx.url

    def records(self) -> list[Record]:
        """All jobs in the ledger, as `mcp-vega jobs --json` shows them."""
        settings = {"MCP_VEGA_HOME": str(self.folder / "operator"), **self.settings}
        command = [*self.program, "jobs", "--json", "--limit", "100000"]
        shown = subprocess.run(command, env=settings, check=True, capture_output=True).stdout
        return json.loads(shown)

    def start(self) -> None:
        """Start all replicas at the same time, and wait until they answer."""
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            replica.wait()


@contextmanager
def running(  # noqa: PLR0913  what differs between the programs
    folder: Path,
    replicas: int | Sequence[Mapping[str, str]] = 3,
    *,
    speed: float = 1,
    embedded: bool = False,
    address: str = "",
    drain_seconds: float = 8,
) -> Generator[Team]:
    """Run the set-up in an empty folder while the block runs.

    Args:
        folder: An empty folder.
        replicas: How many replicas there are, or the variables that each one has for itself.
        speed: The documented times of the API are multiplied by this.
        embedded: Whether the replicas share an SQLite file and a folder instead of PostgreSQL and a bucket.
        address: Another address at which PostgreSQL listens.
        drain_seconds: How many seconds a replica lets running jobs end after SIGTERM.
    """
    with ExitStack() as stack:
        api = stack.enter_context(vendor.running(speed))
        settings = {
            "SEGMIND_BASE_URL": api.url,
            "SEGMIND_API_KEY": "SG_replicas",
            "MCP_VEGA_DRAIN_SECONDS": str(drain_seconds),
            "MCP_VEGA_AUTH_TOKENS": ",".join(f"{name}:{token}" for name, token in {**CALLERS, **LOAD}.items()),
        }
        if embedded:
            gallery = folder / "gallery"
            settings |= {"MCP_VEGA_HOME": str(folder / "home"), "MCP_VEGA_GALLERY": str(gallery)}
            nginx = Nginx(folder / "nginx", free_port())
            parts: dict[str, Any] = {"contents": lambda: files_in(gallery)}
        else:
            postgres = stack.enter_context(Postgres.running(address))
            pictures = stack.enter_context(bucket.running())
            nginx = Nginx(folder / "nginx", free_port(), free_port(), pictures.server)
            settings |= {
                "MCP_VEGA_LEDGER": postgres.url,
                "MCP_VEGA_GALLERY": f"s3://{bucket.BUCKET}/{bucket.PREFIX}",
                "AWS_ENDPOINT_URL": nginx.bucket_url,
                "AWS_ALLOW_HTTP": "true",
                **bucket.KEYS,
            }
            parts = {"contents": pictures.contents, "postgres": postgres, "s3": pictures}
        nothing: Mapping[str, str] = {}
        own = [nothing] * replicas if isinstance(replicas, int) else replicas
        servers = [
            Replica(folder / f"replica-{number}", ("127.0.0.1", free_port()), {**settings, **each})
            for number, each in enumerate(own, start=1)
        ]
        stack.enter_context(nginx.running([each.address for each in servers]))
        team = Team(folder, servers, api, nginx, settings, **parts)
        try:
            team.start()
            yield team
        finally:
            for replica in team.replicas:
                replica.end()


def files_in(folder: Path) -> Counter[str]:
    """The SHA-256 hashes of all pictures in a folder."""
    return Counter(sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.jpg"))
