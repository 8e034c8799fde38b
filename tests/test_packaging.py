"""What is handed out: the wheel."""

import subprocess
import sys
import tarfile
import tomllib
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from test_transports import environment

from mcp_vega import __version__

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# ---- the wheel and the source archive ----


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built by what pyproject.toml names for it."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, timeout=60)
    return folder


@pytest.fixture
def wheel(built: Path) -> Path:
    (file,) = built.glob("*.whl")
    return file


def package() -> dict[str, bytes]:
    """The files of the package as they lie in the folder, without what Python leaves there."""
    files = [file for file in (ROOT / "mcp_vega").rglob("*.*") if "__pycache__" not in file.parts]
    return {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in files}


def unzipped(file: Path) -> dict[str, bytes]:
    with ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    files = unzipped(wheel)
    described = {name for name in files if name.startswith(f"mcp_vega-{__version__}.dist-info/")}
    assert {name: files[name] for name in files.keys() - described} == package()
    names = {name.partition("/")[2] for name in described}
    assert names == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def metadata(wheel: Path) -> Message:
    return Parser().parsestr(unzipped(wheel)[f"mcp_vega-{__version__}.dist-info/METADATA"].decode())


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    said = metadata(wheel)
    assert (said["Name"], said["Version"]) == ("mcp-vega", __version__)
    assert (said["License-Expression"], said["Requires-Python"]) == ("MIT", ">=3.11")
    assert said.get_payload() == README
    files = unzipped(wheel)
    assert files[f"mcp_vega-{__version__}.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    commands = files[f"mcp_vega-{__version__}.dist-info/entry_points.txt"].decode()
    assert commands == "[console_scripts]\nmcp-vega = mcp_vega.cli.main:main\n"


def test_the_source_archive_holds_all_that_is_committed_but_what_begins_with_a_dot(built: Path) -> None:
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip("this is no clone, so nobody knows what is committed")
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    committed = {name for name in git.stdout.splitlines() if not name.startswith(".")}
    assert committed - names == set()
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "dist"))]


@pytest.mark.external
def test_a_wheel_from_pip_draws_in_a_fresh_environment(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", tmp_path / "dist", ROOT], check=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("mcp_vega-*.whl")
    assert {name for name in unzipped(wheel) if ".dist-info/" not in name} == package().keys()
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    subprocess.run([*pip, "--python", venv, "install", "--quiet", wheel], check=True, timeout=300)
    (command,) = [file for file in venv.rglob("mcp-vega*") if file.parent.name in {"bin", "Scripts"}]
    draw, env = [command, "draw", "a fox", "--sandbox"], environment(tmp_path / "gallery", HOME=str(tmp_path))
    drawn = subprocess.run(draw, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert Path(drawn.stdout.strip()).stat().st_size > 10_000
