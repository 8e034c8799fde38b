"""The errors of calls that cost nothing: they are not charged, and no account at the vendor lists them."""

from mcp_vega.errors import Charged, ErrorT, GenerationFailed, Unauthorized

# An address at the vendor where an account's keys, calls or credits are listed.
_ACCOUNT = "cloud.segmind.com"
_KEY_STEP = "Set SEGMIND_API_KEY to the key that the engine accepts (its MCP_VEGA_ENGINE_KEY)"


def of_free_call(error: ErrorT) -> ErrorT:
    """The same error of a call that costs nothing. Its next step sends nobody to an account at the vendor."""
    step = error.next_step
    if _ACCOUNT in step:
        step = _KEY_STEP if isinstance(error, Unauthorized) else "Call again: nothing was charged"
    freed = error.reworded(error.what, step)
    freed.charged = Charged.NO
    return freed


def drawing_lost() -> GenerationFailed:
    """The error of a call whose engine ended before its pictures had arrived. They are nowhere else."""
    what = "The engine on this machine ended before this picture had arrived, so it is lost"
    return GenerationFailed(what, next_step="Call again: nothing was charged", charged=Charged.NO)
