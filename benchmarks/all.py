"""Run the measures of speed one after the other, and print all their targets in one table.

    python benchmarks/all.py [--quick] [--only startup call] [--cache FOLDER]

A measure that fails, for example because a tool is missing, is named at the end with the last line that it printed.
The other measures still run. The cache is the folder into which `peers.py` installs the other servers.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
TARGET = re.compile(r"\s*target: (?P<name>.+): (?P<verdict>reached|missed) (?P<value>.+)")


class Measure(NamedTuple):
    """One benchmark: its arguments, and those that make it quick."""

    arguments: Sequence[str] = ()
    quick: Sequence[str] = ()


MEASURES: Mapping[str, Measure] = {
    "startup": Measure(quick=("--rounds", "5")),
    "call": Measure(quick=("--rounds", "6")),
    "lag": Measure(quick=("--rounds", "3")),
    "tokens": Measure(),
    "load": Measure(quick=("--rounds", "1", "--seconds", "2")),
    "growth": Measure(quick=("--pictures", "10000", "--runs", "5")),
    "jobs": Measure(quick=("--quick",)),
    "peers": Measure(quick=("--quick",)),
}


def outcome(name: str, arguments: Sequence[str]) -> tuple[list[re.Match[str]], str]:
    """Run a benchmark, and print what it prints; returns its targets, and why it failed (empty if it did not)."""
    print(f"\n# {name}\n", flush=True)
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, str(HERE / f"{name}.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    targets = [found for line in lines if (found := TARGET.fullmatch(line))]
    last = next((line for line in reversed(lines) if line), "it printed nothing")
    return targets, last if process.returncode else ""


def print_summary(outcomes: Mapping[str, tuple[list[re.Match[str]], str]]) -> None:
    """Print the table of the targets, then what failed."""
    print("\n# All targets\n\n| measure | target | | |\n|---|---|---|---|")
    for name, (targets, _) in outcomes.items():
        for found in targets:
            print(f"| {name} | {found['name']} | {found['verdict']} | {found['value']} |")
    verdicts = [found["verdict"] for targets, _ in outcomes.values() for found in targets]
    print(f"\n{verdicts.count('reached')} of {len(verdicts)} targets reached")
    for name, (_, failure) in outcomes.items():
        if failure:
            print(f"{name} failed: {failure}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a first look, not for figures")
    parser.add_argument("--only", nargs="*", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--cache", help="where peers.py installs the other servers, and keeps them")
    options = parser.parse_args()
    outcomes: dict[str, tuple[list[re.Match[str]], str]] = {}
    for name in options.only:
        measure = MEASURES[name]
        cache = ("--cache", options.cache) if name == "peers" and options.cache else ()
        outcomes[name] = outcome(name, [*(measure.quick if options.quick else measure.arguments), *cache])
    print_summary(outcomes)


if __name__ == "__main__":
    main()
