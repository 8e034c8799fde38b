"""The URL of a bucket, and the environment variables with the credentials.

obstore reads the variables itself. Here they are only checked: obstore would panic at some values.
"""

import os
from typing import NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from mcp_vega.errors import InvalidSettings
from mcp_vega.network.addresses import is_loopback

# For each scheme: the beginning of the names of its variables, and the variables that hold the service's address.
PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
# Variables whose values are sent in headers. obstore panics at a line break in them.
_IN_HEADERS = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ),
    "gs": ("GOOGLE_BEARER_TOKEN",),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_TOKEN", "AZURE_STORAGE_SAS_TOKEN"),
}


class BucketAddress(NamedTuple):
    """A bucket and the prefix of the keys in it. The prefix is empty or has no slash at its ends."""

    scheme: str
    bucket: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Split the URL of a bucket. The settings have checked it (`settings/bucket_url.py`)."""
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        return cls(scheme, bucket, prefix)

    def __str__(self) -> str:
        return "/".join(filter(None, (f"{self.scheme}://{self.bucket}", self.prefix)))

    @property
    def is_local(self) -> bool:
        """Whether the service is on this machine, so that a connection without TLS is allowed."""
        return any(is_loopback(_parsed(value).hostname or "") for value in _values(_ENDPOINTS[self.scheme]).values())

    def check_environment(self) -> None:
        """Check the variables of the service, and remove the empty ones: an empty variable counts as unset.

        Raises:
            InvalidSettings: A variable has a value that cannot be used.
        """
        for name in [each for each in os.environ if each.startswith(PREFIXES[self.scheme])]:
            if not os.environ[name].strip():
                del os.environ[name]
        for name, value in _values(_ENDPOINTS[self.scheme]).items():
            parts = _parsed(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise InvalidSettings(f"The environment variable {name} cannot be used: it must be an https URL")
            if parts.scheme == "http" and not is_loopback(parts.hostname):
                said = "http is allowed only for this machine, because everybody on the way could read the pictures"
                raise InvalidSettings(
                    f"The environment variable {name} cannot be used: {said}",
                    next_step=f"Set {name} to an address that begins with https://, then start the server again",
                )
        for name, value in _values(_IN_HEADERS[self.scheme]).items():
            if not (value.isascii() and value.isprintable()) or value != value.strip():
                said = "it has a line break, a space at an end, or a character that is not ASCII"
                raise InvalidSettings(f"The environment variable {name} cannot be used: {said}")

    @property
    def credentials(self) -> str:
        """The variables that hold the credentials, for messages."""
        return {
            "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            "gs": "GOOGLE_APPLICATION_CREDENTIALS",
            "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        }[self.scheme]


def _values(names: tuple[str, ...]) -> dict[str, str]:
    """Return those of the environment variables that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


def _parsed(url: str) -> SplitResult:
    """Return the parts of a URL; those of an empty one if it cannot be read."""
    try:
        parts = urlsplit(url)
        usable = url.isascii() and url.isprintable() and " " not in url and (parts.port or 1) > 0
    except ValueError:
        usable = False
        parts = None
    return parts if parts and usable else SplitResult("", "", "", "", "")
