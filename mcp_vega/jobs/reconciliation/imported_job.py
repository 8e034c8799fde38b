"""Makes a job for a call that only the API knows: it was made elsewhere, or its ledger was lost."""

from dataclasses import replace
from datetime import datetime

from pydantic import ValidationError

from mcp_vega import errors
from mcp_vega.job import Job, Route, State
from mcp_vega.jobs.reconciliation.matching import is_call_of
from mcp_vega.parameters import MODELS, Parameters
from mcp_vega.redaction import named, quoted
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.segmind.http import RECORD_SECONDS
from mcp_vega.storage.ledger.job_store import JobStore


async def history_row(client: SegmindClient, request_id: str) -> HistoryRow:
    """The call with this id of the API, from the request history.

    Raises:
        UnknownJob: The API does not know it either, or cannot be asked without a key.
        SegmindError: The API could not be asked.
    """
    try:
        client.require_key()
    except errors.InvalidSettings as error:
        message = f"This server has no job with the id {named(request_id)}, and the API cannot be asked: {error.what}"
        raise errors.UnknownJob(message) from error
    row = await client.history_entry(request_id)
    if row is None:
        try:
            status = await client.status(request_id)
        except errors.NotFound as error:
            raise _known_nowhere(request_id) from error
        # An engine of the user's own answers about a call that it does not know as about one that failed, for free.
        if status.state is State.FAILED and status.receipt.cost == 0:
            raise _known_nowhere(request_id)
        raise errors.ServiceUnavailable(
            f"The API knows job {request_id}, but its request history does not have the job's parameters yet"
        )
    return replace(row, request_id=request_id)


def _known_nowhere(request_id: str) -> errors.UnknownJob:
    return errors.UnknownJob(f"Neither this server nor the API has a job with the id {named(request_id)}")


async def job_without_id(store: JobStore, row: HistoryRow, api: str, account: str) -> Job | None:
    """The job in the ledger that made the call of a row, if the API's id was missing. It now gets that id."""
    for other in await store.accounts.without_id(api, account):
        if is_call_of(row, other) and await store.assign(other, row.request_id):
            return replace(other, remote_id=row.request_id)
    return None


def imported_job(row: HistoryRow, api: str, account: str, now: datetime) -> Job:
    """A job for a call that has none in the ledger. `api` is the ledger's name for the API.

    Raises:
        UnknownJob: This server could not have made that call.
    """
    created = row.created or now
    # A recent call may still have a record in the API's queue. That is read first, the request history only then.
    route = Route.V2 if (now - created).total_seconds() < RECORD_SECONDS else Route.V1
    return Job(
        parameters=_parameters(row),
        route=route,
        base_url=api,
        account=account,
        created=created,
        sent=created,
        remote_id=row.request_id,
    )


def _parameters(row: HistoryRow) -> Parameters:
    model = MODELS.get(row.model)
    if model is None:
        raise errors.UnknownJob(
            f"Job {row.request_id} used {quoted(row.model)}, a model that this server does not have"
        )
    known = {name: value for name, value in row.inputs.items() if name in model.model_fields and value is not None}
    try:
        return model.model_validate({**known, "base64": False})
    except ValidationError as error:
        message = f"The parameters of job {row.request_id} are not valid for {row.model}"
        raise errors.UnknownJob(message) from error
