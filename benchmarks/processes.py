"""Processes that serve HTTP for a benchmark, and how much memory and processor time a process uses (Linux)."""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Served:
    """A process that serves. `report` is what it printed at its end."""

    url: str
    pid: int
    report: dict[str, Any] = field(default_factory=dict[str, Any])


@contextmanager
def stand_in(*arguments: str) -> Generator[Served]:
    """Run a Python program that prints its URL as JSON, and serves until its stdin ends.

    When it ends, it may print a report as JSON.
    """
    with subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        served = Served(json.loads(process.stdout.readline()), process.pid)
        try:
            yield served
        finally:
            process.stdin.close()
            served.report |= json.loads(process.stdout.read() or "{}")


@contextmanager
def http_server(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Generator[Served]:
    """Run a Python program that writes its URL as the first line of stderr, and terminate it after the block."""
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen([sys.executable, *arguments], env=environment, stderr=stderr)
    try:
        while "\n" not in (written := log.read_text(encoding="utf-8")):
            assert process.poll() is None, written
            time.sleep(0.05)
        yield Served(written.split("\n", 1)[0], process.pid)
    finally:
        process.terminate()
        process.wait()


def status(pid: int, name: str) -> int:
    """A number of the process's status, such as its threads. Linux only."""
    (found,) = re.findall(rf"{name}:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    return int(found)


def memory_of(pid: int, name: str = "VmRSS") -> float:
    """The memory in MB that a process has now (VmRSS), or had at most (VmHWM); NaN if the system does not show it."""
    return status(pid, name) * 1024 / 1e6 if sys.platform == "linux" else math.nan


def processor_seconds(pid: int, *, ended_children: bool = False) -> float:
    """How long a process has used the processor, also with its children that have ended. Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if ended_children else 13])) / os.sysconf("SC_CLK_TCK")
