"""The URL of a bucket in a cloud: `s3://bucket/folder`, `gs://bucket/folder` or `az://container/folder`."""

import re

SCHEMES = ("s3", "gs", "az")
_EXAMPLE = "s3://bucket/folder (or gs://, az://)"
# The names that the three services allow.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}[A-Za-z0-9]")
_FOLDER = re.compile(r"[\w.=+-]{1,200}", re.ASCII)


def usual_url(url: str) -> str:
    """The URL in its usual spelling.

    Raises:
        ValueError: It is not the URL of a bucket.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme in ("http", "https"):
        raise ValueError(
            f"it must be a folder or a bucket such as {_EXAMPLE}; the address of an S3-compatible service is set in "
            "AWS_ENDPOINT_URL"
        )
    if scheme == "file":
        raise ValueError("it must be the path of a folder, without file://")
    if scheme not in SCHEMES:
        raise ValueError(f"it must be a folder or a bucket such as {_EXAMPLE}")
    bucket, _, folder = rest.partition("/")
    if "@" in bucket:
        raise ValueError(
            f"it must not contain keys, because it is stored: write {_EXAMPLE}, and set the cloud's variables"
        )
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"it names no bucket: write {_EXAMPLE}")
    parts = [part for part in folder.split("/") if part]
    if not all(_FOLDER.fullmatch(part) and part.strip(".") for part in parts):
        raise ValueError("its folders may have letters, digits and the characters . _ = + - in their names")
    return f"{scheme}://{'/'.join((bucket, *parts))}"
