"""The command `mcp-vega`, run as a person runs it."""

import io
import logging
import os
import re
import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TextIO
from unittest.mock import patch

import anyio.to_thread
import pytest
from conftest import HANG_SECONDS, KEY, PATIENT, Sandbox, wait_until, with_grace
from terminals import Screen, posix, terminal

from mcp_vega import __version__
from mcp_vega.cli.main import main

COMMAND = [sys.executable, "-m", "mcp_vega"]


def settings(gallery: Path, folder: Path | None = None) -> dict[str, str]:
    """An environment with nothing of this machine's user."""
    home = (folder or gallery) / "home"
    return {"PATH": os.environ["PATH"], "MCP_VEGA_GALLERY": str(gallery), "MCP_VEGA_HOME": str(home)}


def run(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, with its own arguments, folder, environment and streams."""
    return run_reading(b"", *arguments, folder=folder, **variables)


def run_reading(stdin: bytes, *arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same with these bytes on stdin."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = run_with((io.TextIOWrapper(io.BytesIO(stdin)), stdout, stderr), *arguments, folder=folder, **variables)
    out, err = (stream.buffer.getvalue().decode() for stream in (stdout, stderr))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(arguments, code, out, err)


def run_with(streams: tuple[TextIO, TextIO, TextIO], *arguments: str, folder: Path, **variables: str) -> int:
    """The same with these streams; returns the exit code."""
    stdin, stdout, stderr = streams
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    with (
        chdir(folder),
        patch.dict(os.environ, {**settings(folder / "gallery", folder), **variables}, clear=True),
        patch.object(sys, "stdin", stdin),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        root.handlers = []  # otherwise the command would not set up its log
        try:
            return main(arguments)
        except SystemExit as error:
            return int(str(error.code))
        finally:
            root.handlers, root.level = handlers, level


async def run_beside(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The same while an event loop is running."""
    return await anyio.to_thread.run_sync(partial(run, *arguments, folder=folder, **variables))


def shown(*arguments: str, folder: Path, size: tuple[int, int] = (80, 24), **variables: str) -> tuple[int, Screen]:
    """Run the command in this process, at a terminal with these columns and lines: its exit code and the screen."""
    # Some modules of Python ask the terminal of the process, which is another one.
    variables = {"COLUMNS": str(size[0]), **variables}
    with terminal(*size) as (stream, screen):
        code = run_with((io.TextIOWrapper(io.BytesIO()), stream, stream), *arguments, folder=folder, **variables)
    return code, screen


async def shown_beside(*arguments: str, folder: Path, size: tuple[int, int] = (80, 24), **variables: str) -> str:
    """The same while an event loop is running; returns the text that the terminal shows."""
    return (await anyio.to_thread.run_sync(partial(shown, *arguments, folder=folder, size=size, **variables)))[1].text


def shown_by_process(*arguments: str, folder: Path, size: tuple[int, int] = (80, 24), **variables: str) -> Screen:
    """Run the command as a process of its own, at a terminal: its screen."""
    with terminal(*size) as (stream, screen):
        subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            env={**settings(folder / "gallery", folder), **variables},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            timeout=HANG_SECONDS,
            check=True,
        )
    return screen


def sandbox_folders(gallery: Path, home: Path) -> dict[str, str]:
    """Settings that make a command keep its pictures and jobs where `--sandbox` does, but draw without waiting."""
    return {"MCP_VEGA_GALLERY": str(gallery / "sandbox"), "MCP_VEGA_HOME": str(home / "sandbox")}


def desktop_with(folder: Path, script: str, name: str = "xdg-open") -> dict[str, str]:
    """The variables of a desktop on which this script opens files and URLs; or the script is the program `name`."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    return {"DISPLAY": ":0", "PATH": f"{program.parent}:/bin:/usr/bin"}


def run_process(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process of its own."""
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


