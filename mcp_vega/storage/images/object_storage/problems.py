"""What the errors of an object storage mean, in plain words.

obstore's own texts are never shown: they may contain signatures, key ids and addresses of the service.
"""

import re
from typing import NamedTuple

from mcp_vega.errors import VegaError

# In the answers of all three services.
_CODE = re.compile("<Code>([A-Za-z0-9]{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
# S3 answers so if the bucket is in another region. There is no code of an error then.
_REDIRECT = "Received redirect without LOCATION"
# Host names of the services that give a virtual machine its credentials.
_METADATA = re.compile(
    "169[.]254[.]169[.]254|169[.]254[.]170|metadata[.]google|MissingAccessKeyId|MissingSecretAccessKey"
)


class Problem(NamedTuple):
    """Why a request failed, and the next step. Both are parts of an error message.

    `passing` means that the same request may succeed shortly; `missing`, that there is no object with the key.
    """

    why: str
    next_step: str
    passing: bool = False
    missing: bool = False


class StorageError(Exception):
    """A request to the storage failed. Only this package sees this error: the stores turn it into a `VegaError`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.why)
        self.problem = problem


SILENT = Problem(
    "the storage does not answer", "Check the network and the storage service, then try again", passing=True
)
OVERWRITES = Problem(
    "the storage would overwrite objects: it does not support conditional writes (If-None-Match)",
    "Use a storage that supports conditional writes, or a newer version of its software",
)


def is_outage(error: VegaError) -> bool:
    """Whether the error of a store says that an object storage does not answer, or not as it should."""
    return isinstance(error.__cause__, StorageError) and error.__cause__.problem.passing


def problem_of(error: Exception, credentials: str) -> Problem:
    """Return what an error of obstore means.

    Args:
        error: The error.
        credentials: The names of the variables that hold the credentials.
    """
    text = str(error).partition("Debug source")[0]
    code = found[1] if (found := _CODE.search(text)) else "PermanentRedirect" if _REDIRECT in text else ""
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    if _METADATA.search(str(error)):
        return Problem("there are no credentials", f"Set {credentials}, then start the server again")
    return _by_code(code, credentials) or _by_status(status, code, credentials)


class _Rule(NamedTuple):
    """What some codes mean. The words may name the {code} and the variables with the {credentials}."""

    codes: frozenset[str]
    why: str
    next_step: str
    missing: bool = False


def _rule(codes: str, why: str, next_step: str, *, missing: bool = False) -> _Rule:
    return _Rule(frozenset(codes.split()), why, next_step, missing)


_RULES = (
    _rule(
        "NoSuchKey BlobNotFound",
        "the object is not there",
        "Put the object back, or draw the picture again",
        missing=True,
    ),
    _rule(
        "NoSuchBucket ContainerNotFound AccountNotFound",
        "the bucket does not exist",
        "Create the bucket, or correct MCP_VEGA_GALLERY",
    ),
    _rule(
        "InvalidAccessKeyId SignatureDoesNotMatch AuthenticationFailed InvalidAuthenticationInfo InvalidSecurity "
        "NoAuthenticationInformation MissingSecurityHeader",
        "the storage does not accept the credentials ({code})",
        "Correct {credentials}, then start the server again",
    ),
    _rule(
        "ExpiredToken InvalidToken TokenRefreshRequired",
        "the credentials have expired ({code})",
        "Renew {credentials}, then start the server again",
    ),
    _rule("RequestTimeTooSkewed", "the clock of this machine is wrong", "Set the clock, then try again"),
    _rule(
        "PermanentRedirect TemporaryRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException",
        "the bucket is in another region ({code})",
        "Set AWS_REGION to the region of the bucket, then start the server again",
    ),
    _rule(
        "QuotaExceeded XMinioStorageFull XMinioAdminBucketQuotaExceeded InsufficientCapacity",
        "the storage is full ({code})",
        "Make room in the bucket, or raise its quota",
    ),
)


def _by_code(code: str, credentials: str) -> Problem | None:
    if code == "NotImplemented":
        return OVERWRITES
    for rule in _RULES:
        if code in rule.codes:
            values = {"code": code, "credentials": credentials}
            return Problem(rule.why.format(**values), rule.next_step.format(**values), missing=rule.missing)
    return None


def _by_status(status: int, code: str, credentials: str) -> Problem:
    said = f"HTTP {status}, {code}" if code else f"HTTP {status}"
    if status in (401, 403):
        step = "Allow these credentials to read, write, list and delete the objects of the bucket"
        return Problem(f"access is denied ({said})", step)
    if status in (408, 429) or status >= 500:
        return Problem(f"the storage is overloaded or down ({said})", "Try again in a minute", passing=True)
    if 300 <= status < 400:
        return Problem(f"the bucket is in another region ({said})", "Set AWS_REGION to the region of the bucket")
    if status == 404:
        step = "Check the service's address in the environment, and that the object is still there"
        return Problem(f"the object or the bucket is not there ({said})", step)
    if status >= 400:
        return Problem(f"the storage refused the request ({said})", f"Check MCP_VEGA_GALLERY and {credentials}")
    step = "Check the network and the service's address in the environment, then try again"
    return Problem("there is no connection to the storage, or its answer cannot be read", step, passing=True)
