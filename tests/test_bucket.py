"""The pictures in a bucket: nothing is overwritten or lost, and each failure of the storage is said in plain words."""

import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.stapled import MultiListener
from conftest import TLS, Sandbox, app_over, job_of, until
from httpx import Response
from mcp.client import Client
from services import require_packages
from test_image_folder import DAY, ID
from test_image_mover import Clock

from mcp_vega.errors import Charged, GalleryError, InvalidSettings, VegaError
from mcp_vega.job import Image, ImageLocation
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.storage.gallery import Gallery
from mcp_vega.storage.images import bucket as module
from mcp_vega.storage.images import disk
from mcp_vega.storage.images.bucket import Bucket
from mcp_vega.storage.images.disk import replica_disk_name
from mcp_vega.storage.images.fallback import FallbackImageStore, open_store
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.memory import MemoryImageStore
from mcp_vega.storage.images.object_storage import client
from mcp_vega.storage.images.preview_cache import PreviewCache
from mcp_vega.storage.images.store import file_name

pytestmark = [pytest.mark.anyio, pytest.mark.services]

KEY = "2026-11-20/a-7-01234567.jpg"
JPEG = b"\xff\xd8\xff a picture"
KEY_ID, SECRET = "AKIAVEGATEST", "a-secret-of-the-tests"


async def saved(store: Bucket, data: bytes, image_id: str = ID, name: str = "a-7.jpg") -> str:
    return (await store.save(data, name, image_id, DAY)).key


async def direct(method: Literal["GET", "HEAD", "PUT", "DELETE"], bucket: str, key: str, data: bytes = b"") -> Response:
    """The answer of the S3 server of the tests to a request that `Bucket` has no part in."""
    import obstore
    from obstore.store import S3Store

    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    store = S3Store(name, prefix=prefix, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})
    url = await obstore.sign_async(store, method, key, timedelta(minutes=1))
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as http:
        return await http.request(method, url, content=data or None)


def url_of(listener: MultiListener[SocketStream]) -> str:
    return f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610  not Django's


# ---- a storage that answers what a test wants ----

HANGS = None
CLOSES = b""
CREATED = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\n\r\n'


def refused(status: int, code: str = "") -> bytes:
    body = f"<Error><Code>{code}</Code><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>" if code else "no"
    return f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def found(data: bytes, length: int | None = None) -> bytes:
    head = f'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: {length or len(data)}\r\n'
    return f"{head}Last-Modified: Fri, 20 Nov 2026 00:00:00 GMT\r\n\r\n".encode() + data


class FakeStorage:
    """A storage at a free port. It gives its answers in order, and the last one again and again."""

    def __init__(self) -> None:
        self.answers: Sequence[bytes | None] = [CREATED]
        self.requests: list[bytes] = []
        self.refuses_check = True  # to overwrite the object with which a bucket is checked; that is no request
        self.url = ""

    async def serve(self, stream: ByteStream) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            async with stream:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += await stream.receive()
                head, _, body = request.partition(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
                while missing > 0:
                    missing -= len(await stream.receive())
                if self.refuses_check and b"mcp-vega-check" in head and b"if-none-match: *" in head:
                    await stream.send(refused(412, "PreconditionFailed"))
                    return
                answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
                self.requests.append(head)
                if answer is None:
                    await anyio.sleep_forever()
                    return
                await stream.send(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))


