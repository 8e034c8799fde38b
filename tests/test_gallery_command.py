"""`mcp-vega gallery`: the page with the pictures on this machine."""

import re
import signal
import sys
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest
from conftest import Sandbox, wait_until
from test_command_line import desktop_with, run, sandbox_folders
from test_transports import complaints, exit_code, signals, started

from mcp_vega.cli.gallery import page

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/#[\w-]{43}")
OURS = {"x-mcp-vega": "1", "sec-fetch-site": "same-origin"}


@signals
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS opens URLs with a program of its own")
def test_the_page_of_the_gallery_opens_only_with_its_key_and_ends_on_a_signal(
    tmp_path: Path, api: dict[str, str]
) -> None:
    opened = tmp_path / "opened"
    desktop = desktop_with(tmp_path, f'echo "$1" > {tmp_path}/part; mv {tmp_path}/part {opened}')
    run("draw", "a fox", folder=tmp_path, **api, **sandbox_folders(tmp_path, tmp_path / "home"))
    with started(tmp_path, "gallery", "--sandbox", **desktop) as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert ADDRESS.fullmatch(address)
        wait_until(opened.exists)
        assert opened.read_text(encoding="utf-8").strip() == address
        url, _, key = address.partition("/#")
        with httpx.Client(base_url=url, trust_env=False, headers=OURS) as browser:
            assert "<title>" in browser.get("/").raise_for_status().text
            assert browser.get("/gallery/pictures").status_code == 401
            assert browser.post("/gallery/sign-in", json={"token": f"{key}x"}).status_code == 401
            assert browser.get("/gallery/pictures").status_code == 401
            answer = browser.post("/gallery/sign-in", json={"token": key})
            assert answer.status_code == 204
            assert browser.get("/gallery/pictures").status_code == 401, "the cookie alone lists nothing"
            browser.headers["x-mcp-vega-page"] = answer.headers["x-mcp-vega-page"]
            (tile,) = browser.get("/gallery/pictures").raise_for_status().json()["pictures"]
            assert browser.get(f"/images/{tile['id']}").headers["content-type"] == "image/jpeg"
            state = browser.get("/gallery/state").json()
            assert (state["free"], state["signed_in"], state["total"]) == ("sandbox", False, 1)
            for path in ("/mcp", "/sse", "/messages/"):
                assert browser.post(path, json={}).status_code in (401, 404)
        process.send_signal(signal.SIGINT)
        assert exit_code(process) == 0
    assert complaints(tmp_path) == "To leave: Ctrl-C.\n"


@pytest.mark.parametrize(("option", "said"), [("--print", ""), ("--port=0", "No browser could be opened (")])
def test_without_a_desktop_gallery_prints_the_url_and_ends_after_an_hour_without_requests(
    tmp_path: Path, option: str, said: str
) -> None:
    with patch.object(page, "IDLE_SECONDS", 0.1):
        done = run("gallery", option, folder=tmp_path)
    assert (done.returncode, bool(ADDRESS.fullmatch(done.stdout.strip()))) == (0, True)
    assert done.stderr.startswith(said)
    assert done.stderr.endswith("To leave: Ctrl-C.\nNobody has looked at the page for an hour, so it ends here.\n")


def test_the_page_without_pictures_says_that_the_sandbox_has_some(tmp_path: Path, api: dict[str, str]) -> None:
    run("draw", "a fox", folder=tmp_path, **api, **sandbox_folders(tmp_path / "gallery", tmp_path / "home"))
    with patch.object(page, "IDLE_SECONDS", 0.1):
        said = [run("gallery", "--print", *option, folder=tmp_path).stderr for option in ([], ["--sandbox"])]
    hint = "The page shows no picture yet. The sandbox's ledger has jobs: add --sandbox.\n"
    assert [text.partition("To leave: ")[0] for text in said] == [hint, ""]


@signals
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS opens URLs with a program of its own")
@pytest.mark.parametrize(
    ("browser", "display", "opened_by", "said"),
    [
        ("window", "", "window", ""),
        ("gone:lynx:fails %s:window --new %s", "", "window", ""),
        ("gone", ":0", "xdg-open", ""),
        ("", ":0", "xdg-open", ""),
        ("lynx", "", "", "BROWSER names lynx, which has no window; there is no desktop here"),
        ("fails", "", "", "fails failed with exit code 4; there is no desktop here"),
        ("gone:'", "", "", "BROWSER names gone, which is not there; BROWSER names ', which is not there; there"),
    ],
)
def test_the_users_own_browser_is_tried_first_and_a_failure_is_reported(
    tmp_path: Path, browser: str, display: str, opened_by: str, said: str
) -> None:
    desktop_with(tmp_path, "exit 4", "fails")
    for name in ("window", "lynx", "xdg-open"):
        desktop = desktop_with(tmp_path, f'echo "{name} $*" >> {tmp_path}/opened', name)
    with patch.object(page, "IDLE_SECONDS", 0.1), patch.object(page, "FIRST_REQUEST_SECONDS", 0.1):
        done = run("gallery", folder=tmp_path, **{**desktop, "DISPLAY": display, "BROWSER": browser})
    opened = (tmp_path / "opened").read_text(encoding="utf-8").split() if (tmp_path / "opened").exists() else []
    assert opened[:1] == [opened_by][: len(opened)]
    assert bool(opened) == bool(opened_by)
    assert opened[-1:] == ([done.stdout.strip()] if opened else [])
    assert said in done.stderr
    # A program that was started has not requested the page, whatever its exit code says.
    assert ("No browser could be opened" in done.stderr) == bool(said)
    assert ("No browser has asked for the page so far." in done.stderr) == (not said)


def test_gallery_says_that_the_port_is_taken(tmp_path: Path, sandbox_in_thread: Sandbox) -> None:
    port = sandbox_in_thread.url.rpartition(":")[2]
    done = run("gallery", "--print", "--port", port, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Port {port} on 127.0.0.1 is not available" in done.stderr
