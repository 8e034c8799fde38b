"""`mcp-vega engine` as a process: where it serves, which engine a user has, how it ends, and what stops its start."""

import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import HANG_SECONDS, KEY, TLS, serving_in_thread, unserved_port, wait_until
from starlette.applications import Starlette
from test_command_line import COMMAND, run, run_process, settings
from txt2img_server import Txt2ImgServer, serving_txt2img

from mcp_vega.cli import output
from mcp_vega.cli.engine import requirements
from mcp_vega.cli.engine.command import MOST_CONNECTIONS
from mcp_vega.cli.engine.registration import FILE, RunningEngine, registered, running_engine
from mcp_vega.engine.diffusion.packages import PACKAGES
from mcp_vega.errors import InvalidSettings
from mcp_vega.network import serving

FOX: dict[str, Any] = {"prompt": "a fox", "seed": 1}
EVERYWHERE = "0.0.0.0"  # noqa: S104  all networks of this machine
posix = pytest.mark.skipif(sys.platform == "win32", reason="a process is ended by signals")


@pytest.fixture
def backend() -> Iterator[Txt2ImgServer]:
    with serving_txt2img() as server:
        yield server


def home_of(folder: Path) -> Path:
    return Path(settings(folder / "gallery", folder)["MCP_VEGA_HOME"])


