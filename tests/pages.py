"""The documents as the tests read them: their blocks, tables, headings and links."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path for folder in (ROOT, ROOT / "benchmarks", ROOT / "docs", ROOT / "packaging") for path in folder.glob("*.md")
)


class Block(NamedTuple):
    """A fenced block: its language, its text, and the heading above it."""

    language: str
    text: str
    heading: str


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order. The page is given as text."""
    found: list[Block] = []
    heading, start, language = "", -1, ""
    lines = page.splitlines()
    for number, line in enumerate(lines):
        fence = re.fullmatch(r"\s*```(\S*)", line)
        if fence and start < 0:
            start, language = number + 1, fence[1]
        elif fence:
            found.append(Block(language, "\n".join(lines[start:number]), heading))
            start = -1
        elif start < 0 and (title := re.match(r"#+ (.+)", line)):
            heading = title[1]
    assert start < 0, f"a block of {language} does not end"
    return found


def of_language(page: str, language: str) -> list[str]:
    return [block.text for block in blocks(page) if block.language == language]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```$", "", page, flags=re.DOTALL | re.MULTILINE)


def rows(page: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose first heading is `first_column`."""
    table = page[page.index(f"| {first_column} |") :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def anchors(page: str) -> set[str]:
    """The names of the headings of a page in links, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
