"""The pictures' folder: whole files under names that any system takes, and none overwritten."""

import os
from datetime import date
from pathlib import Path

import pytest

from mcp_vega.errors import Charged, GalleryError
from mcp_vega.studio.gallery import Gallery, name_of

pytestmark = pytest.mark.anyio

DAY = date(2026, 11, 20)


ID, OTHER = "0123456789abcdef" * 2, "01234567" + "f" * 24


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


async def test_a_picture_is_kept_under_its_day(tmp_path: Path) -> None:
    path, note = await Gallery(tmp_path).keep(b"data", "a-7.jpg", ID, DAY)
    assert (path, note) == (tmp_path / "2026-11-20" / "a-7-01234567.jpg", "")
    assert path.read_bytes() == b"data"
    assert names(path) == ["a-7-01234567.jpg"]


@pytest.mark.parametrize("links", [True, False])
async def test_a_file_is_never_overwritten_with_or_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    gallery = Gallery(tmp_path)
    first, _ = await gallery.keep(b"first", "a-7.jpg", ID, DAY)
    second, _ = await gallery.keep(b"second", "a-7.jpg", OTHER, DAY)
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert names(first) == ["a-7-01234567.jpg", f"a-7-{OTHER}.jpg"]


async def test_a_picture_that_is_there_already_is_not_kept_twice(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    first = await gallery.keep(b"data", "a-7.jpg", ID, DAY)
    assert await gallery.keep(b"data", "a-7.jpg", ID, DAY) == first
    assert names(first[0]) == ["a-7-01234567.jpg"]


async def test_what_a_server_left_when_it_died_while_it_wrote_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "2026-11-20").mkdir()
    left = tmp_path / "2026-11-20" / ".a-7-01234567.1234.part"
    left.write_bytes(b"da")
    os.utime(left, (0, 0))
    path, _ = await Gallery(tmp_path).keep(b"data", "a-7.jpg", ID, DAY)
    assert names(path) == ["a-7-01234567.jpg"]


async def test_a_picture_that_its_folder_will_not_take_goes_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    gallery = Gallery(tmp_path / "file", [tmp_path / "file" / "x", tmp_path / "spare"])
    path, note = await gallery.keep(b"data", "a-7.jpg", ID, DAY)
    assert path == tmp_path / "spare" / "2026-11-20" / "a-7-01234567.jpg"
    assert note == f"The folder {tmp_path / 'file'} could not be written: Not a directory"
    with pytest.raises(GalleryError) as caught:
        await Gallery(tmp_path / "file").keep(b"data", "a-7.jpg", ID, DAY)
    assert caught.value.charged is Charged.YES


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("A Lighthouse, at dusk!", "a-lighthouse-at-dusk"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\CON NUL", "c-con-nul"),
        ("Füchslein im Schnee", "fuchslein-im-schnee"),
        ("狐", "picture"),
        ("\0\n", "picture"),
        ("x" * 500, "x" * 40),
    ],
)
def test_a_file_name_is_made_of_harmless_words(prompt: str, slug: str) -> None:
    assert name_of(prompt, 7, ".jpg") == f"{slug}-7.jpg"


async def test_a_picture_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="cannot be read"):
        await Gallery(tmp_path).read(tmp_path / "gone.jpg")
