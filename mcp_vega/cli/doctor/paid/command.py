"""Asks what may be drawn, has it drawn and compared, and says what came of it."""

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import anyio

from mcp_vega.cli.application import log_to_stderr, open_application
from mcp_vega.cli.doctor.paid import report
from mcp_vega.cli.doctor.paid.finding import Verdict
from mcp_vega.cli.doctor.paid.observation import Observations, Picture
from mcp_vega.cli.doctor.paid.trial import PICTURES, try_out
from mcp_vega.cli.output import write
from mcp_vega.cli.shutdown import until_signal
from mcp_vega.errors import InvalidArguments
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger.spending import dollars

# US dollars that the pictures may cost together unless something else is said: three times what they cost on average.
MOST_USD = Decimal("0.02")


def require_consent(options: Namespace, *, sandbox: bool) -> None:
    """Raise `InvalidArguments` where there is nobody to ask whether something may be paid for."""
    if not (options.yes or sandbox or sys.stdin.isatty()):
        raise InvalidArguments(
            "--paid asks before it draws, and there is no terminal to ask at: nothing was drawn", next_step="Add --yes"
        )


def run_paid(
    options: Namespace, settings: Settings, secrets: Sequence[str], ask: Callable[[str], bool] | None = None
) -> int:
    """Draw what the user agrees to, compare, and print the page, or JSON for programs.

    Args:
        options: Of the command line.
        settings: With the key to pay with.
        secrets: What must not be shown.
        ask: Puts a question to the user; by default at the terminal.

    Returns:
        The exit code: 0 if all that was seen is as assumed, else 1.

    Raises:
        VegaError: Nothing may be paid for, or nothing could be begun.
    """
    log_to_stderr(settings)
    most_usd = MOST_USD if options.max_usd is None else options.max_usd
    agreed = _agreed(most_usd, None if options.yes or settings.sandbox else ask or _ask)
    if not agreed:
        tell("Nothing was drawn.")
        return 1
    if settings.sandbox:
        tell("The sandbox stands in for the API: nothing is paid, and nothing is seen of the real one.")
    seen = anyio.run(_try_out, settings, agreed, most_usd)
    return show(seen, options, settings, secrets)


def tell(text: str) -> None:
    """Say what is being done, beside the page."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _agreed(most_usd: Decimal, ask: Callable[[str], bool] | None) -> list[Picture]:
    """The pictures that may be drawn; all that the limit has room for, where nobody is to be asked.

    Raises:
        InvalidArguments: The limit has room for none.
    """
    agreed: list[Picture] = []
    room = most_usd
    for picture in PICTURES:
        cost = picture.parameters.expected_cost
        if cost > room:
            tell(f"{picture.name} is not drawn: at about {dollars(cost)} it would pass --max-usd {dollars(most_usd)}.")
        elif ask is None or ask(f"Draw {picture.name}, for about {dollars(cost)}?"):
            agreed.append(picture)
            room -= cost
    if room == most_usd and all(picture.parameters.expected_cost > most_usd for picture in PICTURES):
        said = f"--max-usd {dollars(most_usd)} is less than any picture costs: nothing was drawn"
        raise InvalidArguments(said, next_step=f"Give --max-usd {dollars(MOST_USD)[1:]}, or leave it out")
    return agreed


def _ask(question: str) -> bool:
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _try_out(settings: Settings, pictures: Sequence[Picture], most_usd: Decimal) -> Observations:
    async with open_application(settings) as app:
        return await until_signal(app.service, lambda: try_out(app, pictures, most_usd, tell))


# ---- what came of it ----


def show(seen: Observations, options: Namespace, settings: Settings, secrets: Sequence[str]) -> int:
    """Print and write down what came of it; returns the exit code."""
    # An error may name a file, and with it this machine's user.
    folders = (settings.gallery_folder, settings.home_folder, tempfile.gettempdir())
    hidden = [*secrets, *map(str, folders)]
    rows = report.compare(seen, hidden)
    told = report.record(rows, seen, hidden, sandbox=settings.sandbox)
    text = json.dumps(told, indent=2, ensure_ascii=False)
    write(text if options.json else "\n".join(report.page(rows)))
    for drawn in seen.drawn:
        for image in drawn.job.images if drawn.job else ():
            tell(f"Kept: {image.path or image.uri}")
        if drawn.error:
            tell(f"{drawn.picture.name}: {drawn.error.text}")
    is_written = _write_file(settings.home_folder, text)
    differs = any(row.verdict is Verdict.DIFFERS for row in rows)
    return int(differs or not is_written or any(drawn.error for drawn in seen.drawn))


def _write_file(folder: Path, text: str) -> bool:
    """Keep what came of it, for a report; whether that could be done."""
    file = folder / f"doctor-paid-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}.json"
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(f"{text}\n")
    except OSError as error:
        tell(f"The comparison could not be written to {file}: {error.strerror}. What is printed is all of it.")
        return False
    tell(f"Written: {file}. It holds no key, account, balance, id or path: attach it to a report.")
    return True
