"""Compares the SDK's answers with those that were sent early, and stores them for the next start."""

import json
import logging
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from mcp_types import JSONRPCError, JSONRPCMessage, JSONRPCResponse

from mcp_vega.server.stdio.early_answers import EarlyAnswers
from mcp_vega.server.stdio.messages import Refusal
from mcp_vega.server.stdio.stored_answers import OPENINGS, Request, StoredAnswers
from mcp_vega.storage import folders
from mcp_vega.storage.images import confinement

logger = logging.getLogger(__name__)

# There is a file for each version of a host and of this package. The oldest are removed.
FILES_KEPT = 16


class AnswerRecorder:
    """Sees every line that the SDK reads, from the first one on, and every answer."""

    def __init__(self, early: EarlyAnswers) -> None:
        self._early = early.stored
        self._stored = StoredAnswers(early.folder, early.fingerprint)
        self._may_store = early.may_store
        self._sent_early = early.sent
        self._requests: list[Request] = []  # whose answers are to be stored
        self._methods: set[str] = set()
        self._saving = Lock()

    def note_line(self, line: str) -> None:
        """Note a line that the SDK is about to read."""
        request = self._stored.request_in(line)
        if request and request.method in OPENINGS:
            self._stored.answers = self._early.answers
            # Otherwise the host was slower than the SDK, and needs no early answers.
            self._may_store &= self._early.key == self._stored.key
        if request and request.method not in self._methods:
            self._methods.add(request.method)
            self._requests.append(request)

    def is_for_host(self, message: JSONRPCMessage) -> bool:
        """Note a message of the SDK. False for an answer that the host has already."""
        if isinstance(message, Refusal) or not isinstance(message, JSONRPCResponse | JSONRPCError):
            return True
        request = next((each for each in self._requests if each.id == message.id), None)
        sent = next((each for each in self._sent_early if each[0].id == message.id), None)
        if not request and not sent:
            return True
        result = json.loads(message.model_dump_json(by_alias=True, exclude_unset=True)).get("result")
        if request:
            self._requests.remove(request)
            self._note(request, result)
        if sent:
            self._sent_early.remove(sent)
            if sent[1] != result:
                logger.warning(
                    "The host got an answer to %s that is out of date. The next start sends the new one", sent[0].method
                )
        return not sent

    def _note(self, request: Request, result: dict[str, Any] | None) -> None:
        if self._stored.result_for(request) == result:
            return
        # A new dict, because a thread may be saving the old one.
        answers = {method: each for method, each in self._stored.answers.items() if method != request.method}
        self._stored.answers = answers if result is None else {**answers, request.method: (request.params, result)}
        if self._may_store:
            Thread(target=self._save).start()  # the event loop does not wait for a slow disk

    def _save(self) -> None:
        """Write the file. If that fails, the next start has no early answers."""
        file = Path(self._stored.file)
        with self._saving:
            try:
                folders.make(file.parent.parent, 0o700)
                confinement.own_folder(file.parent)
                folders.replace_file(file, self._stored.as_bytes())
                for old in sorted(file.parent.iterdir(), key=lambda each: each.stat().st_mtime)[:-FILES_KEPT]:
                    old.unlink()
            except OSError as error:
                logger.debug("The answers for the next start cannot be stored in %s: %s", file.parent, error)
