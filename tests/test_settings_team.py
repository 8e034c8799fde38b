"""The commands with the stores of a team: a ledger in PostgreSQL and a gallery in a bucket."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from services import require_packages
from test_command_line import run
from test_startup import CHECK, SANDBOX, TOOLS, Host

from mcp_vega.cli.application import job_store_of
from mcp_vega.cli.doctor.folders import check_gallery, check_ledger
from mcp_vega.errors import GalleryError, LedgerError
from mcp_vega.redaction import printable
from mcp_vega.settings import Settings

LEDGER = "postgresql://vega:in-visible7@127.0.0.1:1/vega"
EXTRA = ("psycopg", "obstore", "prometheus_client")
# Starts the command in a Python in which the packages of the extra are missing.
WITHOUT_EXTRA = """
import sys
sys.modules.update(psycopg=None, obstore=None, prometheus_client=None)
from mcp_vega.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python in which the packages of the extra are missing."""
    for name in [*sys.modules]:
        if name.startswith((*EXTRA, "mcp_vega.storage.database.postgres")):
            monkeypatch.delitem(sys.modules, name)
    for name in EXTRA:
        monkeypatch.setitem(sys.modules, name, None)


MISSING = [
    pytest.param({"MCP_VEGA_LEDGER": LEDGER}, "MCP_VEGA_LEDGER", id="ledger"),
    pytest.param({"MCP_VEGA_GALLERY": "s3://bucket"}, "MCP_VEGA_GALLERY", id="gallery"),
]


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize(("variables", "named"), MISSING)
@pytest.mark.parametrize("command", [["--transport", "http", "--port", "0"], ["draw", "a fox"], ["gallery", "--print"]])
def test_without_the_extra_a_command_names_it_and_exits_with_2(
    tmp_path: Path, command: list[str], variables: dict[str, str], named: str
) -> None:
    done = run(*command, folder=tmp_path, **SANDBOX, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "install 'mcp-vega[team]'`" in done.stderr
    assert "http://" not in done.stderr


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_only_a_server_over_http_says_that_there_are_no_figures(tmp_path: Path) -> None:
    variables = {**SANDBOX, "MCP_VEGA_METRICS_PORT": "9464"}
    done = run("--transport", "http", "--port", "0", folder=tmp_path, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert "MCP_VEGA_METRICS_PORT needs the extra `team`" in done.stderr
    assert "install 'mcp-vega[team]'`" in done.stderr
    assert "http://" not in done.stderr
    assert run("jobs", folder=tmp_path, **variables).returncode == 0


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_the_ledger_cannot_be_listed(tmp_path: Path) -> None:
    done = run("jobs", folder=tmp_path, MCP_VEGA_LEDGER=LEDGER)
    assert done.returncode == 2
    assert "install 'mcp-vega[team]'`" in done.stderr


def test_a_ledger_in_postgresql_and_an_engine_exclude_each_other_also_by_the_option(tmp_path: Path) -> None:
    done = run("draw", "a fox", "--local", folder=tmp_path, MCP_VEGA_LEDGER=LEDGER)
    assert done.returncode == 2
    assert "MCP_VEGA_LOCAL and MCP_VEGA_LEDGER are both set (MCP_VEGA_LOCAL also by --local)" in done.stderr
    assert "Next: Unset one of them, or leave out --local." in done.stderr


def test_without_the_extra_a_server_over_stdio_starts_and_its_tools_name_it(tmp_path: Path) -> None:
    command, variables = [sys.executable, "-c", WITHOUT_EXTRA], {"HOME": str(tmp_path), "MCP_VEGA_LEDGER": LEDGER}
    host = Host(tmp_path, CHECK, command=command, env={**SANDBOX, **variables}).ask()
    told = host.told()
    assert host.tools == TOOLS
    assert "MCP_VEGA_LEDGER" in told
    assert "install 'mcp-vega[team]'`" in told
    assert "(invalid_settings)" in told
    assert host.stderr.count("\n") == 1


@pytest.mark.services
def test_a_database_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    require_packages("psycopg")
    done = run("jobs", folder=tmp_path, MCP_VEGA_LEDGER=LEDGER)
    assert done.returncode == 1
    assert "127.0.0.1:1/vega" in done.stderr
    assert "in-visible7" not in done.stderr


@pytest.mark.services
def test_the_ledgers_password_is_redacted_once_the_ledger_is_used() -> None:
    require_packages("psycopg")
    assert printable("in-visible7") == "in-visible7"
    job_store_of(Settings.from_environment({"MCP_VEGA_LEDGER": LEDGER}))
    assert printable("in-visible7") == "…"


# ---- with the services ----


@pytest.fixture
def team(postgres: str, bucket: str, api: dict[str, str]) -> dict[str, str]:
    """The variables of a server for a team, with an API that draws immediately."""
    clouds = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {"MCP_VEGA_LEDGER": postgres, "MCP_VEGA_GALLERY": bucket, **api, **clouds}


def objects_of(bucket: str) -> dict[str, int]:
    """The objects below a bucket's URL by their keys, with their sizes."""
    from obstore.store import S3Store

    _, _, rest = bucket.partition("://")
    name, _, prefix = rest.partition("/")
    store = S3Store(name, prefix=prefix, client_options={"allow_http": True})
    listed: list[Any] = [each for batch in store.list() for each in batch]
    return {each["path"]: each["size"] for each in listed}