def started(folder: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """An engine of the user whose files are in a folder."""
    return subprocess.Popen(
        [*COMMAND, "engine", "--port", "0", *arguments],
        env={**settings(folder / "gallery", folder), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(folder: Path, *arguments: str, **variables: str) -> Generator[tuple["subprocess.Popen[str]", str]]:
    """The same, once it serves, with its URL."""
    with started(folder, *arguments, **variables) as process:
        assert process.stderr
        try:
            yield process, process.stderr.readline().strip()
        finally:
            process.kill()


def client(url: str, key: str = KEY) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"x-api-key": key}, trust_env=False, verify=TLS, timeout=HANG_SECONDS)


# ---- serving ----


@posix
def test_an_engine_draws_and_tells_its_user_how_to_use_it(tmp_path: Path, backend: Txt2ImgServer) -> None:
    with running(tmp_path, "--backend", backend.url) as (process, url):
        with client(url) as http:
            assert http.post("/v1/segmind-vega", json=FOX).headers["content-type"] == "image/jpeg"
        process.terminate()
        assert process.wait(HANG_SECONDS) == 0
        assert process.stdout
        assert process.stdout.read() == ""
        assert process.stderr
        said = process.stderr.read()
    assert f"Draws through the server at {backend.url}." in said
    assert f"SEGMIND_BASE_URL={url} and SEGMIND_API_KEY=SG_anything" in said


@posix
def test_draw_uses_an_engine_like_the_api(tmp_path: Path, backend: Txt2ImgServer) -> None:
    with running(tmp_path, "--backend", backend.url) as (_, url):
        done = run_process(
            "draw", "a fox", "--seed", "5", folder=tmp_path, SEGMIND_BASE_URL=url, SEGMIND_API_KEY="SG_anything"
        )
    assert done.returncode == 0, done.stderr
    assert backend.bodies[0]["seed"] == 5
    assert Path(done.stdout.strip()).stat().st_size > 1000


@posix
def test_other_users_of_the_machine_do_not_see_the_calls_of_local(tmp_path: Path, backend: Txt2ImgServer) -> None:
    with running(tmp_path, "--backend", backend.url) as (_, url):
        assert run_process("draw", "a fox", "--local", folder=tmp_path).returncode == 0
        engine = running_engine(home_of(tmp_path))
        assert engine
        counts: list[int] = []
        for key in (engine.key, "SG_local", "SG_anything"):
            with client(url, key) as http:
                counts.append(http.get("/inference-request/request-history").text.count("a fox"))
    assert (counts[0] > 0, counts[1:]) == (True, [0, 0])


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_engine_at_once_and_cancels_its_drawing(
    tmp_path: Path, backend: Txt2ImgServer, number: signal.Signals
) -> None:
    backend.hold()
    with running(tmp_path, "--backend", backend.url) as (process, url), client(url) as http:
        answers: list[httpx.Response] = []
        call = threading.Thread(target=lambda: answers.append(http.post("/v1/segmind-vega", json=FOX)))
        call.start()
        wait_until(lambda: backend.bodies)
        process.send_signal(number)
        assert process.wait(HANG_SECONDS) == 0
        call.join()
    assert backend.interrupts == 1
    assert answers[0].json()["error"].startswith("The call was cancelled")
    assert running_engine(home_of(tmp_path)) is None


@posix
def test_an_engine_has_the_key_of_its_user_alone(tmp_path: Path, backend: Txt2ImgServer) -> None:
    key = "my-own-secret-key-1"
    with running(tmp_path, "--backend", backend.url, "--host", EVERYWHERE, MCP_VEGA_ENGINE_KEY=key) as (process, url):
        port = url.rpartition(":")[2]
        engine = running_engine(home_of(tmp_path))
        assert engine
        assert (engine.url, engine.key, engine.pid) == (f"http://127.0.0.1:{port}", key, process.pid)
        assert key not in repr(engine)
        for given, status in ((key, 200), ("SG_other", 401), (key + "x", 401)):
            with client(engine.url, given) as http:
                assert http.get("/v1/get-user-credits").status_code == status
        process.terminate()
        assert process.stderr
        said = process.stderr.read()
    assert key not in said
    assert "SEGMIND_API_KEY=the value of MCP_VEGA_ENGINE_KEY" in said


@posix
@pytest.mark.parametrize(("host", "here"), [("::1", "[::1]"), ("::", "[::1]")])
def test_an_engine_serves_over_ipv6_as_well(tmp_path: Path, backend: Txt2ImgServer, host: str, here: str) -> None:
    require_ipv6()
    options = ("--backend", backend.url, "--host", host)
    with running(tmp_path, *options, MCP_VEGA_ENGINE_KEY="my-own-secret-key-1") as (_, url):
        engine = running_engine(home_of(tmp_path))
        assert engine
        assert engine.url == f"http://{here}:{url.rpartition(':')[2]}"
        with client(engine.url, engine.key) as http:
            assert http.get("/v1/get-user-credits").status_code == 200


def require_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")


@posix
def test_an_engine_serves_while_its_backend_is_down_and_says_so(tmp_path: Path) -> None:
    with unserved_port() as port, running(tmp_path, "--backend", url := f"http://127.0.0.1:{port}") as (process, _):
        assert process.stderr
        for line in process.stderr:
            if "cannot draw" in line:
                assert f"The server at {url}, which draws, cannot be reached" in line
                break
        assert running_engine(home_of(tmp_path))


@posix
def test_silent_connections_neither_take_all_files_of_an_engine_nor_stay(
    tmp_path: Path, backend: Txt2ImgServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a free file, an engine accepts no call, and writes thousands of lines a second into its log."""
    with ExitStack() as stack, running(tmp_path, "--backend", backend.url) as (_, url):

        def connect(url: str) -> socket.socket:
            address = httpx.URL(url)
            made = socket.create_connection((address.host, address.port or 0), HANG_SECONDS)
            return stack.enter_context(made)

        silent = [connect(url) for _ in range(MOST_CONNECTIONS)]
        with suppress(ConnectionResetError):
            assert connect(url).recv(1) == b"", "one more is closed at once"
        silent.pop().close()
        with client(url) as http:
            assert wait_until(lambda: _is_answered(http))
        monkeypatch.setattr(serving, "HEADER_SECONDS", 0.01)
        with serving_in_thread(Starlette()) as other:
            assert connect(other).recv(1) == b"", "one that stays silent is closed later"


def _is_answered(http: httpx.Client) -> bool:
    try:
        return http.get("/v1/get-user-credits").status_code == 200
    except httpx.TransportError:  # the engine has not noticed yet that a connection is closed
        return False


# ---- the end ----

# An engine over a painter of its own, in a process.
PROGRAM = """
import sys, threading
from pathlib import Path
import anyio
from mcp_vega.cli.engine.command import Service, serve
from mcp_vega.cli.engine.registration import registered
from mcp_vega.engine.backend.painter import BackendPainter
from mcp_vega.engine.errors import DeviceLostError
from mcp_vega.engine.painter import InThread

class Stuck:
    name = "a GPU whose driver hangs"
    def load(self): threading.Event().wait()

class Lost:
    name = "a GPU whose driver went away"
    def load(self): pass
    def draw(self, parameters, seed, on_step): raise DeviceLostError("The driver went away", "Call again")
    def close(self): pass

home, what, idle = sys.argv[1:]
painter = InThread(globals()[what]()) if what in ("Stuck", "Lost") else BackendPainter(what)
with registered(Path(home)) as publish:
    anyio.run(serve, Service(painter, "a test", idle_seconds=float(idle)), publish)
"""


def program(folder: Path, painter: str, idle_seconds: float) -> "subprocess.Popen[str]":
    """An engine; `painter` is `Stuck`, `Lost` or the URL of a backend."""
    arguments = [sys.executable, "-c", PROGRAM, str(folder), painter, str(idle_seconds)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


@posix
def test_an_engine_that_nobody_uses_ends(tmp_path: Path, backend: Txt2ImgServer) -> None:
    with program(tmp_path, backend.url, 0.01) as process:
        assert process.wait(HANG_SECONDS) == 0
    assert running_engine(tmp_path) is None


@posix
def test_an_engine_ends_even_if_a_thread_of_its_painter_hangs(tmp_path: Path) -> None:
    with program(tmp_path, "Stuck", 3600) as process:
        assert process.stderr
        process.stderr.readline()
        process.terminate()
        assert process.wait(HANG_SECONDS) == 0
    assert running_engine(tmp_path) is None


@posix
def test_an_engine_that_lost_its_device_says_so_and_ends_so_that_another_one_can_start(tmp_path: Path) -> None:
    with program(tmp_path, "Lost", 3600) as process:
        assert process.stderr
        with client(process.stderr.readline().strip()) as http:
            request_id = http.post("/v2/segmind-vega", json=FOX).json()["request_id"]
            error = wait_until(lambda: http.get(f"/v2/requests/{request_id}/status").json().get("error"))
        assert error == "The driver went away. Call again"
        assert process.wait(HANG_SECONDS) == 0
    assert running_engine(tmp_path) is None


@posix
def test_after_an_engine_was_killed_the_next_one_can_start(tmp_path: Path, backend: Txt2ImgServer) -> None:
    with running(tmp_path, "--backend", backend.url) as (process, _):
        process.kill()
        process.wait(HANG_SECONDS)
    assert (home_of(tmp_path) / FILE).exists()
    assert running_engine(home_of(tmp_path)) is None
    with running(tmp_path, "--backend", backend.url) as (process, url):
        found = running_engine(home_of(tmp_path))
        assert found
        assert (found.url, found.pid) == (url, process.pid)


@posix
def test_an_engine_whose_lock_was_deleted_ends_and_leaves_the_file_of_its_successor(
    tmp_path: Path, backend: Txt2ImgServer
) -> None:
    """Somebody has deleted the home folder, for example. No server finds the first engine then."""
    with running(tmp_path, "--backend", backend.url) as (first, _):
        shutil.rmtree(home_of(tmp_path))
        with running(tmp_path, "--backend", backend.url) as (second, _):
            assert first.wait(HANG_SECONDS) == 0
            found = running_engine(home_of(tmp_path))
            assert found
            assert found.pid == second.pid


# ---- one engine for each user ----


@posix
def test_a_second_engine_of_a_user_is_refused_and_told_where_the_first_one_is(
    tmp_path: Path, backend: Txt2ImgServer
) -> None:
    with running(tmp_path, "--backend", backend.url) as (process, url):
        second = run_process("engine", "--port", "0", "--backend", backend.url, folder=tmp_path)
        assert second.returncode == 2
        assert f"This user already has an engine at {url} (process {process.pid})" in second.stderr
        assert process.poll() is None


@posix
def test_of_several_engines_that_start_at_once_one_serves(tmp_path: Path, backend: Txt2ImgServer) -> None:
    processes = [started(tmp_path, "--backend", backend.url) for _ in range(3)]
    try:
        wait_until(lambda: sum(process.poll() is not None for process in processes) == 2)
        (left,) = [process for process in processes if process.poll() is None]
        found = wait_until(lambda: running_engine(home_of(tmp_path)))
        assert found.pid == left.pid
        assert [process.returncode for process in processes if process is not left] == [2, 2]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_look_whether_an_engine_runs_does_not_keep_one_from_starting(tmp_path: Path) -> None:
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            assert running_engine(tmp_path) in (None, ENGINE)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for each in lookers:
        each.start()
    try:
        for _ in range(20):
            with registered(tmp_path) as publish:
                publish(ENGINE)
                assert running_engine(tmp_path) == ENGINE
    finally:
        done.set()
        for each in lookers:
            each.join()


# ---- the file of an engine ----

ENGINE = RunningEngine("http://127.0.0.1:1", "SG_local", 1, "1.0")


def test_the_file_of_an_engine_is_for_its_user_alone(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    with registered(home) as publish:
        assert running_engine(home) is None, "it accepts no calls yet"
        publish(ENGINE)
        if sys.platform != "win32":
            assert [stat.S_IMODE(path.stat().st_mode) for path in (home, home / FILE)] == [0o700, 0o600]
        assert running_engine(home) == ENGINE
    assert not (home / FILE).exists()


def make_link(file: Path) -> None:
    elsewhere = file.with_name("elsewhere")
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def give_away(file: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file to another user")
    os.chown(file, 12345, 12345)


def write(data: bytes) -> Callable[[Path], Any]:
    return lambda file: file.write_bytes(data)


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "readable": (lambda file: file.chmod(0o644), "can be read or written by other users"),
    "link": (make_link, "is not a regular file"),
    "other user": (give_away, "belongs to another user"),
    "other fields": (write(b"{}"), "is not one that this version writes"),
    "half": (write(b"[1"), "is not one that this version writes"),
    "no text": (write(b"\xff"), "is not one that this version writes"),
}


@posix
@pytest.mark.parametrize("kind", CHANGES)
def test_a_file_that_may_not_be_of_this_users_engine_is_not_believed(tmp_path: Path, kind: str) -> None:
    change, said = CHANGES[kind]
    with registered(tmp_path) as publish:
        publish(ENGINE)
        change(tmp_path / FILE)
        with pytest.raises(InvalidSettings, match=said):
            running_engine(tmp_path)


@posix
def test_an_engine_does_not_start_over_a_file_of_another_user(tmp_path: Path, backend: Txt2ImgServer) -> None:
    file = home_of(tmp_path) / FILE
    file.parent.mkdir()
    file.write_text("{}", encoding="utf-8")
    file.chmod(0o666)
    refused = run("engine", "--port", "0", "--backend", backend.url, folder=tmp_path)
    assert refused.returncode == 2
    assert f"The file {file} can be read or written by other users" in refused.stderr
    assert "Next: End the engine if it is yours, delete the file" in refused.stderr


# ---- what stops a start ----


def packages_in(folder: Path) -> str:
    """A folder in which all packages of the extra `local` are found. None of them can be imported."""
    for name in PACKAGES:
        (folder / f"{name}.py").write_text("raise AssertionError('imported')", encoding="utf-8")
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.skipif(all(find_spec(name) for name in PACKAGES), reason="the extra `local` is installed")
def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    done = run("engine", "--port", "0", folder=tmp_path)
    assert done.returncode == 2
    assert "the extra `local`" in done.stderr
    assert "install 'mcp-vega[local]'`" in done.stderr
    assert "with --backend" in done.stderr


def test_without_the_extra_and_without_pip_the_step_names_the_pip_of_another_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README makes an environment without pip."""

    def found(_: str) -> None:
        """No package is."""

    for module in (output, requirements):
        monkeypatch.setattr(module, "find_spec", found)
    done = run("engine", "--port", "0", folder=tmp_path)
    step = done.stderr[done.stderr.index("Run `") + len("Run `") :].partition("`")[0]
    python, *rest = shlex.split(step)
    assert (python, rest[-2:]) == ("python3", ["install", "mcp-vega[local]"])
    pytest.importorskip("pip")
    listed = subprocess.check_output([sys.executable, *rest[:-2], "list"], text=True)
    assert re.search("^pytest ", listed, re.MULTILINE)


def test_without_weights_the_error_names_the_command_that_fetches_them(tmp_path: Path) -> None:
    variables = {"PYTHONPATH": packages_in(tmp_path), "HF_HOME": str(tmp_path / "cache")}
    done = run_process("engine", "--port", "0", folder=tmp_path, **variables)
    assert done.returncode == 2
    assert "mcp-vega weights" in done.stderr
    elsewhere = run_process("engine", "--port", "0", "--weights", str(tmp_path / "none"), folder=tmp_path, **variables)
    assert str(tmp_path / "none") in elsewhere.stderr


def test_a_port_that_is_taken_is_an_error_that_names_it(tmp_path: Path, backend: Txt2ImgServer) -> None:
    port = backend.url.rpartition(":")[2]
    done = run_process("engine", "--port", port, "--backend", backend.url, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: Port {port} on 127.0.0.1 is not available")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", EVERYWHERE, "--backend", "http://127.0.0.1:1"], "Set MCP_VEGA_ENGINE_KEY to a key that only your"),
        (["--backend", "7860"], "it must be the address of a server, such as http://127.0.0.1:7860"),
        (["--backend", "http://127.0.0.1:1", "--weights", "w"], "Leave out --weights and --device, or --backend"),
        (["--backend", "http://127.0.0.1:1", "--device", "cpu"], "Leave out --weights and --device, or --backend"),
    ],
)
def test_options_that_cannot_be_used_are_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = run("engine", "--port", "0", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (home_of(tmp_path) / FILE).exists()


def test_a_home_folder_that_cannot_be_made_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = run(
        "engine", "--backend", "http://127.0.0.1:1", folder=tmp_path, MCP_VEGA_HOME=str(tmp_path / "file" / "home")
    )
    assert done.returncode == 2
    assert "Next: Set MCP_VEGA_HOME to a folder" in done.stderr


def test_a_wrong_setting_of_the_server_does_not_stop_its_engine(tmp_path: Path) -> None:
    done = run("engine", "--backend", "7860", folder=tmp_path, MCP_VEGA_WAIT_SECONDS="x")
    assert "it must be the address of a server" in done.stderr
    done = run("engine", "--backend", "7860", folder=tmp_path, MCP_VEGA_LOG_LEVEL="x")
    assert "MCP_VEGA_LOG_LEVEL cannot be used" in done.stderr
