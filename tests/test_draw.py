"""`mcp-vega draw`: what a terminal shows, several prompts, the files that are written, and what programs read."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import HANG_SECONDS, SMALL, Sandbox, with_grace
from PIL import Image
from terminals import Screen, posix, terminal
from test_command_line import desktop_with, run, run_reading, run_with, settings, shown, shown_by_process

from mcp_vega.cli.draw.arguments import Call
from mcp_vega.cli.draw.outcome import Outcome, Problem
from mcp_vega.cli.draw.report import Report
from mcp_vega.cli.draw.screen import Screen as StreamsOf
from mcp_vega.cli.output import width_of
from mcp_vega.errors import OutcomeUnknown
from mcp_vega.imaging import metadata
from mcp_vega.imaging.terminal import COLOURS
from mcp_vega.parameters import VegaParameters

TRUECOLOR = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
FAST = ("--model", "vegart")
# Such a long call is asked for once after 1 s (`JobConfig.early_look`); a shorter one only at its expected end.
FOUR = ("--samples", "4", "--steps", "20")


@dataclass
class Painter:
    """Paints four fields of different colours; each picture has others. First it calls `before[prompt]`, if any."""

    before: dict[str, Callable[[], object]] = field(default_factory=dict[str, Callable[[], object]])

    def __call__(self, prompt: str, seed: int, index: int) -> bytes:
        if prompt in self.before:
            self.before[prompt]()
        colours = sha256(f"{index}:{seed}:{prompt}".encode()).digest()
        picture = Image.new("RGB", (SMALL, SMALL))
        for at, corner in enumerate(((0, 0), (SMALL // 2, 0), (0, SMALL // 2), (SMALL // 2, SMALL // 2))):
            picture.paste(
                tuple(colours[3 * at : 3 * at + 3]), (*corner, corner[0] + SMALL // 2, corner[1] + SMALL // 2)
            )
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=95)
        return buffer.getvalue()


@pytest.fixture
def paint() -> Painter:
    return Painter()


def corners(picture: Image.Image) -> list[Any]:
    """The mean colours of the four quarters."""
    small = picture.convert("RGB").resize((2, 2), Image.Resampling.BOX)
    return [small.getpixel((x, y)) for y in range(2) for x in range(2)]


def assert_alike(picture: Image.Image, file: Path, tolerance: int = 16) -> None:
    with Image.open(file) as kept:
        wanted = corners(kept)
    for colour, other in zip(corners(picture), wanted, strict=True):
        assert all(abs(a - b) <= tolerance for a, b in zip(colour, other, strict=True)), (colour, other)


def as_picture(pixels: list[list[Any]]) -> Image.Image:
    lines = [line for line in pixels if any(line)]  # the lower halves of the last row may be empty
    picture = Image.new("RGB", (len(lines[0]), len(lines)))
    picture.putdata([pixel for line in lines for pixel in line])
    return picture


def kept_in(folder: Path) -> list[Path]:
    """The pictures of the gallery, oldest first."""
    return sorted(folder.glob("gallery/*/*.jpg"), key=lambda path: path.stat().st_mtime_ns)


# ---- what a terminal shows ----


@posix
@pytest.mark.parametrize(("columns", "lines"), [(20, 40), (40, 24), (80, 24), (200, 60)])
def test_a_terminal_shows_the_picture_then_its_facts_with_the_path_then_how_to_get_another(
    tmp_path: Path, api: dict[str, str], columns: int, lines: int
) -> None:
    arguments = ["draw", "a fox", "--seed", "7"]
    code, screen = shown(*arguments, folder=tmp_path, size=(columns, lines), **api, **TRUECOLOR)
    (kept,) = kept_in(tmp_path)
    picture = as_picture(screen.picture)
    assert code == 0
    assert picture.width == picture.height
    assert picture.width == {20: 19, 200: 60}.get(columns, picture.width)
    assert_alike(picture, kept)
    assert picture.width < min(columns, 61)
    assert len(screen.lines) <= lines, "the top of the picture is seen as well"
    digits = kept.stem.rpartition("-")[2]
    below = [f"$0.00225, seed 7: {kept}", f"Another one: mcp-vega draw --like {digits} --seed -1", ""]
    wrapped = [line[at : at + columns] for line in below for at in range(0, max(len(line), 1), columns)]
    assert screen.lines[len(screen.picture) // 2 :] == wrapped


KITTY, ITERM2, ANY_COLOUR, COLOURS_256, NOTHING = "kitty", "iterm2", "any colour", "256 colours", "nothing"


def form_of(screen: Screen) -> str:
    """The form in which a picture was shown."""
    if screen.kitty or screen.iterm2:
        assert not screen.picture
        return KITTY if screen.kitty else ITERM2
    used = {pixel for line in screen.picture for pixel in line if pixel}
    return NOTHING if not used else COLOURS_256 if used <= set(COLOURS) else ANY_COLOUR


@posix
@pytest.mark.parametrize(
    ("variables", "form"),
    [
        ({"TERM": "xterm-256color"}, COLOURS_256),
        ({"COLORTERM": "24bit"}, ANY_COLOUR),
        ({"WT_SESSION": "1"}, ANY_COLOUR),
        ({"TERM": "xterm-kitty"}, KITTY),
        ({"KITTY_WINDOW_ID": "1"}, KITTY),
        ({"TERM": "xterm-ghostty"}, KITTY),
        ({"TERM_PROGRAM": "ghostty"}, KITTY),
        ({"TERM_PROGRAM": "WezTerm"}, KITTY),
        ({"KONSOLE_VERSION": "230801"}, KITTY),
        ({"KONSOLE_VERSION": "211203"}, COLOURS_256),
        ({"TERM_PROGRAM": "iTerm.app"}, ITERM2),
        ({"TERM_PROGRAM": "mintty"}, ITERM2),
        ({"LC_TERMINAL": "iTerm2"}, ITERM2),
        # Inherited from the terminal that the editor was started from.
        ({"TERM_PROGRAM": "vscode", "KITTY_WINDOW_ID": "1", **TRUECOLOR}, ANY_COLOUR),
        ({"TMUX": "1", "TERM": "xterm-kitty", "COLORTERM": "truecolor"}, ANY_COLOUR),
        ({"TERM": "tmux-256color", "LC_TERMINAL": "iTerm2"}, COLOURS_256),
        ({"STY": "1.x", "TERM": "screen", "COLORTERM": "truecolor"}, COLOURS_256),
        ({"NO_COLOR": "1", **TRUECOLOR}, NOTHING),
        ({"NO_COLOR": "1", "TERM": "xterm-kitty"}, NOTHING),
        ({"NO_COLOR": "", **TRUECOLOR}, ANY_COLOUR),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, NOTHING),
    ],
)
def test_a_terminal_gets_the_picture_in_a_form_that_it_understands(
    tmp_path: Path, api: dict[str, str], variables: dict[str, str], form: str
) -> None:
    code, screen = shown("draw", "a fox", *FAST, "--seed", "7", folder=tmp_path, size=(80, 24), **api, **variables)
    assert (code, form_of(screen)) == (0, form)
    (kept,) = kept_in(tmp_path)
    assert f": {kept}" in "".join(screen.lines)
    if form is COLOURS_256:
        assert_alike(as_picture(screen.picture), kept)


@posix
@pytest.mark.parametrize("program", ["WezTerm", "iTerm.app"])
def test_a_terminal_with_graphics_gets_a_png_and_the_number_of_cells(
    tmp_path: Path, api: dict[str, str], program: str
) -> None:
    _, screen = shown("draw", "a fox", *FAST, folder=tmp_path, size=(81, 90), TERM_PROGRAM=program, **api)
    if screen.kitty:
        keys, pieces = zip(*(sequence.split(";") for sequence in screen.kitty), strict=True)
        assert keys[0].startswith("a=T,f=100,q=2,c=60,r=30,m=")
        assert [key[-3:] for key in keys] == ["m=1"] * (len(keys) - 1) + ["m=0"]
        assert max(map(len, pieces)) <= 4096
        data = b64decode("".join(pieces))
    else:
        (sequence,) = screen.iterm2
        arguments, encoded = sequence.removeprefix("1337;File=").split(":")
        data = b64decode(encoded)
        assert arguments == f"inline=1;size={len(data)};width=60;height=30;preserveAspectRatio=1"
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("PNG", (600, 600))
        assert_alike(picture, kept_in(tmp_path)[0])


@posix
@pytest.mark.parametrize(("columns", "lines", "across"), [(80, 30, 4), (20, 200, 1)])
def test_several_pictures_are_shown_next_to_each_other_if_they_fit_and_else_one_below_the_other(
    tmp_path: Path, api: dict[str, str], columns: int, lines: int, across: int
) -> None:
    arguments = ["draw", "a fox", *FOUR, "--seed", "7", "-o", "x"]
    _, screen = shown(*arguments, folder=tmp_path, size=(columns, lines), **api, **TRUECOLOR)
    pixels = screen.picture
    width = (len(pixels[0]) + 2) // across - 2
    assert width == {80: 18, 20: 19}[columns]
    for number, name in enumerate(("x", "x-2", "x-3", "x-4")):
        row, column = divmod(number, across)
        part = [line[column * (width + 2) :][:width] for line in pixels[row * (width + 2) :][:width]]
        assert_alike(as_picture(part), tmp_path / name)
    text = "".join(screen.lines[len(pixels) // 2 :])
    lines_of_pictures = [f"$0.0072 for 4 pictures, seed 7: {tmp_path}/x"]
    lines_of_pictures += [f"picture {number} of 4, seed 7: {tmp_path}/x-{number}" for number in (2, 3, 4)]
    assert text.startswith("".join([*lines_of_pictures, "Another one: "]))


@posix
def test_the_lines_below_a_picture_have_room_even_with_wide_characters(tmp_path: Path, api: dict[str, str]) -> None:
    columns, rows = 40, 24
    arguments = ["draw", "狐狸在雪地里奔跑" * 3, *FAST, "--seed", "7", "-o", f"{'狐' * 40}.png"]
    _, screen = shown(*arguments, folder=tmp_path, size=(columns, rows), **api, **TRUECOLOR)
    facts = f"$0.002, seed 7: {tmp_path}/{'狐' * 40}.png"
    assert facts in "".join(screen.lines)
    # The line with the next command takes two rows, and the shell's prompt one.
    assert len(screen.picture) // 2 + -(-width_of(facts) // columns) + 2 + 1 <= rows


@posix
def test_a_terminal_without_room_for_a_picture_shows_only_the_line_of_facts(
    tmp_path: Path, api: dict[str, str]
) -> None:
    _, screen = shown("draw", "a fox", *FAST, folder=tmp_path, size=(80, 6), **api, **TRUECOLOR)
    assert screen.lines[0].startswith("$0.002, seed ")


@posix
@pytest.mark.parametrize("is_terminal", ["stdout", "stderr"])
def test_if_only_one_stream_is_a_terminal_stdout_has_the_path_and_stderr_a_line_of_facts(
    tmp_path: Path, api: dict[str, str], is_terminal: str
) -> None:
    other = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with terminal(80, 24) as (stream, screen):
        first, second = (stream, other) if is_terminal == "stdout" else (other, stream)
        streams = io.TextIOWrapper(io.BytesIO()), first, second
        run_with(streams, "draw", "a fox", "--seed", "7", folder=tmp_path, **api, **TRUECOLOR)
    other.flush()
    piped = other.buffer.getvalue().decode()  # type: ignore[attr-defined]
    (kept,) = kept_in(tmp_path)
    if is_terminal == "stdout":
        assert "".join(screen.lines) == str(kept)
        assert piped.endswith("\n$0.00225, seed 7\n")
    else:
        assert piped == f"{kept}\n"
        digits = kept.stem.rpartition("-")[2]
        assert screen.lines == ["$0.00225, seed 7", f"Another one: mcp-vega draw --like {digits} --seed -1", ""]


@posix
def test_a_command_in_the_sandbox_shows_its_picture_and_that_the_money_is_pretend(tmp_path: Path) -> None:
    """In a process of its own, with a picture that the sandbox paints."""
    arguments = ["draw", "a lighthouse at dusk", *FAST, "--seed", "7", "--sandbox", "-o", "lighthouse.jpg"]
    screen = shown_by_process(*arguments, folder=tmp_path, size=(80, 24), **TRUECOLOR)
    (kept,) = tmp_path.glob("gallery/sandbox/*/a-lighthouse-at-dusk-7-*.jpg")
    copied = tmp_path / "lighthouse.jpg"
    assert copied.read_bytes() == kept.read_bytes()
    assert_alike(as_picture(screen.picture), copied)
    another = f"{sys.executable} -m mcp_vega draw --like {kept.stem.rpartition('-')[2]} --seed -1 --sandbox"
    below = "".join(screen.lines[len(screen.picture) // 2 :])
    assert below == f"$0.002 (pretend), seed 7: {copied}Another one: {another}"


@pytest.fixture
def no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paint: Painter) -> None:
    """As soon as a picture is painted, no folder can be written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def fill() -> None:
        shutil.rmtree(tmp_path / "gallery")
        shutil.rmtree(tmp_path / "tmp")
        for name in ("gallery", "home/rescued", "tmp"):
            (tmp_path / name).write_text("in the way", encoding="utf-8")

    paint.before["a fox"] = fill


