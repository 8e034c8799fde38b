"""The checks as a page for people."""

from collections.abc import Sequence

from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.cli.output import paragraph

# On a terminal of fewer columns the texts begin right behind the names.
NARROW = 60
COLOURS = {State.GOOD: "32", State.BAD: "31", State.NOTE: "33"}


def page(checks: Sequence[Check], width: int | None, *, in_colour: bool) -> list[str]:
    """The checks as lines that fit a terminal of this width."""
    names = max(len(check.name) for check in checks)
    if width is not None and width < NARROW:
        names = 0  # the texts do not begin under one another, so that they have more room
    indent = len("good  ") + (names + 2 if names else 0)
    lines: list[str] = []
    for check in checks:
        first, *more = paragraph(f"{check.state:4}  {check.name:{names}}  ", check.detail, width, indent)
        if in_colour:
            first = f"\x1b[{COLOURS[check.state]}m{first[:4]}\x1b[0m{first[4:]}"
        lines += [first, *more]
        if check.fix:
            fix = check.fix if check.fix.endswith("?") else f"{check.fix}."
            lines += paragraph(f"{'':{indent}}fix: ", fix, width, indent + len("fix: "))
    bad = [check.name for check in checks if check.state is State.BAD]
    summary = f"To fix: {', '.join(bad)}." if bad else "The server has everything it needs."
    return [*lines, "", *paragraph("", summary, width)]
