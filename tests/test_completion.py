"""`mcp-vega completion`: what bash, zsh and fish offer when the user presses Tab."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest
from terminals import dialogue, posix
from test_command_line import COMMAND, run, run_process, sandbox_folders, settings
from test_install import SCRIPT

from mcp_vega.cli.install.hosts import HOSTS
from mcp_vega.parameters import Scheduler


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def drawn(tmp_path: Path, api: dict[str, str]) -> Path:
    """A folder with one job in the ledger of the sandbox."""
    folders = sandbox_folders(tmp_path / "gallery", tmp_path / "home")
    assert run("draw", "a fox: in $HOME", folder=tmp_path, **folders, **api).returncode == 0
    return tmp_path


def id_of_job(folder: Path) -> str:
    (job,) = json.loads(run("jobs", "--sandbox", "--json", folder=folder).stdout)
    return job["request_id"].removeprefix("local-")


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join((str(Path(SCRIPT).parent), os.environ["PATH"]))
    return {
        **settings(folder / "gallery", folder),
        "PATH": path,
        "HOME": str(folder),
        "TERM": "xterm",
        "PS1": "ready> ",
    }


def lines(folder: Path) -> dict[str, list[str]]:
    """Lines as typed before Tab, each with the words of the completed line."""
    job = id_of_job(folder)
    return {
        "mcp-vega ins": ["install"],
        "mcp-vega install cur": ["install", "cursor"],
        "mcp-vega install --dr": ["install", "--dry-run"],
        "mcp-vega draw --model vegar": ["draw", "--model", "vegart"],
        "mcp-vega draw --scheduler UniP": ["draw", "--scheduler", "UniPC"],
        "mcp-vega draw --scheduler DPM2\\ K": ["draw", "--scheduler", "DPM2 Karras"],
        f"mcp-vega jobs --sandbox {job[:5]}": ["jobs", "--sandbox", job[:8]],
        f"mcp-vega draw --sandbox --like {folder}/galler": ["draw", "--sandbox", "--like", f"{folder}/gallery/"],
    }


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(mcp-vega completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(mcp-vega completion zsh)"'),
}


@posix
@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs(shell)) for shell in SHELLS])
def test_tab_completes_the_line_in_the_shell(shell: str, drawn: Path) -> None:
    command, switch_on = SHELLS[shell]
    answers = [("ready> ", f"{switch_on}; echo is $((40 + 2))\n"), ("is 42", "")]
    for line, words in lines(drawn).items():
        # The line is printed instead of run: Ctrl-A moves to its beginning.
        answers += [("ready> ", f"{line}\t\x01printf '[%s]' \n"), (f"[mcp-vega][{']['.join(words)}]", "")]
    answers += [("ready> ", "exit\n")]
    code, seen = dialogue(command, answers, environment(drawn))
    assert code == 0, seen


@posix
@needs("fish")
def test_fish_offers_the_same_with_descriptions(drawn: Path) -> None:
    script = "mcp-vega completion fish | source\n" + "\n".join(
        f"complete -C '{line}'; echo ." for line in ("mcp-vega install ", *lines(drawn))
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=environment(drawn),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    hosts, *offered = [part.strip().splitlines() for part in done.stdout.split("\n.\n")[:-1]]
    assert [each.split("\t")[0] for each in hosts] == sorted(HOSTS)
    assert [each[0].split("\t")[0] for each in offered] == [words[-1] for words in lines(drawn).values()]
    assert offered[6] == [f"{id_of_job(drawn)[:8]}\t“a fox: in $HOME”"]
    assert done.stderr == ""


def offered(line: str, folder: Path, **variables: str) -> tuple[int, list[str]]:
    """The exit code, and what the program offers to a shell that asks; it prints nothing else."""
    file = folder / "offered"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    done = run_process(folder=folder, **asked, _ARGCOMPLETE_STDOUT_FILENAME=str(file), **variables)
    assert (done.stdout, done.stderr) == ("", "")
    return done.returncode, file.read_text(encoding="utf-8").splitlines()


def test_every_scheduler_is_offered_and_options_only_behind_a_dash(tmp_path: Path) -> None:
    code, schedulers = offered("mcp-vega draw --scheduler ", tmp_path)
    assert (code, [each.replace("\\", "") for each in schedulers]) == (0, [*get_args(Scheduler)])
    assert offered("mcp-vega uninstall ", tmp_path)[1] == [*HOSTS]
    assert offered("mcp-vega draw --seed ", tmp_path) == (0, [])


@posix
def test_files_are_completed_without_a_shell_and_code_in_a_name_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "it's; touch ran; '"
    for name in ("fox.png", "a line\nbreak", "foxes/red"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    Path(os.fsdecode(os.fsencode(folder) + b"/fo\xff")).touch()
    for command in ("recipe", "draw --like", "draw -o"):
        code, files = offered(f'mcp-vega {command} "{folder}/fo', tmp_path, PATH="")
        assert (code, sorted(files)) == (0, [f"{folder}/fox.png", f"{folder}/foxes/"])
    assert offered("mcp-vega recipe ~/it", tmp_path, HOME=str(tmp_path))[1] == ["~/it\\'s\\;\\ touch\\ ran\\;\\ \\'/"]
    assert offered("mcp-vega recipe /dev/null/", tmp_path) == (0, [])
    assert not [*tmp_path.glob("**/ran")]


def test_a_ledger_that_cannot_be_read_offers_nothing_and_says_nothing(tmp_path: Path) -> None:
    assert offered("mcp-vega jobs ", tmp_path) == (0, [])
    assert not (tmp_path / "home").exists(), "nothing is made"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ledger.sqlite3").write_text("no ledger", encoding="utf-8")
    assert offered("mcp-vega jobs ", tmp_path) == (0, [])
    assert offered("mcp-vega jobs ", tmp_path, MCP_VEGA_WAIT_SECONDS="long") == (0, [])


def test_completion_does_not_wait_for_a_slow_ledger(drawn: Path) -> None:
    with closing(sqlite3.connect(drawn / "home" / "sandbox" / "ledger.sqlite3", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        # This exit code means: nothing to offer. Without a time limit, the answer would be empty, with code 0.
        assert offered("mcp-vega jobs --sandbox ", drawn) == (1, [])


def test_a_normal_start_does_not_import_the_completion(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], "--version"],
        env=settings(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "mcp_vega.cli.parser" in done.stderr
    assert "argcomplete" not in done.stderr


def test_an_unknown_shell_is_refused_and_the_help_says_how_to_switch_completion_on(tmp_path: Path) -> None:
    assert run("completion", "tcsh", folder=tmp_path).returncode == 2
    said = run("completion", "--help", folder=tmp_path).stdout
    for shell in ("bash", "zsh", "fish"):
        assert f"mcp-vega completion {shell}" in said
        assert "mcp-vega" in run("completion", shell, folder=tmp_path).stdout
