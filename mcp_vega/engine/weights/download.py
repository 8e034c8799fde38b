"""Fetches files from the hub into the user's Hugging Face cache, where other programs find them as well.

A file is first fetched into a partial file next to the cache's blobs. It gets its name there, and its link in the
snapshot, only when its size and its digest are those that the hub states. So a file in the cache is complete.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.weights.cache import blobs_folder, partial_file, snapshot_folder
from mcp_vega.engine.weights.catalog import COMPONENTS, CONFIGS, FP16, LORA, REPOSITORIES, weights_file
from mcp_vega.engine.weights.hub import USE_THE_HUB, Hub, HubFile, Interrupted

# Hears how many bytes more of a file there are; fewer if it has to begin again.
OnBytes = Callable[[int], None]
# How often in a row a connection may fail without a byte, and the seconds before each further try.
TRIES, PAUSE_SECONDS = 5, 2.0
_CONTINUE = "Run `mcp-vega weights` again; it continues"


def needed_files(hub: Hub) -> list[HubFile]:
    """All files that one needs, as the hub lists them.

    Raises:
        EngineError: The hub refused, cannot be reached, or lacks one of them.
    """
    try:
        files = [file for each in REPOSITORIES for file in hub.files(each)]
    except Interrupted as error:
        what = f"{hub.host} cannot be reached: {error}"
        raise EngineError(what, "Check the network, and HTTPS_PROXY and HF_ENDPOINT if they are set") from error
    listed = {file.path for file in files}
    needed = (*CONFIGS, *(weights_file(each, FP16) for each in COMPONENTS), LORA)
    if lacking := [name for name in needed if name not in listed]:
        what = f"{hub.host} does not list {lacking[0]}, which one needs"
        raise EngineError(what, USE_THE_HUB)
    return files


def is_there(cache: Path, file: HubFile) -> bool:
    """Whether a file is in the cache and has the digest that the hub states. The whole file is read.

    If the cache has only its content, the file gets its name.
    """
    path, blob = _link(cache, file), _blob(cache, file)
    if _is_complete(path, file):
        return True
    if not _is_complete(blob, file):  # another revision may have the same file
        return False
    _place(cache, file)
    return True


def bytes_to_fetch(cache: Path, files: Sequence[HubFile]) -> int:
    """How many bytes of the files are still to be fetched."""
    return sum(file.bytes - min(_size(_partial(cache, file)), file.bytes) for file in files)


def free_bytes(cache: Path) -> int:
    """How many bytes the disk of the cache has left for this user."""
    folder = next(each for each in (cache, *cache.parents) if each.is_dir())
    return shutil.disk_usage(folder).free


def fetch(hub: Hub, cache: Path, file: HubFile, on_bytes: OnBytes, pause: float = PAUSE_SECONDS) -> None:
    """Fetch a file. What an earlier call has fetched of it is not fetched again.

    Args:
        hub: Where it is fetched from.
        cache: The folder of the cache.
        file: The file.
        on_bytes: Hears of each part that has come.
        pause: Seconds before it tries again when a connection has failed.

    Raises:
        EngineError: The hub refused, cannot be reached, or sent other bytes than it states.
        OSError: The file cannot be written.
    """
    partial = _partial(cache, file)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.touch()
    failed = 0
    while (before := _size(partial)) < file.bytes:
        try:
            _append(hub, file, partial, on_bytes)
            reason = "it sent too little"
        except Interrupted as error:
            reason = str(error)
        if _size(partial) <= before:
            failed += 1
            if failed == TRIES:
                raise EngineError(f"{file.path} cannot be fetched from {hub.host}: {reason}", _CONTINUE)
            time.sleep(pause)
        else:
            failed = 0
    if not _is_complete(partial, file):
        partial.unlink()
        what = f"{file.path} from {hub.host} has another content than the hub states, so it was deleted"
        raise EngineError(what, "Run `mcp-vega weights` again, without a proxy or mirror that changes files")
    partial.replace(_blob(cache, file))
    _place(cache, file)


def _append(hub: Hub, file: HubFile, partial: Path, on_bytes: OnBytes) -> None:
    with partial.open("ab") as target:
        have = target.tell()
        with hub.reading(file, have) as (start, parts):
            if start != have:
                target.truncate(start)
                on_bytes(start - have)
            for part in parts:
                target.write(part)
                target.flush()  # a process that is killed has kept it
                on_bytes(len(part))
                if target.tell() > file.bytes:  # it is not this file
                    return


def _place(cache: Path, file: HubFile) -> None:
    """Give a complete blob its name in the snapshot."""
    link, blob = _link(cache, file), _blob(cache, file)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(os.path.relpath(blob, link.parent))
    except OSError:  # on Windows not everybody may make links, and some disks have none
        blob.replace(link)


def _is_complete(path: Path, file: HubFile) -> bool:
    if _size(path) != file.bytes:
        return False
    with path.open("rb") as content:
        if len(file.digest) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.digest
        # Git puts the size in front.
        digest = hashlib.sha1(f"blob {file.bytes}\0".encode(), usedforsecurity=False)
        digest.update(content.read())
        return digest.hexdigest() == file.digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _link(cache: Path, file: HubFile) -> Path:
    return snapshot_folder(cache, file.repository) / file.path


def _blob(cache: Path, file: HubFile) -> Path:
    return blobs_folder(cache, file.repository) / file.digest


def _partial(cache: Path, file: HubFile) -> Path:
    return partial_file(cache, file.repository, file.digest)
