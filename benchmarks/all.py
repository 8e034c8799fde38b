"""Run the benchmarks of speed one after the other, and print all their targets in one table.

    python benchmarks/all.py [--quick] [--only startup call] [--cache FOLDER]

If a benchmark fails, for example because a tool is missing, its row in the table has the last line that it printed. The
others still run, and the program exits with 1. The cache is the folder into which `peers.py` installs other servers.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from figures import TARGET

HERE = Path(__file__).parent
# The benchmarks, and the options that make each one quick.
BENCHMARKS: Mapping[str, Sequence[str]] = {
    "startup": ("--rounds", "5"),
    "call": ("--rounds", "6"),
    "lag": ("--rounds", "3"),
    "tokens": (),
    "load": ("--rounds", "1", "--seconds", "2"),
    "growth": ("--pictures", "10000", "--rounds", "5"),
    "jobs": ("--quick",),
    "engine_share": ("--rounds", "5"),
    "peers": ("--rounds", "4"),
}
# A row of the table: the benchmark, the target, whether it was reached, the median with the lowest and the highest.
Row = tuple[str, str, str, str]


def rows_of(name: str, options: Sequence[str]) -> list[Row]:
    """Run a benchmark, and print what it prints; returns a row for each target, and one if it failed."""
    print(f"\n# {name}\n", flush=True)
    lines: list[str] = []
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines += [line.strip()] if line.strip() else []
    targets = [found for line in lines if (found := TARGET.fullmatch(line))]
    rows = [(name, found["name"], found["verdict"], found["value"]) for found in targets]
    if process.returncode:
        rows.append((name, "–", "failed", lines[-1] if lines else "it printed nothing"))
    return rows


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a first look, not for figures")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--cache", help="where peers.py installs the other servers, and keeps them")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.only:
        cache = ("--cache", options.cache) if name == "peers" and options.cache else ()
        rows += rows_of(name, [*(BENCHMARKS[name] if options.quick else ()), *cache])
    print("\n# All targets\n\n| benchmark | target | | median (lowest to highest) |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    verdicts = [verdict for _, _, verdict, _ in rows]
    failed = verdicts.count("failed")
    print(
        f"\n{verdicts.count('reached')} of {len(verdicts) - failed} targets reached; benchmarks that failed: {failed}"
    )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
