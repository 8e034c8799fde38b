"""The errors of an engine: what is wrong, and what to do."""


class EngineError(Exception):
    """A reason, and what to do.

    Attributes:
        what: What is wrong, without a period.
        next_step: What to do, without a period.
    """

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(f"{what}. {next_step}")
        self.what = what
        self.next_step = next_step


class DeviceLostError(EngineError):
    """The device does not work any more in this process. A new process may be able to draw."""
