"""A replica: a server over HTTP as a process that can be killed and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

# Seconds that a start may take on a busy machine.
START_SECONDS = 60
COMMAND = (sys.executable, "-m", "mcp_vega")


class Replica:
    """One server. Its stderr is in a file next to its folder.

    Args:
        folder: Its own disk: the home folder and the temporary folder. It stays when the process dies.
        address: The host and the port at which it serves.
        settings: Its environment.
        under: A program with arguments that starts it, such as `ip netns exec NAME`.
    """

    def __init__(
        self, folder: Path, address: tuple[str, int], settings: Mapping[str, str], under: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.address = f"{address[0]}:{address[1]}"
        self.url = f"http://{self.address}/mcp"
        self.program: Sequence[str] = COMMAND  # what the next start runs
        self._under = under
        self._arguments = ["--transport", "http", "--host", address[0], "--port", str(address[1])]
        (folder / "tmp").mkdir(parents=True)
        self._settings = {"MCP_VEGA_HOME": str(folder / "home"), **settings, "TMPDIR": str(folder / "tmp")}
        self._log = folder.with_suffix(".txt")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote to stderr since its first start."""
        return self._log.read_text(encoding="utf-8")

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._under, *self.program, *self._arguments],
                env={"PATH": os.environ["PATH"], **self._settings},
                stderr=log,
                start_new_session=True,
            )

    def wait(self, path: str = "/health") -> None:
        """Wait until it answers at this path."""
        assert self._process
        deadline = time.monotonic() + START_SECONDS
        while True:
            if (code := self._process.poll()) is not None:
                raise SystemExit(f"a replica ended with {code}:\n{self.log[-3000:]}")
            try:
                httpx.get(f"http://{self.address}{path}", trust_env=False, timeout=START_SECONDS).raise_for_status()
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._end(signal.SIGKILL)

    def end(self) -> None:
        """End it as an operator does."""
        self._end(signal.SIGTERM)

    def _end(self, signal_number: int) -> None:
        if self._process:
            self._process.send_signal(signal_number)
            self._process.wait(timeout=START_SECONDS)
            self._process = None

    def spare_files(self) -> list[Path]:
        """The pictures on its own disk."""
        folders = (Path(self._settings["MCP_VEGA_HOME"]) / "rescued", self.folder / "tmp")
        return [path for folder in folders for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".webp")]
