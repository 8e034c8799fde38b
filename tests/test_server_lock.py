"""Which servers are alive: locks show it. They end with their process, wherever it runs and whatever kills it."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import HANG_SECONDS, wait_until

from mcp_vega.job import new_id
from mcp_vega.storage.database.sqlite.server_lock import ServerLock

PYTHON = (sys.executable, "-W", "error", "-c")
BEGINNING = """
import os, socket, sqlite3, sys
from pathlib import Path
from mcp_vega.storage.database.sqlite.server_lock import ServerLock
lock = ServerLock(Path(sys.argv[1]))
"""
# It lives until its input ends.
SERVER = f"{BEGINNING}lock.take(); print(lock.me, flush=True); sys.stdin.read(); lock.release()"
LOOK = f"{BEGINNING}print(lock.is_alive(sys.argv[2]))"
UNSHARE = ("unshare", *(() if sys.platform == "win32" or os.geteuid() == 0 else ("-Ur",)), "--pid", "--fork", "--uts")
ELSEWHERE = (*UNSHARE, "--kill-child")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "servers"


@pytest.fixture
def lock(folder: Path) -> Iterator[ServerLock]:
    """A lock that was taken."""
    lock = ServerLock(folder)
    lock.take()
    yield lock
    lock.release()


class Server:
    """A process that holds its lock."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout
        self.id = process.stdout.readline().strip()
        assert self.id

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait(HANG_SECONDS)

    def leave(self) -> None:
        self._process.communicate(timeout=HANG_SECONDS)
        assert self._process.returncode == 0


@contextmanager
def running(program: str, *arguments: str | Path, within: tuple[str, ...] = ()) -> Generator[subprocess.Popen[str]]:
    """A Python program with pipes. It is killed at the end if it still runs."""
    command = (*within, *PYTHON, program, *map(str, arguments))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def server_in(folder: Path, within: tuple[str, ...] = (), first: str = "") -> Generator[Server]:
    with running(first + SERVER, folder, within=within) as process:
        yield Server(process)


def output_of(program: str, *arguments: str | Path, within: tuple[str, ...] = ()) -> str:
    command = (*within, *PYTHON, program, *map(str, arguments))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


def is_alive_from_outside(folder: Path, server: str, within: tuple[str, ...] = (), first: str = "") -> bool:
    return {"True": True, "False": False}[output_of(first + LOOK, folder, server, within=within)]


# ---- processes ----


def test_a_server_counts_as_alive_until_it_is_killed(folder: Path) -> None:
    look = ServerLock(folder)
    with server_in(folder) as server:
        assert look.is_alive(server.id)
        with look.locked_if_dead(server.id) as dead:
            assert not dead
        server.kill()
        assert not look.is_alive(server.id)
    assert look.servers() == [server.id]
    with look.locked_if_dead(server.id) as dead:
        assert dead
    assert look.servers() == []


def test_a_killed_server_leaves_only_its_file(folder: Path) -> None:
    with server_in(folder) as server:
        assert names_in(folder) == [server.id]
        server.kill()
    assert names_in(folder) == [server.id]
    assert (folder / server.id).stat().st_size == 0


def test_a_server_that_ends_removes_its_file(folder: Path) -> None:
    with server_in(folder) as server:
        server.leave()
    assert names_in(folder) == []
    assert not ServerLock(folder).is_alive(server.id)


