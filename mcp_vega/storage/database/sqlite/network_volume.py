"""Finds out whether a folder is on a network file system, where a ledger must not be.

SQLite's WAL needs memory that all processes on the ledger share, so all of them must run on one machine. A network
file system can be used from several machines. Two machines would damage the ledger, and no error would show it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

MOUNTS = Path("/proc/self/mountinfo")
# The names of network file systems on Linux and macOS. Those that begin with "fuse." run as a program.
_NETWORK = """
    afpfs afs beegfs ceph cifs coda davfs glusterfs gpfs lustre ncpfs nfs nfs4 orangefs pvfs2 smb3 smbfs webdav
    fuse.blobfuse fuse.blobfuse2 fuse.ceph fuse.ceph-fuse fuse.curlftpfs fuse.davfs fuse.davfs2 fuse.gcsfuse
    fuse.glusterfs fuse.goofys fuse.gvfsd-fuse fuse.juicefs fuse.kio-fuse fuse.lizardfs fuse.mfs fuse.mount-s3
    fuse.mountpoint-s3 fuse.rclone fuse.s3fs fuse.seaweedfs fuse.smbnetfs fuse.sshfs
"""
# A host's folders inside a virtual machine: in WSL (9p, drvfs), in Docker Desktop, OrbStack, Podman and Lima
# (virtiofs, grpcfuse, osxfs, fakeowner), in VirtualBox, VMware and Parallels. Host and guest share no memory there.
# Users report damage even if only the guest writes: virtiofs and 9p lost pages that several processes had mapped. WAL
# databases were damaged within minutes, and no error was seen before. In WSL the user's home is on ext4; so are the
# volumes that Docker manages. If even the root of a machine is such a folder, it is accepted: the machine has nothing
# better, and its kernel sees every write.
_HOST = """
    9p drvfs prl_fs vboxsf virtiofs vmhgfs
    fuse.fakeowner fuse.grpcfuse fuse.osxfs fuse.prl_fsd fuse.virtiofs fuse.vmhgfs-fuse
"""
NETWORK, HOST = frozenset(_NETWORK.split()), frozenset(_HOST.split())
_MOUNT_SECONDS = 5.0
_REMOTE_DRIVE = 4  # DRIVE_REMOTE in winbase.h
_SHARE = "network drive"


def network_volume(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the kind of network file system that a path is on, such as "nfs4" or "fuse.sshfs".

    For a path that does not exist yet, the nearest folder above it counts. None means a local file system, or that the
    kind is not known. Never raises.
    """
    try:
        # Links may lead to other volumes. And to look at a folder mounts it, if it is mounted automatically.
        path = path.resolve()
        if sys.platform == "win32":
            return _SHARE if is_share(str(path)) or _is_remote_drive(path.drive) else None
        if sys.platform == "darwin":
            return kind_in_mount_output(_mount_output(), path)
        return kind_in_mountinfo(os.fsdecode(mounts.read_bytes()), path)
    except Exception:  # noqa: BLE001  this check must never keep a server from working
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
        # davfs2 and a few others report the kind "fuse", but an address as the source.
        network = self.kind in NETWORK or (self.kind == "fuse" and "://" in self.source)
        return network or (self.kind in HOST and self.point != PurePosixPath("/"))


def kind_in_mountinfo(text: str, path: PurePath) -> str | None:
    """Return the kind of network file system that a path is on, from Linux's mountinfo (proc_pid_mountinfo(5))."""
    # Only "\n" ends a line: names may contain the other characters at which `splitlines` would split.
    mounts = map(_mountinfo_line, text.split("\n"))
    above = [each for each in mounts if each and path.is_relative_to(each.point)]
    return _remote_kind(_crossed_last(above))


def _mountinfo_line(line: str) -> _Mount | None:
    """Parse a line: id, parent, device, root, mount point, options, optional fields, a dash, kind, source."""
    place, _, volume = line.partition(" - ")
    match place.split(" "), volume.split(" "):
        case [number, parent, _, _, point, *_], [kind, source, *_]:
            return _Mount(number, parent, PurePosixPath(_unescaped(point)), kind, _unescaped(source))
        case _:
            return None


def _unescaped(field: str) -> str:
    r"""Return a field with its spaces, tabs, line ends and backslashes, which mountinfo writes as `\040` and so on."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _crossed_last(above: Iterable[_Mount]) -> _Mount | None:
    """Return the mount that a path is on, from all mounts whose mount point is at or above the path.

    The longest mount point is not always right: a later mount further up may hide it. The order of the lines does not
    show which mount is later, because mounts can be moved. So this walks down from each mount to the mounts within it,
    as the system does.
    """
    left = list(above)
    reached = None
    while True:
        ids = {each.id for each in left if each.parent != each.id}
        within = [each for each in left if (each.parent == reached.id if reached else each.parent not in ids)]
        if not within:
            return reached
        # The walk crosses the shortest mount point first. Of two mounts at the same point, the last counts.
        reached = min(reversed(within), key=lambda each: len(each.point.parts))
        left.remove(reached)


def kind_in_mount_output(text: str, path: PurePath) -> str | None:
    """Return the kind of network file system that a path is on, from the output of macOS's `mount`."""
    found = re.finditer(r"^(.*?) on (/.*) \(([^,()]+)[^()]*\)$", text, re.MULTILINE)
    mounts = [
        _Mount("", "", PurePosixPath(point), kind, source) for source, point, kind in (each.groups() for each in found)
    ]
    above = [each for each in mounts if path.is_relative_to(each.point)]
    return _remote_kind(max(reversed(above), key=lambda each: len(each.point.parts), default=None))


def _remote_kind(mount: _Mount | None) -> str | None:
    return mount.kind if mount and mount.remote else None


def is_share(path: str) -> bool:
    r"""Whether a Windows path is on another machine, as in `\\server\share`; `\\?\C:\` and `\\.\` are not."""
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
