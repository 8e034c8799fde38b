"""Every command in the documents is run here, or is in a list with the reason why it is not; links lead somewhere."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from conftest import KEY, SMALL, Sandbox
from pages import PAGES, ROOT, anchors, blocks, of_language, prose, read, rows
from PIL import Image
from test_command_line import run

COMMAND = [sys.executable, "-m", "mcp_vega"]
# Only `sh` and `console` blocks contain commands of a shell.
LANGUAGES = {"sh", "console", "powershell", "python", "json", "toml", "text"}
SANDBOX_PAGE = "docs/sandbox.md"
CURL = shutil.which("curl")
PORT = "http://127.0.0.1:8765"
posix = pytest.mark.skipif(sys.platform == "win32", reason="the documents' commands are those of a POSIX shell")

SERVES = "it serves until it is stopped, or is for that; tests/test_transports.py and test_http_access.py serve"
SERVES_PICTURES = "it serves until it is stopped; tests/test_engine_command.py starts such engines"
BUILDS = "it writes into the checkout; tests/test_packaging.py runs it elsewhere"
CONTAINS = "it needs a container engine; tests/test_packaging.py does by hand what the image does"
DEVELOPMENT = "it is this suite, a part of it, or as slow as the suite"
NOT_RUN = {
    ".venv/bin/mcp-vega install": "it asks, and changes a host's configuration; its own tests run it",
    "claude mcp add vega --scope user -e SEGMIND_API_KEY=SG_your_key -- "
    "/absolute/path/to/mcp_vega/.venv/bin/mcp-vega": "the host's program is needed, and it changes its configuration",
    "mcp-vega install claude-code --url https://pictures.example/mcp": "as above",
    "kill -HUP PID": "PID stands for a number; tests/test_secret_files.py sends the signal",
    "python3 -m pip --python .venv install -q '.[local]'": "it needs a network, and installs torch",
    "mcp-vega weights": "it fetches 3.5 GB; tests/test_weights.py fetches from a stand-in for the hub",
    "mcp-vega doctor --local": "it needs what the commands above install; tests/test_doctor_local.py runs it",
    'mcp-vega draw "a lighthouse at dusk" --local': "as above; tests/test_local.py draws so",
    "mcp-vega install --local": "it asks, and changes a host's configuration; tests/test_install.py runs it",
    "mcp-vega engine": SERVES_PICTURES,
    "mcp-vega engine --backend http://127.0.0.1:7860": SERVES_PICTURES,
    "MCP_VEGA_ENGINE_KEY=SG_a_long_random_key mcp-vega engine --host 10.0.0.12": SERVES_PICTURES,
    "ssh -N -L 8764:127.0.0.1:8764 gpu.example": "there is no such host",
    'SEGMIND_BASE_URL=http://127.0.0.1:8764 SEGMIND_API_KEY=SG_any mcp-vega draw "a lighthouse at dusk"': "it needs "
    "that engine; tests/test_engine_command.py draws so",
    "mcp-vega doctor": "it asks the real API whether the key is accepted; tests/test_doctor.py has it ask the sandbox",
    "jq -rR 'fromjson? | select(.job == \"local-0123456789abcdef0123456789abcdef\") | .message' replica.log": "jq is "
    "another program, and the log is made up",
    "mcp-vega doctor --paid": "it pays, after asking; tests/test_doctor_paid.py has it pay the sandbox",
    'mcp-vega draw "a valley in the mountains at dawn" --samples 4 --seed 7 --sandbox -o valley.jpg': "it takes ten "
    "seconds, as the API would; tests/test_documents.py compares the pictures with the painter",
    "mcp-vega --transport http": SERVES,
    "mcp-vega --transport http --host 10.0.0.11": SERVES,
    "curl http://10.0.0.11:8000/readyz": "there is no such host; tests/test_draining.py asks a server here",
    "MCP_VEGA_METRICS_PORT=9464 mcp-vega --transport http": SERVES,
    "curl http://127.0.0.1:9464/metrics": "it needs that server; tests/test_metrics.py reads the figures of one",
    "pip install opentelemetry-distro opentelemetry-exporter-otlp": "it needs a network",
    "opentelemetry-instrument mcp-vega --transport http": SERVES,
    "mcp-vega gallery": "it serves until it is stopped; tests/test_gallery_command.py asks it",
    "mcp-vega gallery --print --port 8001": "as above",
    "mcp-vega export vega.zip": "it needs a ledger with jobs; tests/test_transfer.py runs it",
    "mcp-vega import vega.zip --owner NAME": "as above",
    "mcp-vega export mine.zip --owner NAME": "as above",
    "mcp-vega import mine.zip": "as above",
    "ssh -L 8001:127.0.0.1:8001 HOST": "there is no such host",
    'export MCP_VEGA_AUTH_TOKENS=$(python3 -c "import secrets; print(secrets.token_urlsafe(32))")': SERVES,
    "export MCP_VEGA_ALLOWED_HOSTS=pictures.example": SERVES,
    "curl https://pictures.example/health": "there is no such host; tests/test_transports.py asks a server here",
    'curl -H "Authorization: Bearer TOKEN" -o fox.jpg https://pictures.example/images/ID': "as above",
    "python3 -m pip wheel --no-deps -w dist .": BUILDS,
    "python3 -m pip wheel -q --no-deps -w dist . && uvx --from ./dist/mcp_vega-*.whl mcp-vega --version": "uv is "
    "needed; tests/test_packaging.py runs a wheel with it",
    "python3 packaging/bundle.py": BUILDS,
    "python3 packaging/links.py": BUILDS,
    "docker build -f packaging/Dockerfile -t mcp-vega .": CONTAINS,
    "export SEGMIND_API_KEY=SG_your_key": CONTAINS,
    "docker run -d --name vega -p 127.0.0.1:8000:8000 -e SEGMIND_API_KEY -e MCP_VEGA_AUTH_TOKENS -v "
    "mcp-vega-pictures:/pictures -v mcp-vega-ledger:/ledger mcp-vega": CONTAINS,
    "chmod 644 secrets/*": CONTAINS,
    "mkdir -m 700 secrets": CONTAINS,
    "echo SG_none > secrets/segmind_api_key": CONTAINS,
    """python3 -c "import secrets; print('alice:' + secrets.token_urlsafe(32))" > secrets/auth_tokens""": CONTAINS,
    """python3 -c "import secrets; print('POSTGRES_PASSWORD=' + secrets.token_hex(24))" > .env""": CONTAINS,
    """python3 -c "import secrets; print('S3_SECRET_KEY=' + secrets.token_hex(24))" >> .env""": CONTAINS,
    "echo MCP_VEGA_SANDBOX=1 >> .env": CONTAINS,
    "docker compose up -d --build": CONTAINS,
    "docker compose ps": CONTAINS,
    "docker compose --profile figures up -d": CONTAINS,
    "python3 -m venv --without-pip .venv && python3 -m pip --python .venv install -q pip": DEVELOPMENT,
    ".venv/bin/pip install -q -e . --group dev": DEVELOPMENT,
    ".venv/bin/pytest": DEVELOPMENT,
    "sudo apt-get install -y postgresql prometheus": DEVELOPMENT,
    "python3 -m venv --without-pip .venv/torch && python3 -m pip --python .venv/torch install -q pip": DEVELOPMENT,
    ".venv/torch/bin/pip install -q torch==2.13.0 -e '.[local]' --group dev": DEVELOPMENT,
    "MCP_VEGA_TEST_ENGINE=required .venv/torch/bin/pytest -m engine -n 2 -o faulthandler_timeout=600": DEVELOPMENT,
    ".venv/bin/pip install -q --group services": DEVELOPMENT,
    "MCP_VEGA_TEST_SERVICES=required .venv/bin/pytest -m services": DEVELOPMENT,
    ".venv/bin/pytest -m external": "it needs Node.js, exiftool and a network",
    ".venv/bin/ruff check . && .venv/bin/ruff format --check .": "it reads the complete checkout",
    ".venv/bin/pyright": "it needs a network when it is run for the first time",
    "npx @modelcontextprotocol/inspector .venv/bin/mcp-vega --sandbox": "it needs Node.js and a network, and opens a "
    "browser; tests/test_external.py runs it without one",
    ".venv/bin/python -W ignore tests/fuzz.py answers -runs=1000000": "it takes minutes, and needs atheris",
    ".venv/bin/python -W ignore tests/fuzz.py pictures -runs=1000000": "it takes minutes, and needs atheris",
    ".venv/bin/python benchmarks/all.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/startup.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/call.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/call.py --slow-ms 50": "it needs a C compiler",
    ".venv/bin/python benchmarks/lag.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/tokens.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/load.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/load.py --minutes 10 --at-once 32": DEVELOPMENT,
    ".venv/bin/python benchmarks/growth.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/jobs.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/engine_share.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/engine.py": "it needs torch, the weights and best a GPU",
    ".venv/bin/python benchmarks/peers.py": "it takes minutes, and needs a network",
    ".venv/bin/python benchmarks/kill.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/kill.py --at-calls": DEVELOPMENT,
    ".venv/bin/python benchmarks/kill.py --history late": DEVELOPMENT,
    ".venv/bin/python benchmarks/power_cut.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/ledger.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/ledger.py --slow-ms 50": DEVELOPMENT,
    ".venv/bin/python benchmarks/servers.py --servers 4": DEVELOPMENT,
    ".venv/bin/python benchmarks/soak.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/previews.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/page.py": DEVELOPMENT,
    ".venv/bin/python benchmarks/faults.py": "it takes minutes; tests/test_fault_table.py runs a part of it",
    ".venv/bin/python benchmarks/faults.py --write": "as above",
    ".venv/bin/python benchmarks/ray_cluster.py": "it needs Ray, and starts a cluster",
    ".venv/bin/python benchmarks/drawn.py": "it takes minutes; tests/test_stdio.py and test_properties.py draw fewer",
    ".venv/bin/python benchmarks/replicas/chaos.py": "it takes minutes, and needs nginx; tests/test_replicas.py runs "
    "three servers with PostgreSQL",
    ".venv/bin/python benchmarks/replicas/chaos.py --history-503": "as above",
    ".venv/bin/python benchmarks/replicas/rolling.py": "as above",
    ".venv/bin/python benchmarks/replicas/partition.py": "it needs root",
    ".venv/bin/python benchmarks/replicas/upgrade.py": "it needs nginx; tests/test_replicas.py has less of it",
    ".venv/bin/python benchmarks/replicas/backup.py": "as above, and pg_dump",
    "pg_dump --format=custom --file=ledger.dump postgresql://vega:PASSWORD@db.example:5432/vega": "there is no such "
    "host; benchmarks/replicas/backup.py runs it",
    ".venv/bin/python benchmarks/replicas/throughput.py": "it needs nginx",
    ".venv/bin/python benchmarks/replicas/growth.py": "it takes minutes: it fills a ledger with a million jobs",
    ".venv/bin/python benchmarks/replicas/contention.py": "it takes minutes",
    ".venv/bin/python benchmarks/replicas/crowd.py": "it opens 300 connections to PostgreSQL",
    ".venv/bin/python benchmarks/replicas/objects.py": "it needs an S3 server",
    ".venv/bin/python benchmarks/replicas/by_hand.py": "it needs root",
    ".venv/bin/python benchmarks/replicas/scrape.py": "it takes minutes, and needs nginx; tests/test_team_files.py "
    "compares the dashboard with the figures",
    ".venv/bin/python benchmarks/histories.py": "it takes minutes; tests/test_reconciliation.py draws some cases of it",
}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def unbroken(text: str) -> str:
    """The text with each command on one line."""
    return re.sub(r"\s*\\\n\s*", " ", text)


def shown_only(page: str) -> list[str]:
    """The commands in a page's console blocks, without comments. Lines without a `$` are output."""
    lines = [line.strip() for text in of_language(page, "console") for line in unbroken(text).splitlines()]
    return [re.sub(r" {2,}#.*", "", line[2:]) for line in lines if line.startswith("$ ")]


