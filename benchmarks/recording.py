"""A recording of a server's work on some calls: every system call about its files and the API (Linux, strace)."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disk import TRACED, Disk
from host import Host
from strace import SystemCall, Trace

Tool = tuple[str, dict[str, Any]]
SERVERS = 2
# The calls of one server: one picture, then several calls at the same time, then more of them.
VEGA, VEGART, SUBMIT = "generate_image_vega", "generate_image_vegart", "submit_job"
BATCHES: tuple[tuple[Tool, ...], ...] = (
    ((VEGA, {}),),
    ((VEGA, {}), (VEGA, {}), (VEGART, {}), (VEGA, {"samples": 2}), (SUBMIT, {"model": "segmind-vega-rt-v1"})),
    (
        *[(VEGA, dict[str, Any]())] * 4,
        *[(VEGART, dict[str, Any]())] * 3,
        (VEGA, {"samples": 2}),
        (SUBMIT, {"model": "segmind-vega-rt-v1"}),
    ),
)
SENDING = ("sendto", "sendmsg", "write", "writev")


@dataclass(frozen=True)
class Post:
    """A paid call: the places in the order of system calls where its first byte was sent, and its last one."""

    prompt: str
    left: int
    arrived: int


class Recording:
    """The work of several servers, one after the other, in a folder that is empty at first.

    Attributes:
        parts: The system calls of each server, ordered by their ends. The places continue from part to part.
        posts: The paid calls.
        places: The places after which a cut can leave something else than before.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.parts: list[list[SystemCall]] = []
        self.posts: list[Post] = []
        offset = 0
        for number in range(SERVERS):
            trace = Trace(folder / f"trace-{number}", f"{TRACED},sendto,sendmsg")
            host = Host(folder, url, under=trace.command, MCP_VEGA_PREVIEW="off")
            host.shake_hands()
            for index, batch in enumerate(BATCHES):
                draw(host, f"cut {number} {index}", batch)
            host.leave()
            calls = trace.read(offset=offset)
            offset = max(call.ended for call in calls) + 1
            self.parts.append(calls)
            self.posts += posts_in(calls)
        self._contents: Mapping[int, bytes] = {}
        disk = self.replayed()
        self._contents = {file.number: path.read_bytes() for path, file in disk.names.items()}
        self.places = sorted({call.ended for call in self._changes()} | {post.left for post in self.posts})
        self._check()

    @property
    def roots(self) -> list[Path]:
        """The folders of the ledger and of the pictures."""
        return [self.folder / "home", self.folder / "gallery"]

    def disk(self, unsafe: Path | None = None) -> Disk:
        """The disk before everything."""
        return Disk(self.roots, self._contents, unsafe)

    def replayed(self) -> Disk:
        """The disk after everything."""
        replay = Replay(self, self.disk())
        replay.until(max(call.ended for call in self.parts[-1]))
        return replay.disk

    def _changes(self) -> Iterable[SystemCall]:
        disk = self.disk()
        for part in self.parts:
            disk.forget_descriptors()
            yield from (call for call in part if disk.make(call))

    def _check(self) -> None:
        """Compare the final disk, computed from the system calls, with the files: no change may have been missed."""
        files = {path: path.read_bytes() for root in self.roots for path in root.rglob("*") if path.is_file()}
        disk = self.replayed()
        assert files.keys() == disk.names.keys(), files.keys() ^ disk.names.keys()
        for path, file in disk.names.items():
            assert file.latest == files[path], f"not all writes of {path} were recorded"


class Replay:
    """Makes the changes of a recording on a disk, step by step up to later places."""

    def __init__(self, recording: Recording, disk: Disk) -> None:
        self.disk = disk
        self._left = [list(reversed(part)) for part in recording.parts]

    def until(self, place: int) -> None:
        """Make all changes that had ended at this place."""
        while self._left:
            part = self._left[0]
            while part and part[-1].ended <= place:
                self.disk.make(part.pop())
            if part:
                return
            self._left.pop(0)
            self.disk.forget_descriptors()


def draw(host: Host, name: str, tools: Sequence[Tool]) -> None:
    """Call tools at the same time, each with its own prompt, and wait until everything is drawn."""
    unanswered: Counter[int] = Counter()
    for index, (tool, arguments) in enumerate(tools):
        unanswered[host.call(tool, prompt=f"{name} {index}", **arguments)] += 1
    while unanswered:
        answer = host.receive()
        del unanswered[answer["id"]]
        job = answer["result"]["_meta"]["mcp-vega/job"]
        if job["state"] != "COMPLETED":
            unanswered[host.call("check_job", request_id=job["request_id"], wait_seconds=45)] += 1


def posts_in(calls: Iterable[SystemCall]) -> Iterable[Post]:
    """The paid calls among system calls: the headers of a POST, and a body that may follow on the same connection."""
    heads: dict[int, tuple[int, bytes]] = {}
    for call in sorted((call for call in calls if call.name in SENDING and call.texts), key=lambda call: call.began):
        data = b"".join(text.data for text in call.texts)
        if data.startswith(b"POST /v"):
            heads[call.descriptor] = (call.began, data)
        elif call.descriptor in heads:
            left, begun = heads[call.descriptor]
            heads[call.descriptor] = (left, begun + data)
        else:
            continue
        left, sent = heads[call.descriptor]
        body = sent.partition(b"\r\n\r\n")[2]
        if body.endswith(b"}"):
            yield Post(json.loads(body)["prompt"], left, call.began)
            del heads[call.descriptor]
