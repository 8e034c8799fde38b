"""`mcp-vega doctor --local`: what it says of the engine, torch, the driver, the device, its memory and the weights.

There is no GPU here: what torch finds is printed by a stand-in for the process that loads it, and what the driver says
by a stand-in for nvidia-smi.
"""

import json
import os
import re
import sys
import tomllib
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from conftest import serving_in_thread
from hub_server import written
from packaging.requirements import Requirement
from services import require_packages
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from stub_painter import NAME, StubPainter, serving_engine
from test_doctor import NAMES, bad, configure, environment, found
from test_doctor_paid import options
from test_install import ROOT

from mcp_vega import __version__
from mcp_vega.cli.doctor.check import Check
from mcp_vega.cli.doctor.command import run_doctor
from mcp_vega.cli.engine import transport
from mcp_vega.cli.engine.checks import check_device
from mcp_vega.cli.engine.registration import RunningEngine, registered
from mcp_vega.errors import InvalidArguments
from mcp_vega.settings import Settings

LOCAL_NAMES = ["engine", "torch", "driver", "device", "memory", "weights"]
NOWHERE = "http://127.0.0.1:1"
EVERYWHERE = "0.0.0.0"  # noqa: S104  only connected to
GIB = 2**30
CARD = {"torch": "2.13.0+cu130", "device": "NVIDIA GeForce RTX 4090", "kind": "cuda", "number_bytes": 2}
NO_GPU = "The installed build of torch (2.13.0+cpu) uses no GPU"
CPU = {"torch": "2.13.0+cpu", "device": "CPU", "kind": "cpu", "number_bytes": 4, "no_gpu": NO_GPU}
KEY = "SG_of_the_engine"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path where this package and those of its extra `local` are installed."""
    folder = tmp_path / "site"
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    install(folder, "mcp-vega", __version__, *(f"{line}; extra == 'local'" for line in extra["local"]))
    for line in extra["local"]:
        required = Requirement(line)
        lowest = next(each.version for each in required.specifier if each.operator == ">=")
        install(folder, required.name, lowest)
    monkeypatch.syspath_prepend(folder)
    return folder


def install(folder: Path, name: str, version: str, *requires: str) -> None:
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    metadata.write_text("\n".join([*lines, *(f"Requires-Dist: {each}" for each in requires), ""]), encoding="utf-8")


def settings(folder: Path) -> Settings:
    return Settings.from_environment(environment(folder, MCP_VEGA_LOCAL="1"))


def device_checks(folder: Path, printed: Any = None, *, smi: str = "", program: str = "") -> dict[str, Check]:
    """The checks of the device, if the process that loads torch prints this, or is this program.

    `smi` is a shell script in place of nvidia-smi; without it, there is none.
    """
    program = program or f"print({json.dumps(printed)!r})"
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    if smi:
        (tools / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n", encoding="utf-8")
        (tools / "nvidia-smi").chmod(0o755)
    variables = {**environment(folder), "PATH": str(tools)}
    checks = check_device(settings(folder), variables, command=[sys.executable, "-c", program], seconds=20)
    assert [check.name for check in checks] == ["torch", "driver", "device", "memory"]
    return {check.name: check for check in checks}


@contextmanager
def running(folder: Path, url: str, version: str = __version__) -> Generator[None]:
    """This process is the user's engine, which serves at a URL."""
    with registered(Path(environment(folder)["MCP_VEGA_HOME"])) as publish:
        publish(RunningEngine(url, KEY, os.getpid(), version))
        yield


@contextmanager
def engine(painter: StubPainter) -> Generator[str]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving_engine(painter, key=KEY)) as served,
    ):
        yield served.url


# ---- the whole page ----


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_without_anything_the_page_says_what_to_install_and_that_no_key_is_needed(
    packages: Path, tmp_path: Path
) -> None:
    for metadata in packages.iterdir():
        if not metadata.name.startswith("mcp_vega"):
            (metadata / "METADATA").unlink()
            metadata.rmdir()
    checked = found(tmp_path, "--local", SEGMIND_BASE_URL=NOWHERE, HF_HOME=str(tmp_path / "hf"))
    names = [*NAMES]
    names[names.index("gallery") : names.index("gallery")] = LOCAL_NAMES
    assert [*checked] == names
    assert bad(checked) == ["torch", "weights"]
    assert "install 'mcp-vega[local]'`" in checked["torch"]["fix"]
    assert "Run `mcp-vega weights`" in checked["weights"]["fix"]
    assert checked["settings"]["detail"].endswith("--local")
    assert checked["api"]["detail"] == "the engine on this machine is used instead"
    assert checked["key"]["detail"] == "the engine needs no key of yours"
    assert checked["balance"]["detail"] == "to draw on this machine costs nothing"
    assert checked["engine"]["detail"].startswith("none runs; ")
    assert checked["handshake"]["detail"].startswith("answered in ")