def test_draw_waits_until_the_picture_is_there(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a fox", folder=tmp_path, **api, MCP_VEGA_WAIT_SECONDS="0")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "19"], "Error: --steps is '19', but must be a whole number from 20 to 100 ("),
        (["--model", "sdxl"], "vega, segmind-vega, vegart, segmind-vega-rt-v1"),
        (["--model", "vegart", "--samples", "2"], "Error: vegart has no --samples ("),
        (["-o", "nowhere/fox.jpg"], "a folder that does not exist"),
        (["-o", "nowhere/"], "a folder that does not exist: nowhere/"),
        (["-o", "fox.gif"], "End the name in one of .jpg, .jpeg, .png, .webp"),
        (["-o", ""], "-o names no file: ''"),
        (["-o", "-"], "-o names no file: '-'"),
        (["-o", ".png"], "-o names no file: '.png'"),
        (["-o", "x" * 300], "longer than 255 bytes"),
        (["-o", os.devnull], "-o names what is not a file"),
        (["--colour", "red"], "Error: mcp-vega draw has no option --colour ("),
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


def test_draw_writes_several_pictures_into_a_folder(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a", "fox", "--samples", "4", "--steps", "20", "-o", ".", folder=tmp_path, **api)
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert len(paths) == 4
    assert all(path.parent == tmp_path and path.name.startswith("a-fox-") for path in paths)


@posix
@pytest.mark.parametrize(
    ("command", "fault", "words"),
    [(PATIENT, "", "Kept: "), (with_grace(0.2), "[fault:hang]", "was still running")],
)
def test_draw_that_is_interrupted_says_what_happened_to_the_picture(  # noqa: PLR0913, PLR0917  a table
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
def test_a_key_that_no_header_can_carry_is_named_and_nothing_is_sent(
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
    assert done.stderr.startswith("Error: --")
    assert re.search(r"\nNext: Run `mcp-vega (sandbox )?--help` ", done.stderr)


@pytest.mark.parametrize(
    ("typed", "said", "command"),
    [
        ("drw fox", "There is no command 'drw' (did you mean draw?)", ""),
        ("version", "There is no command 'version' (did you mean --version?)", ""),
        ("--verson", "mcp-vega has no option --verson (did you mean --version?)", ""),
        ("--transport htp", "--transport is 'htp', but must be one of: stdio, sse, http (did you mean http?)", ""),
        ("draw fox --sanbox", "mcp-vega draw has no option --sanbox (did you mean --sandbox?)", "draw "),
        ("draw fox --steps", "--steps needs a value", "draw "),
        ("draw fox --se=1 --sa=2", "--sa could be any of --sandbox, --samples", "draw "),
        ("gallery --port abc", "--port is 'abc', but must be a whole number, 0 to 65535", "gallery "),
        ("jobs --json=yes", "--json takes no value", "jobs "),
        ("recipe", "PICTURE is missing", "recipe "),
        ("completion bsh", "SHELL is 'bsh', but must be one of: bash, zsh, fish (did you mean bash?)", "completion "),
    ],
)
def test_wrong_usage_is_an_error_that_names_what_was_likely_meant(
    tmp_path: Path, typed: str, said: str, command: str
) -> None:
    done = run(*typed.split(), folder=tmp_path)
    step = f"Next: Run `mcp-vega {command}--help` to see what there is."
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Error: {said} (invalid_arguments).\n{step}\n"


@pytest.mark.parametrize("option", ["--size", "--width", "--height"])
def test_an_option_for_the_size_is_refused_because_there_is_only_one(tmp_path: Path, option: str) -> None:
    for given in ([option, "512"], [f"{option}=512"]):
        done = run("draw", "a fox", *given, folder=tmp_path)
        assert done.returncode == 2
        assert f"has no option {option}: pictures are always 1024×1024" in done.stderr


def test_an_error_about_a_wrong_host_suggests_the_most_similar_one(tmp_path: Path) -> None:
    for command in ("install", "uninstall"):
        done = run(command, "curser", folder=tmp_path)
        assert done.returncode == 2
        assert "(did you mean cursor?)" in done.stderr


def test_a_key_in_the_wrong_place_is_not_printed(tmp_path: Path) -> None:
    for arguments in ([KEY], ["jobs", "--limit", KEY], ["recipe", "x", KEY]):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert KEY not in done.stderr


def test_help_is_also_a_command(tmp_path: Path) -> None:
    for command in ([], ["draw"]):
        done = run("help", *command, folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, run(*command, "--help", folder=tmp_path).stdout)


@pytest.mark.parametrize("prompt", [[""], [" ", ""]])
def test_an_empty_prompt_is_refused_in_plain_words(tmp_path: Path, prompt: list[str]) -> None:
    done = run("draw", *prompt, "--sandbox", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The prompt is empty (invalid_arguments).\nCharged: no.\n")


@posix
def test_a_person_who_starts_the_server_by_hand_gets_a_hint(tmp_path: Path) -> None:
    with (
        terminal() as (stdin, _),
        subprocess.Popen(COMMAND, stdin=stdin, stderr=subprocess.PIPE, env=settings(tmp_path), text=True) as process,
    ):
        assert process.stderr
        hint = "".join(process.stderr.readline() for _ in range(3))
        process.terminate()
        process.wait(timeout=HANG_SECONDS)
    assert "an MCP host starts it, not a person" in hint
    assert f'{sys.executable} -m mcp_vega draw "a lighthouse at dusk" --sandbox' in hint


@pytest.mark.skipif(sys.platform == "win32", reason="the program has another name there")
@pytest.mark.parametrize(
    ("typed", "on_path", "named"),
    [
        ("bin/mcp-vega", "bin", "mcp-vega"),
        ("bin/mcp-vega", "other", "bin/mcp-vega"),
        ("bin/mcp-vega", "", "bin/mcp-vega"),
        ("a folder/mcp-vega", "other", "'a folder/mcp-vega'"),
    ],
)
def test_a_hint_names_the_program_in_a_form_that_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, on_path: str, named: str
) -> None:
    for folder in ("bin", "other", "a folder"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mcp-vega").touch(0o755)
    monkeypatch.setattr(sys, "argv", [typed])
    done = run("jobs", "12345678", folder=tmp_path, PATH=str(tmp_path / on_path) if on_path else "")
    assert f"Next: Run `{named} jobs` to list" in done.stderr


@posix
def test_draw_shows_a_progress_bar_to_a_person(tmp_path: Path, api: dict[str, str]) -> None:
    code, screen = shown("draw", "a fox", folder=tmp_path, size=(80, 24), **api)
    assert code == 0
    assert re.search(r"\rSending the call\x1b\[K", screen.text)
    assert re.search(r"\r\[[#.]{24}\] (Drawing: \d+ s of about 2 s|Finished)\x1b\[K", screen.text)


@posix
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


def test_the_version_is_defined_in_one_place(tmp_path: Path) -> None:
    assert run("--version", folder=tmp_path).stdout == f"mcp-vega {__version__}\n"


def test_a_port_that_is_taken_is_an_error_that_names_it(tmp_path: Path, sandbox_in_thread: Sandbox) -> None:
    port = sandbox_in_thread.url.rpartition(":")[2]
    for arguments in (["sandbox", "--port", port], ["--transport", "http", "--port", port]):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"Error: Port {port} on 127.0.0.1 is not available")


def test_a_draw_whose_answer_is_lost_waits_until_the_outcome_is_known(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    done = run("draw", "a fox [fault:504-after]", folder=tmp_path, **api)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).exists()
    assert done.stderr.count("\nThe answer was lost; asking Segmind whether it ran (up to 60 s)\n") == 1
    assert sandbox_in_thread.paid_requests == 1


def test_a_draw_that_has_failed_is_not_asked_for_again_and_again(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a fox [fault:moderation]", "--model", "vegart", folder=tmp_path, **api)
    assert done.returncode == 1
    assert done.stderr.count("Failed") <= 2


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_command_whose_output_cannot_be_written_says_so_in_one_line(tmp_path: Path) -> None:
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
def test_a_command_whose_output_nobody_reads_does_not_crash(tmp_path: Path, end: str) -> None:
    command = f'"{sys.executable}" -m mcp_vega gallery --folder {end}'
    environment = {**settings(tmp_path), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
