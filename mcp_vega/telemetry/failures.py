"""Errors of a recorder or of a tracer: they are logged, and the work that was to be shown goes on."""

import logging
from collections.abc import Generator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

# The kinds of errors that were logged.
_logged = set[type[Exception]]()


@contextmanager
def reporting_failure() -> Generator[None]:
    """Let no error out of the block. Of each kind, only the first one is logged: each piece of work may cause one."""
    try:
        yield
    except Exception as error:
        if type(error) not in _logged:
            _logged.add(type(error))
            logger.exception("Figures or spans could not be recorded")
