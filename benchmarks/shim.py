"""Has a server's flushes take longer, or kills it at a system call, by a library that is preloaded into it (Linux)."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
# The library's record: how many calls, what the process was killed at, and the file or socket of that.
RECORD, COUNT, CALL = 4096, 8, 56


def compiler() -> str:
    """The path of a C compiler."""
    found = shutil.which("cc") or shutil.which("gcc")
    if found is None or not sys.platform.startswith("linux"):
        raise SystemExit("This needs Linux and a C compiler: neither cc nor gcc is installed here")
    return found


def compiled(folder: Path) -> Path:
    """Make the library in a folder; returns its path."""
    library = folder / "shim.so"
    subprocess.run([compiler(), "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class KillRecord:
    """What the library notes in a file that it shares: also after the process is killed."""

    file: Path

    def clear(self) -> None:
        """Begin anew."""
        self.file.write_bytes(bytes(RECORD))

    @property
    def count(self) -> int:
        """How many system calls were made."""
        return int.from_bytes(self.file.read_bytes()[:COUNT], sys.byteorder)

    @property
    def killed_at(self) -> tuple[str, str]:
        """The name of the system call that the process was killed at, and its file; empty where it was not."""
        texts = self.file.read_bytes()[COUNT:]
        call, target = (part.partition(b"\0")[0].decode(errors="replace") for part in (texts[:CALL], texts[CALL:]))
        return call, target
