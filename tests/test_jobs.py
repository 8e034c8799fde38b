"""`mcp-vega jobs`: the ledger as a table that fits the terminal, one job in full, what was spent."""

import json
import os
import re
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Sandbox
from terminals import posix
from test_command_line import run, run_beside, shown_beside, shown_by_process
from test_completion import offered

from mcp_vega.errors import InsufficientCredits, MediaError, OutcomeUnknown, VegaError
from mcp_vega.job import Image, ImageLocation, Job, Receipt, Route, State
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.storage.ledger.job_store import JobStore
from mcp_vega.storage.ledger.spending import Limits

pytestmark = pytest.mark.anyio

# A year other than the present one, so that the tables are the same on every day.
EVENING = datetime(2024, 11, 29, 17, 30, tzinfo=UTC)
ID = "{}-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Kept:
    """A job for the ledger; the defaults are a picture of a fox that was drawn."""

    prompt: str = "a fox"
    remote_id: str | None = ID.format("f0f0f0f0")
    cost: str | None = "0.00225"
    images: int = 1
    samples: int = 1
    deleted: bool = False
    vegart: bool = False
    state: State = State.COMPLETED
    error: VegaError | None = None
    owner: str = ""
    created: datetime = EVENING
    held: bool = False

    @property
    def job(self) -> Job:
        parameters = (
            VegaRTParameters(prompt=self.prompt, seed=7)
            if self.vegart
            else VegaParameters(prompt=self.prompt, seed=7, samples=self.samples)
        )
        job = Job(
            parameters=parameters,
            route=Route.V1,
            base_url="https://api.example",
            created=self.created,
            sent=self.created,
            remote_id=self.remote_id,
            state=self.state,
            open=self.held,
            error=self.error,
            owner=self.owner,
            receipt=Receipt(cost=(self.cost and Decimal(self.cost)) or None),
        )
        return replace(job, images=tuple(self._image(job, index) for index in range(self.images)))

    def _image(self, job: Job, index: int) -> Image:
        location = ImageLocation("/pictures", f"2024-11-29/a-fox-7-{index}.jpg")
        facts: dict[str, Any] = {"width": 1024, "height": 1024, "bytes": 9, "sha256": "0" * 64}
        return Image(id=job.image_id(index), location=location, mime_type="image/jpeg", **facts)


Keep = Callable[..., Awaitable[list[Job]]]
# Half an hour off UTC, so that a time in UTC would be noticed. This form needs no database of time zones.
ZONE = {"TZ": "IST-5:30"}


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Set the local time zone."""
    if sys.platform == "win32":
        yield
        return
    with monkeypatch.context() as patch:
        patch.setenv("TZ", ZONE["TZ"])
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
async def keep(tmp_path: Path) -> AsyncGenerator[Keep]:
    """Returns a function that writes jobs into the ledger of the command, the newest first. Held jobs stay held."""
    store = JobStore.in_file(tmp_path / "home" / "ledger.sqlite3")

    async def keep(*kept: Kept) -> list[Job]:
        jobs = [each.job for each in kept]
        for each, job in reversed([*zip(kept, jobs, strict=True)]):
            await store.begin(job, Limits())
            await store.save(job, release=not each.held)
            if each.deleted:
                for image in job.images:
                    await store.search.mark_deleted(image, EVENING)
        return jobs

    yield keep
    await store.leave()
    await store.close()


# ---- the table ----

JOBS = (
    Kept(
        "a lighthouse at dusk, long exposure, in old Dutch manner",
        ID.format("3fa9c2d1"),
    ),
    Kept("雪の中で遊ぶ二匹の狐、遠くに富士山、浮世絵風の色彩と細部", ID.format("b1c2d3e4"), "0.002", vegart=True),
    Kept("שלג קר על הר רחב מאד, בבקר בהיר אחד, על אגם קפא", ID.format("0c0ffee0")),
    Kept("🦊❄️ a fox\nand its \x1b[1mcubs", ID.format("feedbeef")),
    Kept("four houses", ID.format("aaaa0000"), "0.009", images=3, samples=4),
    Kept("still drawing", "9" * 64, None, images=0, state=State.PROCESSING, held=True),
    Kept("in the queue", ID.format("bbbb0000"), None, images=0, state=State.QUEUED, held=True),
    Kept("left alone", ID.format("cccc0000"), None, images=0, state=State.QUEUED),
    Kept(
        "a storm",
        ID.format("11112222"),
        None,
        images=0,
        state=State.FAILED,
        error=InsufficientCredits("HTTP 402"),
    ),
    Kept(
        "a lost answer",
        ID.format("661065b7"),
        None,
        images=0,
        state=State.UNKNOWN,
        error=OutcomeUnknown("no answer"),
    ),
    Kept("no disk yet", ID.format("77777777"), images=0, state=State.PROCESSING, error=MediaError("no disk")),
    Kept("of an early day", ID.format("deadbeef"), deleted=True),
)
TABLES = {
    40: """\
