"""What the errors of torch and of the libraries over it mean, and what to do.

They are told by their texts: a device has few types of errors, and each version of torch has other ones.
"""

from mcp_vega.engine.errors import DeviceLostError, EngineError

# What to do if torch cannot use the GPU.
INSTALL_BUILD = "Install the build of torch for your GPU (https://pytorch.org/get-started)"
ON_CPU = "start the engine with --device cpu"

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
_LOST = ("CUDA error", "CUDA driver error", "HIP error", "CUDNN_STATUS", "CUBLAS_STATUS", "MPS backend")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


def out_of_memory(device: str) -> EngineError:
    """The error for a device whose memory is full."""
    return EngineError(f"There is too little free memory ({device})", "Close other programs, and call again")


def black_picture() -> EngineError:
    """The error for a picture that has no colours: some of its numbers are none (NaN)."""
    return EngineError(
        "The picture came out black: the device, or its driver, computes wrongly with numbers of 16 bits",
        f"Update the driver and torch; if that does not help, {ON_CPU}",
    )


def explain(error: Exception, device: str) -> EngineError | None:
    """What went wrong, if it is the device's fault or was explained before.

    Args:
        error: What was raised.
        device: Its name, for people.
    """
    if isinstance(error, EngineError):
        return error
    if is_out_of_memory(error):
        return out_of_memory(device)
    reason = first_line(error)
    if "no kernel image" in reason:
        return EngineError(
            f"The installed build of torch does not support this card ({device})",
            f"{INSTALL_BUILD}, or {ON_CPU}",
        )
    if any(text in str(error) for text in _LOST):
        return DeviceLostError(
            f"The device ({device}), or its driver, does not work any more ({reason})",
            "Call again after ten seconds: this engine ends, and --local starts another one; if the error comes back, "
            "restart the machine",
        )
    return None


def first_line(error: Exception) -> str:
    """The type of an error, and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
