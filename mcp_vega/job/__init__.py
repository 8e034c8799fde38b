"""What the ledger keeps of a call.

job      a call, from its start until its pictures are kept or it has failed
image    a kept picture, and where it is kept
receipt  what the API reports about a call
free     the errors of calls that cost nothing
"""

from mcp_vega.job.image import MEMORY, Image, ImageLocation
from mcp_vega.job.job import (
    DRAWN_SEEDS,
    LOCAL,
    MOST_PICTURES,
    OPERATOR,
    REQUEST_ID,
    SANDBOX,
    Job,
    JobImage,
    Route,
    Search,
    State,
    new_id,
)
from mcp_vega.job.receipt import Receipt

__all__ = [
    "DRAWN_SEEDS",
    "LOCAL",
    "MEMORY",
    "MOST_PICTURES",
    "OPERATOR",
    "REQUEST_ID",
    "SANDBOX",
    "Image",
    "ImageLocation",
    "Job",
    "JobImage",
    "Receipt",
    "Route",
    "Search",
    "State",
    "new_id",
]
