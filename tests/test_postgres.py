"""The ledger's database on a real PostgreSQL server: transactions, outages, who is alive, and notices."""

import logging
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from conftest import HANG_SECONDS, until
from services import PostgresServer, require_packages

from mcp_vega.errors import LedgerError
from mcp_vega.storage.database.connection import Connection, Work
from mcp_vega.storage.database.database import Durability

if not find_spec("psycopg"):
    require_packages("psycopg")

import psycopg

from mcp_vega.storage.database.postgres import PostgresDatabase, Session
from mcp_vega.storage.database.postgres.address import CONNECTIONS, Address
from mcp_vega.storage.database.postgres.connection import PostgresConnection
from mcp_vega.storage.database.postgres.errors import VARIABLE
from mcp_vega.storage.database.schema import Schema

pytestmark = [pytest.mark.anyio, pytest.mark.services]

SCHEMA = Schema("""
    CREATE TABLE notes (  -- the only table; of these tests
        number BIGINT PRIMARY KEY,
        body TEXT
    )
""")
NUMBERS = "SELECT number FROM notes ORDER BY number"
# A call while PostgreSQL is away fails after two seconds. A busy machine takes longer.
ERROR_SECONDS = 10


def add(number: int) -> Work[None]:
    def work(connection: Connection) -> None:
        connection.execute("INSERT INTO notes VALUES (:number, '')", {"number": number})

    return work


def numbers(connection: Connection) -> list[int]:
    return [row["number"] for row in connection.execute(NUMBERS)]


@asynccontextmanager
async def databases(url: str, count: int, namespace: str = "") -> AsyncGenerator[list[PostgresDatabase]]:
    """Several servers' databases at a URL. The tables are made."""
    opened = [PostgresDatabase(url, SCHEMA, namespace) for _ in range(count)]
    try:
        await opened[0].read(numbers)
        yield opened
    finally:
        for each in opened:
            each.shorten_waits()
            await each.close()


@asynccontextmanager
async def a_database(url: str, namespace: str = "") -> AsyncGenerator[PostgresDatabase]:
    async with databases(url, 1, namespace) as (database,):
        yield database


@contextmanager
def sessions(url: str, count: int = 2, **given: Any) -> Generator[list[Session]]:
    opened = [Session(url, **given) for _ in range(count)]
    try:
        for each in opened:
            each.take()
        yield opened
    finally:
        for each in opened:
            each.release()


def broken(session: Session) -> bool:
    try:
        session.require_intact()
    except LedgerError:
        return True
    return False


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement as another program does."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


# ---- creation ----


async def test_servers_that_start_at_the_same_moment_make_the_tables_once(postgres: str) -> None:
    several = [PostgresDatabase(postgres, SCHEMA, "team") for _ in range(8)]
    async with anyio.create_task_group() as group:
        for number, each in enumerate(several):
            group.start_soon(each.write, add(number))
    assert await several[0].read(numbers) == list(range(8))
    assert execute(postgres, "SELECT count(*) FROM team.ledger_schema") == [(1,)]
    for each in several:
        await each.close()


async def test_another_version_of_the_tables_is_refused(postgres: str) -> None:
    async with a_database(postgres):
        other = PostgresDatabase(postgres, Schema(f"{SCHEMA.tables}; CREATE TABLE more (number BIGINT)"))
        with pytest.raises(LedgerError, match="was not written by this version"):
            await other.write(add(1))
        await other.close()
        assert execute(postgres, "SELECT to_regclass('more')") == [(None,)]


async def test_tables_of_other_programs_do_not_disturb_unless_a_name_is_the_same(postgres: str) -> None:
    execute(postgres, "CREATE TABLE theirs (number int)")
    async with a_database(postgres) as database:
        await database.write(add(1))
    execute(postgres, "CREATE SCHEMA other; CREATE TABLE other.notes (number int)")
    refused = PostgresDatabase(postgres, SCHEMA, "other")
    with pytest.raises(LedgerError, match='"notes" already exists') as raised:
        await refused.write(add(1))
    assert "a database that only mcp-vega uses" in raised.value.next_step
    await refused.close()