def test_a_picture_drawn_on_the_command_line_goes_to_the_bucket_and_the_job_to_the_database(
    tmp_path: Path, team: dict[str, str]
) -> None:
    bucket = team["MCP_VEGA_GALLERY"]
    drawn = run("draw", "a fox", "-o", "fox.jpg", folder=tmp_path, **team)
    assert (drawn.returncode, drawn.stdout) == (0, f"{tmp_path / 'fox.jpg'}\n")
    drawn = run("draw", "a fox in the snow", "--json", folder=tmp_path, **team)
    data = json.loads(drawn.stdout)
    (address,) = data["files"]
    assert address.startswith(f"{bucket}/20")
    assert run("draw", "a fox at night", folder=tmp_path, **team).stdout.startswith(f"{bucket}/20")
    kept = [key for key in objects_of(bucket) if key.startswith("20")]
    assert len(kept) == 3
    assert address.removeprefix(f"{bucket}/") in kept
    listed = json.loads(run("jobs", "--json", folder=tmp_path, **team).stdout)
    assert [job["state"] for job in listed] == ["COMPLETED"] * 3
    assert address in run("jobs", data["request_id"], folder=tmp_path, **team).stdout
    assert "a fox in the snow" in run("recipe", address.rpartition("/")[2], folder=tmp_path, **team).stdout
    # The sandbox has tables and a folder of its own.
    sandbox = run("jobs", "--sandbox", folder=tmp_path, **team)
    assert sandbox.stderr.startswith("No jobs yet in postgresql:///")
    assert run("gallery", "--folder", "--sandbox", folder=tmp_path, **team).stdout == f"{bucket}/sandbox\n"
    assert not [*tmp_path.rglob("ledger.sqlite3")]
    assert not (tmp_path / "gallery").exists()


def test_the_commands_of_the_folder_name_the_bucket(tmp_path: Path, team: dict[str, str]) -> None:
    bucket = team["MCP_VEGA_GALLERY"]
    folder = run("gallery", "--folder", folder=tmp_path, **team)
    assert (folder.returncode, folder.stdout, folder.stderr) == (0, f"{bucket}\n", "")
    opened = run("gallery", "--open", folder=tmp_path, **team)
    assert opened.returncode == 1
    assert f"{bucket} is a bucket" in opened.stderr
    assert run("draw", "a fox", folder=tmp_path, **team).returncode == 0
    pruned = run("gallery", "--prune", "0", "--yes", folder=tmp_path, **team)
    assert "Deleted: 1." in pruned.stderr
    assert not [key for key in objects_of(bucket) if key.startswith("20")]
    drawn = run("draw", "a fox", "--open", folder=tmp_path, **team)
    assert drawn.returncode == 1
    assert "was not opened: it is in a bucket" in drawn.stderr


def test_the_doctor_checks_the_database_and_the_bucket_and_leaves_no_object_behind(
    tmp_path: Path, team: dict[str, str]
) -> None:
    printed = json.loads(run("doctor", "--json", folder=tmp_path, **team).stdout)
    checks = {each["name"]: each for each in printed}
    ledger, gallery = checks["ledger"], checks["gallery"]
    assert ledger["state"] == gallery["state"] == "good"
    assert "can be read and written: PostgreSQL " in ledger["detail"]
    assert "servers with up to 9 each" in ledger["detail"]
    assert f"{team['MCP_VEGA_GALLERY']} can be written" in gallery["detail"]
    assert objects_of(team["MCP_VEGA_GALLERY"]) == {}
    assert checks["servers"]["state"] == checks["jobs"]["state"] == "good"
    assert checks["handshake"]["detail"].startswith("answered in ")  # slowly, on a busy machine


def test_the_doctor_reports_a_wrong_clock_and_too_few_connections(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcp_vega.storage.database.postgres import inspection

    now = inspection.time.time
    monkeypatch.setattr(inspection.time, "time", lambda: now() - 10)
    monkeypatch.setattr(inspection, "CONNECTIONS_OF_A_SERVER", 1000)
    ledger = check_ledger(Settings.from_environment({"MCP_VEGA_LEDGER": postgres}))[0]
    assert ledger.state == "note"
    assert "its clock is 10.0 s ahead of this machine's" in ledger.detail
    assert "Raise max_connections" in ledger.fix
    assert "Synchronize both clocks" in ledger.fix


def test_the_doctor_names_a_bucket_and_a_database_that_do_not_exist(team: dict[str, str]) -> None:
    wrong = {"MCP_VEGA_LEDGER": team["MCP_VEGA_LEDGER"].replace("?", "-x?"), "MCP_VEGA_GALLERY": "s3://no-such-bucket"}
    settings = Settings.from_environment(wrong)
    with pytest.raises(LedgerError, match="-x"):
        check_ledger(settings)
    with pytest.raises(GalleryError, match="s3://no-such-bucket"):
        check_gallery(settings)