def test_weights_that_are_complete_are_named_and_half_a_download_is_bad(tmp_path: Path) -> None:
    weights = written(tmp_path / "weights")
    checked = found(tmp_path, "--local", MCP_VEGA_WEIGHTS=str(weights))
    assert checked["weights"]["state"] == "good"
    assert str(weights / "Segmind-VegaRT") in checked["weights"]["detail"]
    (weights / "Segmind-Vega" / "vae" / "config.json").unlink()
    checked = found(tmp_path, "--local", MCP_VEGA_WEIGHTS=str(weights))
    assert checked["weights"]["state"] == "bad"
    assert "vae/config.json is missing" in checked["weights"]["detail"]
    assert f"into {weights / 'Segmind-Vega'}" in checked["weights"]["fix"]
    checked = found(tmp_path, "--local", MCP_VEGA_WEIGHTS="no-absolute-path")
    assert bad(checked)[0] == "settings"
    assert checked["weights"]["detail"] == "not known, see settings"


@pytest.mark.engine
def test_the_torch_of_this_environment_is_found(tmp_path: Path) -> None:
    require_packages("torch", marker="engine")
    variables = {**environment(tmp_path), "PYTHONPATH": str(ROOT)}
    torch, _, device, memory = check_device(settings(tmp_path), variables, seconds=120)
    assert (torch.state, torch.detail) == ("good", version("torch"))
    assert device.state in ("good", "note")
    assert "GiB" in memory.detail


# ---- torch and the device ----


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("free", "state", "said"),
    [
        (22.5, "good", "22.5 GiB are free"),
        (6, "good", "6.0 GiB are free: pictures are decoded in tiles"),
        (3, "note", "3.0 GiB are free, so each part of the model is on the device only while it works, which is slow"),
    ],
)
def test_a_card_and_its_free_memory_are_shown(tmp_path: Path, free: float, state: str, said: str) -> None:
    smi = "echo 'NVIDIA GeForce RTX 4090, 580.65.06'"
    checks = device_checks(tmp_path, {**CARD, "free_bytes": int(free * GIB)}, smi=smi)
    assert (checks["torch"].state, checks["torch"].detail) == ("good", "2.13.0+cu130")
    assert (checks["driver"].state, checks["driver"].detail) == ("good", "580.65.06 (NVIDIA GeForce RTX 4090)")
    assert (checks["device"].state, checks["device"].detail) == ("good", "NVIDIA GeForce RTX 4090")
    assert (checks["memory"].state, checks["memory"].detail) == (state, said)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("platform", "fix"),
    [
        ("linux", "If this machine has a GPU, update its driver, and install the build of torch for it"),
        ("win32", "PyPI's torch for Windows draws on the CPU. With an NVIDIA card, install the build for CUDA"),
    ],
)
def test_drawing_on_the_cpu_is_a_note_that_says_which_build_of_torch_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, fix: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sys.platform", platform)
        checks = device_checks(tmp_path, {**CPU, "free_bytes": 12 * GIB})
    assert checks["device"].state == "note"
    assert NO_GPU in checks["device"].detail
    assert checks["device"].fix.startswith(fix)
    assert "https://pytorch.org/get-started" in checks["device"].fix
    assert checks["driver"].state == "note"
    assert checks["memory"].state == "good"