async def test_texts_are_compared_by_their_bytes(postgres: str) -> None:
    async with a_database(postgres) as database:
        for number, body in enumerate(("b", "B", "ä", "a")):
            values = {"number": number, "body": body}
            await database.write(lambda c, v=values: c.execute("INSERT INTO notes VALUES (:number, :body)", v))
        found = await database.read(lambda c: c.execute("SELECT body FROM notes ORDER BY body"))
    assert [row["body"] for row in found] == ["B", "a", "b", "ä"]


# ---- transactions ----


async def test_values_keep_their_types(postgres: str) -> None:
    given: dict[str, Any] = {
        "json": {"a": [1, None]},
        "items": ["x"],
        "moment": datetime(2026, 1, 2, 3, 4, 5, 678, timezone(timedelta(hours=3))),
        "day": date(2026, 1, 2),
        "money": Decimal("0.10"),
        "nothing": None,
        "yes": True,
        "text": "50 % :day",
    }
    statement = """
        SELECT :json::jsonb AS json, :items::jsonb AS items, :moment::timestamptz AS moment, :day::date AS day,
            :money::numeric AS money, :nothing::text AS nothing, :yes AS yes, :text AS text, ':day %' AS quoted,
            5 % 3 AS rest -- :day and 'the rest
    """
    async with a_database(f"{postgres}&options=-ctimezone%3DAsia/Tokyo") as database:
        (found,) = await database.read(lambda connection: connection.execute(statement, given))
    assert found == {**given, "quoted": ":day %", "rest": 2}
    assert str(found["money"]) == "0.10"
    assert found["moment"].utcoffset() == timedelta()
    assert found["moment"].tzinfo is UTC


async def test_a_read_sees_one_state_and_does_not_wait_for_writes_or_slow_reads(postgres: str) -> None:
    looked, go_on = threading.Event(), threading.Event()

    def look(connection: Connection) -> tuple[list[int], list[int]]:
        before = numbers(connection)
        looked.set()
        go_on.wait(HANG_SECONDS)
        return before, numbers(connection)

    async with a_database(postgres) as database, anyio.create_task_group() as group:
        seen: list[Any] = []

        async def read() -> None:
            seen.append(await database.read(look, slow=True))

        group.start_soon(read)
        await until(looked.is_set)
        await database.write(add(1))
        assert await database.read(numbers) == [1]
        go_on.set()
        await until(lambda: seen)
        assert seen == [([], [])]
        with pytest.raises(LedgerError, match="read-only"):
            await database.read(add(2))


async def test_a_write_in_a_deadlock_is_repeated(postgres: str) -> None:
    both = threading.Barrier(2)
    tries: list[int] = []

    def lock(first: int, second: int) -> Work[None]:
        def work(connection: Connection) -> None:
            tries.append(first)
            connection.execute("SET LOCAL deadlock_timeout = '10ms'")
            for number in (first, second):
                connection.execute("UPDATE notes SET body = body || 'x' WHERE number = :number", {"number": number})
                if len(tries) <= 2 and number == first:
                    both.wait(HANG_SECONDS)

        return work

    async with a_database(postgres) as database:
        await database.write(add(1))
        await database.write(add(2))
        async with anyio.create_task_group() as group:
            group.start_soon(database.write, lock(1, 2))
            group.start_soon(database.write, lock(2, 1))
        found = await database.read(lambda connection: connection.execute("SELECT body FROM notes"))
    assert [row["body"] for row in found] == ["xx", "xx"]
    assert len(tries) > 2


@pytest.mark.parametrize("default", ["on", "off", "remote_apply"])
async def test_each_change_is_as_durable_as_asked(postgres: str, default: str) -> None:
    execute(
        postgres, f"ALTER DATABASE {postgres.partition('@/')[2].partition('?')[0]} SET synchronous_commit = {default}"
    )

    def shown(connection: Connection) -> str:
        return connection.execute("SHOW synchronous_commit")[0]["synchronous_commit"]

    async with a_database(postgres) as database:
        found = [await database.write(shown, durability=each) for each in Durability]
    safe = "on" if default == "off" else default
    assert found == ["off", safe, safe]


