"""Runs all checks at the same time, and gives up those that take too long."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread

from mcp_vega.cli.doctor.check import Check, State, unknown
from mcp_vega.errors import VegaError


@dataclass(frozen=True)
class CheckGroup:
    """Checks that one function makes: it returns them, or raises an error that fails the first of them."""

    names: tuple[str, ...]
    run: Callable[[], list[Check]]

    def failed(self, detail: str, fix: str) -> list[Check]:
        """The checks when the first one is bad, so that the others cannot be made."""
        name, *others = self.names
        return [Check(name, State.BAD, detail, fix), *(unknown(other, name) for other in others)]


def run_groups(groups: Sequence[CheckGroup], seconds: float) -> tuple[list[Check], bool]:
    """Run all groups, each in a thread of its own, because a network disk may never answer.

    Returns:
        The checks in order, and whether a thread had not ended within `seconds`. Such a thread cannot be stopped.
    """
    results: dict[tuple[str, ...], list[Check]] = {}

    def run(group: CheckGroup) -> None:
        try:
            results[group.names] = group.run()
        except VegaError as error:
            results[group.names] = group.failed(error.what, error.next_step)
        except Exception as error:  # noqa: BLE001  the other checks are made all the same
            detail = f"the check failed ({type(error).__name__}: {error})"
            results[group.names] = group.failed(detail, "Report this")

    threads = [Thread(target=run, args=(group,), daemon=True) for group in groups]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    checks: list[Check] = []
    for group in groups:
        late = group.failed(f"no answer within {seconds:g} s", "Check the network and the disk, then try again")
        checks += results.get(group.names, late)
    return checks, any(thread.is_alive() for thread in threads)