@posix
@pytest.mark.usefixtures("no_disk")
def test_a_picture_that_no_disk_takes_is_still_shown(tmp_path: Path, api: dict[str, str]) -> None:
    code, screen = shown("draw", "a fox", *FAST, "--seed", "7", folder=tmp_path, size=(120, 60), **api, **TRUECOLOR)
    (tmp_path / "wanted.jpg").write_bytes(Painter()("a fox", 7, 0))
    assert_alike(as_picture(screen.picture), tmp_path / "wanted.jpg")
    text = "".join(screen.lines)
    assert code == 1
    assert "$0.002, seed 7" in text
    assert text.count("Error: A picture was drawn, but no disk would take it (gallery_error).Charged: yes.") == 1


@pytest.mark.usefixtures("no_disk")
def test_a_picture_that_no_disk_takes_goes_to_the_file_named_with_o(tmp_path: Path, api: dict[str, str]) -> None:
    (tmp_path / "elsewhere").mkdir()
    done = run("draw", "a fox", *FAST, "--seed", "7", "-o", "elsewhere", folder=tmp_path, **api)
    (file,) = (tmp_path / "elsewhere").iterdir()
    assert (done.returncode, done.stdout) == (0, f"{file}\n"), done.stderr
    assert re.fullmatch(r"a-fox-7-[0-9a-f]{8}\.jpg", file.name)
    assert "Note: " in done.stderr