# ---- every command is in one of the two groups ----


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_names_its_language(page: Path) -> None:
    assert {block.language for block in blocks(read(name_of(page)))} <= LANGUAGES


def test_every_command_that_is_not_run_is_listed_with_the_reason() -> None:
    shown = {command for page in PAGES for command in shown_only(read(name_of(page)))}
    assert shown == set(NOT_RUN)


def test_every_command_that_is_marked_as_run_is_run() -> None:
    """No test runs the two of the README, which are for newcomers and CI. The others are run below."""
    marked = {name_of(page) for page in PAGES if of_language(read(name_of(page)), "sh")}
    assert marked == {"README.md", SANDBOX_PAGE, *RUN_HERE}
    assert len(of_language(read("README.md"), "sh")) == 2
    assert {name_of(page) for page in PAGES if of_language(read(name_of(page)), "python")} == {SANDBOX_PAGE}


# ---- those that are run ----

RUN_HERE = ("docs/jobs-and-money.md", "docs/tools.md")


def ran(*command: str, folder: Path, **variables: str) -> str:
    """The output of a command that a reader runs, in a folder of its own and without this machine's settings."""
    environment = {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "HOME": str(folder),
        "MCP_VEGA_HOME": str(folder / "home"),
        "MCP_VEGA_GALLERY": str(folder / "gallery"),
        **variables,
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran_as_shell(block: str, folder: Path, **variables: str) -> str:
    return ran("bash", "-euo", "pipefail", "-c", block, folder=folder, **variables)


@posix
@pytest.mark.parametrize("page", RUN_HERE)
def test_the_commands_of_a_page_do_what_they_say(page: str, tmp_path: Path, sandbox_in_thread: Sandbox) -> None:
    api = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}
    for block in of_language(read(page), "sh"):
        ran_as_shell(block, tmp_path, **api)
        for name in re.findall(r"-o (\S+\.jpg)", block):
            with Image.open(tmp_path / name) as picture:
                assert picture.size == (SMALL, SMALL)


