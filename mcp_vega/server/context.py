"""What tools, resources and prompts work with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mcp_vega.errors import VegaError
from mcp_vega.imaging.preview import Mode
from mcp_vega.jobs.service import JobService
from mcp_vega.storage.gallery import Gallery


@dataclass(frozen=True)
class AppContext:
    """The job service, the pictures that it kept, and how results of its jobs look.

    `wait_seconds` is how long a call waits for its pictures, `preview` how they appear in a result, `sandbox`
    whether the API is the sandbox. Where there is a `problem`, it is the answer to everything, and the service is not
    asked. `folders` are those of the server, with the words that stand for them where a client is not to be told
    where they are.
    """

    service: JobService
    gallery: Gallery
    wait_seconds: float = 45
    preview: Mode = "auto"
    sandbox: bool = False
    problem: VegaError | None = None
    folders: Mapping[Path, str] = field(default_factory=dict[Path, str])