def works_elsewhere() -> bool:
    try:
        return subprocess.run((*ELSEWHERE, "true"), capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def elsewhere() -> tuple[str, ...]:
    """The words before a command that run it with other process numbers and another host name, as in a container."""
    if not works_elsewhere():
        pytest.skip("unshare does not work here")
    return ELSEWHERE


OTHER_HOST = "import os, socket; socket.sethostname('elsewhere'); assert os.getpid() < 9\n"


def test_a_server_in_a_container_can_be_seen_alive_and_dead(folder: Path, elsewhere: tuple[str, ...]) -> None:
    look = ServerLock(folder)
    with server_in(folder, elsewhere, OTHER_HOST) as server:
        assert look.is_alive(server.id)
        server.kill()  # the process is `unshare`; its child ends with it
        wait_until(lambda: not look.is_alive(server.id))


def test_a_server_can_be_seen_alive_and_dead_from_within_a_container(folder: Path, elsewhere: tuple[str, ...]) -> None:
    with server_in(folder) as server:
        assert is_alive_from_outside(folder, server.id, elsewhere, OTHER_HOST)
        server.kill()
        assert not is_alive_from_outside(folder, server.id, elsewhere, OTHER_HOST)


def test_if_many_servers_look_at_a_dead_server_only_one_at_a_time_obtains_its_lock(
    folder: Path, tmp_path: Path
) -> None:
    with server_in(folder) as server:
        server.kill()
    # Every look after the first finds a file that another one has just deleted or is creating again.
    program = f"""{BEGINNING}
print("ready", flush=True)
sys.stdin.readline()
obtained = 0
for _ in range(30):
    with lock.locked_if_dead(sys.argv[2]) as dead:
        if dead:
            os.close(os.open(sys.argv[3], os.O_CREAT | os.O_EXCL))
            os.unlink(sys.argv[3])
            obtained += 1
print(obtained)
"""
    with ExitStack() as stack:
        alone = tmp_path / "alone"
        lookers = [stack.enter_context(running(program, folder, server.id, alone)) for _ in range(8)]
        for each in lookers:
            assert each.stdout
            assert each.stdout.readline() == "ready\n"
        for each in lookers:
            assert each.stdin
            each.stdin.write("\n")
            each.stdin.flush()
        obtained = [int(each.communicate(timeout=HANG_SECONDS)[0]) for each in lookers]
    assert [each.returncode for each in lookers] == [0] * 8
    assert sum(obtained) >= 1
    assert names_in(folder) == []


# ---- within one process ----


def test_looks_within_one_process_release_no_lock(folder: Path, lock: ServerLock) -> None:
    other = ServerLock(folder)
    other.take()
    for _ in range(3):
        assert lock.is_alive(other.me)
        assert other.is_alive(lock.me)
        with lock.locked_if_dead(other.me) as dead:
            assert not dead
        assert lock.is_alive(lock.me)
        with lock.locked_if_dead(lock.me) as dead:
            assert not dead
    assert is_alive_from_outside(folder, lock.me)
    assert is_alive_from_outside(folder, other.me)
    other.release()
    assert not is_alive_from_outside(folder, other.me)
    assert is_alive_from_outside(folder, lock.me)


def test_threads_can_take_the_same_lock_together(folder: Path) -> None:
    lock = ServerLock(folder)
    threads = [threading.Thread(target=lock.take) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert lock.servers() == [lock.me]
    lock.release()
    assert names_in(folder) == []


def test_a_lock_can_be_taken_and_released_again(folder: Path) -> None:
    lock = ServerLock(folder)
    assert (lock.taken, lock.is_intact(), lock.servers()) == (False, False, [])
    for _ in range(2):
        lock.take()
        lock.take()
        assert (lock.taken, lock.is_intact(), lock.servers()) == (True, True, [lock.me])
        lock.release()
        lock.release()
        assert (lock.taken, lock.is_intact(), lock.servers()) == (False, False, [])


# ---- files ----


# This needs a process of its own: an audit hook cannot be removed.
DISTURBED = f"""{BEGINNING}
connections = 0
def disturb(event, arguments):
    global connections
    if event != "sqlite3.connect/handle":
        return
    connections += 1
    if connections == int(sys.argv[2]):
        path = lock._folder / first
        path.unlink()
        if sys.argv[3] == "replaced":
            path.touch()
first = lock.me
sys.addaudithook(disturb)
lock.take()
assert connections > int(sys.argv[2])
assert lock.taken and lock.is_intact()
print(lock.me == first)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete open files")
@pytest.mark.parametrize(
    ("connection", "fate", "same"),
    [("1", "deleted", "False"), ("1", "replaced", "True"), ("2", "deleted", "False"), ("2", "replaced", "False")],
)
def test_if_its_file_is_deleted_before_it_is_locked_the_server_gets_a_new_id(
    folder: Path, connection: str, fate: str, same: str
) -> None:
    """The first connection creates the file, the second locks it. A file that replaced it in between is as good."""
    assert output_of(DISTURBED, folder, connection, fate) == same


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete open files")
def test_a_locked_file_that_is_deleted_or_replaced_is_not_intact(folder: Path, lock: ServerLock) -> None:
    path = folder / lock.me
    path.rename(folder / "moved")
    assert not lock.is_intact()
    path.touch()
    assert not lock.is_intact()
    assert not is_alive_from_outside(folder, lock.me)
    lock.release()
    assert path.exists(), "this is not the file that was locked"


def test_a_missing_file_means_that_the_server_is_dead(folder: Path, lock: ServerLock) -> None:
    gone = new_id()
    assert not lock.is_alive(gone)
    assert lock.servers() == [lock.me]
    with lock.locked_if_dead(gone) as dead:
        assert dead
        assert is_alive_from_outside(folder, gone), "the server that looks has locked it"
    assert lock.servers() == [lock.me]


def test_a_look_does_not_delete_the_file_of_a_dead_server(folder: Path, lock: ServerLock) -> None:
    dead = new_id()
    (folder / dead).touch()
    assert not lock.is_alive(dead)
    assert lock.servers() == sorted((dead, lock.me))


def test_the_file_of_a_dead_server_is_kept_if_the_work_on_it_fails(folder: Path, lock: ServerLock) -> None:
    gone = new_id()
    (folder / gone).touch()
    with pytest.raises(ZeroDivisionError), lock.locked_if_dead(gone):
        raise ZeroDivisionError
    assert gone in lock.servers()
    assert not is_alive_from_outside(folder, gone)


def test_if_the_folder_is_missing_as_after_a_power_cut_all_servers_are_dead(folder: Path) -> None:
    look = ServerLock(folder)
    assert not look.is_alive(new_id())
    folder.rmdir()
    with look.locked_if_dead(new_id()) as dead:
        assert dead
    assert look.servers() == []


def test_something_that_is_not_a_lock_file_counts_as_alive_and_is_kept(folder: Path, lock: ServerLock) -> None:
    directory, text = new_id(), new_id()
    (folder / directory).mkdir()
    (folder / text).write_text("no database, but longer than the header of one. " * 99, encoding="utf-8")
    for each in (directory, text):
        assert lock.is_alive(each)
        with lock.locked_if_dead(each) as dead:
            assert not dead
        assert each in lock.servers()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root can read everything")
@pytest.mark.parametrize("mode", [0o000, 0o200, 0o400])
def test_a_file_that_cannot_be_read_or_written_counts_as_alive(folder: Path, lock: ServerLock, mode: int) -> None:
    server = new_id()
    (folder / server).touch(mode)
    assert lock.is_alive(server)
    with lock.locked_if_dead(server) as dead:
        assert not dead
    assert server in lock.servers()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root can read everything")
def test_in_a_folder_that_cannot_be_read_all_servers_count_as_alive(folder: Path, lock: ServerLock) -> None:
    folder.chmod(0)
    try:
        assert lock.is_alive(new_id())
        assert not lock.is_intact()
        with pytest.raises(OSError, match="ermission"):
            lock.servers()
    finally:
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        ServerLock(tmp_path / "file" / "servers").take()


def test_a_lock_that_cannot_be_created_is_an_error(folder: Path) -> None:
    lock = ServerLock(folder)
    (folder / lock.me).mkdir(parents=True)
    with pytest.raises(sqlite3.Error, match="open"):
        lock.take()
    assert not lock.taken


def test_other_files_in_the_folder_are_not_servers(folder: Path, lock: ServerLock) -> None:
    (folder / ".DS_Store").touch()
    (folder / f"{lock.me}-journal").touch()
    assert lock.servers() == [lock.me]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_only_this_user_can_read_the_folders_and_the_file(folder: Path, lock: ServerLock) -> None:
    modes = {path.stat().st_mode & 0o777 for path in (folder.parent, folder)}
    assert modes == {0o700}
    assert (folder / lock.me).stat().st_mode & 0o777 == 0o600
