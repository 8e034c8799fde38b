"""On which file systems a ledger would be damaged: what the tables and functions of each operating system say."""

import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from mcp_vega.storage.database.sqlite.network_volume import (
    is_share,
    kind_in_mount_output,
    kind_in_mountinfo,
    network_volume,
)

ROOT = "21 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n"
HOME = PurePosixPath("/home/fox/.local/share/mcp-vega")

REMOTE_KINDS = """
    nfs nfs4 cifs smb3 smbfs ncpfs afs coda ceph glusterfs lustre beegfs gpfs orangefs pvfs2 davfs
    fuse.sshfs fuse.s3fs fuse.rclone fuse.glusterfs fuse.ceph-fuse fuse.gcsfuse
    9p virtiofs vboxsf drvfs fuse.grpcfuse fuse.vmhgfs-fuse
"""
LOCAL_KINDS = "ext4 xfs btrfs zfs tmpfs overlay ntfs3 fuseblk fuse fuse.ntfs-3g fuse.gocryptfs fuse.portal autofs nfsd"

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this table")


def mounted(kind: str, point: str = "/home", source: str = "server:/home", ids: str = "60 21") -> str:
    return f"{ids} 0:50 / {point} rw,relatime shared:9 master:3 - {kind} {source} rw,vers=4.2\n"


# ---- Linux ----


@pytest.mark.parametrize("kind", REMOTE_KINDS.split())
def test_a_network_file_system_is_recognised(kind: str) -> None:
    assert kind_in_mountinfo(ROOT + mounted(kind), HOME) == kind


def test_a_root_on_the_machines_own_host_counts_as_local_because_nothing_better_exists() -> None:
    assert kind_in_mountinfo(ROOT.replace("ext4", "9p"), HOME) is None
    assert kind_in_mountinfo(ROOT.replace("ext4", "nfs4"), HOME) == "nfs4"


@pytest.mark.parametrize("kind", LOCAL_KINDS.split())
def test_a_local_file_system_is_not_a_network_file_system(kind: str) -> None:
    assert kind_in_mountinfo(ROOT + mounted(kind, source="/dev/sdb1"), HOME) is None


def test_fuse_without_a_kind_is_remote_if_its_source_is_a_url() -> None:
    assert kind_in_mountinfo(ROOT + mounted("fuse", source="https://dav.example/fox"), HOME) == "fuse"


def test_only_a_mount_point_above_the_path_counts() -> None:
    others = mounted("nfs4", "/home/fo") + mounted("nfs4", "/home/fox/.local/share/mcp-vega/images", ids="61 21")
    assert kind_in_mountinfo(ROOT + others, HOME) is None


def test_a_mount_within_a_mount_counts() -> None:
    disk = "61 60 8:3 / /home/fox rw - ext4 /dev/sdb1 rw\n"
    assert kind_in_mountinfo(ROOT + mounted("nfs4") + disk, HOME) is None
    share = mounted("cifs", "/home/fox/.local", ids="62 61")
    # The order of the lines does not matter, because mounts can be moved.
    assert kind_in_mountinfo(share + disk + mounted("nfs4") + ROOT, HOME) == "cifs"


def test_the_last_mount_at_a_mount_point_counts() -> None:
    below, above = mounted("nfs4"), mounted("ext4", source="/dev/sdb1", ids="61 60")
    assert kind_in_mountinfo(ROOT + below + above, HOME) is None
    assert kind_in_mountinfo(ROOT + mounted("ext4") + mounted("nfs4", ids="61 60"), HOME) == "nfs4"
    assert kind_in_mountinfo(ROOT + mounted("ext4") + mounted("nfs4", ids="61 21"), HOME) == "nfs4"


def test_a_mount_hidden_by_a_mount_above_it_does_not_count() -> None:
    hidden = mounted("nfs4", "/home/fox")
    assert kind_in_mountinfo(ROOT + hidden + mounted("ext4", ids="61 21"), HOME) is None


def test_a_bind_mount_has_the_kind_of_its_source() -> None:
    bind = "70 21 0:50 /export/fox /home/fox rw,relatime - nfs4 server:/export rw\n"
    assert kind_in_mountinfo(ROOT + mounted("nfs4", "/mnt") + bind, HOME) == "nfs4"


def test_in_a_changed_root_the_table_may_have_no_mount_for_the_root() -> None:
    assert kind_in_mountinfo(mounted("nfs4"), HOME) == "nfs4"
    assert kind_in_mountinfo(mounted("nfs4"), PurePosixPath("/srv")) is None


@pytest.mark.parametrize(
    ("point", "path"),
    [
        (r"/mnt/my\040share", "/mnt/my share/vega"),
        (r"/mnt/tab\011and\134back", "/mnt/tab\tand\\back"),
        (r"/mnt/line\012end", "/mnt/line\nend/vega"),
        (r"/mnt/\134040", r"/mnt/\040"),
        ("/mnt/füchse", "/mnt/füchse/vega"),
        ("/mnt/feed\x0c and \u2028".replace(" ", r"\040"), "/mnt/feed\x0c and \u2028/vega"),
    ],
)
def test_mount_points_are_unescaped(point: str, path: str) -> None:
    assert kind_in_mountinfo(ROOT + mounted("nfs4", point), PurePosixPath(path)) == "nfs4"


