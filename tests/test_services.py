"""What a test with services gets, and that nothing is left behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wait_until
from services import PostgresServer


def test_a_test_gets_an_empty_database_with_another_order_and_time_zone(postgres: str) -> None:
    from psycopg import connect

    with connect(postgres) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
        assert connection.execute("SELECT 'b' < 'C'").fetchone() == (True,)
        assert connection.execute("SHOW timezone").fetchone() == ("Asia/Kolkata",)


def test_a_test_may_stop_the_database_and_start_it_again(postgres_server: PostgresServer, postgres: str) -> None:
    from psycopg import OperationalError, connect

    with connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    postgres_server.stop(immediate=True)
    with pytest.raises(OperationalError):
        connect(postgres)
    postgres_server.start(fsync="on")
    with connect(postgres) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_a_test_gets_an_empty_bucket_that_the_environment_opens(bucket: str) -> None:
    from obstore import get, put
    from obstore.store import from_url

    store = from_url(bucket)
    assert [each for page in store.list() for each in page] == []
    put(store, "a", b"x")
    assert get(store, "a").bytes() == b"x"


HANG = """
import sys, time
sys.path.insert(0, sys.argv[1])
from services import PostgresServer, folder_of_postgres
server = PostgresServer(folder_of_postgres())
server.start()
print(server.folder, flush=True)
time.sleep(3600)
"""


def test_tests_that_are_killed_leave_no_server_and_no_folder(postgres_server: PostgresServer) -> None:
    tests = Path(__file__).parent
    with subprocess.Popen([sys.executable, "-c", HANG, tests], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        folder = Path(process.stdout.readline().strip())
        assert (folder / ".s.PGSQL.5432").exists()
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not folder.exists())
    assert postgres_server.running
