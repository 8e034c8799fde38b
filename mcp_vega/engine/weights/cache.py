"""The user's Hugging Face cache. It is found without the package huggingface_hub, which takes long to import.

The variables are those of Hugging Face's documentation. In the cache, a repository has a folder with `blobs`, the
contents of its files, and `snapshots/REVISION`, links to these (on Windows perhaps the files themselves).
"""

import os
from collections.abc import Mapping
from pathlib import Path

from mcp_vega.engine.weights.catalog import Repository

_PARTIAL = ".mcp-vega.incomplete"


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the cache, which need not exist."""
    for variable, rest in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if value := environment.get(variable):
            return _expanded(value) / rest
    return _expanded(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(os.path.expandvars(path)))  # noqa: PTH111  pathlib's raises if there is no home


def repository_folder(cache: Path, repository: Repository) -> Path:
    """The folder of a repository."""
    return cache / f"models--{repository.name.replace('/', '--')}"


def snapshot_folder(cache: Path, repository: Repository) -> Path:
    """The folder with the files of the pinned revision, under their names."""
    return repository_folder(cache, repository) / "snapshots" / repository.revision


def blobs_folder(cache: Path, repository: Repository) -> Path:
    """The folder with the contents of a repository's files, under their digests."""
    return repository_folder(cache, repository) / "blobs"


def partial_file(cache: Path, repository: Repository, digest: str) -> Path:
    """What was fetched so far of a file; its own name keeps other programs from taking it for theirs."""
    return blobs_folder(cache, repository) / f"{digest}{_PARTIAL}"


def partial_files(cache: Path, repository: Repository) -> list[Path]:
    """All files of a repository that were fetched in part."""
    return sorted(blobs_folder(cache, repository).glob(f"*{_PARTIAL}"))
