"""Makes a job of a call that the API knows and the ledger does not: made elsewhere, or lost with its ledger."""

from dataclasses import replace
from datetime import datetime

from pydantic import ValidationError

from mcp_vega import errors
from mcp_vega.job import Job, Route
from mcp_vega.jobs.reconciliation.matching import is_call_of
from mcp_vega.parameters import MODELS, Parameters
from mcp_vega.redaction import named, quoted
from mcp_vega.segmind.client import RECORD_SECONDS, SegmindClient
from mcp_vega.segmind.history import HistoryRow
from mcp_vega.storage.ledger.job_store import JobStore


async def row_of(client: SegmindClient, request_id: str) -> HistoryRow:
    """The call with an id of the API's, from the request history.

    Raises:
        UnknownJob: The API does not know it either, or no key is set to ask.
        SegmindError: The API could not be asked.
    """
    try:
        client.require_key()
    except errors.InvalidSettings as error:
        said = f"This server has no job with the id {named(request_id)}, and the API cannot be asked: {error.what}"
        raise errors.UnknownJob(said) from error
    row = await client.history_entry(request_id)
    if row is None:
        try:
            await client.status(request_id)
        except errors.NotFound as error:
            raise errors.UnknownJob(
                f"Neither this server nor the API has a job with the id {named(request_id)}"
            ) from error
        raise errors.ServiceUnavailable(
            f"The API knows job {request_id}, but its request history does not have the job's parameters yet"
        )
    return replace(row, request_id=request_id)


async def job_without_id(store: JobStore, row: HistoryRow, api: str, account: str) -> Job | None:
    """The ledger's job whose call a row is, and whose id at the API was not known; it has the id from now on."""
    for other in await store.accounts.without_id(api, account):
        if is_call_of(row, other) and await store.assign(other, row.request_id):
            return replace(other, remote_id=row.request_id)
    return None


def imported_job(row: HistoryRow, api: str, account: str, now: datetime) -> Job:
    """A job of a call that no job in the ledger is; `api` is the ledger's name of the API.

    Raises:
        UnknownJob: It is none that this server could draw.
    """
    created = row.created or now
    # Old or new: the queue's record is asked for first where there may be one.
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
        raise errors.UnknownJob(f"Job {row.request_id} is one of {quoted(row.model)}, which this server does not draw")
    known = {name: value for name, value in row.inputs.items() if name in model.model_fields and value is not None}
    try:
        return model.model_validate({**known, "base64": False})
    except ValidationError as error:
        said = f"Job {row.request_id} was not made with parameters that {row.model} takes"
        raise errors.UnknownJob(said) from error
