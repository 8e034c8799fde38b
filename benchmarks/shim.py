"""Makes a server's flushes slow, or kills it at a system call, with a library that is preloaded into it (Linux)."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
# The library's record: the number of calls, the call at which the process was killed, and its file or socket.
RECORD, COUNT, CALL = 4096, 8, 56


def compiler() -> str:
    """The path of a C compiler."""
    found = shutil.which("cc") or shutil.which("gcc")
    if found is None or not sys.platform.startswith("linux"):
        raise SystemExit("This needs Linux and a C compiler: neither cc nor gcc is installed here")
    return found


def compiled(folder: Path) -> Path:
    """Compile the library in a folder; returns its path."""
    library = folder / "shim.so"
    subprocess.run([compiler(), "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class KillRecord:
    """The file that the library writes. It can be read after the process was killed."""

    file: Path

    def clear(self) -> None:
        """Reset it."""
        self.file.write_bytes(bytes(RECORD))

    @property
    def count(self) -> int:
        """How many system calls were made."""
        return int.from_bytes(self.file.read_bytes()[:COUNT], sys.byteorder)

    @property
    def killed_at(self) -> tuple[str, str]:
        """The name of the system call at which the process was killed, and its file; empty if it was not killed."""
        texts = self.file.read_bytes()[COUNT:]
        call, target = (part.partition(b"\0")[0].decode(errors="replace") for part in (texts[:CALL], texts[CALL:]))
        return call, target