async def test_a_failed_statement_is_never_reported_as_written(postgres: str) -> None:
    def swallow(connection: Connection) -> None:
        connection.execute("INSERT INTO notes VALUES (1, '')")
        with suppress(psycopg.Error):
            connection.execute("SELECT 1 / 0")

    async with a_database(postgres) as database:
        with pytest.raises(LedgerError):
            await database.write(swallow)
        assert await database.read(numbers) == []


async def test_a_lock_keeps_other_transactions_out(postgres: str) -> None:
    inside: list[str] = []

    def work(name: str) -> Work[None]:
        def do(connection: Connection) -> None:
            connection.lock(name)
            inside.append(name)
            assert inside.count(name) == 1
            connection.execute("SELECT pg_sleep(0.002)")
            inside.remove(name)

        return do

    async with databases(postgres, 2) as (one, other), anyio.create_task_group() as group:
        for _ in range(5):
            for database in (one, other):
                group.start_soon(database.write, work("money"))
                group.start_soon(database.write, work("slots"))


async def test_all_servers_share_the_time_of_the_database(postgres: str) -> None:
    async with databases(postgres, 2) as (one, other):
        first = await one.write(lambda connection: connection.time)
        second = await other.read(lambda connection: (connection.time, connection.time))
        (shown,) = await one.read(lambda c: c.execute("SELECT extract(epoch FROM now())::float8 AS time"))
    assert first < second[0] < second[1]
    assert first < shown["time"] < first + HANG_SECONDS


async def test_a_cancelled_caller_leaves_immediately_unless_its_work_has_started(postgres: str) -> None:
    go_on, started, ended = threading.Event(), list[int](), list[int]()

    def block(number: int) -> Work[None]:
        def work(connection: Connection) -> None:
            started.append(number)
            go_on.wait(HANG_SECONDS)
            add(number)(connection)

        return work

    async with a_database(postgres) as database:

        async def write(number: int) -> None:
            await database.write(block(number))
            ended.append(number)

        async with anyio.create_task_group() as group:
            for number in range(CONNECTIONS["writes"]):
                group.start_soon(write, number)
            await until(lambda: len(started) == CONNECTIONS["writes"])
            with anyio.move_on_after(0.01) as waited:
                await database.write(add(99))
            assert waited.cancelled_caught
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            assert ended == []
            go_on.set()
        assert await database.read(numbers) == sorted(started) == [*range(CONNECTIONS["writes"])]


# ---- outages ----


async def test_an_outage_is_reported_soon_and_ends_without_a_restart(
    postgres: str, postgres_server: PostgresServer
) -> None:
    async with a_database(postgres) as database:
        await database.write(add(1))
        postgres_server.stop(immediate=True)
        began = time.monotonic()
        errors: list[LedgerError] = []

        async def fail(number: int) -> None:
            with pytest.raises(LedgerError, match="cannot be reached") as raised:
                await (database.write(add(number)) if number % 2 else database.read(numbers))
            errors.append(raised.value)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(fail, number)
        assert time.monotonic() - began < ERROR_SECONDS
        assert len(errors) == 20
        assert "MCP_VEGA_LEDGER" in errors[0].next_step
        postgres_server.start()
        await database.write(add(2))
        assert await database.read(numbers) == [1, 2]


async def test_a_restart_between_two_calls_is_not_noticed(postgres: str, postgres_server: PostgresServer) -> None:
    async with a_database(postgres) as database:
        async with anyio.create_task_group() as group:  # several connections are open
            for number in range(4):
                group.start_soon(database.write, add(number))
        postgres_server.stop(immediate=True)
        postgres_server.start()
        database.shorten_waits()
        await database.write(add(4))
        assert await database.read(numbers) == [0, 1, 2, 3, 4]