@pytest.mark.usefixtures("packages")
def test_too_little_memory_for_the_cpu_is_bad(tmp_path: Path) -> None:
    memory = device_checks(tmp_path, {**CPU, "free_bytes": 2 * GIB})["memory"]
    assert (memory.state, "Drawing on the CPU needs" in memory.detail) == ("bad", True)
    assert memory.fix


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("smi", "said"),
    [
        ("echo 'NVIDIA-SMI has failed because it cannot communicate with the driver.'; exit 9", "cannot communicate"),
        ("exit 0", "nvidia-smi names no card"),
    ],
)
def test_a_driver_that_went_away_is_bad(tmp_path: Path, smi: str, said: str) -> None:
    checks = device_checks(tmp_path, {**CPU, "free_bytes": 12 * GIB}, smi=smi)
    assert (checks["driver"].state, said in checks["driver"].detail) == ("bad", True)
    assert checks["driver"].fix.startswith("Restart the machine")


@pytest.mark.usefixtures("packages")
def test_several_cards_are_counted_and_other_makes_need_no_driver_of_nvidia(tmp_path: Path) -> None:
    printed = {**CARD, "free_bytes": 24 * GIB}
    amd = device_checks(tmp_path, {**printed, "device": "AMD Radeon RX 7900 XTX"})["driver"]
    assert (amd.state, amd.detail) == ("good", "none of NVIDIA's is installed, and none is needed")
    smi = "echo 'NVIDIA L4, 570.1'; echo 'NVIDIA L4, 570.1'"
    assert device_checks(tmp_path, printed, smi=smi)["driver"].detail == "570.1 (NVIDIA L4, and 1 more)"


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os, sys; sys.stderr.write('a CUDA crash\\n'); sys.stderr.flush(); os._exit(134)", "a CUDA crash"),
        ("print('a library says hello')", "its process ended with exit code 0"),
        ("pass", "its process ended with exit code 0"),
        ("""print('{"problem": "OSError: libtorch.so: no such file"}')""", "OSError: libtorch.so: no such file"),
    ],
)
def test_a_torch_that_cannot_be_loaded_is_bad(tmp_path: Path, program: str, said: str) -> None:
    checks = device_checks(tmp_path, program=program)
    assert (checks["torch"].state, said in checks["torch"].detail) == ("bad", True)
    assert re.search(r"pip .*uninstall -y torch`, then `.*pip .*install 'mcp-vega\[local\]'`", checks["torch"].fix)
    assert checks["device"].detail == checks["memory"].detail == "not known, see torch"


@pytest.mark.usefixtures("packages")
def test_a_torch_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    torch, *_ = check_device(settings(tmp_path), environment(tmp_path), command=command, seconds=0.5)
    assert (torch.state, "not loaded within" in torch.detail) == ("note", True)


def test_packages_of_wrong_versions_are_named(packages: Path, tmp_path: Path) -> None:
    install(packages, "peft", "99.0")
    next(packages.glob("peft-0*")).joinpath("METADATA").unlink()
    next(packages.glob("peft-0*")).rmdir()
    checks = device_checks(tmp_path, CARD)
    assert (checks["torch"].state, "peft is 99.0, but " in checks["torch"].detail) == ("bad", True)


# ---- the engine ----


@pytest.mark.usefixtures("packages")
def test_an_engine_that_runs_is_shown_with_what_it_draws_on_and_nothing_else_is_needed(tmp_path: Path) -> None:
    with engine(StubPainter()) as url, running(tmp_path, url):
        checked = found(tmp_path, "--local", HF_HOME=str(tmp_path / "hf"))
        assert checked["engine"]["detail"] == f"runs at {url} (process {os.getpid()}) and draws on {NAME}"
        assert bad(checked) == []
        assert checked["weights"]["state"] == "note"
        assert checked["weights"]["detail"].endswith("; the engine that runs draws all the same")
        assert KEY not in json.dumps(checked)
        memory = device_checks(tmp_path, {**CARD, "free_bytes": 2 * GIB})["memory"]
        assert (memory.state, memory.detail) == ("good", "2.0 GiB are free, beside what the engine uses")


def test_an_engine_that_loads_is_good_and_one_of_another_version_is_a_note(tmp_path: Path) -> None:
    with engine(StubPainter(name="")) as url:
        with running(tmp_path, url):
            checked = found(tmp_path, "--local")["engine"]
        assert (checked["state"], checked["detail"][-29:]) == ("good", "has not yet loaded what draws")
        with running(tmp_path, url, "0.0.1"):
            checked = found(tmp_path, "--local")["engine"]
        assert (checked["state"], "its version is 0.0.1" in checked["detail"]) == ("note", True)
        assert f"End process {os.getpid()}" in checked["fix"]


