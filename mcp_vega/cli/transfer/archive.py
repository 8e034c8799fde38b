"""The file of an export: a zip whose entries are not compressed.

manifest.json           what the file is, how many jobs and pictures it has, and where it comes from
account.key             the key of the accounts' hashes in that ledger
jobs.jsonl              one job a line (records.py)
pictures/<id>.<suffix>  the pictures, unchanged
"""

import json
import os
import re
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from pydantic import AwareDatetime, Field, ValidationError

from mcp_vega.cli.transfer.records import SUFFIXES, ImageRecord, JobRecord, Record
from mcp_vega.errors import InvalidArguments, VegaError
from mcp_vega.storage import folders

FORMAT, VERSION = "mcp-vega export", 1
MANIFEST, KEY, JOBS = "manifest.json", "account.key", "jobs.jsonl"
NAMES = re.compile(rf"{MANIFEST}|{KEY}|{JOBS}|pictures/[0-9a-f]{{32}}({'|'.join(map(re.escape, SUFFIXES.values()))})")
# The most bytes of the manifest, of the key and of a line. The longest prompts make lines of about 100 kB.
SMALL, LINE = 100_000, 10_000_000
COPIED = 1_000_000  # bytes at a time
ENCRYPTED = 0x1  # of an entry's flags
# All that Python's zipfile raises for a damaged file.
DAMAGE = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OverflowError, LookupError)
COPY_AGAIN = "Copy the file again from where it was made, or export again. Then repeat the import"


class ExportFileError(VegaError):
    """The file of an export cannot be written, or it is damaged or not an export."""

    next_step = COPY_AGAIN


class Manifest(Record):
    """What the file is. `owner` is the caller whose jobs these are; None means the jobs of all callers."""

    format: Literal["mcp-vega export"] = FORMAT
    version: Literal[1] = VERSION
    program: str
    created: AwareDatetime
    sandbox: bool
    owner: str | None
    jobs: int = Field(ge=0)
    pictures: int = Field(ge=0)


# ---- writing ----


class ArchiveWriter:
    """Writes the entries of a file. The jobs wait in a temporary file: a zip takes one entry at a time."""

    def __init__(self, zipped: ZipFile, lines: IO[bytes], now: datetime) -> None:
        self._zip = zipped
        self._lines = lines
        self._time = now
        self.jobs = self.pictures = self.bytes = 0

    def add_picture(self, name: str, data: bytes) -> None:
        """Add a picture under its name in the zip."""
        self._zip.writestr(self._entry(name), data)
        self.pictures += 1
        self.bytes += len(data)

    def add_job(self, record: JobRecord) -> None:
        """Add a job. Its pictures must have been added before."""
        self._lines.write(record.model_dump_json().encode() + b"\n")
        self.jobs += 1

    def finish(self, key: str, program: str, *, sandbox: bool, owner: str | None) -> None:
        """Add the jobs, the key and the manifest."""
        self._lines.seek(0)
        with self._zip.open(self._entry(JOBS), "w", force_zip64=True) as entry:
            shutil.copyfileobj(self._lines, entry, COPIED)
        self._zip.writestr(self._entry(KEY), key)
        source: dict[str, Any] = {"program": program, "created": self._time, "sandbox": sandbox, "owner": owner}
        manifest = Manifest(**source, jobs=self.jobs, pictures=self.pictures)
        self._zip.writestr(self._entry(MANIFEST), manifest.model_dump_json(indent=2))

    def _entry(self, name: str) -> ZipInfo:
        entry = ZipInfo(name, self._time.timetuple()[:6])
        entry.external_attr = 0o600 << 16
        return entry


@contextmanager
def writing(file: Path, now: datetime, *, replace: bool) -> Generator[ArchiveWriter]:
    """Write a file for this user only. It gets its name at the end of the block, if the block does not raise.

    Args:
        file: The path.
        now: When the export is made (UTC).
        replace: Whether an older export may be replaced.

    Raises:
        InvalidArguments: The path cannot be used.
        ExportFileError: The file cannot be written.
    """
    require_free(file, replace=replace)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        # Without O_EXCL, a link with this name would lead elsewhere.
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(handle, "w+b") as output:
            with tempfile.TemporaryFile(dir=file.parent) as lines, ZipFile(output, "w", ZIP_STORED) as zipped:
                yield ArchiveWriter(zipped, lines, now)
            output.flush()
            os.fsync(output.fileno())
        require_free(file, replace=replace)  # another program may have written it meanwhile
        part.replace(file)
        folders.flush(file.parent)
    except OSError as error:
        step = "Free some disk space, or choose another folder. Then export again"
        raise ExportFileError(f"{file} cannot be written: {error.strerror or error}", next_step=step) from error
    finally:
        with suppress(OSError):
            part.unlink()


def require_free(file: Path, *, replace: bool) -> None:
    """Check that a file may be written: nothing is there, or an older export that may be replaced.

    Raises:
        InvalidArguments: It may not.
    """
    if not file.parent.is_dir():
        raise InvalidArguments(f"There is no folder {file.parent}", next_step="Make the folder, or choose another one")
    if not os.path.lexists(file):
        return
    if file.is_dir():
        raise InvalidArguments(f"{file} is a folder", next_step="Name a file in it, such as vega.zip")
    try:
        with reading(file):
            pass
    except VegaError:
        said = f"{file} exists, and is not an export of mcp-vega, so it is never replaced"
        raise InvalidArguments(said, next_step="Choose another name") from None
    if not replace:
        said = f"{file} exists: it is an earlier export"
        raise InvalidArguments(said, next_step="Choose another name, or add --force to replace the earlier export")


