"""`mcp-vega weights`: fetches the open weights into the user's Hugging Face cache, shows or deletes them."""

import errno
import os
import sys
from argparse import Namespace
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import httpx

from mcp_vega import __version__
from mcp_vega.cli.draw.screen import Screen
from mcp_vega.cli.engine.file_lock import try_lock
from mcp_vega.cli.gallery.folder import readable
from mcp_vega.cli.output import command_line, write
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.weights.cache import cache_folder, partial_files, snapshot_folder
from mcp_vega.engine.weights.catalog import LICENSE, REPOSITORIES, VEGA, Repository
from mcp_vega.engine.weights.download import bytes_to_fetch, fetch, free_bytes, is_there, needed_files
from mcp_vega.engine.weights.hub import HUB, Hub, HubFile
from mcp_vega.engine.weights.located import check_vega, check_vega_rt, find_weights, folder_of
from mcp_vega.engine.weights.removal import bytes_used, remove
from mcp_vega.errors import InvalidArguments, InvalidSettings
from mcp_vega.network.addresses import is_loopback
from mcp_vega.redaction import printable
from mcp_vega.settings import Settings

FOLDER = "MCP_VEGA_WEIGHTS"
# The disk keeps so much free for everything else.
RESERVE = 100_000_000
# Seconds that a connection may take to open, or to send more.
SILENT_SECONDS = 30
# Seconds between two changes of the line that shows the progress.
PAUSE_SECONDS = 0.1
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_weights(options: Namespace, environment: Mapping[str, str]) -> int:
    """Fetch, show or delete the weights; returns the exit code."""
    folder = Settings.from_environment({FOLDER: environment.get(FOLDER, "")}).weights
    if options.status:
        return _status(folder, environment)
    if folder:
        what = f"{FOLDER} names the folder {folder}, and this command changes only your Hugging Face cache"
        raise InvalidSettings(what, next_step=f"Unset {FOLDER}, or change that folder yourself")
    cache = cache_folder(environment)
    try:
        with _disk_errors(cache):
            if options.remove:
                return _remove(cache, confirmed=options.yes)
            return _fetch(cache, environment, confirmed=options.yes)
    except EngineError as error:
        sys.stderr.write(f"Error: {printable(error.what)}.\nNext: {printable(error.next_step)}.\n")
        return 1


# ---- what is there ----


def _status(folder: Path | None, environment: Mapping[str, str]) -> int:
    """Print which weights are there; 1 if a part is missing."""
    cache, steps = cache_folder(environment), list[str]()
    for repository in REPOSITORIES:
        place = folder_of(repository, folder, environment)
        try:
            check = check_vega if repository is VEGA else check_vega_rt
            check(place, in_cache=folder is None)
        except EngineError as error:
            steps.append(error.next_step)
            write(f"{repository.title}: not complete\n  {printable(error.what)}.")
        else:
            write(f"{repository.title}: {readable(bytes_used(place))} in {place}")
        if folder is None and (size := _bytes_in_parts(cache, repository)):
            write(f"  {readable(size)} of a file that is not complete; the next download continues it.")
    for step in dict.fromkeys(steps):
        write(f"Next: {printable(step)}.")
    return int(bool(steps))


def _bytes_in_parts(cache: Path, repository: Repository) -> int:
    return sum(path.stat().st_size for path in partial_files(cache, repository))


# ---- to delete ----


def _remove(cache: Path, *, confirmed: bool) -> int:
    sizes = {each: bytes_used(snapshot_folder(cache, each)) + _bytes_in_parts(cache, each) for each in REPOSITORIES}
    there = [each for each, size in sizes.items() if size]
    if not there:
        sys.stderr.write(f"There are no weights in {cache}.\n")
        return 0
    names = " and ".join(each.title for each in there)
    sys.stderr.write(f"{names} in {cache} would be deleted: {readable(sum(sizes.values()))}.\n")
    if not confirmed and not _agreed("Delete them? [y/N] ", default=False):
        sys.stderr.write("Nothing was deleted.\n")
        return 1
    with _locked(cache):
        for each in there:
            remove(cache, each)
    sys.stderr.write("Deleted.\n")
    return 0


# ---- to fetch ----


def _fetch(cache: Path, environment: Mapping[str, str], *, confirmed: bool) -> int:
    if environment.get("HF_HUB_OFFLINE", "").lower() in {"1", "on", "yes", "true"}:
        raise EngineError("HF_HUB_OFFLINE is set, so nothing may be fetched", "Unset it, and run this again")
    progress = _Progress(environment)
    with _open_hub(environment) as hub, _locked(cache):
        files = needed_files(hub)
        missing = _missing(cache, files, progress)
        if missing:
            size = bytes_to_fetch(cache, missing)
            _announce(hub, cache, files, size)
            _require_space(cache, size)
            if not confirmed and not _agreed("Fetch them? [Y/n] ", default=True):
                sys.stderr.write("Nothing was fetched.\n")
                return 1
            _fetch_all(hub, cache, missing, progress)
    find_weights(None, environment)
    draw = command_line("draw", '"a fox"', "--local")
    sys.stderr.write(f"The weights are complete, and the same that {hub.host} states. To draw with them: `{draw}`\n")
    return 0


