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
# How many characters of a job's prompt are shown behind its id.
PROMPT_CHARACTERS = 40


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
    """The latest jobs by their ids as `mcp-vega jobs` shows them, with their prompts; none without a usable ledger."""
    import anyio

    from mcp_vega.cli.application import open_job_store
    from mcp_vega.redaction import quoted
    from mcp_vega.settings import Settings

    async def read() -> dict[str, str]:
        settings = Settings.from_environment({**os.environ, **({"MCP_VEGA_SANDBOX": "1"} if options.sandbox else {})})
        async with open_job_store(settings) as store:
            jobs = await store.latest(JOBS) if store else []
            ids = await store.search.short_ids(jobs) if store else []
        prompts = [quoted(job.parameters.prompt, PROMPT_CHARACTERS) for job in jobs]
        return dict(zip(ids, prompts, strict=True))

    # Nobody waits for a slow ledger: the shell then offers files, or nothing.
    end = Timer(LEDGER_SECONDS, os._exit, [1])
    end.daemon = True
    end.start()
    jobs: dict[str, str] = {}
    with suppress(Exception):
        jobs = anyio.run(read)
    end.cancel()
    return jobs