# ---- several prompts ----

PROMPTS = "a fox\n\n  a hare \nan owl [fault:402]\na cat [fault:402]\n二 foxes"


def test_each_line_of_a_file_gets_a_picture_of_its_own_and_a_failure_does_not_stop_the_others(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    """The file is as Windows writes it."""
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbf" + PROMPTS.replace("\n", "\r\n").encode())
    done = run("draw", "--prompts", "prompts.txt", *FAST, folder=tmp_path, **api)
    assert done.returncode == 1
    names = [re.sub(r"-\d{15}-[0-9a-f]{8}.jpg$", "", Path(line).name) for line in done.stdout.splitlines()]
    assert names == ["a-fox", "a-hare", "二-foxes"]
    assert {path.name for path in kept_in(tmp_path)} == {Path(line).name for line in done.stdout.splitlines()}
    prompts = {call.body["prompt"] for call in sandbox_in_thread.account.calls.values()}
    assert prompts == {"a fox", "a hare", "二 foxes"}
    said = re.sub(r"seed \d{15}", "seed S", done.stderr)
    reported = [line for line in said.splitlines() if re.match(r"Line \d(, .*)?: (\$|Error|failed)|\d of", line)]
    assert reported == [
        "Line 1, “a fox”: $0.002, seed S",
        "Line 3, “a hare”: $0.002, seed S",
        "Line 4: Error: The API answered with HTTP 402: “Payment Required” (insufficient_credits).",
        "Line 5: failed for the same reason as line 4",
        "Line 6, “二 foxes”: $0.002, seed S",
        "2 of 5 failed: lines 4, 5",
    ]
    assert said.count("Next: Add credits") == 1


def test_prompts_from_stdin_as_json_give_one_object_a_line(tmp_path: Path, api: dict[str, str]) -> None:
    stdin = PROMPTS.encode()
    done = run_reading(stdin, "draw", "-", *FAST, "--json", "-o", "x.png", "--seed", "7", folder=tmp_path, **api)
    first, second, failed, other, last = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert failed["prompt"] == "an owl [fault:402]"
    assert other == {"prompt": "a cat [fault:402]", "error": failed["error"]}
    assert (failed["error"]["code"], failed["error"]["charged"]) == ("insufficient_credits", "no")
    for number, job in {"": first, "-2": second, "-5": last}.items():
        assert job["files"] == [str(tmp_path / f"x{number}.png")]
        assert (job["state"], job["seed"], job["cost_usd"]) == ("COMPLETED", 7, 0.002)
        assert Path(job["images"][0]["path"]) in kept_in(tmp_path)
    assert last["parameters"]["prompt"] == "二 foxes"
    assert "$0.002" not in done.stderr
    assert done.stderr.endswith("\n2 of 5 failed: lines 4, 5; not written: x-3.png, x-4.png\n")


def test_one_prompt_as_json_has_its_files_or_its_error(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a", "fox", *FOUR, "--json", folder=tmp_path, **api)
    (line,) = done.stdout.splitlines()
    job = json.loads(line)
    assert job["files"] == [image["path"] for image in job["images"]]
    assert sorted(map(Path, job["files"])) == sorted(kept_in(tmp_path))
    failed = run("draw", "a fox [fault:402]", "--json", folder=tmp_path, **api)
    data = json.loads(failed.stdout)
    assert (failed.returncode, data["prompt"], data["error"]["charged"]) == (1, "a fox [fault:402]", "no")
    assert "Error: The API answered with HTTP 402" in failed.stderr


@pytest.mark.parametrize("seed", [[], ["--seed", "7"]], ids=["any seed", "one seed"])
def test_the_same_prompt_twice_gives_two_pictures(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, seed: list[str]
) -> None:
    """The answer of the first call is lost and looked for, so the same call of another caller would join its job.

    The answer of a call with another prompt is lost at the same time.
    """
    lines = ["an elk [fault:failed]", "a fox [fault:504-after]", "a hare", "an owl", "a fox [fault:504-after]"]
    stdin = "\n".join(lines).encode()
    done = run_reading(stdin, "draw", "-", *FAST, *seed, folder=tmp_path, **api)
    assert done.stderr.endswith("\n1 of 5 failed: line 1\n")
    assert len(set(done.stdout.splitlines())) == len(done.stdout.splitlines()) == len(kept_in(tmp_path)) == 4
    calls = [call for call in sandbox_in_thread.account.calls.values() if "fox" in call.body["prompt"]]
    assert len({call.seed for call in calls}) == (1 if seed else 2)
    assert len(calls) == 2


def test_with_like_only_one_of_two_equal_prompts_uses_the_pictures_seed(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    kept = run("draw", "a fox", *FAST, "--seed", "7", folder=tmp_path, **api).stdout.strip()
    done = run_reading(b"a hare\nan owl\na hare", "draw", "-", "--like", kept, folder=tmp_path, **api)
    assert done.returncode == 0, done.stderr
    _, *calls = sandbox_in_thread.account.calls.values()
    hares, owls = ([call.seed for call in calls if animal in call.body["prompt"]] for animal in ("hare", "owl"))
    assert (7 in hares, len({*hares}), owls) == (True, 2, [7])


def test_when_the_spending_limit_is_reached_the_remaining_prompts_are_refused_and_cost_nothing(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    limit = {"MCP_VEGA_SPENDING_LIMIT_USD": "0.005"}
    done = run_reading(b"a fox\na hare\nan owl\na cat\n", "draw", "-", folder=tmp_path, **api, **limit)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == sandbox_in_thread.paid_requests == 2
    assert "\nSpending limit: $0.0005 of $0.005 left today (UTC)\n" in done.stderr
    assert re.search(r"^2 of 4 failed: lines \d, \d$", done.stderr, re.MULTILINE)
    assert done.stderr.count("spending_limit_reached") == 1


@posix
def test_the_pictures_of_several_prompts_are_shown_one_below_the_other(tmp_path: Path, api: dict[str, str]) -> None:
    """The screen is narrower than the line of progress."""
    (tmp_path / "prompts.txt").write_text("a fox\na hare [fault:402]\nan owl\n", encoding="utf-8")
    arguments = ["draw", "--prompts", "prompts.txt", *FAST, "-o", "."]
    code, screen = shown(*arguments, folder=tmp_path, size=(22, 60), **api, **TRUECOLOR)
    blocks = re.sub(r"(▀+\n)+", "<picture>\n", "\n".join(screen.lines))
    fox, owl = (
        next(path for path in tmp_path.glob("*.jpg") if path.name.startswith(name)) for name in ("a-fox", "an-")
    )
    text = re.sub(r"seed\d{15}", "seed7", re.sub(r"\s", "", blocks))
    assert code == 1
    assert text == (
        f"<picture>Line1,“afox”:$0.002,seed7:{fox}"
        "Line2:Error:TheAPIansweredwithHTTP402:“PaymentRequired”(insufficient_credits).Charged:no."
        "Next:Addcreditsathttps://cloud.segmind.com/billing,thencallagain."
        f"<picture>Line3,“anowl”:$0.002,seed7:{owl}"
        "Anotherone:mcp-vegadraw--likeFILE--seed-11of3failed:line2"
    ), text


@pytest.mark.parametrize(
    ("arguments", "data", "words"),
    [
        (["--prompts", "missing.txt"], b"", "missing.txt cannot be read: No such file or directory"),
        (["--prompts", "."], b"", ". cannot be read: Is a directory"),
        # A title for the terminal's window, and a colour.
        (["--prompts", "\x1b]0;a\a\x9b31m"], b"", r"\x1b]0;a\x07\x9b31m cannot be read"),
        (["--prompts", "prompts.txt"], b"", "prompts.txt has no prompt"),
        (["--prompts", "prompts.txt"], b"\xef\xbb\xbf\r\n \t\r\n", "prompts.txt has no prompt"),
        (["--prompts", "prompts.txt"], b"a fox\n" * 2_000_000, "prompts.txt has more than 10,000,000 bytes"),
        (
            ["--prompts", "prompts.txt"],
            "a fox\nein Füchslein".encode("latin-1"),
            "prompts.txt is not UTF-8 text: see line 2",
        ),
        (["--prompts", "prompts.txt"], "a fox".encode("utf-16"), "prompts.txt is not UTF-8 text: see line 1"),
        (["--prompts", "prompts.txt", "a", "hare"], b"a fox", "PROMPT and --prompts are both given"),
        (["--prompts", "prompts.txt", "-"], b"a fox", "PROMPT and --prompts are both given"),
        (["--prompts", "prompts.txt", "--steps", "3"], b"a fox", "Error: --steps is '3'"),
        (
            ["--prompts", "prompts.txt"],
            b"a fox\n\n" + b"x" * 10_001,
            "prompts.txt, line 3: prompt has 10,001 characters",
        ),
        (["-"], b"", "stdin has no prompt"),
        (["--prompts", "-"], b"a fox\xff", "stdin is not UTF-8 text"),
        ([], b"", "PROMPT is missing"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_before_anything_is_paid(  # noqa: PLR0913, PLR0917  a table
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox, arguments: list[str], data: bytes, words: str
) -> None:
    (tmp_path / "prompts.txt").write_bytes(data)
    done = run_reading(data, "draw", *arguments, folder=tmp_path, **api)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert sandbox_in_thread.paid_requests == 0
    assert not (tmp_path / "home").exists(), "there is no job in the ledger"


@pytest.mark.parametrize(
    ("step", "sandbox", "words"),
    [
        ("Or call check_job with the request_id local-661abbfbf04d4912 to look", True, " 661abbfb --sandbox"),
        ("Call check_job with the request_id 11120549-9077-4780 in about two minutes", False, " 11120549"),
        ("Call check_job with the job's request id within seven days", False, ""),
        ("Call again", False, None),
    ],
)
def test_an_error_names_the_command_for_people_instead_of_check_job(
    capsys: pytest.CaptureFixture[str], step: str, *, sandbox: bool, words: str | None
) -> None:
    """With the report alone: a command would need a minute until an error has this step."""
    call = Call("generate_image_vega", {"prompt": "a fox"}, VegaParameters(prompt="a fox"))
    report = Report(StreamsOf(is_interactive=False, has_both=False, form=None), as_json=False, sandbox=sandbox)
    report.ended(Outcome(call, problems=[Problem.of(OutcomeUnknown("The answer was lost", next_step=step))]))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (f"Next: {step}." if words is None else f"On the command line: `mcp-vega jobs{words}`.")


# ---- interrupted ----


@posix
def test_after_ctrl_c_every_picture_that_is_there_is_named_even_if_an_earlier_prompt_has_none(
    tmp_path: Path, api: dict[str, str]
) -> None:
    process = subprocess.Popen(
        [*with_grace(0.2), "draw", "-", *FAST],
        env={**settings(tmp_path / "gallery", tmp_path), **api},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin
        assert process.stderr
        # The third line starts when the second one, which has the same prompt, has ended.
        process.stdin.write("a slow fox [fault:hang]\na quick fox\na quick fox\n")
        process.stdin.close()
        while not process.stderr.readline().startswith("Line 3: "):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.stdout
        paths = process.stdout.read().splitlines()
    assert process.returncode == 130
    second, *third = kept_in(tmp_path)
    assert paths[0] == str(second)
    assert all(str(path) in [*paths, *re.findall("^Kept: (.*)$", said, re.MULTILINE)] for path in third)
    assert "was still running" in said


@posix
def test_when_nobody_reads_the_paths_any_more_nothing_else_is_paid_for(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    """The lines are the same, so they are drawn one after the other."""
    done = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m mcp_vega draw - --model vegart 2>errors | true"],
        cwd=tmp_path,
        env={**settings(tmp_path / "gallery", tmp_path), **api},
        input=b"a fox\n" * 3,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert len(sandbox_in_thread.account.calls) == len(kept_in(tmp_path)) == 1
    assert "Traceback" not in (tmp_path / "errors").read_text(encoding="utf-8")


# ---- the files that are written ----


@pytest.mark.parametrize(
    ("ending", "form", "options", "count"),
    [(".PNG", "PNG", FOUR, 8), (".jpeg", "JPEG", FAST, 2), (".webp", "WEBP", FAST, 2), ("", "JPEG", FAST, 2)],
)
def test_each_sample_of_each_prompt_is_written_in_the_format_of_the_file_ending(  # noqa: PLR0913, PLR0917  a table
    tmp_path: Path, api: dict[str, str], ending: str, form: str, options: tuple[str, ...], count: int
) -> None:
    done = run_reading(b"a fox\na hare", "draw", "-", *options, "-o", f"fox{ending}", folder=tmp_path, **api)
    files = [tmp_path / f"fox{number}{ending}" for number in ("", *range(-2, -count - 1, -1))]
    assert [Path(line) for line in done.stdout.splitlines()] == files, done.stderr
    jobs = json.loads(run("jobs", "--json", folder=tmp_path).stdout)
    kept = {job["parameters"]["prompt"]: [image["path"] for image in job["images"]] for job in jobs}
    for file, original in zip(files, [*kept["a fox"], *kept["a hare"]], strict=True):
        with Image.open(file) as picture, Image.open(original) as before:
            assert picture.format == form
            assert picture.convert("RGB").tobytes() == before.tobytes()
        assert (form == "WEBP") or metadata.read(file.read_bytes()) == metadata.read(Path(original).read_bytes())


@pytest.mark.parametrize(
    ("output", "folder", "words"),
    [
        ("x.png", "x-2.png", "-o names what is not a file: x-2.png"),
        ("x.png", "x-4.png", "-o names what is not a file: x-4.png"),
        ("x" * 250 + ".png", "x", "-o names a file whose name is longer than 255 bytes"),
        ("é" * 127, "x", "-o names a file whose name is longer than 255 bytes"),
        ("x.tiff", "x", "End the name in one of .jpg, .jpeg, .png, .webp"),
    ],
)
@pytest.mark.usefixtures("sandbox_in_thread")
def test_every_target_file_is_checked_before_anything_is_paid(
    tmp_path: Path, api: dict[str, str], output: str, folder: str, words: str
) -> None:
    (tmp_path / folder).mkdir()
    done = run_reading(b"a fox\na hare", "draw", "-", "--samples", "2", "-o", output, folder=tmp_path, **api)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert not (tmp_path / "home").exists(), "there is no job in the ledger"


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("output", ["closed", "closed/x.png", "closed.png"])
def test_a_place_without_permission_to_write_is_refused(tmp_path: Path, api: dict[str, str], output: str) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "closed.png").touch(mode=0o400)
    done = run("draw", "a fox", "-o", output, folder=tmp_path, **api)
    assert done.returncode == 2
    assert "that this user may not write to" in done.stderr


def test_a_format_that_this_pillow_cannot_write_is_refused(
    tmp_path: Path, api: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL._webp", None)
    done = run("draw", "a fox", "-o", "x.webp", folder=tmp_path, **api)
    assert (done.returncode, done.stdout) == (2, "")
    assert "this installation of Pillow cannot write .webp" in done.stderr
    assert "End the name in one of .jpg, .jpeg, .png;" in done.stderr


def test_pictures_of_the_gallery_are_never_overwritten(tmp_path: Path, api: dict[str, str]) -> None:
    """Neither those of the model nor of the sandbox. If -o names the folder of a day, each picture is there once."""
    kept = Path(run("draw", "a fox", *FAST, "--seed", "7", folder=tmp_path, **api).stdout.strip())
    of_sandbox = tmp_path / "gallery" / "sandbox" / "2026-11-20" / "a-fox.jpg"
    of_sandbox.parent.mkdir(parents=True)
    rescued = tmp_path / "home" / "rescued" / "2026-11-20" / "a-fox.jpg"
    rescued.parent.mkdir(parents=True)
    before = kept.read_bytes()
    for file, sandbox in product((kept, of_sandbox, rescued), ([], ["--sandbox"])):
        file.write_bytes(before)
        done = run("draw", "a hare", *FAST, "-o", str(file), *sandbox, folder=tmp_path, **api)
        assert (done.returncode, file.read_bytes()) == (2, before)
        assert "-o names a picture of the gallery" in done.stderr
    linked = tmp_path / "linked.jpg"
    linked.hardlink_to(kept)
    assert run("draw", "a hare", *FAST, "-o", str(linked), folder=tmp_path, **api).returncode == 0
    assert kept.read_bytes() == before != linked.read_bytes()
    kept_in(tmp_path)[-1].unlink()
    done = run("draw", "a hare", *FAST, "-o", str(kept.parent), folder=tmp_path, **api)
    assert {Path(done.stdout.strip()), kept} == set(kept_in(tmp_path))


def test_a_picture_that_cannot_be_copied_is_kept_and_the_others_are_copied(
    tmp_path: Path, api: dict[str, str], paint: Painter
) -> None:
    paint.before["a fox"] = lambda: (tmp_path / "x.jpg").is_dir() or (tmp_path / "x.jpg").mkdir()
    arguments = [*FOUR, "-o", "x.jpg"]
    done = run("draw", "a fox", *arguments, folder=tmp_path, **api)
    others = [f"{tmp_path}/x-{number}.jpg" for number in (2, 3, 4)]
    assert (done.returncode, done.stdout.splitlines()) == (1, others)
    kept = re.search(r"^Next: The picture is kept at (.*)\.$", done.stderr, re.MULTILINE)
    assert kept
    assert Path(kept[1]) in kept_in(tmp_path)
    assert "Error: The picture could not be copied to x.jpg: Is a directory (gallery_error)." in done.stderr


# ---- opening them ----


@pytest.mark.skipif(sys.platform != "linux", reason="xdg-open is the program of Linux desktops")
@pytest.mark.parametrize(("code", "opened"), [(0, 2), (3, 1)])
def test_open_opens_the_files_that_were_written_and_says_if_that_fails(
    tmp_path: Path, api: dict[str, str], code: int, opened: int
) -> None:
    desktop = desktop_with(tmp_path, f'echo "$1" >> {tmp_path}/opened\nexit {code}')
    arguments = ["draw", "-", *FAST, "-o", "x.png", "--open"]
    done = run_reading(b"a fox\na hare\n", *arguments, folder=tmp_path, **api, **desktop)
    files = [f"{tmp_path}/x.png", f"{tmp_path}/x-2.png"]
    assert done.stdout.splitlines() == files
    assert (tmp_path / "opened").read_text(encoding="utf-8").splitlines() == files[:opened]
    why_not = f"{files[0]} was not opened: xdg-open failed with exit code 3: it found no program for this\n"
    assert (done.returncode, why_not in done.stderr) == ((1, True) if code else (0, False))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a desktop")
def test_without_a_desktop_open_says_so(tmp_path: Path, api: dict[str, str]) -> None:
    done = run("draw", "a fox", *FAST, "--open", folder=tmp_path, **api)
    assert (done.returncode, Path(done.stdout.strip()).is_file()) == (1, True)
    assert done.stderr.endswith(" was not opened: there is no desktop here\n")
