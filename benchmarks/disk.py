"""What a disk has of a server's files when the power is cut, computed from the system calls that were made until then.

Flushed data is on the disk: a flush of a file saves its bytes, and a flush of its folder saves its name. Of the other
data, anything may be there: each write, each change of a file's length and each change of a name may be there or not,
and of a write, any of its sectors. A folder counts as there as soon as something in it is there.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from strace import SystemCall

SECTOR = 512
TRACED = (
    "openat,close,write,writev,pwrite64,ftruncate,fallocate,fsync,fdatasync,"
    "link,linkat,unlink,unlinkat,rename,renameat,renameat2"
)
KEPT = 0.5  # the share of unflushed changes that are on the disk


class Unflushed(StrEnum):
    """How much of the unflushed data is on the disk."""

    ALL = "all"
    NONE = "nothing"
    SOME = "some writes"
    TORN = "some sectors"


class Change(NamedTuple):
    """A write or, without data, a new length; `place` says when it was made."""

    place: int
    offset: int
    data: bytes | None


class File:
    """A file's bytes on the disk, and its changes that were not flushed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.flushed = bytearray()
        self.pending: list[Change] = []

    @property
    def latest(self) -> bytes:
        """The bytes that a program reads."""
        return self.after_cut(Unflushed.ALL, random.Random())  # noqa: S311  its values are not used

    def flush(self, place: int) -> None:
        """Save the changes before a place on the disk."""
        for change in self.pending:
            if change.place < place:
                apply(self.flushed, change)
        self.pending = [change for change in self.pending if change.place >= place]

    def after_cut(self, unflushed: Unflushed, chance: random.Random) -> bytes:
        """The bytes on the disk after a cut."""
        data = bytearray(self.flushed)
        for change in self.pending:
            if unflushed is Unflushed.ALL or (unflushed is Unflushed.SOME and chance.random() < KEPT):
                apply(data, change)
            elif unflushed is Unflushed.TORN:
                for piece in sectors(change):
                    if chance.random() < KEPT:
                        apply(data, piece)
        return bytes(data)


def apply(data: bytearray, change: Change) -> None:
    """Make a change. Bytes between the end and a later write become zeros."""
    end = change.offset + len(change.data or b"")
    data.extend(bytes(max(end - len(data), 0)))
    if change.data is None:
        del data[change.offset :]
    else:
        data[change.offset : end] = change.data


def sectors(change: Change) -> Iterable[Change]:
    """A change in the pieces that a disk writes completely or not at all."""
    if change.data is None:
        yield change
        return
    at = 0
    while at < len(change.data):
        size = SECTOR - (change.offset + at) % SECTOR
        yield Change(change.place, change.offset + at, change.data[at : at + size])
        at += size


class Renaming(NamedTuple):
    """New meanings of names in a folder: a file, or nothing."""

    place: int
    folder: Path
    names: Mapping[Path, File | None]


class _Open:
    """An open file: when it was opened, and where its next write goes."""

    def __init__(self, file: File, place: int) -> None:
        self.file = file
        self.place = place
        self.offset = 0