# ---- reading ----


class ArchiveReader:
    """Reads the entries of a file. Every method raises an `ExportFileError` if the file is damaged."""

    def __init__(self, file: Path, zipped: ZipFile) -> None:
        self._file = file
        self._zip = zipped
        self._entries = self._checked_entries()
        self.manifest = self._manifest()
        pictures = sum(name.startswith("pictures/") for name in self._entries)
        if pictures != self.manifest.pictures:
            raise self.damaged(f"it has {pictures:,} pictures, but should have {self.manifest.pictures:,}")

    def damaged(self, why: str) -> ExportFileError:
        """The error of a damaged file."""
        return ExportFileError(f"{self._file} is damaged: {why}")

    def _checked_entries(self) -> dict[str, ZipInfo]:
        entries: dict[str, ZipInfo] = {}
        for entry in self._zip.infolist():
            # An entry that is not compressed cannot be larger than the file.
            is_stored = entry.compress_type == ZIP_STORED and entry.compress_size == entry.file_size
            if not NAMES.fullmatch(entry.filename) or not is_stored or entry.flag_bits & ENCRYPTED:
                raise _not_an_export(self._file)
            if entry.filename in entries:
                raise self.damaged(f"it has {entry.filename} twice")
            entries[entry.filename] = entry
        if not {MANIFEST, KEY, JOBS} <= entries.keys():
            raise _not_an_export(self._file)
        return entries

    def _manifest(self) -> Manifest:
        text = self._read(MANIFEST, SMALL)
        try:
            found = json.loads(text)
            version = found["version"] if found["format"] == FORMAT else None
        except (ValueError, LookupError, TypeError, RecursionError):
            raise _not_an_export(self._file) from None
        if isinstance(version, int) and version > VERSION:
            said = f"{self._file} was made by a newer version of mcp-vega"
            raise ExportFileError(said, next_step="Update mcp-vega here, then repeat the import")
        try:
            return Manifest.model_validate_json(text)
        except ValidationError:
            raise _not_an_export(self._file) from None

    @property
    def key(self) -> str:
        """The key of the accounts' hashes: 64 hex digits."""
        key = self._read(KEY, SMALL).decode("latin-1")
        if not re.fullmatch("[0-9a-f]{64}", key):
            raise self.damaged(f"{KEY} is not a key")
        return key

    def picture(self, image: ImageRecord) -> bytes:
        """The bytes of a picture; its length and its sha256 are those of its record."""
        data = self._read(image.file or "", image.bytes)
        if sha256(data).hexdigest() != image.sha256:
            raise self.damaged(f"{image.file} was changed")
        return data

    def check_jobs(self) -> None:
        """Read all jobs once, so that a damaged list is found before a job of it is used."""
        with self._damage_of(JOBS), self._zip.open(self._entries[JOBS]) as lines:
            while lines.read(COPIED):
                pass

    def jobs(self) -> Iterator[JobRecord]:
        """The jobs, in the order in which they were written."""
        number = 0
        with self._damage_of(JOBS), self._zip.open(self._entries[JOBS]) as lines:
            while line := lines.readline(LINE):
                number += 1
                yield self._job(number, line)
        if number != self.manifest.jobs:
            raise self.damaged(f"it has {number:,} jobs, but should have {self.manifest.jobs:,}")

    def _job(self, number: int, line: bytes) -> JobRecord:
        try:
            return JobRecord.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise self.damaged(f"line {number} of {JOBS} is not a job ({where or 'JSON'}: {first['msg']})") from None

    def _read(self, name: str, limit: int) -> bytes:
        """Read an entry, which must not be longer than the limit."""
        if name not in self._entries:
            raise self.damaged(f"it does not have {name}")
        if self._entries[name].file_size > limit:
            raise self.damaged(f"{name} is too long")
        with self._damage_of(name):
            return self._zip.read(self._entries[name])

    @contextmanager
    def _damage_of(self, name: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise ExportFileError(f"{self._file} cannot be read: {error.strerror or error}") from error
        except DAMAGE as error:
            raise self.damaged(f"{name} cannot be read ({error})") from error


@contextmanager
def reading(file: Path) -> Generator[ArchiveReader]:
    """Read a file while the block runs.

    Raises:
        InvalidArguments: There is no such file.
        ExportFileError: It cannot be read, is damaged, or is not an export.
    """
    try:
        if not file.is_file():  # a pipe or a device may have no end
            step = "Name a file that `mcp-vega export` has written"
            raise InvalidArguments(f"There is no file {file}", next_step=step)
        zipped = ZipFile(file)
    except OSError as error:
        raise ExportFileError(f"{file} cannot be read: {error.strerror or error}") from error
    except DAMAGE:
        raise ExportFileError(f"{file} is not an export of mcp-vega, or its end is missing") from None
    with zipped:
        yield ArchiveReader(file, zipped)


def _not_an_export(file: Path) -> ExportFileError:
    step = "Name a file that `mcp-vega export` has written"
    return ExportFileError(f"{file} is not an export of mcp-vega", next_step=step)
