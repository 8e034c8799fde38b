"""Whether a folder lies on a network file system, where a ledger must not be.

SQLite's WAL needs memory that all processes on the ledger share, so all of them must be on one machine. On a network
file system nothing says that they are, and two machines would damage the ledger without an error.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

MOUNTS = Path("/proc/self/mountinfo")
# What Linux and macOS call the file systems of other machines; those after "fuse." run as a program.
_NETWORK = """
    afpfs afs beegfs ceph cifs coda davfs glusterfs gpfs lustre ncpfs nfs nfs4 orangefs pvfs2 smb3 smbfs webdav
    fuse.blobfuse fuse.blobfuse2 fuse.ceph fuse.ceph-fuse fuse.curlftpfs fuse.davfs fuse.davfs2 fuse.gcsfuse
    fuse.glusterfs fuse.goofys fuse.gvfsd-fuse fuse.juicefs fuse.kio-fuse fuse.lizardfs fuse.mfs fuse.mount-s3
    fuse.mountpoint-s3 fuse.rclone fuse.s3fs fuse.seaweedfs fuse.smbnetfs fuse.sshfs
"""
# A host's folders within its virtual machine: of WSL (9p, drvfs), of Docker Desktop, OrbStack, Podman and Lima
# (virtiofs, grpcfuse, osxfs, fakeowner), of VirtualBox, VMware and Parallels. Host and guest share no memory there.
# Even where only the guest writes, users report that virtiofs and 9p lost pages that several processes had mapped: WAL
# databases were damaged within minutes, and no error was seen before. The home of a user of WSL is on ext4, as are the
# volumes that Docker manages. A machine whose very root is such a folder has nothing better, and its kernel sees all
# that is written.
_HOST = """
    9p drvfs prl_fs vboxsf virtiofs vmhgfs
    fuse.fakeowner fuse.grpcfuse fuse.osxfs fuse.prl_fsd fuse.virtiofs fuse.vmhgfs-fuse
"""
NETWORK, HOST = frozenset(_NETWORK.split()), frozenset(_HOST.split())
_MOUNT_SECONDS = 5.0
_REMOTE_DRIVE = 4  # DRIVE_REMOTE in winbase.h
_SHARE = "network drive"


def network_volume(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of network file system, such as "nfs4" or "fuse.sshfs", that a path lies on.

    A path that is not there yet lies where the nearest folder above it does. None is a local file system, or one that
    cannot be told. Never raises.
    """
    try:
        # Links lead to other volumes; and looking at a folder mounts it, where that is automatic.
        path = path.resolve()
        if sys.platform == "win32":
            return _SHARE if is_share(str(path)) or _is_remote_drive(path.drive) else None
        if sys.platform == "darwin":
            return kind_in_mount_output(_mount_output(), path)
        return kind_in_mountinfo(os.fsdecode(mounts.read_bytes()), path)
    except Exception:  # noqa: BLE001  a doubt about the volume must not keep a server from its work
        return None


@dataclass(frozen=True)
class _Mount:
    id: str
    parent: str
    point: PurePath
    kind: str
    source: str

    @property
    def remote(self) -> bool:
        # davfs2 and a few more give no kind of their own, but an address.
        network = self.kind in NETWORK or (self.kind == "fuse" and "://" in self.source)
        return network or (self.kind in HOST and self.point != PurePosixPath("/"))


def kind_in_mountinfo(text: str, path: PurePath) -> str | None:
    """The kind of network file system that a path lies on, by Linux's table (proc_pid_mountinfo(5))."""
    # Other characters that end a line for Python stand in names as they are.
    mounts = map(_mountinfo_line, text.split("\n"))
    above = [each for each in mounts if each and path.is_relative_to(each.point)]
    return _remote_kind(_crossed_last(above))


def _mountinfo_line(line: str) -> _Mount | None:
    """A line: id, parent, device, root, mount point, options, then optional fields up to a dash, kind, source."""
    place, _, volume = line.partition(" - ")
    match place.split(" "), volume.split(" "):
        case [number, parent, _, _, point, *_], [kind, source, *_]:
            return _Mount(number, parent, PurePosixPath(_unescaped(point)), kind, _unescaped(source))
        case _:
            return None


def _unescaped(field: str) -> str:
    r"""A field with its spaces, tabs, line ends and backslashes, which are written as `\040` and so on."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _crossed_last(above: Iterable[_Mount]) -> _Mount | None:
    """The mount in which the walk down a path ends, of those on the way.

    The longest mount point is not always right: a later mount further up hides it. The order of the lines does not tell
    which is later, for mounts are moved. So this goes from each mount to those within it, as the system does.
    """
    left = list(above)
    reached = None
    while True:
        ids = {each.id for each in left if each.parent != each.id}
        within = [each for each in left if (each.parent == reached.id if reached else each.parent not in ids)]
        if not within:
            return reached
        # On a path the first mount point is crossed first; of two at one point the last counts.
        reached = min(reversed(within), key=lambda each: len(each.point.parts))
        left.remove(reached)


def kind_in_mount_output(text: str, path: PurePath) -> str | None:
    """The kind of network file system that a path lies on, by what macOS's `mount` prints."""
    found = re.finditer(r"^(.*?) on (/.*) \(([^,()]+)[^()]*\)$", text, re.MULTILINE)
    mounts = [
        _Mount("", "", PurePosixPath(point), kind, source) for source, point, kind in (each.groups() for each in found)
    ]
    above = [each for each in mounts if path.is_relative_to(each.point)]
    return _remote_kind(max(reversed(above), key=lambda each: len(each.point.parts), default=None))


def _remote_kind(mount: _Mount | None) -> str | None:
    return mount.kind if mount and mount.remote else None


def is_share(path: str) -> bool:
    r"""Whether a Windows path names another machine, as in `\\server\share`; `\\?\C:\` and `\\.\` do not."""
    path = path.replace("/", "\\").casefold()
    return path.startswith("\\\\?\\unc\\") or (path.startswith("\\\\") and path[2:4] not in ("?\\", ".\\"))


def _mount_output() -> str:
    command = ["/sbin/mount"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_MOUNT_SECONDS).stdout  # noqa: S603


def _is_remote_drive(drive: str) -> bool:
    if sys.platform == "win32":
        import ctypes

        letter = drive.removeprefix("\\\\?\\")
        return ctypes.windll.kernel32.GetDriveTypeW(f"{letter}\\") == _REMOTE_DRIVE
    return False