@contextmanager
def sandbox_of(block: str) -> Generator[str]:
    """Start the sandbox with a command; yields its URL. It gets a free port, because the usual one may be taken."""
    arguments = shlex.split(block)
    assert arguments[0] == "mcp-vega"
    with subprocess.Popen([*COMMAND, *arguments[1:], "--port", "0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            yield process.stderr.readline().strip()
        finally:
            process.terminate()


def curl_knows_json() -> bool:
    """Whether curl is installed, and is 7.82 or newer."""
    said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout if CURL else ""
    return tuple(int(number) for number in re.findall(r"\d+", said)[:2]) >= (7, 82)


@posix
@pytest.mark.skipif(not curl_knows_json(), reason="the page asks for curl 7.82 or newer")
def test_the_page_of_the_sandbox_does_what_it_says(tmp_path: Path) -> None:
    page = read(SANDBOX_PAGE)
    start, *others = of_language(page, "sh")
    sdk, suite = of_language(page, "python")
    with sandbox_of(start) as url:
        first, second, faults, *_ = [ran_as_shell(block.replace(PORT, url), tmp_path) for block in others]
        with Image.open(tmp_path / "fox.jpg") as picture:
            assert picture.size == (1024, 1024)
        assert all(word in first for word in ('"faults"', '"QUEUED"', '"free-credits"', '"request_body"'))
        assert Path(second.strip()).exists()
        assert "Payment Required" in faults
        said = ran(sys.executable, "-c", sdk.replace(PORT, url), folder=tmp_path)
        assert said.startswith("COMPLETED ['http")
    (tmp_path / "test_mine.py").write_text(suite, encoding="utf-8")
    assert "2 passed" in ran(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder=tmp_path)


def test_the_page_about_the_doctor_shows_its_real_checks(tmp_path: Path) -> None:
    page = read("docs/troubleshooting.md")
    done = run("doctor", "--sandbox", "--json", folder=tmp_path, HOME=str(tmp_path))
    said = json.loads(done.stdout)
    checks = [check["name"] for check in said]
    assert re.findall(r"^(?:good|bad|note) +(\w+)", of_language(page, "console")[0], re.MULTILINE) == checks
    named = [name.strip("` ") for row in rows(page, "check") for name in row[0].split(",")]
    assert [name for name in named if name not in ("oauth", "metrics")] == checks  # they need settings
    local = run("doctor", "--local", "--json", folder=tmp_path, HOME=str(tmp_path), HF_HOME=str(tmp_path))
    more = [check["name"] for check in json.loads(local.stdout) if check["name"] not in checks]
    assert [row[0].strip("`") for row in rows(page, "check with `--local`")] == more


# ---- commands and files that are named ----


@cache
def help_of(*command: str) -> str:
    done = subprocess.run([*COMMAND, *command, "--help"], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def named(page: str) -> set[str]:
    """The commands of this package that a page names in its text and its blocks."""
    inline = [" ".join(text.split()) for text in re.findall(r"`(mcp-vega [^`]+)`", prose(page))]
    lines = [*shown_only(page), *"\n".join(of_language(page, "sh")).splitlines()]
    return {*inline, *(found[1] for line in lines if (found := re.search(r"(?:^|[ /])(mcp-vega .*)", line)))}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_command_that_is_named_exists_and_has_the_options_that_are_named(page: Path) -> None:
    commands = set(re.findall(r"^    (\w+) ", help_of(), re.MULTILINE))
    for line in named(read(name_of(page))):
        words = shlex.split(re.sub(r" {2,}#.*", "", line))[1:]
        command = [word for word in words[:1] if re.fullmatch("[a-z]+", word)]
        assert commands.issuperset(command), line
        options = [word for word in words if re.match("--?[a-z]", word)]
        known = re.findall(r"(?<![\w-])--?[\w-]+", help_of(*command) + help_of())
        assert set(options) <= set(known), line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_lead_to_files(page: Path) -> None:
    text = prose(read(name_of(page)))
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        place, _, anchor = "".join(target).partition("#")
        if re.match("[a-z]+:", place):
            continue
        file = (page.parent / place).resolve() if place else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target
    for path in re.findall(r"(?<![\w/.])(?:tests|docs|benchmarks|packaging|mcp_vega)/[\w/]+\.\w+", text):
        assert (ROOT / path).is_file(), path
