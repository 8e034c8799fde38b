"""The application context of tools, resources and prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import anyio

from mcp_vega.errors import VegaError
from mcp_vega.imaging.preview import Mode
from mcp_vega.jobs.service import JobService
from mcp_vega.server.readiness import Readiness
from mcp_vega.storage.gallery import Gallery

# How many results may hold their pictures at the same time, to make previews of them. The others wait, and read their
# pictures later: 200 calls that end at the same time would hold all of theirs.
PREVIEWED_AT_ONCE = 8


@dataclass(frozen=True)
class AppContext:
    """The job service, the gallery, and how the results of jobs look.

    `wait_seconds` is how long a call waits for its pictures, `preview` how large they are in a result, `sandbox`
    whether the API is the sandbox, `local` whether it is the engine on this machine. If there is a `problem`, every
    call is answered with it, and the service is not used. `folders` are the server's folders and its bucket, each
    with a word that replaces its path or address for clients that must not see these. `previewing` limits how many
    results hold pictures. A call reports its progress from `progress_after` seconds on: a short call needs no
    reports.
    """

    service: JobService
    gallery: Gallery
    wait_seconds: float = 45
    preview: Mode = "auto"
    sandbox: bool = False
    local: bool = False
    problem: VegaError | None = None
    folders: Mapping[Path | str, str] = field(default_factory=dict[Path | str, str])
    previewing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(PREVIEWED_AT_ONCE))
    progress_after: float = 0.5

    @cached_property
    def readiness(self) -> Readiness:
        """Whether the server is ready for calls. All who ask share the last read of the ledger."""
        return Readiness(self.service)