def _missing(cache: Path, files: Sequence[HubFile], progress: "_Progress") -> list[HubFile]:
    """The files that are not in the cache, or not as the hub states them."""
    missing: list[HubFile] = []
    for number, file in enumerate(files):
        progress.show(f"Checking {file.repository.title}/{file.path}", number / len(files))
        if not is_there(cache, file):
            missing.append(file)
    progress.clear()
    return missing


def _announce(hub: Hub, cache: Path, files: Sequence[HubFile], size: int) -> None:
    """Say what would be fetched, from where and to where."""
    sys.stderr.write(f"The open weights ({LICENSE}), from {hub.host} into {cache}:\n")
    for each in REPOSITORIES:
        whole = sum(file.bytes for file in files if file.repository is each)
        sys.stderr.write(f"  {each.name}, revision {each.revision}: {readable(whole)}\n")
    sys.stderr.write(f"To fetch: {readable(size)}. Free on that disk: {readable(free_bytes(cache))}.\n")


def _require_space(cache: Path, size: int) -> None:
    lacking = size + RESERVE - free_bytes(cache)
    if lacking > 0:
        what = f"The disk of {cache} has too little space: {readable(lacking)} more are needed"
        raise EngineError(
            what, "Free so much, or set HF_HOME to a folder on a larger disk; the engine needs it as well"
        )


def _fetch_all(hub: Hub, cache: Path, files: Sequence[HubFile], progress: "_Progress") -> None:
    try:
        done = sum(file.bytes for file in files) - bytes_to_fetch(cache, files)
        progress.begin(done, sum(file.bytes for file in files))
        for file in files:
            progress.fetching(file)
            fetch(hub, cache, file, progress.add)
    except KeyboardInterrupt:
        progress.clear()
        sys.stderr.write("Interrupted. What is fetched stays; run this again to continue.\n")
        raise
    finally:
        progress.clear()


@contextmanager
def _locked(cache: Path) -> Generator[None]:
    """Keep other processes from changing the same cache while the block runs.

    Raises:
        EngineError: Another process changes it.
        OSError: The cache cannot be written.
    """
    folder = cache / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mcp-vega-weights.lock").open("ab") as lock:
        if not try_lock(lock.fileno()):
            what = f"Another `mcp-vega weights` is changing {cache}"
            raise EngineError(what, "Wait until it has ended, or end it; then run this again")
        yield


@contextmanager
def _open_hub(environment: Mapping[str, str]) -> Generator[Hub]:
    """The hub, or the mirror that the environment names."""
    url = environment.get("HF_ENDPOINT") or HUB
    headers = {"user-agent": f"mcp-vega/{__version__}"}
    try:
        here = is_loopback(httpx.URL(url).host)
        http = httpx.Client(trust_env=not here, headers=headers, timeout=SILENT_SECONDS)
    except (OSError, ImportError, ValueError, httpx.InvalidURL) as error:  # its text may hold a proxy's password
        variables = "HF_ENDPOINT, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE"
        what = f"The environment names an address or a file that cannot be used ({type(error).__name__})"
        raise EngineError(what, f"Correct the variables that are set of {variables}") from None
    with http:
        yield Hub(http, url)


@contextmanager
def _disk_errors(cache: Path) -> Generator[None]:
    """Say what to do if a file cannot be written or read.

    Raises:
        EngineError: In place of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_IS_FULL:
            what = f"The disk of {cache} is full"
            raise EngineError(what, "Free some space and run `mcp-vega weights` again; it continues") from error
        what = f"{os.fsdecode(error.filename or cache)} cannot be changed: {error.strerror or error}"
        next_step = (
            "Give this user the right to change it, or set HF_HOME to another folder; the engine needs it as well"
        )
        raise EngineError(what, next_step) from error


def _agreed(question: str, *, default: bool) -> bool:
    """Ask; an empty line is the default.

    Raises:
        InvalidArguments: There is nobody to ask.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise InvalidArguments("mcp-vega asks first, and there is no terminal to ask at", next_step="Add --yes")
    sys.stderr.write(question)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        sys.stderr.write("\n")
        return False
    answer = line.strip().lower()
    return answer in {"y", "yes"} or (default and not answer)


class _Progress:
    """A bar on a terminal; elsewhere a line for each large file."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._screen = Screen.of(environment)
        self._shown = 0.0
        self._begun, self._name = 0.0, ""
        self._first = self._done = self._total = 0

    def begin(self, done: int, total: int) -> None:
        """Count bytes from here on."""
        self._shown = 0.0
        self._begun, self._first, self._done, self._total = monotonic(), done, done, total

    def fetching(self, file: HubFile) -> None:
        """Say which file comes now."""
        self._name = f"{file.repository.title}/{file.path}"
        if not self._screen.is_interactive:
            sys.stderr.write(f"Fetching {self._name}: {readable(file.bytes)}\n")
            sys.stderr.flush()

    def add(self, size: int) -> None:
        """Count bytes that have come."""
        self._done += size
        rate = (self._done - self._first) / max(monotonic() - self._begun, PAUSE_SECONDS)
        amount = f"{readable(self._done)} of {readable(self._total)}"
        self.show(f"{amount}, {readable(max(rate, 0))}/s, {self._name}", self._done / max(self._total, 1))

    def show(self, message: str, share: float) -> None:
        """Show what is being done, a few times a second."""
        if self._screen.is_interactive and monotonic() - self._shown > PAUSE_SECONDS:
            self._shown = monotonic()
            self._screen.show_progress(message, share)

    def clear(self) -> None:
        """Remove the bar."""
        self._screen.clear_progress()
