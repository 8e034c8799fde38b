"""How the package is built: imports point down, an import has no side effects, sizes and names stay within limits."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import read

import mcp_vega
from mcp_vega.engine.diffusion.packages import PACKAGES as LOCAL

ROOT = Path(mcp_vega.__file__).parent
# Imports point down: a package may import only from itself and from the packages listed here.
BASE = {"errors", "parameters", "job", "redaction", "telemetry"}
MAY_IMPORT = {
    "errors": set[str](),
    "redaction": set[str](),
    "telemetry": {"redaction"},
    "settings": {"errors", "network"},
    "network": set[str](),
    "parameters": set[str](),
    "job": {"errors", "parameters"},
    "imaging": BASE,
    "segmind": BASE | {"imaging"},
    "storage": BASE | {"imaging", "network"},
    "jobs": BASE | {"imaging", "segmind", "storage"},
    "server": BASE | {"imaging", "segmind", "storage", "jobs", "network", "__version__"},
    # Of the client, only what the documents say, so that client and sandbox are two independent readings of the API.
    "sandbox": {"parameters", "imaging"},
    "engine": {"parameters", "imaging", "network"},
    "cli": BASE
    | {"imaging", "segmind", "storage", "jobs", "server", "sandbox", "engine", "network", "settings", "__version__"},
    "__main__": {"cli"},
    "__init__": set[str](),
}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def imports_of(module: Path) -> set[str]:
    """The modules of this package that a module imports, without the package's name."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mcp_vega":
            names |= {f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            names |= {each.name for each in node.names if each.name.split(".")[0] == "mcp_vega"}
    return {name.partition(".")[2] for name in names}


def package_of(name: str) -> str:
    return name.replace("/", ".").split(".")[0]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_down(module: Path) -> None:
    package = package_of(module.as_posix())
    imported = {package_of(name) for name in imports_of(module)}
    assert imported - MAY_IMPORT[package] - {package} == set()


def test_only_one_package_uses_http() -> None:
    users = {module.as_posix() for module in MODULES if "import httpx" in (ROOT / module).read_text(encoding="utf-8")}
    # The command opens the client, an installation asks the user's own server, the settings only read URLs, and an
    # issuer of OAuth is asked for its keys.
    others = {"cli/api_client.py", "cli/install/remote.py", "settings/urls.py", "server/http/access/oauth/issuer.py"}
    others |= {"cli/engine/transport.py"}  # to the engine on this machine
    others |= {"cli/engine/weights.py", "engine/weights/hub.py"}  # weights are fetched from the Hugging Face hub
    others |= {"engine/backend/server.py"}  # an engine may draw through another server
    assert {name for name in users if not name.startswith("segmind/")} == others


def test_only_one_package_uses_sql() -> None:
    users = {
        module.as_posix()
        for module in MODULES
        if re.search(r"^\s*(import|from) (sqlite3|psycopg)", (ROOT / module).read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert all(name.startswith("storage/database/") for name in users)


# The packages of the extras, and the modules that may not be imported before a setting or an engine asks for them.
TEAM = ("psycopg", "obstore", "prometheus_client")
ONLY_FOR_EXTRAS = (
    "storage/database/postgres/",
    "storage/images/bucket.py",
    "telemetry/prometheus.py",
    "engine/diffusion/",
)


def imported_first(module: Path) -> set[str]:
    """What an import of a module imports directly: the first parts of the names, or the files of this package."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    statements = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {each.name for node in statements if isinstance(node, ast.Import) for each in node.names}
    for node in statements:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    # The packages that a module is in are imported before it.
    parts = {parent for name in names for parent in parents(name)} | parents(dotted(module))
    return {each if each.startswith("mcp_vega") else each.split(".")[0] for each in parts}


def parents(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts) + 1)}


def dotted(module: Path) -> str:
    return ".".join(("mcp_vega", *module.with_suffix("").parts)).removesuffix(".__init__")


def needing(packages: Iterable[str]) -> set[Path]:
    """The modules that cannot be imported without one of these packages."""
    names = {dotted(module): module for module in MODULES}
    imported = {module: imported_first(module) for module in MODULES}
    found = {module for module in MODULES if imported[module] & set(packages)}
    while more := {module for module in MODULES if any(names.get(each) in found for each in imported[module])} - found:
        found |= more
    return found


def test_packages_of_the_extras_are_imported_only_when_they_are_needed() -> None:
    names = {module.as_posix() for module in needing((*TEAM, *LOCAL))}
    assert {name for name in names if not name.startswith(ONLY_FOR_EXTRAS)} == set()
    # The engine imports this one before it listens, and torch takes seconds.
    assert "engine/diffusion/pipeline.py" in names
    assert "engine/diffusion/painter.py" not in names


def test_the_extra_local_has_what_the_engine_imports_and_looks_for() -> None:
    extra = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]["local"]
    assert {re.split("[^a-z]", each)[0] for each in extra} == set(LOCAL)
    modules = [module for module in MODULES if module.as_posix().startswith("engine/diffusion/")]
    imported = {name for module in modules for name in imported_first(module) if not name.startswith("mcp_vega")}
    assert imported - sys.stdlib_module_names - {"PIL"} <= set(LOCAL)


def test_pyjwt_is_imported_only_for_oauth() -> None:
    package = "server/http/access/oauth/"
    imported = {module.as_posix(): imported_first(module) for module in MODULES}
    names = {"jwt", dotted(Path(package))}
    assert {name for name, found in imported.items() if found & names and not name.startswith(package)} == set()
    assert any("jwt" in found for found in imported.values())


def test_only_the_command_that_serves_has_figures_for_prometheus() -> None:
    users = {module.as_posix() for module in MODULES if "telemetry.prometheus.PrometheusRecorder" in imports_of(module)}
    assert users == {"cli/serve/metrics.py"}


def test_a_start_over_stdio_does_not_wait_for_what_only_a_team_or_an_engine_needs() -> None:
    heavy = {"jwt", "opentelemetry.sdk", *TEAM, *LOCAL, "mcp_vega.cli.serve.http", "mcp_vega.server.http.access.oauth"}
    program = f"import sys, mcp_vega.cli.serve.command; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_the_database_package_knows_nothing_about_jobs_or_pictures() -> None:
    imported = {name for module in MODULES if "database" in module.parts for name in imports_of(module)}
    assert not [name for name in imported if name.startswith(("storage.ledger", "storage.images", "job.Job"))]


def test_importing_the_package_opens_and_prints_nothing() -> None:
    # An import of torch does start processes.
    missing = needing([*LOCAL, *(each for each in TEAM if not find_spec(each))])
    names = [dotted(module) for module in MODULES if module not in missing]
    imported = "; ".join(f"import {name}" for name in names if not name.endswith("__main__"))
    # Events of Python's audit hooks that an import of this package must not cause.
    program = f"""
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.mkdir", "sqlite3.connect"):
        raise SystemExit(f"{{event}} {{arguments}}")
sys.addaudithook(watch)
{imported}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("module", sorted(Path(__file__).parent.glob("test_*.py")), ids=lambda path: path.name)
def test_tests_that_need_a_package_of_the_extra_have_the_marker(module: Path) -> None:
    """`tests/services.py` sees to that for a single test, but not for a module that is skipped as a whole."""
    text = module.read_text(encoding="utf-8")
    assert not re.search(rf"importorskip\(.({'|'.join((*TEAM, *LOCAL))})", text), "use `require_packages`"
    if re.search(r"^(if .*:\n    )?require_packages", text, re.MULTILINE):
        assert re.search(r"^pytestmark = .*mark\.services", text, re.MULTILINE)


# ---- sizes ----


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}:{node.lineno} {node.name}", node


def test_no_module_is_longer_than_300_lines() -> None:
    lengths = {module: len((ROOT / module).read_text(encoding="utf-8").splitlines()) for module in MODULES}
    assert {module: length for module, length in lengths.items() if length > 300} == {}


def test_functions_are_short() -> None:
    lengths = {name: (node.end_lineno or node.lineno) - node.lineno + 1 for name, node in functions()}
    assert {name: length for name, length in lengths.items() if length > 60} == {}
    assert sum(length <= 30 for length in lengths.values()) >= 0.9 * len(lengths)


def test_constructors_take_at_most_five_parameters() -> None:
    taken = {
        name: len(node.args.posonlyargs) + len(node.args.args) - 1 + len(node.args.kwonlyargs)
        for name, node in functions()
        if node.name == "__init__"
    }
    assert {name: count for name, count in taken.items() if count > 5} == {}


def test_a_folder_has_about_ten_entries() -> None:
    for folder in [ROOT, *(path for path in ROOT.rglob("*") if path.is_dir() and path.name != "__pycache__")]:
        paths = [path for path in folder.iterdir() if not path.name.startswith("__")]
        entries = [path.name for path in paths if path.suffix == ".py" or (path / "__init__.py").exists()]
        # Two folders may have more: that of the commands has one for each command, and the uppermost one for each role.
        assert len(entries) <= {ROOT / "cli": 18, ROOT: 15}.get(folder, 12), entries


# ---- names ----


@pytest.mark.parametrize("folder", [ROOT, Path(__file__).parent], ids=["package", "tests"])
def test_no_invented_word_comes_back(folder: Path) -> None:
    (rule,) = (line for line in read("CONTRIBUTING.md").split("\n- ") if "invented words" in line)
    private = "|".join(re.findall("`([a-z]+)`", rule))
    assert private
    words = re.compile(rf"(?<![a-zA-Z])({private})(?![a-zA-Z])", re.IGNORECASE)
    found = {
        f"{path.relative_to(folder)}: {word[0]}"
        for path in folder.rglob("*.py")
        for word in words.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {module.stem for module in MODULES}
    assert names.isdisjoint({"utils", "util", "helpers", "common", "misc", "core", "manager", "managers", "base"})


@pytest.mark.parametrize("package", [each for each in MODULES if each.name == "__init__.py"], ids=str)
def test_a_package_that_lists_its_modules_lists_all(package: Path) -> None:
    folder = (ROOT / package).parent
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    modules -= {"__init__", "__main__"}
    docstring = ast.get_docstring(ast.parse((ROOT / package).read_text(encoding="utf-8"))) or ""
    for paragraph in docstring.split("\n\n"):
        listed = {line.partition(" ")[0] for line in paragraph.splitlines()}
        if listed & modules:
            assert listed == modules
