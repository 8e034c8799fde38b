"""The command `mcp-vega`, run as a person runs it."""

import errno
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from unittest.mock import patch

import anyio.to_thread
import pytest
from conftest import HANG_SECONDS, KEY, PATIENT, SMALL, Sandbox, wait_until, with_grace
from PIL import Image

from mcp_vega import __version__
from mcp_vega.cli import draw
from mcp_vega.cli.main import main
from mcp_vega.imaging import metadata

COMMAND = [sys.executable, "-m", "mcp_vega"]


def settings(gallery: Path, folder: Path | None = None) -> dict[str, str]:
    """An environment with nothing of this machine's user."""
    home = (folder or gallery) / "home"
    return {"PATH": os.environ["PATH"], "MCP_VEGA_GALLERY": str(gallery), "MCP_VEGA_HOME": str(home)}


def run(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in this process, which has its arguments, folder, environment and streams meanwhile."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    with (
        chdir(folder),
        patch.dict(os.environ, {**settings(folder / "gallery", folder), **variables}, clear=True),
        patch.object(sys, "stdin", io.StringIO()),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        root.handlers = []  # else the command would not set up its log
        try:
            code = main(arguments)
        except SystemExit as error:
            code = int(str(error.code))
        finally:
            root.handlers, root.level = handlers, level
    out, err = (stream.buffer.getvalue().decode() for stream in (stdout, stderr))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(arguments, code, out, err)


async def run_beside(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in this process, beside a loop that is running."""
    return await anyio.to_thread.run_sync(partial(run, *arguments, folder=folder))


def run_process(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**settings(folder / "gallery", folder), **variables},
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
    done = run_process("draw", "a lighthouse at dusk", "--sandbox", "-o", "lighthouse.jpg", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'lighthouse.jpg'}\n"
    with Image.open(tmp_path / "lighthouse.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (1024, 1024))
    assert "Sandbox: " in done.stderr
    assert re.search(r"^Drawing: \d+ s", done.stderr, re.MULTILINE)
    assert len(list(tmp_path.glob("gallery/sandbox/*/a-lighthouse-at-dusk-*.jpg"))) == 1


def test_draw_takes_the_models_parameters(tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox) -> None:
    options = ["--negative-prompt", "blur", "--scheduler", "UniPC", "--steps", "30", "--guidance-scale", "9"]
    done = run("draw", "a fox", *options, "--seed", "5", folder=tmp_path, **api)
    assert done.returncode == 0, done.stderr
    (call,) = sandbox_in_thread.account.calls.values()
    body = call.body
    assert (body["negative_prompt"], body["scheduler"], body["guidance_scale"]) == ("blur", "UniPC", 9)
    assert (body["num_inference_steps"], body["seed"]) == (30, 5)


@pytest.mark.parametrize("model", ["vegart", "segmind-vega-rt-v1"])
def test_draw_takes_a_model_by_its_short_or_its_full_name(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, model: str
) -> None:
    assert run("draw", "a fox", "--model", model, folder=tmp_path, **api).returncode == 0
    (call,) = sandbox_in_thread.account.calls.values()
    assert call.slug == "segmind-vega-rt-v1"


@pytest.mark.parametrize(("ending", "form"), [(".PNG", "PNG"), ("", "JPEG")])
def test_draw_writes_what_the_ending_says_one_path_per_picture_and_numbers_the_files(
    tmp_path: Path, api: dict[str, str], ending: str, form: str
) -> None:
    done = run("draw", "a fox", "--samples", "2", "--steps", "20", "-o", f"fox{ending}", folder=tmp_path, **api)
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert paths == [tmp_path / f"fox{ending}", tmp_path / f"fox-2{ending}"]
    kept = [Path(image["path"]) for image in json.loads(run("jobs", "--json", folder=tmp_path).stdout)[0]["images"]]
    for number, (path, original) in enumerate(zip(paths, kept, strict=True), 1):
        with Image.open(path) as picture, Image.open(original) as before:
            assert (picture.format, before.format) == (form, "JPEG")
            assert picture.tobytes() == before.tobytes()
        recipe = metadata.read(path.read_bytes())
        assert recipe
        assert recipe.picture == number


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
        (["-o", "nowhere/"], "a folder that does not exist: nowhere/"),
        (["-o", "fox.gif"], "End the name in one of .jpg, .jpeg, .png, .webp"),
        (["-o", ""], "-o names no file: ''"),
        (["-o", "-"], "-o names no file: '-'"),
        (["-o", ".png"], "-o names no file: '.png'"),
        (["-o", "x" * 300], "more than 250 letters"),
        (["-o", os.devnull], "-o names what is no file"),
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


def test_draw_that_cannot_copy_the_picture_says_where_it_is_kept(
    tmp_path: Path, api: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(draw, "converted", full)
    name = "fox.jpg"
    gallery = tmp_path / "two  spaces"
    done = run("draw", "a fox", "-o", name, folder=tmp_path, **{**api, "MCP_VEGA_GALLERY": str(gallery)})
    assert done.returncode == 1
    (kept,) = gallery.glob("*/a-fox-*.jpg")
    assert f"The picture is kept at {kept}" in done.stderr


def test_draw_puts_several_pictures_into_a_folder(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a", "fox", "--samples", "2", "--steps", "20", "-o", ".", folder=tmp_path, **api)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert len(paths) == 2
    assert all(path.parent == tmp_path and path.name.startswith("a-fox-") for path in paths)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize(
    ("command", "fault", "words"),
    [(PATIENT, "", "Kept: "), (with_grace(0.2), "[fault:hang]", "was still being drawn")],
)
def test_draw_that_is_interrupted_says_what_became_of_the_picture(  # noqa: PLR0913, PLR0917  a table
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, command: list[str], fault: str, words: str
) -> None:
    sandbox_in_thread.hold()
    environment = {**settings(tmp_path), **api}
    with subprocess.Popen(
        [*command, "draw", f"a fox {fault}"], stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        wait_until(lambda: sandbox_in_thread.account.calls)
        process.send_signal(signal.SIGINT)
        sandbox_in_thread.let_go()
        _, said = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 130
    assert words in said


@pytest.mark.parametrize("key", ["SG_abc def", "SG_kéy"])
def test_a_key_that_no_header_could_carry_is_named_and_nothing_is_sent(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, key: str
) -> None:
    done = run("draw", "a fox", folder=tmp_path, **{**api, "SEGMIND_API_KEY": key})
    assert done.returncode == 1
    assert "which no key has (invalid_settings)" in done.stderr
    assert "Charged: no." in done.stderr
    assert key not in done.stderr
    assert not sandbox_in_thread.account.requests


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
    environment = settings(tmp_path)
    with subprocess.Popen(COMMAND, stdin=terminal, stderr=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stderr
        hint = process.stderr.readline() + process.stderr.readline()
        process.terminate()
        process.wait(timeout=HANG_SECONDS)
    os.close(controller)
    os.close(terminal)
    assert "not by hand" in hint
    assert 'mcp-vega draw "a lighthouse at dusk" --sandbox' in hint


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_draw_shows_a_progress_bar_to_a_person(tmp_path: Path, api: dict[str, str]) -> None:
    import pty

    controller, terminal = pty.openpty()
    environment = {**settings(tmp_path), **api}
    done = subprocess.run(
        [*COMMAND, "draw", "a fox"],
        stderr=terminal,
        stdout=subprocess.PIPE,
        env=environment,
        timeout=HANG_SECONDS,
        check=True,
    )
    shown = os.read(controller, 100_000).decode()
    os.close(controller)
    os.close(terminal)
    assert re.search(r"\rSending the call\x1b\[K", shown)
    assert re.search(r"\r\[[#.]{24}\] (Drawing: \d+ s of about 2 s|Finished)\x1b\[K", shown)
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
        assert process.wait(timeout=HANG_SECONDS) == 0
    assert answer.json()["credits"] == 3


def test_the_version_comes_from_one_place(tmp_path: Path) -> None:
    assert run("--version", folder=tmp_path).stdout == f"mcp-vega {__version__}\n"


def test_a_port_that_is_taken_is_an_error_that_names_it(tmp_path: Path, sandbox_in_thread: Sandbox) -> None:
    port = sandbox_in_thread.url.rpartition(":")[2]
    for arguments in (["sandbox", "--port", port], ["--transport", "http", "--port", port]):
        done = run_process(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert f"Port {port} on 127.0.0.1 cannot be had" in done.stderr
        assert "Traceback" not in done.stderr


# ---- jobs ----


def test_jobs_lists_the_latest_jobs_as_a_table(tmp_path: Path, api: dict[str, str]) -> None:
    assert run("jobs", folder=tmp_path).stderr == f"No jobs yet in {tmp_path / 'home' / 'ledger.sqlite3'}\n"
    assert not (tmp_path / "home").exists()
    path = run("draw", "a  fox\nin the snow, far away from all of us", "--seed", "7", folder=tmp_path, **api).stdout
    run("draw", "二 \x1b[1mfoxes", "--model", "vegart", "--seed", "8", folder=tmp_path, **api)
    run("draw", "[fault:402]", "--samples", "2", "--seed", "9", folder=tmp_path, **api)
    done = run("jobs", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    headings, *rows = [re.split("  +", line) for line in done.stdout.splitlines()]
    assert headings == ["REQUEST ID", "STATE", "MODEL", "SEED", "COST", "PROMPT", "FILE"]
    assert [row[1:5] for row in rows] == [
        ["FAILED", "vega", "9", "no charge"],
        ["COMPLETED", "vegart", "8", "$0.002"],
        ["COMPLETED", "vega", "7", "$0.00225"],
    ]
    assert rows[1][5] == "“二 [1mfoxes”", "no escape reaches the terminal"
    assert rows[2][5:] == ["“a fox in the snow, far away from all of …”", path.strip()]
    assert len(run("jobs", "--limit", "1", folder=tmp_path).stdout.splitlines()) == 2


def test_jobs_shows_one_in_full(tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox) -> None:
    path = run("draw", "a fox", "--seed", "7", "--steps", "30", folder=tmp_path, **api).stdout.strip()
    (request_id,) = sandbox_in_thread.account.calls
    lines = run("jobs", request_id, folder=tmp_path).stdout.splitlines()
    facts = {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}
    assert (facts["Request id"], facts["State"], facts["Seed"], facts["Route"]) == (request_id, "COMPLETED", "7", "v1")
    assert (facts["Charged"], facts["Cost"], facts["API"]) == ("yes", "$0.0027", sandbox_in_thread.url)
    assert json.loads(facts["Parameters"])["num_inference_steps"] == 30
    assert facts["Image"].startswith(f"{path} ({SMALL}×{SMALL}, ")
    digits = Path(path).stem.rpartition("-")[2]
    for named in (facts["Local id"], digits, path):
        assert run("jobs", named, folder=tmp_path).stdout.splitlines() == lines, named


def test_jobs_says_what_a_job_failed_with(tmp_path: Path, api: dict[str, str]) -> None:
    run("draw", "[fault:402]", folder=tmp_path, **api)
    (job,) = json.loads(run("jobs", "--json", folder=tmp_path).stdout)
    assert (job["state"], job["charged"], job["error"]["code"]) == ("FAILED", "no", "insufficient_credits")
    text = run("jobs", job["request_id"], folder=tmp_path).stdout
    assert "Error:        The API answered with HTTP 402" in text
    assert "https://cloud.segmind.com/billing" in text


def test_jobs_adds_up_what_was_spent(tmp_path: Path, api: dict[str, str]) -> None:
    assert run("jobs", "--spent", folder=tmp_path).stderr.startswith("Nothing spent yet in ")
    limit = {"MCP_VEGA_SPENDING_LIMIT_USD": "0.005"}
    run("draw", "a fox", folder=tmp_path, **api, **limit)
    run("draw", "a fox", "--model", "vegart", folder=tmp_path, **api, **limit)
    refused = run("draw", "a fox", "--samples", "2", folder=tmp_path, **api, **limit)
    assert refused.returncode == 1
    assert "$0.00425 of today's $0.005 are spent" in refused.stderr
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    done = run("jobs", "--spent", folder=tmp_path, **limit)
    headings, vega, rt = (re.split(r"  +", line) for line in done.stdout.splitlines())
    assert headings == ["DAY (UTC)", "MODEL", "CALLS", "SPENT", "OF THAT ESTIMATED"]
    assert (vega, rt) == ([today, "vega", "1", "$0.00225", "–"], [today, "vegart", "1", "$0.002", "–"])
    assert done.stderr == "Spending limit: $0.00075 of $0.005 left today (UTC)\n"
    data = json.loads(run("jobs", "--spent", "--json", folder=tmp_path).stdout)
    assert data[0] == {"day": today, "model": "segmind-vega", "calls": 1, "usd": 0.00225, "estimated_usd": 0.0}
    assert run("jobs", "--spent", "some-id", folder=tmp_path).returncode == 2


def test_jobs_as_json_are_for_programs(tmp_path: Path, api: dict[str, str]) -> None:
    assert json.loads(run("jobs", "--json", folder=tmp_path).stdout) == []
    path = run("draw", "füchse", "--seed", "7", folder=tmp_path, **api).stdout.strip()
    (listed,) = json.loads(run("jobs", "--json", folder=tmp_path).stdout)
    assert json.loads(run("jobs", "--json", listed["request_id"], folder=tmp_path).stdout) == listed
    assert listed["parameters"]["prompt"] == "füchse"
    assert listed["arguments"] == {"prompt": "füchse", "seed": 7}
    assert (listed["cost_usd"], listed["route"], listed["images"][0]["path"]) == (0.00225, "v1", path)
    assert listed["created"] <= listed["sent"] <= listed["ended"]


def test_an_id_that_the_ledger_does_not_have_is_an_error(tmp_path: Path) -> None:
    done = run("jobs", "nothing", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no job with the id 'nothing'" in done.stderr


def test_a_draw_whose_answer_is_lost_goes_on_until_it_is_known_how_it_ended(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    done = run("draw", "a fox [fault:504-after]", folder=tmp_path, **api)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).exists()
    assert "\nThe answer was lost; asking Segmind whether it ran (up to 60 s)\n" in done.stderr
    assert sandbox_in_thread.paid_requests == 1


def test_a_draw_that_fails_for_good_is_not_asked_for_again_and_again(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a fox [fault:moderation]", "--model", "vegart", folder=tmp_path, **api)
    assert done.returncode == 1
    assert done.stderr.count("Failed") <= 2


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such shell")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_command_whose_output_has_no_room_says_so_in_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123  a device
        done = subprocess.run(
            [*COMMAND, "gallery", "--folder"],
            env=settings(tmp_path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    said = "The output cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("end", ["| true", ">&-", "2>&-"])
def test_a_command_whose_output_nobody_reads_is_no_crash(tmp_path: Path, end: str) -> None:
    command = f'"{sys.executable}" -m mcp_vega gallery --folder {end}'
    environment = {**settings(tmp_path), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_draw_does_not_write_over_a_picture_of_the_gallery(tmp_path: Path, api: dict[str, str]) -> None:
    kept = run("draw", "a fox", "--model", "vegart", folder=tmp_path, **api).stdout.strip()
    before = Path(kept).read_bytes()
    done = run("draw", "--like", kept, "-o", kept, folder=tmp_path, **api)
    assert (done.returncode, Path(kept).read_bytes()) == (2, before)
    assert "-o names a picture of the gallery" in done.stderr