async def test_deferred_work_is_done_in_its_order_after_an_outage(
    postgres: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[int] = []

    def noted(number: int) -> Work[None]:
        def work(connection: Connection) -> None:
            add(number)(connection)
            assert connection.execute("SHOW synchronous_commit")[0]["synchronous_commit"] == "off"
            order.append(number)

        return work

    async with a_database(postgres) as database:
        postgres_server.stop(immediate=True)
        database.defer(noted(1), immediately=True)
        await until(lambda: "could not be written to the ledger yet" in caplog.text)
        database.defer(noted(2))
        database.defer(lambda connection: connection.execute("SELECT 1 / 0"))
        database.defer(noted(3), immediately=True)
        postgres_server.start()
        assert await until(lambda: database.read(numbers)) == [1, 2, 3]
        assert order == [1, 2, 3]
    assert "1 changes were not written" in caplog.text


async def test_a_write_comes_after_the_work_that_was_deferred_before(postgres: str) -> None:
    async with a_database(postgres) as database:
        for number in range(20):
            database.defer(add(number))
            assert await database.write(numbers) == list(range(number + 1))
        database.defer(add(20))
    assert execute(postgres, "SELECT max(number) FROM notes") == [(20,)]  # written by `close`


# ---- a connection that breaks while it commits ----


class Relay:
    """Passes bytes between clients and a PostgreSQL server, and can break the connection when a client commits."""

    def __init__(self, url: str, folder: Path) -> None:
        database, _, host = url.partition("?host=")
        self._server = f"{host.replace('%2F', '/')}/.s.PGSQL.5432"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self.url = f"{database}?host={quote(str(folder), safe='')}"
        self.when: str | None = None  # break at the next commit: "before" PostgreSQL gets it, or "after" it was done
        self.closed_to_new = False
        self.changed: Callable[[bytes], bytes] = lambda data: data
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in self._threads:
            each.join(HANG_SECONDS)
        self._listener.close()

    def _start(self, do: Callable[..., None], *values: Any) -> None:
        self._threads.append(threading.Thread(target=do, args=values))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.closed_to_new:
                    client.close()
                else:
                    self._start(self._pass, client)

    def _pass(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._server)
            other = {client: server, server: client}
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if source is client and self.when and b"COMMIT\0" in data:
                        when, self.when = self.when, None
                        self.closed_to_new = when == "before and for longer"
                        if when == "after":
                            server.sendall(data)
                            server.recv(65536)
                        return
                    if not data:
                        return
                    other[source].sendall(self.changed(data))


@pytest.fixture
def relay(postgres: str, postgres_server: PostgresServer) -> Generator[Relay]:
    folder = postgres_server.folder / f"relay{time.monotonic_ns()}"
    folder.mkdir()
    found = Relay(postgres, folder)
    yield found
    found.close()
    shutil.rmtree(folder)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_write_whose_commit_broke_is_done_exactly_once(relay: Relay, when: str) -> None:
    undone: list[int] = []
    async with a_database(relay.url) as database:
        await database.write(add(1))
        relay.when = when
        await database.write(add(2), undo=lambda _: undone.append(1))
        relay.when = when
        await database.write(add(3), durability=Durability.POWER)
        assert await database.read(numbers) == [1, 2, 3]
    assert undone == []


@pytest.mark.parametrize("identified", [True, False])
async def test_a_write_of_unknown_outcome_is_reported_and_undone(relay: Relay, identified: bool) -> None:  # noqa: FBT001
    undone: list[list[int]] = []
    undo: Callable[[Connection], None] = lambda connection: undone.append(numbers(connection))  # noqa: E731
    async with a_database(relay.url) as database:
        await database.write(add(1))
        relay.when = "before and for longer"
        with pytest.raises(LedgerError, match="it is not known whether") as raised:
            await database.write(add(2), undo=undo if identified else None)
        assert "check_job" in raised.value.next_step
        relay.closed_to_new = False
        if identified:
            await until(lambda: undone)
            assert undone == [[1]]


async def test_a_pooler_is_refused(relay: Relay) -> None:
    key = b"K\0\0\0\x0c"  # the message with the number of PostgreSQL's process, which poolers replace
    relay.changed = lambda data: re.sub(key + b".{4}", key + b"abcd", data, flags=re.DOTALL)
    error = await failed(relay.url)
    assert "through a connection pooler" in error.what


async def test_a_crash_of_the_server_is_another_start(postgres: str) -> None:
    before = PostgresConnection(Address(postgres))
    os.kill(before.raw.info.backend_pid, signal.SIGKILL)

    def started_again() -> bool:
        with suppress(psycopg.Error):
            connection = PostgresConnection(Address(postgres))
            connection.close()
            return connection.started > before.started  # for a moment, the server has not noticed the crash yet
        return False

    await until(started_again)
    before.close()


# ---- who is alive ----


def killable(url: str) -> "subprocess.Popen[str]":
    """Another server's process, which prints its number and holds its lock."""
    return subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True)


