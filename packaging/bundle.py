"""Builds the one-click bundle: `python packaging/bundle.py` writes dist/mcp-vega-VERSION.mcpb and prints its path.

The bundle is a zip file with the package's sources, pyproject.toml and manifest.json. The host that opens it runs uv,
which installs the requirements of pyproject.toml. The same files give the same bundle, byte for byte, on every machine.
"""

import json
import re
import sys
from argparse import ArgumentParser
from collections.abc import Generator
from pathlib import Path
from zipfile import ZipFile, ZipInfo

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mcp_vega"


def main() -> None:
    """Build the bundle into the folder that the command names."""
    parser = ArgumentParser(prog="bundle.py", description="Build the one-click bundle of mcp-vega.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="where to write it; default: dist")
    print(build(parser.parse_args().folder))


def build(folder: Path) -> Path:
    """Write the bundle into `folder`, which is created if it does not exist; returns its path.

    Raises:
        OSError: A file cannot be read or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"mcp-vega-{version()}.mcpb"
    with ZipFile(file, "w") as bundle:
        for name, content in sorted(contents()):
            bundle.writestr(_entry(name), content)
    return file


def contents() -> Generator[tuple[str, bytes]]:
    """Each file of the bundle: its name in the bundle, and its bytes."""
    yield "manifest.json", _manifest()
    yield "pyproject.toml", _pyproject()
    # The build of the package reads these two.
    for name in ("README.md", "LICENSE"):
        yield name, (ROOT / name).read_bytes()
    for file in PACKAGE.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
            yield file.relative_to(ROOT).as_posix(), file.read_bytes()


def version() -> str:
    """The package's version, read without an import: this program needs no installed packages."""
    found = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        sys.exit("mcp_vega/__init__.py has no version")
    return found[1]


def _manifest() -> bytes:
    template = json.loads((ROOT / "packaging" / "manifest.json").read_text(encoding="utf-8"))
    return json.dumps({**template, "version": version()}, indent=2).encode()


def _pyproject() -> bytes:
    """pyproject.toml without the groups for developers: uv would install the group `dev` as well."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.sub(r"^\[dependency-groups\]\n.*?(?=^\[)", "", text, flags=re.DOTALL | re.MULTILINE).encode()


def _entry(name: str) -> ZipInfo:
    """An entry that is the same on every machine: not compressed, and with the earliest date that zip allows."""
    entry = ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # Unix, because these are Unix permissions
    entry.external_attr = 0o100644 << 16
    return entry


if __name__ == "__main__":
    main()
