"""What only some tests need, as fixtures: a real PostgreSQL server, an S3 server, and weights for the engine.

The tests start the servers by themselves. A test that uses one of these fixtures has the marker `services`, or `engine`
for the weights. If a program or a package is missing, the test is skipped. If the environment variable of its marker
(`MCP_VEGA_TEST_SERVICES` or `MCP_VEGA_TEST_ENGINE`) is `required`, the test fails instead.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT, SIGQUIT
from typing import Any, NoReturn
from urllib.parse import quote

import httpx
import pytest

MARKERS = {
    **dict.fromkeys(("postgres", "postgres_server", "bucket", "moto_server"), "services"),
    "tiny_weights": "engine",
}
ADVICE = " (CONTRIBUTING.md says how to run these tests)"
# Seconds after which a service that has not started counts as broken.
START_SECONDS = 60

# Ends the server and removes its folder when the tests end, however they end: then its standard input is closed.
WATCHDOG = """
cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
rm -rf "$1"
"""

# Text is sorted in another order, and times are shown in another zone, than SQLite and the tests use by themselves:
# code that depends on either fails.
INITDB = ("--no-sync", "--no-instructions", "--auth=trust", "--username=vega", "--encoding=UTF8", "--locale=C.UTF-8")
ICU = ("--locale-provider=icu", "--icu-locale=en-US")
OPTIONS = {
    "listen_addresses": "",
    "timezone": "Asia/Kolkata",
    "max_connections": "300",
    "shared_buffers": "32MB",
    "fsync": "off",
    "autovacuum": "off",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use one of these fixtures."""
    for item in items:
        for name in MARKERS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKERS[name])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that was skipped without the marker: CI would never run it."""
    report = yield
    if reason_of(report).endswith(ADVICE) and not any(map(item.get_closest_marker, MARKERS.values())):
        report.outcome = "failed"
        report.longrepr = (
            "A test that needs a service, or a package of an extra, needs the marker `services` or `engine`"
        )
    return report


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped; "" if it was not."""
    return report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once why such tests were skipped."""
    reasons = Counter(map(reason_of, terminalreporter.stats.get("skipped", ())))
    for reason, count in reasons.items():
        if reason.endswith(ADVICE):
            terminalreporter.write_line(f"{count} × {reason}")


def unavailable(reason: str, marker: str = "services") -> NoReturn:
    """Skip the test, or fail it if what its marker stands for is required."""
    variable = f"MCP_VEGA_TEST_{marker.upper()}"
    if os.environ.get(variable) == "required":
        pytest.fail(f"{reason}, and {variable} is 'required'")
    pytest.skip(f"{reason}{ADVICE}", allow_module_level=True)


def require_packages(*packages: str, marker: str = "services") -> None:
    """Skip the test if a package is missing, or the whole module, before its imports. Both need the marker."""
    if missing := [each for each in packages if not find_spec(each)]:
        unavailable(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed", marker)


def promtool() -> str:
    """The program of Prometheus that checks figures."""
    return shutil.which("promtool") or unavailable("promtool, a program of Prometheus, is not installed")


# ---- PostgreSQL ----


def folder_of_postgres() -> Path | None:
    """The folder of PostgreSQL's programs: often they are not in the PATH. Versions before 15 are left out."""
    config = shutil.which("pg_config")
    named = [Path(output([config, "--bindir"]).strip())] if config else []
    in_path = [Path(program).parent] if (program := shutil.which("postgres")) else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders = [each for each in (*in_path, *named, *debian) if (each / "initdb").exists()]
    versions = {each: int(output([each / "postgres", "--version"]).split()[2].split(".")[0]) for each in folders}
    return next((each for each in folders if versions[each] >= 15), None)


def output(command: list[str | Path]) -> str:
    return subprocess.check_output(command, text=True)