@pytest.mark.parametrize("text", ["", "\n", "60 21", "a b c d / e - ", " - nfs4 x", "1 1 0:1 / / rw - ext4 x\n" * 2])
def test_tables_in_an_unknown_form_give_no_result(text: str) -> None:
    assert kind_in_mountinfo(text, HOME) is None


def test_a_circle_of_mounts_does_not_hang() -> None:
    circle = mounted("ext4", "/", ids="1 2") + mounted("nfs4", "/home", ids="2 1")
    assert kind_in_mountinfo(circle, HOME) is None


@linux
def test_a_missing_path_is_on_the_volume_of_the_folder_above_it(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(ROOT + mounted("nfs4", str(tmp_path / "share")), encoding="utf-8")
    assert network_volume(tmp_path / "share" / "not" / "there", table) == "nfs4"
    assert network_volume(tmp_path / "not" / "there", table) is None


@linux
def test_a_link_is_on_the_volume_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to("share")
    table = tmp_path / "mountinfo"
    table.write_text(ROOT + mounted("nfs4", str(tmp_path / "share")), encoding="utf-8")
    assert network_volume(tmp_path / "link" / "vega", table) == "nfs4"


@linux
def test_a_relative_path_and_a_path_with_odd_bytes_can_be_looked_up(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(ROOT.encode() + b"50 21 0:9 / /mnt/\xff rw - nfs4 server:/ rw\n")
    assert network_volume(Path("vega"), table) is None
    assert network_volume(Path(os.fsdecode(b"/mnt/\xff/vega")), table) == "nfs4"


@linux
def test_without_a_given_table_this_machines_own_is_read() -> None:
    assert network_volume(Path("/proc")) is None


def test_if_nothing_can_be_found_out_there_is_no_result(tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    table = tmp_path / "mountinfo"
    table.write_text(ROOT, encoding="utf-8")
    for path in (circle / "vega", Path("\0"), tmp_path):
        assert network_volume(path, table) is None
    assert network_volume(tmp_path, tmp_path / "missing") is None
    assert network_volume(tmp_path, tmp_path) is None


# ---- macOS ----

MACOS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse, protect)
map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)
//fox@nas._smb._tcp.local/share on /Volumes/share (smbfs, nodev, nosuid, mounted by fox)
//fox@nas/photos on /Volumes/photos on nas (2) (smbfs, nodev, nosuid, mounted by fox)
nas:/export/home on /Users/fox (nfs)
/dev/disk5s1 on /Users/fox/disk (apfs, local, nodev, nosuid, journaled, noowners, mounted by fox)
https://dav.example/ on /Volumes/dav (webdav, nodev, noexec, nosuid, mounted by fox)
afp_0TQk on /Volumes/old (afpfs, nodev, nosuid, mounted by fox)
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/Volumes/share/vega", "smbfs"),
        ("/Volumes/photos on nas (2)/vega", "smbfs"),
        ("/Users/fox/Library/Application Support/mcp-vega", "nfs"),
        ("/Users/fox/disk/vega", None),
        ("/Users/foxes", None),
        ("/Volumes/dav", "webdav"),
        ("/Volumes/old/vega", "afpfs"),
        ("/System/Volumes/Data/home/fox", None),
    ],
)
def test_the_output_of_mount_on_macos_is_read(path: str, kind: str | None) -> None:
    assert kind_in_mount_output(MACOS, PurePosixPath(path)) == kind


def test_on_macos_the_last_mount_at_a_mount_point_counts() -> None:
    text = "nas:/a on /Volumes/a (nfs)\n/dev/disk9 on /Volumes/a (apfs, local)\n"
    assert kind_in_mount_output(text, PurePosixPath("/Volumes/a")) is None


@pytest.mark.parametrize("text", ["", "nonsense", "a on /", "a on / ()", "a on b (nfs)"])
def test_output_in_an_unknown_form_gives_no_result(text: str) -> None:
    assert kind_in_mount_output(text, PurePosixPath("/Users/fox")) is None


@pytest.mark.skipif(sys.platform != "darwin", reason="only macOS prints this form")
def test_this_mac_has_a_mount_at_its_root() -> None:
    output = subprocess.run(["/sbin/mount"], capture_output=True, text=True, check=True).stdout
    assert " on / (" in output
    assert network_volume(Path("/")) is None


# ---- Windows ----


@pytest.mark.parametrize(
    ("path", "share"),
    [
        (r"\\server\share\vega", True),
        ("//server/share/vega", True),
        (r"\\wsl.localhost\Ubuntu\home\fox", True),
        (r"\\?\UNC\server\share", True),
        (r"\\?\unc\server\share", True),
        (r"\\?\C:\Users\fox", False),
        (r"\\.\C:\Users\fox", False),
        (r"C:\Users\fox", False),
        (r"\Users\fox", False),
        ("", False),
    ],
)
def test_a_windows_path_that_names_another_machine_is_a_share(path: str, share: bool) -> None:  # noqa: FBT001
    assert is_share(path) == share


@pytest.mark.skipif(sys.platform != "win32", reason="it asks Windows about its drives")
def test_the_system_drive_of_windows_is_local() -> None:
    assert network_volume(Path(os.environ.get("SYSTEMROOT", "C:\\Windows"))) is None