WHEN  PROMPT           STATE    ID
2024  a lighthouse a…  done     3fa9c2d1
2024  雪の中で遊ぶ二…  done     b1c2d3e4
2024  \u200eשלג קר על הר ר…\u200e  done     0c0ffee0
2024  🦊❄️ a fox and…  done     feedbeef
2024  four houses      3 of 4   aaaa0000
2024  still drawing    drawing  99999999
2024  in the queue     queued   bbbb0000
2024  left alone       waiting  cccc0000
2024  a storm          failed   11112222
2024  a lost answer    unknown  661065b7
2024  no disk yet      missing  77777777
2024  of an early day  deleted  deadbeef
""",
    80: """\
WHEN (LOCAL)  PROMPT                        MODEL   COST       STATE    ID
2024-11-29    a lighthouse at dusk, long…   vega    $0.00225   done     3fa9c2d1
2024-11-29    雪の中で遊ぶ二匹の狐、遠く…   vegart  $0.002     done     b1c2d3e4
2024-11-29    \u200eשלג קר על הר רחב מאד, בבקר…\u200e   vega    $0.00225   done     0c0ffee0
2024-11-29    🦊❄️ a fox and its [1mcubs    vega    $0.00225   done     feedbeef
2024-11-29    four houses                   vega    $0.009     3 of 4   aaaa0000
2024-11-29    still drawing                 vega    unknown    drawing  99999999
2024-11-29    in the queue                  vega    unknown    queued   bbbb0000
2024-11-29    left alone                    vega    unknown    waiting  cccc0000
2024-11-29    a storm                       vega    no charge  failed   11112222
2024-11-29    a lost answer                 vega    unknown    unknown  661065b7
2024-11-29    no disk yet                   vega    $0.00225   missing  77777777
2024-11-29    of an early day               vega    $0.00225   deleted  deadbeef
""",
    200: """\
WHEN (LOCAL)  PROMPT                                                    MODEL   COST       STATE    ID
2024-11-29    a lighthouse at dusk, long exposure, in old Dutch manner  vega    $0.00225   done     3fa9c2d1
2024-11-29    雪の中で遊ぶ二匹の狐、遠くに富士山、浮世絵風の色彩と細部  vegart  $0.002     done     b1c2d3e4
2024-11-29    \u200eשלג קר על הר רחב מאד, בבקר בהיר אחד, על אגם קפא\u200e           vega    $0.00225   done     0c0ffee0
2024-11-29    🦊❄️ a fox and its [1mcubs                                vega    $0.00225   done     feedbeef
2024-11-29    four houses                                               vega    $0.009     3 of 4   aaaa0000
2024-11-29    still drawing                                             vega    unknown    drawing  99999999
2024-11-29    in the queue                                              vega    unknown    queued   bbbb0000
2024-11-29    left alone                                                vega    unknown    waiting  cccc0000
2024-11-29    a storm                                                   vega    no charge  failed   11112222
2024-11-29    a lost answer                                             vega    unknown    unknown  661065b7
2024-11-29    no disk yet                                               vega    $0.00225   missing  77777777
2024-11-29    of an early day                                           vega    $0.00225   deleted  deadbeef
""",
}


@posix
async def test_the_table_is_as_wide_as_the_terminal(tmp_path: Path, keep: Keep) -> None:
    await keep(*JOBS)
    for width, expected in TABLES.items():
        assert await shown_beside("jobs", folder=tmp_path, size=(width, 24), **ZONE) == expected, width
    # A process of its own asks the terminal for its width.
    assert shown_by_process("jobs", folder=tmp_path, size=(80, 24), **ZONE).text == TABLES[80]


async def test_if_stdout_is_a_file_only_long_prompts_are_cut(tmp_path: Path, keep: Keep) -> None:
    emoji = "❤" + "\ufe0f" * 5000
    (job, _, _) = await keep(Kept("a fox " * 20, None), Kept(remote_id="9" * 64), Kept(emoji, None))
    first, second, third = (await run_beside("jobs", folder=tmp_path, **ZONE)).stdout.splitlines()[1:]
    prompt = "a fox " * 13
    assert first == f"2024-11-29 23:00  {prompt}a…  vega   $0.00225  done   {job.request_id}"
    assert second.endswith(f"  {'9' * 64}")
    assert third.startswith(f"2024-11-29 23:00  {emoji}  ")


@posix
async def test_jobs_of_this_year_are_shown_with_month_and_day_in_local_time(tmp_path: Path, keep: Keep) -> None:
    now = datetime.now(UTC)
    await keep(Kept("a fox " * 10, created=now))
    local = now.astimezone(timezone(timedelta(hours=5, minutes=30)))
    wide = await shown_beside("jobs", folder=tmp_path, size=(80, 24), **ZONE)
    assert wide.splitlines()[1].startswith(f"{local:%m-%d %H:%M}   a fox a ")
    narrow = await shown_beside("jobs", folder=tmp_path, size=(40, 24), **ZONE)
    assert narrow.splitlines()[1].startswith((f"{local:%H:%M}  a fox a ", f"{local:%m-%d}  a fox a "))


@posix
async def test_enough_digits_of_an_id_are_shown_for_every_command_to_find_the_job(tmp_path: Path, keep: Keep) -> None:
    twins = [Kept(remote_id=f"99887766-5{number}00-4000-8000-000000000000") for number in (1, 2)]
    jobs = await keep(*twins, Kept(remote_id="x" * 64), Kept(remote_id=None), Kept(remote_id="r1"))
    said = await shown_beside("jobs", folder=tmp_path)
    ids = [line.rpartition("  ")[2] for line in said.splitlines()[1:]]
    assert ids == ["99887766-51", "99887766-52", "x" * 8, jobs[3].local_id[6:14], "r1"]
    for job, short in zip(jobs, ids, strict=True):
        found = await run_beside("jobs", short, "--json", folder=tmp_path)
        assert json.loads(found.stdout)["request_id"] == job.request_id
        assert (await run_beside("recipe", short, folder=tmp_path)).returncode == 0
    for command in ("jobs", "recipe"):
        several = await run_beside(command, "99887766", folder=tmp_path)
        assert several.returncode == 2
        assert "Several ids begin with '99887766': 99887766-5100-" in several.stderr
    assert sorted(offered("mcp-vega jobs ", tmp_path)[1]) == sorted(ids), "Tab offers the same"


@posix
async def test_the_ledger_may_be_empty_or_unreadable(tmp_path: Path) -> None:
    ledger = tmp_path / "home" / "ledger.sqlite3"
    assert await shown_beside("jobs", folder=tmp_path, size=(40, 24)) == f"No jobs yet in {ledger}\n"
    since = await run_beside("jobs", "--since", "2024-11-20", folder=tmp_path)
    assert since.stderr == f"No jobs since 2024-11-20 (UTC) in {ledger}\n"
    assert (await run_beside("jobs", "--spent", folder=tmp_path)).stderr == f"Nothing spent yet in {ledger}\n"
    assert json.loads((await run_beside("jobs", "--json", folder=tmp_path)).stdout) == []
    assert not ledger.parent.exists()
    ledger.parent.mkdir()
    ledger.write_text("no ledger", encoding="utf-8")
    for command in (["jobs"], ["jobs", "--spent"], ["jobs", "0c0ffee0"]):
        done = await run_beside(*command, folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"Error: The ledger .* \(ledger_error\)\.\nNext: .*\n", done.stderr)
    beside = await run_beside("jobs", "--sandbox", folder=tmp_path)
    assert beside.stderr == f"No jobs yet in {ledger.parent / 'sandbox' / ledger.name}\n"
    assert sorted(ledger.parent.iterdir()) == [ledger]


async def test_since_a_day_lists_every_job_from_then_on(tmp_path: Path, keep: Keep) -> None:
    now = datetime.now(UTC)
    days = [Kept(str(ago), None, created=now - timedelta(days=ago)) for ago in (0, 3, 10)]
    await keep(*days, *(Kept(str(number), None) for number in range(20)))
    for options, expected in {
        (): 20,
        ("--since", "2024-11-29"): 23,
        ("--since", "2024-11-30"): 3,
        ("--since", "7d"): 2,
        ("--since", f"{now - timedelta(days=3):%Y-%m-%d}", "--limit", "1"): 1,
    }.items():
        done = await run_beside("jobs", "--json", *options, folder=tmp_path)
        listed = [job["parameters"]["prompt"] for job in json.loads(done.stdout)]
        assert (len(listed), listed[0]) == (expected, "0"), options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--since", "2024-02-30"], "'2024-02-30', but must be a day"),
        (["--since", "0d"], "'0d', but must be a day"),
        (["--limit", "9" * 30], "must be a whole number"),
        (["--by", "caller"], "Next: Add --spent"),
        (["some-job", "--spent"], "--spent is about many jobs"),
        (["some-job", "--since", "7d"], "--since is about many jobs"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_the_error_does_not_mention_charges(
    tmp_path: Path, options: list[str], words: str
) -> None:
    done = run("jobs", *options, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Charged" not in done.stderr


# ---- the other ledger ----

OUTSIDE = "The ledger outside the sandbox has {}: leave out --sandbox, or unset MCP_VEGA_SANDBOX.\n"
INSIDE = "The sandbox's ledger has {}: add --sandbox.\n"


@posix
@pytest.mark.parametrize(("options", "hint"), [(["--sandbox"], OUTSIDE), ([], INSIDE)])
async def test_if_only_the_other_ledger_has_the_jobs_a_hint_names_the_option_for_it(
    tmp_path: Path, keep: Keep, options: list[str], hint: str
) -> None:
    (job,) = await keep(Kept())
    home = tmp_path / "home"
    if not options:
        home = tmp_path / "real"
        home.mkdir()
        (home / "sandbox").symlink_to(tmp_path / "home")
    for command in (["jobs"], ["jobs", "--spent"], ["gallery", "--folder"]):
        done = await run_beside(*command, *options, folder=tmp_path, MCP_VEGA_HOME=str(home))
        assert hint.format("jobs") in done.stderr, command
    for command in (["jobs"], ["recipe"], ["draw", "--like"]):
        for name in ("f0f0f0f0", job.images[0].uri):
            done = await run_beside(*command, name, *options, folder=tmp_path, MCP_VEGA_HOME=str(home))
            assert done.stderr.endswith(f"\nNext: {hint.format('it')}"), command
        unknown = await run_beside(*command, "nope", *options, folder=tmp_path, MCP_VEGA_HOME=str(home))
        assert ("mcp-vega jobs" in unknown.stderr, "mcp-vega jobs --sandbox" in unknown.stderr) == (True, bool(options))


# ---- one job ----


def test_jobs_shows_one_job_in_full_by_any_of_its_names(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    path = run(
        "draw", "a fox", "--seed", "7", "--steps", "30", "--negative-prompt", "blur", folder=tmp_path, **api
    ).stdout.strip()
    (request_id,) = sandbox_in_thread.account.calls
    lines = run("jobs", request_id, folder=tmp_path).stdout.splitlines()
    facts = {name: value.strip() for name, value in (line.split(":", 1) for line in lines if line[0] != " ")}
    assert (facts["Request id"], facts["State"], facts["Seed"], facts["Route"]) == (request_id, "done", "7", "v1")
    assert (facts["Charged"], facts["Cost"], facts["API"]) == ("yes", "$0.0027", sandbox_in_thread.url)
    assert (facts["Prompt"], facts["Negative"]) == ("“a fox”", "“blur”")
    assert facts["Parameters"] == (
        "num_inference_steps 30, img_width 1024, img_height 1024, base64 false, samples 1, scheduler DPM2 Karras, "
        "guidance_scale 7.5"
    )
    assert facts["Image"] == path
    uri, size, _ = lines[lines.index(f"Image:        {path}") + 1 :]
    assert uri.startswith("              vega://images/")
    assert size.startswith(f"              {SMALL}×{SMALL}, ")
    assert run("jobs", uri.strip(), folder=tmp_path).stdout.splitlines() == lines
    digits = Path(path).stem.rpartition("-")[2]
    for named in (facts["Local id"], request_id[:8], digits, path, f"vega://jobs/{request_id}"):
        assert run("jobs", named, folder=tmp_path).stdout.splitlines() == lines, named


@posix
async def test_the_texts_of_a_job_fit_the_terminal_and_what_users_copy_is_not_broken(
    tmp_path: Path, keep: Keep
) -> None:
    prompt = " ".join(["二匹の狐 in the snow"] * 10)
    (job,) = await keep(Kept(prompt, error=InsufficientCredits("HTTP 402"), state=State.FAILED, images=0))
    lines = (await shown_beside("jobs", "f0f0f0f0", folder=tmp_path, size=(40, 24))).splitlines()
    at = lines.index("Seed:         7")
    assert lines[4] == "Prompt:       “二匹の狐 in the snow"
    assert " ".join(line[14:] for line in lines[4:at]) == f"“{prompt}”"
    assert all(line[:14].isspace() for line in lines[5:at])
    assert f"Local id:     {job.local_id}" in lines
    assert lines[-3:] == [
        "Next:         Add credits at",
        "              https://cloud.segmind.com/billing,",
        "              then call again",
    ]


def test_jobs_says_why_a_job_failed(tmp_path: Path, api: dict[str, str]) -> None:
    run("draw", "[fault:402]", folder=tmp_path, **api)
    (job,) = json.loads(run("jobs", "--json", folder=tmp_path).stdout)
    assert (job["state"], job["charged"], job["error"]["code"]) == ("FAILED", "no", "insufficient_credits")
    text = run("jobs", job["request_id"], folder=tmp_path).stdout
    assert "State:        failed\n" in text
    assert "Error:        The API answered with HTTP 402" in text
    assert "https://cloud.segmind.com/billing" in text
    recipe = run("recipe", job["request_id"], folder=tmp_path)
    assert recipe.stdout.startswith("[fault:402]\nSteps: 25, ")
    assert recipe.stderr == "Note: The job has no picture. This recipe is from the ledger.\n"


def test_jobs_as_json(tmp_path: Path, api: dict[str, str]) -> None:
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
    assert "has no job with the id 'nothing' (unknown_job).\nNext: " in done.stderr


@posix
async def test_a_name_that_is_not_utf_8_is_unknown_to_the_ledger(tmp_path: Path, keep: Keep) -> None:
    await keep(Kept())
    name = os.fsdecode(b"a fox \xff.jpg")
    listed, recipe = [await run_beside(command, name, folder=tmp_path) for command in ("jobs", "recipe")]
    assert (listed.returncode, recipe.returncode) == (1, 2)
    assert r"has no job with the id 'a fox \udcff.jpg' (unknown_job)" in listed.stderr
    assert r"'a fox \udcff.jpg' is not a file, and the ledger" in recipe.stderr


def test_the_money_of_the_sandbox_is_pretend(tmp_path: Path) -> None:
    run("draw", "a fox", "--model", "vegart", "--sandbox", folder=tmp_path)
    limit = {"MCP_VEGA_SPENDING_LIMIT_USD": "1"}
    none_yet = run("jobs", "--sandbox", "--spent", "--since", "9999-12-31", folder=tmp_path, **limit).stderr
    assert none_yet.endswith("\nSpending limit: $0.998 (pretend) of $1.00 (pretend) left today (UTC)\n")
    for options in ([], ["--spent"]):
        done = run("jobs", "--sandbox", *options, folder=tmp_path, **limit)
        assert "  $0.002" in done.stdout
        assert done.stderr.startswith("The money of the sandbox is pretend.\n")
    assert run("jobs", "--sandbox", "--limit", "1", folder=tmp_path).returncode == 0
    (job,) = json.loads(run("jobs", "--sandbox", "--json", folder=tmp_path).stdout)
    in_full = run("jobs", "--sandbox", job["request_id"], folder=tmp_path).stdout
    assert "Cost:         $0.002 (pretend)\n" in in_full
    assert re.search(r"Credits left: \$\S+ \(pretend\)\n", in_full)


# ---- what was spent ----

EARLIER = EVENING - timedelta(days=1)
SPENT = (
    Kept(cost="1234.5"),
    Kept(cost=None, vegart=True, owner="ada"),
    Kept(owner="ada"),
    Kept(created=EARLIER, owner="0123456789abcdef" * 2),
    Kept(created=EARLIER, owner="a-team-with-quite-a-long-name@pictures.example"),
    Kept(created=EARLIER, state=State.FAILED, images=0, error=InsufficientCredits("HTTP 402")),
)
BY_MODEL = """\
DAY (UTC)   MODEL   CALLS  SPENT         ESTIMATED
2024-11-29  vega        2  $1,234.50225  –
2024-11-29  vegart      1  $0.002        $0.002
2024-11-28  vega        2  $0.0045       –
TOTAL                   5  $1,234.50875  $0.002
"""
BY_CALLER = {
    40: """\
DAY (UTC)   CALLER          SPENT
2024-11-29  (this machine)  $1,234.50
2024-11-29  ada             $0.00425
2024-11-28  token 01234567  $0.00225
2024-11-28  a-team…example  $0.00225
TOTAL                       $1,234.50875
""",
    80: """\
DAY (UTC)   CALLER                                CALLS  SPENT         ESTIMATED
2024-11-29  (this machine)                            1  $1,234.50     –
2024-11-29  ada                                       2  $0.00425      $0.002
2024-11-28  token 01234567                            1  $0.00225      –
2024-11-28  a-team-with-quite…e@pictures.example      1  $0.00225      –
TOTAL                                                 5  $1,234.50875  $0.002
""",
    200: """\
DAY (UTC)   CALLER                                          CALLS  SPENT         ESTIMATED
2024-11-29  (this machine)                                      1  $1,234.50     –
2024-11-29  ada                                                 2  $0.00425      $0.002
2024-11-28  token 01234567                                      1  $0.00225      –
2024-11-28  a-team-with-quite-a-long-name@pictures.example      1  $0.00225      –
TOTAL                                                           5  $1,234.50875  $0.002
""",
}


@posix
async def test_spending_is_added_up_by_day_and_by_model_or_caller(tmp_path: Path, keep: Keep) -> None:
    await keep(*(replace(each, remote_id=None) for each in SPENT))
    assert await shown_beside("jobs", "--spent", folder=tmp_path) == BY_MODEL
    for width, expected in BY_CALLER.items():
        by_caller = await shown_beside("jobs", "--spent", "--by", "caller", folder=tmp_path, size=(width, 24))
        assert by_caller == expected, width


SHARES = {
    41: """\
DAY (UTC)   CALLER          CALLS  SPENT
2024-11-29  token 01234567      1  $1.005
2024-11-29  https:…res#ada      1  $0.25
TOTAL                           2  $1.255
""",
    100: """\
DAY (UTC)   CALLER                                     CALLS  SPENT   ESTIMATED  OF $1.00
2024-11-29  token 01234567                                 1  $1.005  –              100%
2024-11-29  https://login.example/realms/pictures#ada      1  $0.25   –               25%
TOTAL                                                      2  $1.255  –
""",
}


@posix
async def test_the_sums_by_caller_say_how_much_of_the_limit_each_used(tmp_path: Path, keep: Keep) -> None:
    await keep(
        Kept(owner="https://login.example/realms/pictures#ada", cost="0.25"),
        Kept(remote_id=None, owner="0123456789abcdef" * 2, cost="1.005"),
    )
    for limit in ({"MCP_VEGA_SPENDING_LIMIT_USD_EACH": "1"}, {"MCP_VEGA_SPENDING_LIMIT_USD": "1"}):
        for width, expected in SHARES.items():
            options = ("jobs", "--spent", "--by", "caller")
            shown = await shown_beside(*options, folder=tmp_path, size=(width, 24), **limit)
            assert shown.partition("Spending limit")[0] == expected, width
    both = {"MCP_VEGA_SPENDING_LIMIT_USD_EACH": "1", "MCP_VEGA_SPENDING_LIMIT_USD": "5"}
    said = (await run_beside("jobs", "--spent", folder=tmp_path, **both)).stderr
    assert said == (
        "Spending limit: $5.00 of $5.00 left today (UTC)\nSpending limit of each caller: $1.00 a day (UTC)\n"
    )
    data = json.loads((await run_beside("jobs", "--spent", "--by", "caller", "--json", folder=tmp_path)).stdout)
    assert [each["caller"] for each in data] == ["token 01234567", "https://login.example/realms/pictures#ada"]


async def test_spending_can_be_limited_to_the_time_since_a_day(tmp_path: Path, keep: Keep) -> None:
    await keep(*(replace(each, remote_id=None) for each in SPENT))
    one = await run_beside("jobs", "--spent", "--limit", "1", folder=tmp_path)
    assert one.stdout == "".join(
        line.replace("5  $1,234.50875", "3  $1,234.50425")
        for line in BY_MODEL.splitlines(keepends=True)
        if "2024-11-28" not in line
    )
    assert one.stderr == "Not shown: 1 earlier day. --limit N shows more.\n"
    since = await run_beside("jobs", "--spent", "--since", "2024-11-29", folder=tmp_path)
    assert (since.stdout, since.stderr) == (one.stdout, "")
    data = json.loads(
        (await run_beside("jobs", "--spent", "--by", "caller", "--json", "--limit", "1", folder=tmp_path)).stdout
    )
    assert [each["caller"] for each in data] == [None, "ada"]
    assert data[1] == {"day": "2024-11-29", "caller": "ada", "calls": 2, "usd": 0.00425, "estimated_usd": 0.002}
    later = await run_beside("jobs", "--spent", "--since", "2024-11-30", folder=tmp_path)
    assert later.stderr == f"Nothing spent since 2024-11-30 (UTC) in {tmp_path / 'home' / 'ledger.sqlite3'}\n"


def test_the_rest_of_the_spending_limit_is_shown_with_every_table_of_spending(
    tmp_path: Path, api: dict[str, str]
) -> None:
    limit = {"MCP_VEGA_SPENDING_LIMIT_USD": "0.005"}
    run("draw", "a fox", folder=tmp_path, **api, **limit)
    run("draw", "a fox", "--model", "vegart", folder=tmp_path, **api, **limit)
    refused = run("draw", "a fox", "--samples", "2", folder=tmp_path, **api, **limit)
    assert refused.returncode == 1
    assert "$0.00425 of today's $0.005 (UTC) are spent" in refused.stderr
    for options in ([], ["--by", "caller"]):
        done = run("jobs", "--spent", *options, folder=tmp_path, **limit)
        assert done.stderr == "Spending limit: $0.00075 of $0.005 left today (UTC)\n"
    data = json.loads(run("jobs", "--spent", "--json", folder=tmp_path).stdout)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert data[0] == {"day": today, "model": "segmind-vega", "calls": 1, "usd": 0.00225, "estimated_usd": 0.0}