class Disk:
    """The files in some folders that were empty at first.

    Args:
        roots: The folders.
        contents: The final bytes of each file, by its number. They complete writes that strace cut short.
        unsafe: A folder whose flushes do nothing.
    """

    def __init__(self, roots: Sequence[Path], contents: Mapping[int, bytes], unsafe: Path | None = None) -> None:
        self.names: dict[Path, File] = {}
        self.flushed_names: dict[Path, File] = {}
        self._roots = roots
        self._contents = contents
        self._unsafe = unsafe
        self._renamings: list[Renaming] = []
        self._open: dict[int, _Open] = {}
        self._count = 0
        self._actions: dict[str, Callable[[SystemCall], bool]] = {
            **dict.fromkeys(("write", "writev", "pwrite64"), self._write),
            **dict.fromkeys(("ftruncate", "fallocate"), self._resize),
            **dict.fromkeys(("fsync", "fdatasync"), self._flush),
            **dict.fromkeys(("link", "linkat"), self._link),
            **dict.fromkeys(("unlink", "unlinkat"), self._unlink),
            **dict.fromkeys(("rename", "renameat", "renameat2"), self._rename),
            "openat": self._open_at,
            "close": self._close,
        }

    def forget_descriptors(self) -> None:
        """Continue with the system calls of another process."""
        self._open.clear()

    def make(self, call: SystemCall) -> bool:
        """Make the change of a system call; returns whether it can make a difference after a cut."""
        action = self._actions.get(call.name)
        return action is not None and call.result is not None and call.result >= 0 and action(call)

    def after_cut(self, unflushed: Unflushed, chance: random.Random) -> dict[Path, bytes]:
        """The files on the disk after a cut."""
        names: dict[Path, File | None] = {**self.flushed_names}
        for change in self._renamings:
            some = unflushed in (Unflushed.SOME, Unflushed.TORN)
            if unflushed is Unflushed.ALL or (some and chance.random() < KEPT):
                names.update(change.names)
        return {path: file.after_cut(unflushed, chance) for path, file in names.items() if file}

    # ---- the system calls ----

    def _path(self, call: SystemCall, index: int) -> Path | None:
        """A path among the arguments, if it is in one of the folders."""
        path = call.path / call.texts[index].data.decode(errors="replace")
        return path if any(path.is_relative_to(root) for root in self._roots) else None

    def _open_at(self, call: SystemCall) -> bool:
        path = self._path(call, 0)
        self._open.pop(call.result or 0, None)
        if path is None or "O_TMPFILE" in call.arguments:
            return False
        file = self.names.get(path)
        made = file is None and "O_CREAT" in call.arguments
        if made:
            file = File(self._count)
            self._count += 1
            self._name(call, path.parent, {path: file})
        if file:
            self._open[call.result or 0] = _Open(file, call.ended)
            if "O_TRUNC" in call.arguments:
                file.pending.append(Change(call.ended, 0, None))
        return made

    def _close(self, call: SystemCall) -> bool:
        opened = self._open.get(call.descriptor)
        if opened and opened.place < call.began:  # otherwise the number was reused before this call returned
            del self._open[call.descriptor]
        return False

    def _write(self, call: SystemCall) -> bool:
        opened = self._open.get(call.descriptor)
        if not (opened and call.result):
            return False
        offset = opened.offset
        if call.name == "pwrite64":
            _, offset = call.numbers
        else:
            opened.offset += call.result
        whole = call.name != "writev" and call.texts[0].whole
        final = self._contents.get(opened.file.number, b"")[offset : offset + call.result]
        data = call.texts[0].data[: call.result] if whole else final.ljust(call.result, b"\0")
        opened.file.pending.append(Change(call.ended, offset, data))
        return True

    def _resize(self, call: SystemCall) -> bool:
        opened = self._open.get(call.descriptor)
        if opened is None:
            return False
        if call.name == "ftruncate":
            opened.file.pending.append(Change(call.ended, call.numbers[-1], None))
        else:  # like a write of no bytes at the new end, which shortens nothing
            opened.file.pending.append(Change(call.ended, sum(call.numbers[-2:]), b""))
        return True

    def _flush(self, call: SystemCall) -> bool:
        if self._unsafe and call.path.is_relative_to(self._unsafe):
            return False
        if opened := self._open.get(call.descriptor):
            opened.file.flush(call.began)
            return True
        flushed = [each for each in self._renamings if each.folder == call.path and each.place < call.began]
        for each in flushed:
            _rename(self.flushed_names, each.names)
            self._renamings.remove(each)
        return bool(flushed)

    def _link(self, call: SystemCall) -> bool:
        old, new = self._path(call, 0), self._path(call, 1)
        if not (old and new and old in self.names):
            return False
        return self._name(call, new.parent, {new: self.names[old]})

    def _unlink(self, call: SystemCall) -> bool:
        path = self._path(call, 0)
        return path in self.names and self._name(call, path.parent, {path: None})

    def _rename(self, call: SystemCall) -> bool:
        old, new = self._path(call, 0), self._path(call, 1)
        if not (old and new and old in self.names):
            return False
        return self._name(call, new.parent, {new: self.names[old], old: None})

    def _name(self, call: SystemCall, folder: Path, names: Mapping[Path, File | None]) -> bool:
        _rename(self.names, names)
        self._renamings.append(Renaming(call.ended, folder, names))
        return True


def _rename(names: dict[Path, File], changes: Mapping[Path, File | None]) -> None:
    for path, file in changes.items():
        if file:
            names[path] = file
        else:
            names.pop(path, None)
