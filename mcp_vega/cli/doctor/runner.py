"""Runs the checks, all at once, and waits for none that never ends."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread

from mcp_vega.cli.doctor.check import Check, State, unknown
from mcp_vega.errors import VegaError


@dataclass(frozen=True)
class CheckGroup:
    """Checks that one function makes: it gives them, or raises the error that stands for the first of them."""

    names: tuple[str, ...]
    run: Callable[[], list[Check]]

    def failed(self, detail: str, mend: str) -> list[Check]:
        """The checks where the first is bad, so that nothing is known of the others."""
        name, *others = self.names
        return [Check(name, State.BAD, detail, mend), *(unknown(other, name) for other in others)]


def run_groups(groups: Sequence[CheckGroup], seconds: float) -> tuple[list[Check], bool]:
    """All checks in order, and whether a thread had not ended within `seconds`; it cannot be stopped.

    Each group has a thread of its own: a disk in a network may never answer.
    """
    results: dict[tuple[str, ...], list[Check]] = {}

    def run(group: CheckGroup) -> None:
        try:
            results[group.names] = group.run()
        except VegaError as error:
            results[group.names] = group.failed(error.what, error.next_step)
        except Exception as error:  # noqa: BLE001  one check that breaks takes no other with it
            detail = f"could not be looked at ({type(error).__name__}: {error})"
            results[group.names] = group.failed(detail, "Report this")

    threads = [Thread(target=run, args=(group,), daemon=True) for group in groups]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    checks: list[Check] = []
    for group in groups:
        late = group.failed(f"no answer within {seconds:g} s", "Try again; check the network and the disk")
        checks += results.get(group.names, late)
    return checks, any(thread.is_alive() for thread in threads)
