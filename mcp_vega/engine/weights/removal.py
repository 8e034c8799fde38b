"""Deletes the weights from the user's Hugging Face cache, but nothing that other revisions need."""

import shutil
from pathlib import Path

from mcp_vega.engine.weights.cache import blobs_folder, partial_files, repository_folder, snapshot_folder
from mcp_vega.engine.weights.catalog import Repository


def bytes_used(folder: Path) -> int:
    """How many bytes the files of a folder have, with those that it holds only links to."""
    return sum(path.stat().st_size for path in {path.resolve() for path in _files(folder)} if path.exists())


def remove(cache: Path, repository: Repository) -> None:
    """Delete the pinned revision of a repository, and what was fetched of it in part.

    Raises:
        OSError: A file cannot be deleted.
    """
    folder, snapshot = repository_folder(cache, repository), snapshot_folder(cache, repository)
    links = _files(snapshot)
    contents = {path.resolve() for path in links if path.is_symlink()}
    others = [path for path in _files(snapshot.parent) if path not in links]
    if not others:
        if folder.exists():
            shutil.rmtree(folder)
        return
    if snapshot.exists():
        shutil.rmtree(snapshot)
    blobs = blobs_folder(cache, repository).resolve()
    for path in contents - {path.resolve() for path in others}:
        if path.parent == blobs:
            path.unlink(missing_ok=True)
    for path in partial_files(cache, repository):
        path.unlink()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]
