"""The command `mcp-vega`, run as a person runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import KEY, Sandbox
from PIL import Image

from mcp_vega import __version__

COMMAND = [sys.executable, "-m", "mcp_vega"]


def run(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "MCP_VEGA_GALLERY": str(folder / "gallery"), **variables}
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


@pytest.fixture
def api(sandbox_in_thread: Sandbox) -> dict[str, str]:
    return {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}


def test_draw_in_the_sandbox_writes_the_file_and_prints_its_path(tmp_path: Path) -> None:
    done = run("draw", "a lighthouse at dusk", "--sandbox", "-o", "lighthouse.jpg", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'lighthouse.jpg'}\n"
    with Image.open(tmp_path / "lighthouse.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (1024, 1024))
    assert "Sandbox: " in done.stderr
    assert "PROCESSING" in done.stderr
    assert len(list(tmp_path.glob("gallery/sandbox/*/a-lighthouse-at-dusk-*.jpg"))) == 1


def test_draw_takes_the_models_parameters(tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox) -> None:
    options = ["--negative-prompt", "blur", "--scheduler", "UniPC", "--steps", "30", "--guidance-scale", "9"]
    done = run("draw", "a fox", *options, "--seed", "5", folder=tmp_path, **api)
    assert done.returncode == 0, done.stderr
    (call,) = sandbox_in_thread.queue.calls.values()
    body = call.body
    assert (body["negative_prompt"], body["scheduler"], body["guidance_scale"]) == ("blur", "UniPC", 9)
    assert (body["num_inference_steps"], body["seed"]) == (30, 5)


@pytest.mark.parametrize("model", ["vegart", "segmind-vega-rt-v1"])
def test_draw_takes_a_model_by_its_short_or_its_full_name(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, model: str
) -> None:
    assert run("draw", "a fox", "--model", model, folder=tmp_path, **api).returncode == 0
    (call,) = sandbox_in_thread.queue.calls.values()
    assert call.slug == "segmind-vega-rt-v1"


def test_draw_prints_one_path_per_picture_and_numbers_the_files(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a fox", "--samples", "2", "-o", "fox.jpg", folder=tmp_path, **api)
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert paths == [tmp_path / "fox.jpg", tmp_path / "fox-2.jpg"]
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_draw_goes_on_until_the_picture_is_there(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a fox", folder=tmp_path, **api, MCP_VEGA_WAIT_SECONDS="0")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "19"], "num_inference_steps is '19'"),
        (["--model", "sdxl"], "vega, segmind-vega, vegart, segmind-vega-rt-v1"),
        (["--model", "vegart", "--samples", "2"], "segmind-vega-rt-v1 has no parameter 'samples'"),
        (["-o", "nowhere/fox.jpg"], "a folder that does not exist"),
        (["--colour", "red"], "unrecognized arguments"),
    ],
)
def test_draw_refuses_a_wrong_command_before_anything_is_sent(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, arguments: list[str], words: str
) -> None:
    done = run("draw", "a fox", *arguments, folder=tmp_path, **api)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert sandbox_in_thread.paid_requests == 0


def test_draw_that_fails_says_why_and_exits_with_1(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a fox [fault:402]", folder=tmp_path, **api)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Charged: no." in done.stderr
    keyless = run("draw", "a fox", folder=tmp_path)
    assert keyless.returncode == 1
    assert "SEGMIND_API_KEY" in keyless.stderr


def test_draw_that_cannot_copy_the_picture_says_where_it_is_kept(tmp_path: Path, api: dict[str, str]) -> None:
    name = "x" * 300 + ".jpg"
    gallery = tmp_path / "two  spaces"
    done = run("draw", "a fox", "-o", name, folder=tmp_path, **{**api, "MCP_VEGA_GALLERY": str(gallery)})
    assert done.returncode == 1
    (kept,) = gallery.glob("*/a-fox-*.jpg")
    assert f"The picture is kept at {kept}" in done.stderr


def test_draw_puts_several_pictures_into_a_folder(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a", "fox", "--samples", "2", "-o", ".", folder=tmp_path, **api)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert len(paths) == 2
    assert all(path.parent == tmp_path and path.name.startswith("a-fox-") for path in paths)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize(("fault", "words"), [("", "Kept: "), ("[fault:hang]", "was still being drawn")])
def test_draw_that_is_interrupted_says_what_became_of_the_picture(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, fault: str, words: str
) -> None:
    sandbox_in_thread.queue.speed = 0.4
    environment = {"PATH": os.environ["PATH"], "MCP_VEGA_GALLERY": str(tmp_path), **api}
    with subprocess.Popen(
        [*COMMAND, "draw", f"a fox {fault}"], stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        deadline = time.monotonic() + 20
        while not sandbox_in_thread.queue.calls:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert words in said


@pytest.mark.parametrize("key", ["“SG_abc”", "SG_abc def", "SG_kéy", "${user_config.api_key}"])
def test_a_key_that_no_header_could_carry_is_named_and_nothing_is_sent(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, key: str
) -> None:
    done = run("draw", "a fox", folder=tmp_path, **{**api, "SEGMIND_API_KEY": key})
    assert done.returncode == 1
    assert "SEGMIND_API_KEY holds something that no key has" in done.stderr
    assert "Charged: no." in done.stderr
    assert key not in done.stderr
    assert not sandbox_in_thread.queue.requests


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "9000"],
        ["--transport", "http", "--port", "99999"],
        ["sandbox", "--speed", "nan"],
        ["sandbox", "--credits", "-5"],
        ["sandbox", "--rate-limit", "few"],
    ],
)
def test_an_option_that_makes_no_sense_is_refused(tmp_path: Path, arguments: list[str]) -> None:
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert "usage: mcp-vega" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_person_who_starts_the_server_by_hand_gets_a_hint(tmp_path: Path) -> None:
    import pty

    controller, terminal = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "MCP_VEGA_GALLERY": str(tmp_path)}
    with subprocess.Popen(COMMAND, stdin=terminal, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr
        hint = process.stderr.readline() + process.stderr.readline()
        process.terminate()
        process.wait(timeout=10)
    os.close(controller)
    os.close(terminal)
    assert "not by hand" in hint
    assert 'mcp-vega draw "a lighthouse at dusk" --sandbox' in hint


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_draw_shows_a_progress_bar_to_a_person(tmp_path: Path, api: dict[str, str]) -> None:
    import pty

    controller, terminal = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "MCP_VEGA_GALLERY": str(tmp_path), **api}
    done = subprocess.run(
        [*COMMAND, "draw", "a fox"], stderr=terminal, stdout=subprocess.PIPE, env=environment, timeout=30, check=True
    )
    shown = os.read(controller, 100_000).decode()
    os.close(controller)
    os.close(terminal)
    assert "[........................] QUEUED" in shown
    assert Path(done.stdout.decode().strip()).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_the_sandbox_serves_on_a_port_until_it_is_told_to_stop() -> None:
    import httpx

    with subprocess.Popen(
        [*COMMAND, "sandbox", "--port", "0", "--speed", "0", "--credits", "3"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        url = process.stderr.readline().strip()
        answer = httpx.get(f"{url}/v1/get-user-credits", headers={"x-api-key": "SG_any"}, trust_env=False)
        process.terminate()
        assert process.wait(timeout=5) == 0
    assert answer.json()["credits"] == 3


def test_the_version_comes_from_one_place(tmp_path: Path) -> None:
    assert run("--version", folder=tmp_path).stdout == f"mcp-vega {__version__}\n"


def test_a_port_that_is_taken_is_an_error_that_names_it(tmp_path: Path, sandbox_in_thread: Sandbox) -> None:
    port = sandbox_in_thread.url.rpartition(":")[2]
    for arguments in (["sandbox", "--port", port], ["--transport", "http", "--port", port]):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert f"Port {port} on 127.0.0.1 cannot be had" in done.stderr
        assert "Traceback" not in done.stderr