HOLD = """
import sys, time
from mcp_vega.storage.database.postgres import Session
session = Session(sys.argv[1])
session.take()
print(session.me, flush=True)
time.sleep(600)
"""


async def test_a_killed_server_is_dead_for_the_others(postgres: str) -> None:
    with (
        sessions(postgres, 1) as (session,),
        killable(postgres) as process,
    ):
        assert process.stdout
        other = process.stdout.readline().strip()

        def dead(connection: Connection) -> bool:
            with session.locked_if_dead(other, connection) as found:
                return found

        async with a_database(postgres) as database:
            both = {session.me, other}
            assert await database.read(lambda connection: session.alive(connection, both)) == both
            assert not await database.write(dead)
            process.kill()
            killed = time.monotonic()
            await until(lambda: database.write(dead))
            assert time.monotonic() - killed < ERROR_SECONDS
            assert await database.read(lambda connection: session.alive(connection, both)) == {session.me}
    assert execute(postgres, "SELECT count(*) FROM server_numbers") == [(0,)]


async def test_a_broken_session_connects_again_as_the_same_server(
    postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []
    with sessions(postgres) as (session, other):
        me = session.me
        session.open()
        with session.listening("change", heard.append):
            execute(postgres, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            await until(lambda: None in heard)
            session.require_intact()
            session.take()
            assert session.me == me
            other.take()
            async with a_database(postgres) as database:
                both = {me, other.me}
                assert await database.read(lambda connection: other.alive(connection, both)) == both
    assert "broke, and is opened again" in caplog.text
    assert "is back" in caplog.text


async def test_after_a_start_of_the_database_earlier_servers_have_time_to_connect(
    postgres: str, postgres_server: PostgresServer
) -> None:
    async with a_database(postgres) as database:
        execute(postgres, "INSERT INTO server_numbers VALUES (77, 'x')")
        postgres_server.stop()
        postgres_server.start()
        patient, impatient = Session(postgres, grace_seconds=3600), Session(postgres, grace_seconds=0)

        def look(connection: Connection) -> list[Any]:
            found = list[Any]()
            for each in (patient, impatient):
                found.append(each.alive(connection, {"77", "78"}))
                with each.locked_if_dead("77", connection) as dead:
                    found.append(dead)
            return found

        # 78 has no row, so it was never there before.
        assert await database.write(look) == [{"77"}, False, set(), True]
        # A call must join the job of a server that may be dead, instead of being paid for again.
        assert not await database.read(lambda connection: patient.alive(connection, {"77"}, certain=True))


async def test_a_server_without_a_database_cannot_take_its_lock(postgres: str, postgres_server: PostgresServer) -> None:
    postgres_server.stop()
    session = Session(postgres)
    with pytest.raises(LedgerError, match="cannot be reached"):
        session.take()
    with pytest.raises(LedgerError, match="connection to the ledger's database"):
        session.require_intact()
    postgres_server.start()
    await until(lambda: session.me)
    session.take()
    session.require_intact()
    session.release()
    assert not session.taken


async def test_ledgers_in_one_database_do_not_see_each_other(postgres: str) -> None:
    with sessions(postgres, 2, namespace="one") as (one, listener), sessions(postgres, 1, namespace="two") as (two,):
        assert one.me == two.me  # each ledger has its own numbers
        heard: list[Any] = []
        with listener.listening("change", heard.append):
            two.send("change", {"of": "two"})
            one.send("change", {"of": "one"})
            await until(lambda: heard)
        assert heard == [{"of": "one"}]
        async with a_database(postgres, namespace="two") as database:
            found = await database.read(lambda connection: two.alive(connection, {one.me, listener.me}))
            assert found == {two.me}


# ---- notices ----


async def test_notices_reach_all_others_in_their_order(postgres: str, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[list[Any]] = [[], [], []]
    with sessions(postgres, 3) as (sender, *others):
        sender.open()
        with (
            sender.listening("change", heard[0].append),
            others[0].listening("change", heard[1].append),
            others[1].listening("change", heard[2].append),
            others[1].listening("cancel", heard[0].append),
        ):
            for number in range(2000):
                sender.send("change", {"number": number, "prompt": "süß \0 ' \\"})
            sender.send("change", {"long": "x" * 8000})
            sender.send("change", {"text": "\ud800"})
            sender.send("change", {"last": True})
            await until(lambda: {"last": True} in heard[1] and {"last": True} in heard[2])
    expected = [{"number": number, "prompt": "süß \0 ' \\"} for number in range(2000)] + [{"last": True}]
    assert heard == [[], expected, expected]
    assert "too long" in caplog.text
    assert "cannot be sent" in caplog.text


async def test_notices_wait_for_the_end_of_an_outage_and_lost_ones_are_reported(postgres: str, relay: Relay) -> None:
    with sessions(relay.url, 1) as (sender,), sessions(postgres, 1) as (other,):
        heard: list[Any] = []
        with other.listening("change", heard.append):
            relay.closed_to_new = True
            execute(postgres, f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE objid = {sender.me}")  # noqa: S608
            await until(partial(broken, sender))
            for number in range(5001):
                sender.send("change", {"number": number})
            relay.closed_to_new = False
            await until(lambda: {"number": 5000} in heard)
    assert heard == [None, *({"number": number} for number in range(1, 5001))]


async def test_what_other_programs_send_disturbs_nobody(postgres: str, caplog: pytest.LogCaptureFixture) -> None:
    hostile = ["", "0", "false", '""', "[]", "{}", "7", "[" * 7000, '{"from": 1}', '{"topic": "change", "content": 1}']
    with sessions(postgres) as (session, sender):
        heard: list[Any] = []
        session.open()
        with session.listening("change", heard.append):
            (channel,) = execute(postgres, "SELECT 'mcp_vega_' || 'server_numbers'::regclass::oid")[0]
            with psycopg.connect(postgres, autocommit=True) as other:
                for payload in hostile:
                    other.execute("SELECT pg_notify(%s, %s)", [channel, payload])
            sender.send("change", {"number": 1})
            await until(lambda: heard)
        session.require_intact()
    assert heard == [{"number": 1}]
    assert "broke" not in caplog.text


# ---- the end ----


async def test_closing_leaves_no_thread_and_no_connection(postgres: str) -> None:
    before = set(threading.enumerate())
    async with a_database(postgres) as database:
        await database.write(add(1))
        await database.read(numbers, slow=True)
        database.defer(add(2), immediately=True)
        with sessions(postgres, 1) as (session,):
            session.send("change", {})
    left = {each.name for each in set(threading.enumerate()) - before}
    assert not [name for name in left if name.startswith("ledger")]
    statement = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    await until(lambda: not execute(postgres, statement))


# ---- errors ----


async def failed(url: str, work: Work[Any] = add(1)) -> LedgerError:  # noqa: B008
    database = PostgresDatabase(url, SCHEMA)
    try:
        with pytest.raises(LedgerError) as raised:
            await database.write(work)
    finally:
        await database.close()
    return raised.value


PASSWORD = "s3cr3t"
INVALID = [
    f"postgresql://vega:{PASSWORD}@@localhost/db",
    f"postgresql://vega:{PASSWORD}/{PASSWORD}@localhost/db",
    f"postgresql://vega:12/{PASSWORD}@localhost/db",
    f"postgresql://vega:{PASSWORD}%@localhost/db",
    f"{PASSWORD}",
]


@pytest.mark.parametrize("url", INVALID)
async def test_an_invalid_url_is_not_quoted(url: str, caplog: pytest.LogCaptureFixture) -> None:
    error = await failed(url)
    assert "is not a valid URL" in error.what
    assert "Percent-encode" in error.next_step
    shown = "".join(traceback.format_exception(error))
    assert PASSWORD not in f"{error.text} {shown} {error!r} {caplog.text}"


async def test_the_password_is_never_shown(postgres: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "p@ss/w:rd%"
    url = f"postgresql://nobody:{quote(secret, safe='')}@{postgres.partition('@')[2]}"
    database, session = PostgresDatabase(url, SCHEMA), Session(url)
    shown = [repr(database), repr(session), repr(vars(database)), repr(vars(session))]
    with pytest.raises(LedgerError, match="does not let this user in") as raised:
        await database.write(add(1))
    with pytest.raises(LedgerError, match="does not let this user in") as refused:
        session.take()
    session.release()
    await database.close()
    for error in (raised.value, refused.value):
        shown += [error.text, *traceback.format_exception(error)]
    shown.append(caplog.text)
    assert not [each for each in shown if secret in each or quote(secret, safe="") in each]


def sleep(connection: Connection) -> None:
    connection.execute("SET LOCAL statement_timeout = 1")
    connection.execute("SELECT pg_sleep(60)")


def store_nul(connection: Connection) -> None:
    connection.execute("INSERT INTO notes VALUES (1, :body)", {"body": "\0"})


def drop(connection: Connection) -> None:
    connection.execute("DROP TABLE notes; SELECT 1 FROM notes")


PROBLEMS: dict[str, tuple[str, str, Work[Any], str, str]] = {
    "no server": ("", "postgresql://vega@localhost:1/db", add(1), "localhost:1/db cannot be reached", "is running"),
    "no database": ("", "postgresql://vega@/missing?host={host}", add(1), "does not exist", "createdb"),
    "no connection": (
        "CREATE ROLE limited LOGIN CONNECTION LIMIT 0",
        "postgresql://limited@/{name}?host={host}",
        add(1),
        "has no free connection",
        "max_connections",
    ),
    "no right": ("CREATE ROLE guest LOGIN", "postgresql://guest@/{name}?host={host}", add(1), "let this user", "GRANT"),
    "no schema": (
        "REVOKE ALL ON SCHEMA public FROM public; CREATE ROLE visitor LOGIN",
        "postgresql://visitor@/{name}?host={host}",
        add(1),
        "has no schema in which this user may make tables",
        "GRANT CREATE, USAGE",
    ),
    "wrong option": (
        "",
        "postgresql://vega@localhost/db?sslmode=no",
        add(1),
        "option that cannot be used: invalid sslm",
        "option",
    ),
    "wrong number": (
        "",
        "postgresql://vega@localhost/db?connect_timeout=no",
        add(1),
        "an option that cannot",
        "option",
    ),
    "unknown option": ("", "postgresql://vega@localhost/db?retries=3", add(1), "the unknown option retries", VARIABLE),
    "IPv6": ("", "postgresql://vega@[::1]:1,[::1]:2/db", add(1), "database [::1]:1,[::1]:2/db", "is running"),
    "no UTF-8": (
        "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0",
        "postgresql://vega@/ascii?host={host}",
        add(1),
        "encoding SQL_ASCII",
        "ENCODING 'UTF8'",
    ),
    "read-only": (
        "",
        "postgresql://vega@/{name}?host={host}&options=-cdefault_transaction_read_only%3Don",
        add(1),
        "cannot be written",
        "primary",
    ),
    "TLS": (
        "",
        "postgresql://vega@/{name}?host={host}&sslmode=require&sslrootcert=/none",
        sleep,
        "was too slow",
        "load",
    ),
    "slow": ("", "postgresql://vega@/{name}?host={host}", sleep, "was too slow", "load"),
    "NUL": ("", "postgresql://vega@/{name}?host={host}", store_nul, "cannot store a value", "NUL"),
    "no table": ("", "postgresql://vega@/{name}?host={host}", drop, "lacks a table", "backup"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
async def test_each_problem_is_named_with_a_next_step(postgres: str, problem: str) -> None:
    before, url, work, what, next_step = PROBLEMS[problem]
    name, _, host = postgres.partition("@/")[2].partition("?host=")
    if before:
        with suppress(psycopg.errors.DuplicateObject, psycopg.errors.DuplicateDatabase):
            execute(postgres, before)
    error = await failed(url.format(name=name, host=host), work)
    assert what in error.what
    assert next_step in error.next_step
    assert "MCP_VEGA_HOME" not in error.text
    assert not re.search(f"{re.escape(host)}|{name}|localhost|::1|user vega", error.public)
