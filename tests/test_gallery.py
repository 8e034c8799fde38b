"""The pictures' folder: whole files under names that any system takes, and none overwritten."""

from datetime import date
from pathlib import Path

import pytest

from mcp_vega.errors import Charged, GalleryError
from mcp_vega.studio.gallery import Gallery, file_name

pytestmark = pytest.mark.anyio

DAY = date(2026, 11, 20)


async def test_a_picture_is_kept_under_its_day(tmp_path: Path) -> None:
    path = await Gallery(tmp_path).keep(b"data", "a.jpg", DAY)
    assert path == tmp_path / "2026-11-20" / "a.jpg"
    assert path.read_bytes() == b"data"
    assert [each.name for each in path.parent.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize("links", [True, False])
async def test_a_file_is_never_overwritten_with_or_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    gallery = Gallery(tmp_path)
    path = await gallery.keep(b"first", "a.jpg", DAY)
    with pytest.raises(GalleryError) as caught:
        await gallery.keep(b"second", "a.jpg", DAY)
    assert caught.value.charged is Charged.YES
    assert path.read_bytes() == b"first"
    assert [each.name for each in path.parent.iterdir()] == ["a.jpg"]


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
    assert file_name(prompt, 7, "0123456789abcdef", ".jpg") == f"{slug}-7-01234567.jpg"


async def test_a_picture_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="cannot be read"):
        await Gallery(tmp_path).read(tmp_path / "gone.jpg")