class PostgresServer:
    """A PostgreSQL server with its data in a temporary folder. A test may stop it and start it again.

    It listens on a Unix socket. Its superuser is `vega`, who needs no password.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # PostgreSQL refuses to run as root.
        self._user: dict[str, Any] = {}
        # Not a folder of pytest: other users cannot enter those, and the path of a socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="vega-pg-"))
        if os.geteuid() == 0:
            import pwd

            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        self._process: subprocess.Popen[Any] | None = None
        self._watchdog = self._open(["sh", "-c", WATCHDOG, "sh", self.folder], stdin=subprocess.PIPE)
        self._run("initdb", "-D", self._data, *INITDB, *ICU)

    @property
    def url(self) -> str:
        """The URL of the database `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://vega@/{database}?host={quote(str(self.folder), safe='')}"

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def start(self, **options: str) -> None:
        """Start the server and wait until it accepts connections. The options are settings, such as `fsync="on"`."""
        settings = [f"{name}={value}" for name, value in {**OPTIONS, **options}.items()]
        arguments = [part for each in settings for part in ("-c", each)]
        with self._log.open("ab") as log:
            program = [self._programs / "postgres", "-D", self._data, "-k", self.folder, *arguments]
            self._process = self._open(program, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start: {self.log}")
            time.sleep(0.01)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server and wait for its end. `immediate` ends it as a crash does. Clients are cut off by both."""
        if self._process:
            self._process.send_signal(SIGQUIT if immediate else SIGINT)
            self._process.wait(START_SECONDS)
        self._process = None

    def close(self) -> None:
        """Stop the server for good, and remove its folder."""
        self.stop(immediate=True)
        self._watchdog.communicate(timeout=START_SECONDS)

    def execute(self, statement: str) -> None:
        """Run a statement outside a transaction, in the database `postgres`."""
        from psycopg import connect

        with connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _accepts(self) -> bool:
        """Whether the server accepts connections. Its file begins with its process, and ends with its state."""
        with suppress(OSError, ValueError):
            first, *_, last = (self._data / "postmaster.pid").read_text().splitlines()
            return self._process is not None and int(first) == self._process.pid and last.strip() == "ready"
        return False

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = self._open([self._programs / program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = done.communicate(timeout=START_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {output.decode('utf-8', 'replace')}")

    def _open(self, command: list[str | Path], **streams: Any) -> "subprocess.Popen[Any]":
        # A session of its own: Ctrl+C ends the tests, and they end the server.
        options: dict[str, Any] = {"cwd": self.folder, "start_new_session": True, **self._user, **streams}
        return subprocess.Popen(command, **options)


@pytest.fixture(scope="session")
def postgres_of_worker() -> Iterator[PostgresServer]:
    """One server for each process of the tests: a test may stop it, and disturbs nobody."""
    if sys.platform == "win32":
        unavailable("These servers need POSIX")
    require_packages("psycopg")
    programs = folder_of_postgres()
    if programs is None:
        unavailable("PostgreSQL 15 or newer is not installed")
    server = PostgresServer(programs)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_server(postgres_of_worker: PostgresServer) -> PostgresServer:
    """A PostgreSQL server that is running. A test may stop it and start it again."""
    if not postgres_of_worker.running:
        postgres_of_worker.start()
    return postgres_of_worker


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new, empty database."""
    name = f"test_{uuid.uuid4().hex}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url_of(name)
    if not postgres_server.running:
        postgres_server.start()
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


# ---- S3 ----

# Prints its port. Ends when every process that has opened the pipe for writing has ended.
SERVE_S3 = """
import sys
from pathlib import Path
from moto.server import ThreadedMotoServer

pipe, ready = map(Path, sys.argv[1:])
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
ready.with_suffix(".new").write_text(str(server.get_host_and_port()[1]))
ready.with_suffix(".new").replace(ready)
pipe.read_bytes()
"""


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server. All processes of the tests share it, because it needs seconds to start."""
    if sys.platform == "win32":
        unavailable("These servers need POSIX")
    require_packages("moto", "flask", "obstore")
    import fcntl

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    pipe, ready = folder / "moto.pipe", folder / "moto.port"
    with (folder / "moto.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not pipe.exists():
            os.mkfifo(pipe)
        # Opened for both, because an end alone would wait for the other end.
        user = os.open(pipe, os.O_RDWR)
        try:
            if not accepts(ready):
                start_moto(pipe, ready)
        except BaseException:
            os.close(user)
            raise
    try:
        yield f"http://127.0.0.1:{ready.read_text()}"
    finally:
        os.close(user)


def accepts(ready: Path) -> bool:
    """Whether the S3 server of these tests is running."""
    try:
        return httpx.get(f"http://127.0.0.1:{ready.read_text()}/", trust_env=False).is_success
    except (OSError, httpx.HTTPError):
        return False


def start_moto(pipe: Path, ready: Path) -> None:
    log = ready.with_suffix(".log")
    with log.open("wb") as output:
        program = [sys.executable, "-c", SERVE_S3, str(pipe), str(ready)]
        process = subprocess.Popen(
            program, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS
    while not accepts(ready):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"The S3 server did not start: {log.read_text('utf-8', 'replace')}")
        time.sleep(0.05)
    # It outlives this worker if other workers use it, so nobody waits for its end.
    process.returncode = 0


@pytest.fixture
def bucket(moto_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new, empty bucket with a prefix. The environment has the key and the address of its server."""
    name = f"test-{uuid.uuid4().hex}"
    httpx.put(f"{moto_server}/{name}", trust_env=False).raise_for_status()
    for variable in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    return f"s3://{name}/pictures"


# ---- weights for the engine ----


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of small random weights, as `mcp-vega engine --weights` takes it. All drawings use one thread."""
    require_packages("accelerate", "diffusers", "peft", "scipy", "torch", "transformers", marker="engine")
    with pytest.MonkeyPatch.context() as environment:
        # torch reads it when it is imported. On a busy machine, more threads wait for each other most of the time.
        environment.setenv("OMP_NUM_THREADS", "1")
        from tiny_vega import write_weights

        yield write_weights(tmp_path_factory.mktemp("weights"))
