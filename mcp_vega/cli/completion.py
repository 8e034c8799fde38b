"""`mcp-vega completion`: what a shell offers when the user presses Tab.

The shell runs `mcp-vega` with the line so far in its environment, so it always knows the options of this version.
"""

import os
import re
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterable, Mapping
from contextlib import suppress
from threading import Timer
from typing import get_args

import argcomplete
from argcomplete.completers import BaseCompleter, FilesCompleter
from argcomplete.shell_integration import shellcode

from mcp_vega.cli.output import write

# How many jobs are offered, and how long the ledger may take to name them (seconds).
JOBS, LEDGER_SECONDS = 20, 1.5
# What is shown of a job: so many digits of its id, as `mcp-vega jobs` shows and takes, and the beginning of its prompt.
DIGITS, PROMPT_CHARACTERS = 8, 40


def run_completion(options: Namespace, _: Mapping[str, str]) -> int:
    """Print the script for a shell; returns the exit code."""
    write(shellcode(["mcp-vega"], shell=options.shell).strip())
    return 0


def answer_shell(parser: ArgumentParser) -> None:
    """Print what may follow the line in the environment, and end the process."""
    # Options are offered when the user has typed a dash: else they would hide the few words that fit.
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=_Values())


class _Values(BaseCompleter):
    """The values of options and arguments that have no fixed choices; of some with a description for each.

    What a value needs is imported only when the value is asked for: so a command is completed fast.
    """

    def __call__(self, *, prefix: str, action: Action, parser: ArgumentParser, parsed_args: Namespace) -> Iterable[str]:
        files = FilesCompleter()(prefix) if action.metavar in ("FILE", "PICTURE") else []
        match parser.prog.rpartition(" ")[2], action.dest:
            case "draw", "model":
                from mcp_vega.parameters import MODELS

                return {model.alias: name for name, model in MODELS.items()}
            case "draw", "scheduler":
                from mcp_vega.parameters import Scheduler

                return get_args(Scheduler)
            case ("jobs", "id") | ("draw", "like") | ("recipe", "file") if re.fullmatch(r"[\w-]*", prefix):
                return {**dict.fromkeys(files, ""), **_recent_jobs(parsed_args)}
            case _:
                return files


def _recent_jobs(options: Namespace) -> dict[str, str]:
    """The latest jobs by the first digits of their ids, with their prompts; none if the ledger cannot be read."""
    import anyio

    from mcp_vega.cli.application import open_job_store
    from mcp_vega.job import Job
    from mcp_vega.redaction import quoted
    from mcp_vega.settings import Settings

    async def read() -> list[Job]:
        settings = Settings.from_environment({**os.environ, **({"MCP_VEGA_SANDBOX": "1"} if options.sandbox else {})})
        async with open_job_store(settings) as store:
            return await store.latest(JOBS) if store else []

    # Nobody waits for a slow ledger: the shell then offers files, or nothing.
    end = Timer(LEDGER_SECONDS, os._exit, [1])
    end.daemon = True
    end.start()
    jobs: dict[str, str] = {}
    with suppress(Exception):
        for job in anyio.run(read):
            digits = job.request_id.removeprefix("local-")
            short = digits[:DIGITS]
            jobs[digits if short in jobs else short] = quoted(job.parameters.prompt, PROMPT_CHARACTERS)
    end.cancel()
    return jobs
