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
from argcomplete.completers import BaseCompleter
from argcomplete.shell_integration import shellcode

from mcp_vega.cli.output import write

# How many jobs are offered, and how long the ledger may take to name them (seconds).
JOBS, LEDGER_SECONDS = 20, 1.5
# How many characters of a job's prompt are shown behind its id.
PROMPT_CHARACTERS = 40
# A shell takes a line break for the end of a name; bytes that are not UTF-8 cannot be sent to it.
_NOT_OFFERED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


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
        files = _files(prefix) if action.metavar in ("FILE", "PICTURE") else []
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


def _files(prefix: str) -> list[str]:
    """The files and folders whose paths begin with the prefix; those of folders end in a slash.

    argcomplete's own completer has bash list them: it fails if there is no bash, and its versions before 3.7 let bash
    run commands that are in the name of a folder.
    """
    folder, beginning = os.path.split(prefix)
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:  # noqa: PTH111  pathlib raises for an odd name
            found = {each.name: each.is_dir() for each in entries if each.name.startswith(beginning)}
    except (OSError, ValueError):
        return []
    offered = {name: is_folder for name, is_folder in found.items() if not _NOT_OFFERED.search(name)}
    return [f"{os.path.join(folder, name)}{'/' * is_folder}" for name, is_folder in offered.items()]  # noqa: PTH118  a ~ stays


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
