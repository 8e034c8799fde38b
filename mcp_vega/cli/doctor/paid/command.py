"""Asks which pictures may be drawn, draws them, and prints the comparison."""

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import anyio

from mcp_vega.cli.application import open_application
from mcp_vega.cli.doctor.paid import report
from mcp_vega.cli.doctor.paid.finding import Verdict
from mcp_vega.cli.doctor.paid.observation import Observations, Picture
from mcp_vega.cli.doctor.paid.trial import PICTURES, try_out
from mcp_vega.cli.output import terminal_width, write
from mcp_vega.cli.shutdown import until_signal
from mcp_vega.errors import InvalidArguments
from mcp_vega.settings import Settings
from mcp_vega.storage.images.store import place_of
from mcp_vega.storage.ledger.spending import dollars
from mcp_vega.telemetry.logs import log_to_stderr

# US dollars that all pictures may cost together by default: about three times their average cost.
MOST_USD = Decimal("0.02")


def require_consent(options: Namespace, *, sandbox: bool) -> None:
    """Raise `InvalidArguments` if nobody can be asked whether pictures may be paid for."""
    if not (options.yes or sandbox or sys.stdin.isatty()):
        raise InvalidArguments(
            "--paid asks before it draws, but stdin is not a terminal, so nothing was drawn", next_step="Add --yes"
        )


def run_paid(
    options: Namespace, settings: Settings, secrets: Sequence[str], ask: Callable[[str], bool] | None = None
) -> int:
    """Draw the pictures that the user agrees to, compare, and print the page, or JSON.

    Args:
        options: The options of the command line.
        settings: The settings, with the key that pays.
        secrets: Texts that must not be shown.
        ask: Asks the user a question; by default at the terminal.

    Returns:
        The exit code: 0 if everything that was seen is as assumed, else 1.

    Raises:
        VegaError: No picture may be paid for, or no call could be begun.
    """
    log_to_stderr(settings.log_level, settings.log_format)
    most_usd = MOST_USD if options.max_usd is None else options.max_usd
    agreed = _agreed(most_usd, None if options.yes or settings.sandbox else ask or _ask)
    if not agreed:
        tell("Nothing was drawn.")
        return 1
    if settings.sandbox:
        tell("The sandbox is used instead of the API: nothing is paid, and the result says nothing about the real API.")
    seen = anyio.run(_try_out, settings, agreed, most_usd)
    return show(seen, options, settings, secrets)


def tell(text: str) -> None:
    """Say on stderr what is being done."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _agreed(most_usd: Decimal, ask: Callable[[str], bool] | None) -> list[Picture]:
    """The pictures that may be drawn: those within the limit that the user agrees to, or all of these without `ask`.

    Raises:
        InvalidArguments: The limit is less than any picture costs.
    """
    agreed: list[Picture] = []
    room = most_usd
    for picture in PICTURES:
        cost = picture.parameters.expected_cost
        if cost > room:
            tell(f"{picture.name} is not drawn: {dollars(cost)} is more than is left of --max-usd {dollars(most_usd)}.")
        elif ask is None or ask(f"Draw {picture.name}, for about {dollars(cost)}?"):
            agreed.append(picture)
            room -= cost
    if room == most_usd and all(picture.parameters.expected_cost > most_usd for picture in PICTURES):
        said = f"--max-usd {dollars(most_usd)} is less than any picture costs, so nothing was drawn"
        raise InvalidArguments(said, next_step=f"Set --max-usd {dollars(MOST_USD)[1:]}, or leave it out")
    return agreed


def _ask(question: str) -> bool:
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _try_out(settings: Settings, pictures: Sequence[Picture], most_usd: Decimal) -> Observations:
    async with open_application(settings) as app:
        return await until_signal(app.service, lambda: try_out(app, pictures, most_usd, tell))


# ---- the result ----


def show(seen: Observations, options: Namespace, settings: Settings, secrets: Sequence[str]) -> int:
    """Print the comparison, and write it to a file; returns the exit code."""
    # An error may name a file, whose path may have the user's name in it.
    places = (settings.gallery_name, settings.ledger_name, str(settings.home_folder), tempfile.gettempdir())
    hidden = [*secrets, *places]
    rows = report.compare(seen, hidden)
    told = report.record(rows, seen, hidden, sandbox=settings.sandbox)
    text = json.dumps(told, indent=2, ensure_ascii=False)
    write(text if options.json else "\n".join(report.page(rows, terminal_width())))
    for drawn in seen.drawn:
        for image in drawn.job.images if drawn.job else ():
            tell(f"Kept: {place_of(image.location) or image.uri}")
        if drawn.error:
            tell(f"{drawn.picture.name}: {drawn.error.text}")
    is_written = _write_file(settings.home_folder, text)
    differs = any(row.verdict is Verdict.DIFFERS for row in rows)
    return int(differs or not is_written or any(drawn.error for drawn in seen.drawn))


def _write_file(folder: Path, text: str) -> bool:
    """Write the comparison to a file for a report; returns whether it was written."""
    file = folder / f"doctor-paid-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}.json"
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(f"{text}\n")
    except OSError as error:
        tell(f"The comparison could not be written to {file}: {error.strerror}. The printed one is complete.")
        return False
    tell(f"Written: {file}. It contains no key, account, balance, id or path. You can attach it to a report.")
    return True