@pytest.fixture
async def storage(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[FakeStorage]:
    require_packages("obstore")
    storage = FakeStorage()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        storage.url = url_of(listener)
        set_environment(monkeypatch, AWS_ENDPOINT_URL=storage.url)
        tasks.start_soon(listener.serve, storage.serve)
        yield storage
        tasks.cancel_scope.cancel()


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in [each for each in os.environ if each.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    keys = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    for name, value in {**keys, **variables}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECK_RETRY_SECONDS", "SAVE_RETRY_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(module, name, 0)


def expect_answers_within(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for a storage that hangs: others may be slow on a busy machine."""
    monkeypatch.setattr(module, "PREPARE_SECONDS", seconds)
    monkeypatch.setattr(client, "ANSWER_SECONDS", seconds)


# ---- keeping ----


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox",
        "狐狸在雪地里 🦊👍🏽",
        "שועל בשלג ثعلب",
        "../../etc/passwd",
        "x\" y'\r\nSet-Cookie: a=b",
        "\0",
        "ü" * 40_000,
    ],
    ids=range(7),
)
async def test_a_picture_of_any_prompt_is_kept_with_its_type_and_name(bucket: str, prompt: str) -> None:
    store = Bucket(bucket)
    key = await saved(store, JPEG, name=file_name(prompt, 7, ".jpg"))
    assert key.startswith("2026-11-20/")
    assert await store.read(key) == JPEG
    assert await store.find(file_name(prompt, 7, ".jpg"), ID, DAY) == JPEG
    headers = (await direct("GET", bucket, key)).headers
    assert (headers["content-type"], headers["content-disposition"][:18]) == ("image/jpeg", 'inline; filename="')


async def test_of_twelve_servers_that_save_under_one_name_each_keeps_its_own_picture(bucket: str) -> None:
    keys = dict[int, str]()

    async def save(number: int) -> None:
        keys[number] = await saved(Bucket(bucket), JPEG + bytes([number]), f"01234567{number:024}")

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(save, number)
    assert len(set(keys.values())) == 12
    assert sum(key == KEY for key in keys.values()) == 1
    for number, key in keys.items():
        assert await Bucket(bucket).read(key) == JPEG + bytes([number])


async def test_servers_that_save_the_same_picture_at_the_same_time_keep_it_once(bucket: str) -> None:
    keys = list[str]()

    async def save() -> None:
        keys.append(await saved(Bucket(bucket), JPEG))

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(save)
    assert keys == [KEY] * 6


async def test_if_both_names_are_taken_nothing_is_overwritten(bucket: str) -> None:
    store = Bucket(bucket)
    for name in ("a-7-01234567.jpg", f"a-7-{ID}.jpg"):
        assert (await direct("PUT", bucket, f"2026-11-20/{name}", b"another's")).is_success
    with pytest.raises(GalleryError, match="both names") as caught:
        await saved(store, JPEG)
    assert caught.value.charged is Charged.YES
    assert await store.read(KEY) == b"another's"


async def test_a_picture_of_20_megabytes_is_put_in_one_piece(bucket: str) -> None:
    store, data = Bucket(bucket), os.urandom(20_000_000)
    assert await store.read(await saved(store, data)) == data
    assert "-" not in (await direct("HEAD", bucket, KEY)).headers["etag"]


async def test_an_answer_that_is_not_a_picture_is_kept_apart(bucket: str) -> None:
    store = Bucket(bucket)
    place = await FallbackImageStore([store]).set_aside(b"not a picture", "a-7.bin", DAY)
    assert place == f"{bucket}/unreadable/2026-11-20/a-7-{sha256(b'not a picture').hexdigest()[:8]}.bin"
    assert place
    assert await store.read(place.removeprefix(f"{bucket}/")) == b"not a picture"


async def test_a_picture_that_somebody_replaced_does_not_count_as_intact(bucket: str) -> None:
    images = FallbackImageStore([Bucket(bucket)])
    location, _ = await images.save(JPEG, "a-7.jpg", ID, DAY)
    image = image_of(location)
    assert (await images.is_intact(image), await images.is_gone(image)) == (True, False)
    assert (await direct("PUT", bucket, KEY, b"another's")).is_success
    assert (await images.is_intact(image), await images.is_gone(image)) == (False, False)
    await images.delete(location)
    assert (await images.holds(image), await images.is_gone(image)) == (False, True)
    await images.delete(location)


def image_of(location: ImageLocation, data: bytes = JPEG) -> Image:
    facts: dict[str, Any] = {"mime_type": "image/jpeg", "width": 1, "height": 1, "bytes": len(data)}
    return Image(id=ID, location=location, sha256=sha256(data).hexdigest(), **facts)


@pytest.mark.parametrize(
    ("url", "variables", "condition"),
    [
        ("s3://pics/team", {}, b"if-none-match: *"),
        ("gs://pics/team", {"GOOGLE_BASE_URL": "", "GOOGLE_BEARER_TOKEN": "token"}, b"x-goog-if-generation-match: 0"),
        (
            "az://pics/team",
            {
                "AZURE_STORAGE_ENDPOINT": "",
                "AZURE_STORAGE_ACCOUNT_NAME": "team",
                "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0",
            },
            b"if-none-match: *",
        ),
    ],
)
async def test_each_service_is_asked_to_create_and_never_to_overwrite(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], condition: bytes
) -> None:
    set_environment(monkeypatch, AWS_ENDPOINT_URL=storage.url)
    for name, value in variables.items():
        monkeypatch.setenv(name, value or storage.url)
    store = Bucket(url)
    assert await saved(store, JPEG) == KEY
    (request,) = storage.requests
    assert condition in request.lower()
    assert f"/team/{KEY} " in unquote(request.decode())
    for header in (b": image/jpeg", b': inline; filename="a-7-01234567.jpg"'):
        assert header in request


# ---- failures ----

FAILURES: list[tuple[bytes | None, str, str]] = [
    (refused(404, "NoSuchBucket"), "the bucket does not exist", "Create the bucket"),
    (refused(403, "AccessDenied"), "access is denied", "read, write, list and delete"),
    (refused(403, "SignatureDoesNotMatch"), "does not accept the credentials", "AWS_SECRET_ACCESS_KEY"),
    (refused(400, "ExpiredToken"), "have expired", "Renew"),
    (refused(301, "PermanentRedirect"), "another region", "Set AWS_REGION"),
    (refused(400, "AuthorizationHeaderMalformed"), "another region", "Set AWS_REGION"),
    (refused(503, "SlowDown"), "overloaded or down", "in a minute"),
    (refused(500), "overloaded or down", "in a minute"),
    (refused(507, "XMinioStorageFull"), "the storage is full", "Make room"),
    (refused(418), "refused the request", "MCP_VEGA_GALLERY"),
    (b"SSH-2.0-OpenSSH\r\n", "cannot be read", "Check the network"),
    (CLOSES, "there is no connection", "Check the network"),
    (HANGS, "does not answer", "Check the network"),
]


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize(("answer", "why", "step"), FAILURES, ids=range(len(FAILURES)))
async def test_each_failure_is_said_in_plain_words_with_the_next_step_and_without_secrets(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, why: str, step: str
) -> None:
    if answer is HANGS:
        expect_answers_within(0.1, monkeypatch)
    storage.answers, store = [answer], Bucket("s3://pics/team")
    errors: list[VegaError] = []
    for request in (
        partial(store.prepare, DAY),
        partial(saved, store, JPEG),
        partial(store.read, KEY),
        partial(store.delete, KEY),
        partial(store.is_missing, KEY),
    ):
        with pytest.raises(GalleryError) as caught:
            await request()
        errors.append(caught.value)
    for error in errors:
        assert (why in error.what, step in error.next_step) == (True, True), error.text
        assert "s3://pics/team" in error.what
        assert not [each for each in (KEY_ID, SECRET, "Signature=", storage.url) if each in error.text]
    assert [error.charged for error in errors] == [Charged.NO, Charged.YES, Charged.NO, Charged.NO, Charged.NO]
    assert await store.find("a-7.jpg", ID, DAY) is None


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("answer", [refused(404), refused(404, "NoSuchBucket"), refused(403, "AccessDenied")])
async def test_a_picture_counts_as_removed_only_if_the_storage_says_so(storage: FakeStorage, answer: bytes) -> None:
    images = FallbackImageStore([Bucket("s3://pics")])
    storage.answers = [answer]
    assert not await images.is_gone(image_of(ImageLocation("s3://pics", KEY)))
    storage.answers = [refused(404, "NoSuchKey")]
    assert await images.is_gone(image_of(ImageLocation("s3://pics", KEY)))


async def test_if_nobody_listens_at_the_address_the_check_fails_within_seconds(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as free:
        closed = url_of(free)
    set_environment(monkeypatch, AWS_ENDPOINT_URL=closed)
    with anyio.fail_after(module.PREPARE_SECONDS + module.CHECK_RETRY_SECONDS), pytest.raises(GalleryError):
        await Bucket("s3://pics").prepare(DAY)
    assert module.PREPARE_SECONDS + module.CHECK_RETRY_SECONDS < 4
    assert not storage.requests


async def test_a_picture_is_saved_if_the_storage_works_again_after_a_moment(storage: FakeStorage) -> None:
    storage.answers = [refused(503, "SlowDown"), CLOSES, refused(500), CREATED]
    assert await saved(Bucket("s3://pics"), JPEG) == KEY
    assert len(storage.requests) == 4


async def test_a_picture_that_the_storage_kept_although_the_answer_was_lost_is_not_kept_twice(
    storage: FakeStorage,
) -> None:
    storage.answers = [CLOSES, refused(412, "PreconditionFailed"), found(JPEG)]
    assert await saved(Bucket("s3://pics"), JPEG) == KEY


async def test_a_name_that_becomes_free_again_is_used(storage: FakeStorage) -> None:
    """Another server was creating the object, and failed."""
    storage.answers = [refused(409, "ConditionalRequestConflict"), refused(404, "NoSuchKey"), CREATED]
    assert await saved(Bucket("s3://pics"), JPEG) == KEY


async def test_a_picture_that_arrives_in_part_is_read_again(storage: FakeStorage) -> None:
    storage.answers = [found(JPEG[:5], len(JPEG)), found(JPEG)]
    assert await Bucket("s3://pics").read(KEY) == JPEG
    assert len(storage.requests) == 2


# ---- the check before a call is paid for ----


async def test_a_check_counts_for_seconds_and_so_does_a_picture_that_was_saved(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Bucket("s3://pics/team")
    for _ in range(3):
        await store.prepare(DAY)
    assert [request.partition(b" HTTP")[0] for request in storage.requests] == [b"PUT /pics/team/mcp-vega-check"]
    monkeypatch.setattr(module, "CHECK_SECONDS", 0)
    await store.prepare(DAY)
    assert len(storage.requests) == 2
    monkeypatch.undo()
    set_environment(monkeypatch, AWS_ENDPOINT_URL=storage.url)
    other = Bucket("s3://pics/team")
    await saved(other, JPEG)
    await other.prepare(DAY)
    assert len(storage.requests) == 3


@pytest.mark.usefixtures("no_retries")
async def test_after_a_picture_could_not_be_saved_the_storage_is_checked_again(storage: FakeStorage) -> None:
    store = Bucket("s3://pics")
    await store.prepare(DAY)
    storage.answers = [refused(503)]
    with pytest.raises(GalleryError):
        await saved(store, JPEG)
    with pytest.raises(GalleryError, match="could not be written"):
        await store.prepare(DAY)
    storage.answers = [CREATED]
    await store.prepare(DAY)


@pytest.mark.parametrize("answer", [CREATED, refused(501, "NotImplemented")])
async def test_a_storage_that_would_overwrite_pictures_is_not_used(storage: FakeStorage, answer: bytes) -> None:
    storage.refuses_check, storage.answers, store = False, [CREATED, answer], Bucket("s3://pics")
    for _ in range(2):
        with pytest.raises(GalleryError, match="would overwrite objects"):
            await store.prepare(DAY)


@pytest.mark.usefixtures("no_retries")
async def test_calls_that_wait_for_one_check_fail_together(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_answers_within(0.3, monkeypatch)
    storage.answers, store, failed = [HANGS], Bucket("s3://pics"), list[str]()

    async def prepare() -> None:
        try:
            await store.prepare(DAY)
        except GalleryError as error:
            failed.append(error.what)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(prepare)
    assert (len(failed), len(storage.requests)) == (5, 1)


# ---- the settings ----


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_ENDPOINT_URL": "http://storage.example:9000"}, "AWS_ENDPOINT_URL .* http is allowed only"),
        ({"AWS_ENDPOINT_URL_S3": "http://10.0.0.1"}, "AWS_ENDPOINT_URL_S3 .* http is allowed only"),
        ({"AWS_ENDPOINT_URL": "nonsense"}, "must be an https URL"),
        ({"AWS_ENDPOINT_URL": "http://[::1"}, "must be an https URL"),
        ({"AWS_ENDPOINT_URL": "https://a b"}, "must be an https URL"),
        ({"AWS_ENDPOINT_URL": "https://ü.example"}, "must be an https URL"),
        ({"AWS_ENDPOINT_URL": "ftp://storage.example"}, "must be an https URL"),
        ({"AWS_SECRET_ACCESS_KEY": "hunter2\n"}, "AWS_SECRET_ACCESS_KEY .* line break"),
        ({"AWS_REGION": "ü"}, "AWS_REGION .* not ASCII"),
        ({"AWS_UNSIGNED_PAYLOAD": "hunter2"}, "begins with AWS_"),
        ({"AWS_SERVER_SIDE_ENCRYPTION": "hunter2"}, "begins with AWS_"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    require_packages("obstore")
    set_environment(monkeypatch, **variables)
    with pytest.raises(InvalidSettings, match=said) as caught:
        Bucket("s3://pics")
    assert "hunter2" not in caught.value.text


EMPTY = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN"]


@pytest.mark.parametrize(
    ("path", "variables"),
    [
        ("", {"AWS_NO_SUCH_THING": "x", "AWS_BUCKET": "another", "AWS_TIMEOUT": "x", "AWS_ALLOW_HTTP": "x"}),
        ("/", dict.fromkeys(EMPTY, "")),
        ("/a/path", {"AWS_CONDITIONAL_PUT": "disabled", "AWS_PROFILE": "ü"}),
        ("/a/path/", {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": " "}),
    ],
)
async def test_odd_variables_do_not_change_where_a_picture_goes(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch, path: str, variables: dict[str, str]
) -> None:
    set_environment(monkeypatch, AWS_ENDPOINT_URL=storage.url + path, **variables)
    await saved(Bucket("s3://pics/team"), JPEG)
    assert storage.requests[0].startswith(f"PUT {path.rstrip('/')}/pics/team/{KEY} HTTP".encode())
    assert b"\r\nif-none-match: *" in storage.requests[0]


@pytest.mark.parametrize(
    ("url", "names"), [("s3://pics", "AWS_ACCESS_KEY_ID"), ("gs://pics", "GOOGLE_APPLICATION_CREDENTIALS")]
)
async def test_without_credentials_the_error_names_the_variables(
    storage: FakeStorage, monkeypatch: pytest.MonkeyPatch, url: str, names: str
) -> None:
    # Without credentials, a virtual machine would ask the service for them that is at this address.
    set_environment(monkeypatch, AWS_ENDPOINT_URL=storage.url, HOME=str(Path("/nowhere")))
    if url == "s3://pics":
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    with pytest.raises(VegaError) as caught:
        await Bucket(url).prepare(DAY)
    assert names in caught.value.next_step


async def test_without_obstore_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InvalidSettings) as caught:
        Bucket("s3://pics")
    assert caught.value.next_step.startswith("Run `pip install 'mcp-vega[team]'`")
    images = FallbackImageStore([MemoryImageStore()])
    with pytest.raises(GalleryError, match="obstore is not installed") as missing:
        await images.read(ImageLocation("s3://pics", KEY))
    assert "mcp-vega[team]" in missing.value.next_step


# ---- in the server ----


class Line:
    """A line to the S3 server that can be cut."""

    def __init__(self, url: str) -> None:
        self._target = httpx.URL(url)
        self._connections: list[anyio.CancelScope] = []
        self.works = True

    def cut(self) -> None:
        self.works = False
        for each in self._connections:
            each.cancel()

    async def serve(self, stream: ByteStream) -> None:
        with anyio.CancelScope() as scope:
            self._connections.append(scope)
            async with stream:
                if self.works:
                    await self._forward(stream)

    async def _forward(self, stream: ByteStream) -> None:
        target = await anyio.connect_tcp(self._target.host, self._target.port or 80)
        async with target, anyio.create_task_group() as tasks:
            tasks.start_soon(self._copy, target, stream)
            await self._copy(stream, target)
            tasks.cancel_scope.cancel()

    async def _copy(self, source: ByteStream, target: ByteStream) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                await target.send(await source.receive())


@pytest.fixture
async def line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Line]:
    """The line between the servers and the bucket. What a test looks up itself does not use it."""
    assert bucket
    line = Line(os.environ["AWS_ENDPOINT_URL"])
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url_of(listener))
        tasks.start_soon(listener.serve, line.serve)
        yield line
        tasks.cancel_scope.cancel()


ONE, TWO = "vega-1-0123abcd", "vega-2-0123abcd"


@asynccontextmanager
async def replica(
    sandbox: Sandbox, folder: Path, bucket: str, disk: str = ONE, clock: Clock | None = None
) -> AsyncGenerator[AppContext]:
    """A server with a disk of its own. All of them have the same ledger and the same bucket."""
    spare = ImageFolder(folder / disk, private=True, disk=disk)
    stores: dict[str, Any] = {"images": Bucket(bucket), "fallbacks": [spare]}
    async with app_over(sandbox.url, folder / "x", home=folder / "home", clock=clock or Clock(), **stores) as app:
        yield app


async def drawn_while_cut(sandbox: Sandbox, line: Line, app: AppContext) -> Image:
    """A picture that the bucket could not take, although it worked when the call was begun."""
    sandbox.hold()
    jobs = list[dict[str, Any]]()

    async def draw(agent: Client) -> None:
        jobs.append(job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"})))

    async with Client(build_server(app)) as agent, anyio.create_task_group() as tasks:
        tasks.start_soon(draw, agent)
        await until(lambda: sandbox.account.calls)
        line.cut()
        sandbox.let_go()
    (image,) = jobs[0]["images"]
    assert image["path"] is None
    return await now(app, image["id"])


async def now(app: AppContext, image_id: str) -> Image:
    return (await app.gallery.find(image_id)).image


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("deleted", [False, True])
async def test_a_picture_on_the_disk_of_a_replica_is_moved_to_the_bucket_by_that_replica(
    sandbox: Sandbox, tmp_path: Path, bucket: str, line: Line, *, deleted: bool
) -> None:
    clock = Clock()
    async with replica(sandbox, tmp_path, bucket) as one, replica(sandbox, tmp_path, bucket, TWO, clock) as two:
        image = await drawn_while_cut(sandbox, line, one)
        file = tmp_path / ONE / image.location.key
        assert (image.location.store, image.name) == (f"file://{ONE}{tmp_path / ONE}", file.name)
        data = await one.gallery.read(image)
        line.works = True
        await two.service.image_mover.move_back()
        assert await now(two, image.id) == image
        for request in (partial(two.gallery.read, image), partial(two.gallery.delete, image.id, datetime.now(UTC))):
            with pytest.raises(GalleryError, match=f"on the disk of the replica {ONE}") as caught:
                await request()
            assert ONE in caught.value.what
            assert ONE not in f"{caught.value.public} {caught.value.next_step}", "only the operator may see it"
        line.cut()
        await one.service.image_mover.move_back()
        assert await now(one, image.id) == image
        line.works = True
        async with replica(sandbox, tmp_path, bucket, clock=clock) as restarted:
            async with anyio.create_task_group() as tasks:
                for each in (restarted, two, one):
                    each.service.image_mover._due = 0  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
                    tasks.start_soon(each.service.image_mover.move_back)
            moved = await now(two, image.id)
            assert moved.location == (bucket, image.location.key)
            assert await two.gallery.read(image) == await restarted.gallery.read(moved) == data
            assert (await direct("GET", bucket, image.location.key)).content == data
            if deleted:
                await two.gallery.delete(image.id, datetime.now(UTC))
            else:
                clock.ahead = timedelta(days=2)
            await two.service.image_mover.move_back()
            assert file.read_bytes() == data, "only its own replica can delete it"
            await restarted.service.image_mover.move_back()
            assert not file.exists()
            assert (await direct("GET", bucket, image.location.key)).is_success is not deleted
    assert sandbox.paid_requests == 1


async def test_pictures_in_a_bucket_have_previews_and_can_be_deleted(
    sandbox: Sandbox, tmp_path: Path, bucket: str
) -> None:
    async with replica(sandbox, tmp_path, bucket) as app, Client(build_server(app)) as agent:
        for somebody_removed_it in (False, True):
            job = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))
            image = await now(app, job["images"][0]["id"])
            assert image.location.store == bucket
            assert await app.gallery.preview(image)
            assert list((tmp_path / "home" / "previews").glob("*/*"))
            if somebody_removed_it:
                assert (await direct("DELETE", bucket, image.location.key)).is_success
            assert await app.gallery.delete(image.id, datetime.now(UTC))
            assert (await direct("GET", bucket, image.location.key)).status_code == 404
            assert not list((tmp_path / "home" / "previews").glob("*/*"))


@pytest.mark.usefixtures("no_retries")
@pytest.mark.parametrize("request_of", ["read_in_time", "delete"])
async def test_a_bucket_that_hangs_does_not_hold_up_the_gallery(
    sandbox: Sandbox, tmp_path: Path, storage: FakeStorage, request_of: str
) -> None:
    async with app_over(sandbox.url, tmp_path, images=Bucket("s3://pics")) as app, Client(build_server(app)) as agent:
        images, previews = FallbackImageStore([Bucket("s3://pics")]), PreviewCache(tmp_path / "previews")
        impatient = Gallery(app.service.store.search, images, previews, read_seconds=0.2)
        job = job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))
        storage.answers = [HANGS]
        image = await now(app, job["images"][0]["id"])
        requests = {
            "read_in_time": partial(impatient.read_in_time, image),
            "delete": partial(impatient.delete, image.id, datetime.now(UTC)),
        }
        with pytest.raises(GalleryError, match="its storage does not answer"):
            await requests[request_of]()
        assert (await now(app, image.id)).deleted is None
        storage.answers = [refused(503)]
        with pytest.raises(GalleryError, match="overloaded or down"):
            await app.gallery.delete(image.id, datetime.now(UTC))
        assert (await now(app, image.id)).deleted is None


async def test_after_the_gallery_was_changed_a_former_bucket_or_folder_can_be_read(tmp_path: Path, bucket: str) -> None:
    location = await Bucket(bucket).save(JPEG, "a-7.jpg", ID, DAY)
    images = FallbackImageStore([ImageFolder(tmp_path / "new")])
    assert await images.read(location) == JPEG
    assert not await images.is_later(bucket)
    assert not await images.holds(image_of(location)), "only pictures in the present stores are deleted"
    former = await ImageFolder(tmp_path / "former", disk=ONE).save(JPEG, "a-7.jpg", ID, DAY)
    for own, is_here in ((ONE, True), (TWO, False)):
        images = FallbackImageStore([Bucket(bucket)], partial(open_store, disk=own))
        assert await images.is_on_other_disk(former.store) is not is_here
        assert await images.is_later(former.store) is is_here
        assert await images.is_intact(image_of(former)) is is_here


# ---- the name of a replica's disk ----


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    ("host", "beginning"),
    [("Vega-1.pictures.example", "vega-1-pictures-example-"), ("", "replica-"), ("ü" * 300, "replica-")],
)
async def test_servers_that_start_at_the_same_time_agree_on_the_name_of_their_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, beginning: str, *, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("socket.gethostname", lambda: host)
    names = list[str]()

    async def start() -> None:
        names.append(await anyio.to_thread.run_sync(replica_disk_name, tmp_path / "home"))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(start)
    (name,) = set(names)
    monkeypatch.setattr("socket.gethostname", lambda: "renamed")
    assert replica_disk_name(tmp_path / "home") == name
    assert name.startswith(beginning)
    assert replica_disk_name(tmp_path / "other") != name
    assert [file.name for file in (tmp_path / "home").iterdir()] == ["replica"]


@pytest.mark.parametrize("text", ["", "../../etc", "vega", "vega-0123abcd\nx"])
def test_a_file_with_another_text_is_not_taken_for_the_name_of_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(disk, "WRITTEN_SECONDS", 0)
    (tmp_path / "replica").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidSettings, match="does not contain the name"):
        replica_disk_name(tmp_path)


def test_if_the_home_folder_cannot_be_written_the_name_is_for_this_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("in the way", encoding="utf-8")
    assert replica_disk_name(tmp_path / "home") != replica_disk_name(tmp_path / "home")
    assert "cannot be used: " in caplog.text