@pytest.mark.skipif(sys.platform == "win32", reason="there, no program can connect to this address")
def test_an_engine_in_a_network_is_asked_without_a_proxy(tmp_path: Path) -> None:
    """The proxy would see its key, and perhaps not reach it. Servers ask it without one as well."""
    keys: list[str | None] = []

    def refuse(request: Request) -> JSONResponse:
        keys.append(request.headers.get("x-api-key"))
        return JSONResponse({}, 502)

    with (
        serving_in_thread(Starlette(routes=[Route("/{path:path}", refuse)])) as proxy,
        engine(StubPainter()) as url,
        running(tmp_path, url.replace("127.0.0.1", EVERYWHERE)),
    ):
        assert found(tmp_path, "--local", HTTP_PROXY=proxy)["engine"]["state"] == "good"
    assert keys == []


def test_an_engine_that_does_not_answer_or_is_none_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ENDING_SECONDS", 0.1)
    with running(tmp_path, NOWHERE):
        checked = found(tmp_path, "--local")["engine"]
    assert (checked["state"], f"runs at {NOWHERE}" in checked["detail"]) == ("bad", True)

    def hello(_: Request) -> JSONResponse:
        return JSONResponse({"hello": "world"})

    other = Starlette(routes=[Route("/{path:path}", hello)])
    with serving_in_thread(other) as url, running(tmp_path, url):
        checked = found(tmp_path, "--local")["engine"]
    assert checked["state"] == "bad"
    assert "SEGMIND_BASE_URL" not in checked["fix"]


@pytest.mark.skipif(sys.platform == "win32", reason="there, the home folder is private")
def test_a_file_of_an_engine_that_others_can_read_is_bad(tmp_path: Path) -> None:
    with running(tmp_path, NOWHERE):
        file = Path(environment(tmp_path)["MCP_VEGA_HOME"]) / "engine.json"
        file.chmod(0o644)
        checked = found(tmp_path, "--local")
    assert "engine" in bad(checked)
    assert f"{file} can be read or written by other users" in checked["engine"]["detail"]
    assert "delete the file" in checked["engine"]["fix"]


# ---- beside --local ----


def test_a_balance_of_nothing_is_good_if_the_api_is_an_engine_of_ones_own(tmp_path: Path) -> None:
    with engine(StubPainter()) as url:
        checked = found(tmp_path, SEGMIND_BASE_URL=url, SEGMIND_API_KEY=KEY)
        assert bad(checked) == []
        assert checked["balance"]["detail"] == "none is needed: an engine of your own costs nothing"
        assert checked["api"]["detail"].endswith(f"; it draws on {NAME}")
        assert "engine" not in checked
        assert bad(found(tmp_path, SEGMIND_BASE_URL=url, SEGMIND_API_KEY="SG_another")) == ["key"]


def test_no_key_is_needed_if_every_host_draws_on_this_machine(tmp_path: Path) -> None:
    for args, env in (
        (["-m", "mcp_vega", "--local"], {}),
        (["-m", "mcp_vega"], {"MCP_VEGA_LOCAL": "1"}),
        (["-m", "mcp_vega", "--local"], {"SEGMIND_API_KEY": "SG_your_key"}),
    ):
        configure(tmp_path, sys.executable, args=args, env=env)
        checked = found(tmp_path, SEGMIND_BASE_URL=NOWHERE)
        assert bad(checked) == []
        assert checked["hosts"]["detail"] == "Cursor (draws on this machine)"
        assert checked["key"]["detail"] == "none is set, and none is needed: every host draws on this machine"
    (tmp_path / ".codeium" / "windsurf").mkdir(parents=True)
    remote = json.dumps({"mcpServers": {"vega": {"serverUrl": "https://pictures.example/mcp"}}})
    (tmp_path / ".codeium" / "windsurf" / "mcp_config.json").write_text(remote, encoding="utf-8")
    checked = found(tmp_path, SEGMIND_BASE_URL=NOWHERE)
    assert checked["key"]["detail"].endswith("every host uses a server over HTTP or draws on this machine")


def test_the_comparison_with_the_api_is_refused_with_local(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments, match="--paid looks at the API, and --local uses none"):
        run_doctor(options("--yes"), environment(tmp_path, MCP_VEGA_LOCAL="1"))
