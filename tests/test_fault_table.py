"""docs/faults.md, the table of what an agent sees when the API fails, is complete and right."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from mcp_vega.sandbox.faults import FAULTS
from mcp_vega.server.tools import DEFINITIONS

ROOT = Path(__file__).parent.parent
LINES = [line for line in (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
ROWS = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in LINES[2:]]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    faults = importlib.import_module("faults")
    # These are long enough for a busy machine: the test compares texts, not times.
    for name in ("WAIT", "CHECK_WAIT", "GRACE"):
        monkeypatch.setattr(faults, name, 45)
    return faults


def test_the_table_has_every_fault_with_every_tool() -> None:
    assert len(ROWS) == len(set(ROWS)) >= 60
    tools = {definition.name for definition in DEFINITIONS}
    for fault in {"none", "500", "500-after", *FAULTS} - {"NNN", "NNN-after"}:
        assert {row[2].partition(",")[0] for row in ROWS if row[0] == fault} == tools, fault


def test_the_text_above_the_table_is_that_of_the_program(program: ModuleType) -> None:
    above = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").partition("| fault |")[0]
    assert above == program.introduction(wait=2.5)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("faults", "connections"),
    [
        (["402", "500", "envelope", "html", "media-403", "output-list", "truncated"], ["plain"]),
        (["failed", "none"], ["cut", "cut early", "cut later"]),
        (["504", "504-after"], ["history late", "history from 0", "history seedless"]),
    ],
)
async def test_rows_of_the_table_are_what_an_agent_sees_now(
    program: ModuleType, faults: list[str], connections: list[str]
) -> None:
    rows, problems = await program.rows_of(faults, connections)
    assert problems == []
    assert rows == [row for row in ROWS if row[0] in faults and row[1] in connections]
