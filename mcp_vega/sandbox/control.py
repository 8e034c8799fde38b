"""Endpoints that show the sandbox's state, and change it while it runs.

GET  /_sandbox   balance, calls, numbers of requests, the largest number of pictures fetched at the same time,
                 the history's behaviour, models, faults
POST /_sandbox   change: {"skip": seconds, "credits": usd, "speed": x, "rate_limit": n,
                 "faults": [faults of every paid call, in addition to those in its prompt],
                 "models": {"v1" or "v2": [models of the route]},
                 "history_status": HTTP status of the request history's answers,
                 "history": {attributes of `HistoryBehaviour`}}
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from mcp_vega.parameters import MODELS
from mcp_vega.sandbox.account import Account, Refusal
from mcp_vega.sandbox.faults import FAULTS, is_known
from mcp_vega.sandbox.responses import Json

_NAMES = TypeAdapter(list[str])
_MODELS = TypeAdapter(dict[str, set[str]])


class Control:
    """Shows and changes an account."""

    def __init__(self, account: Account) -> None:
        self._account = account

    async def inspect(self, _: Request) -> Response:
        """Answer with the complete state."""
        account, now = self._account, self._account.now
        calls = [
            {"id": call.id, "model": call.slug, "route": call.route, "state": call.state(now), "body": call.body}
            for call in account.calls.values()
        ]
        state = {
            "credits": float(account.credits),
            "requests": dict(account.requests),
            "most_fetched": account.most_fetched,
            "calls": calls,
            "history": account.history.model_dump(),
            "models": {route: sorted(models) for route, models in account.models.items()},
            "faults": FAULTS,
            "faults_of_every_call": list(account.faults),
        }
        return Json(state)

    async def change(self, request: Request) -> Response:
        """Change the named settings, and answer with the state.

        Raises:
            Refusal: A name or a value is wrong. Then nothing is changed.
        """
        change: dict[str, Any] = await request.json()
        values = {name: self._read(name, value) for name, value in change.items()}
        self._account.skip(values.pop("skip", 0))
        for name, value in values.items():
            setattr(self._account, name, value)
        return await self.inspect(request)

    def _read(self, name: str, value: Any) -> Any:
        if name not in READERS:
            raise Refusal(400, f"The sandbox has no setting {name!r}; known: {', '.join(READERS)}")
        try:
            return READERS[name](self._account, value)
        except ValidationError as error:
            raise Refusal(400, f"{name}: {error.errors()[0]['msg']}") from error
        except (ValueError, TypeError) as error:
            raise Refusal(400, str(error)) from error


def _read_faults(_: Account, value: Any) -> list[str]:
    names = _NAMES.validate_python(value)
    if unknown := [name for name in names if not is_known(name)]:
        raise ValueError(f"The sandbox has no fault {unknown[0]!r}; GET /_sandbox lists all faults")
    return names


def _read_models(account: Account, value: Any) -> dict[str, set[str]]:
    """Return the models of all routes; `value` replaces those of the routes that it names."""
    changed = _MODELS.validate_python(value)
    if not changed.keys() <= account.models.keys() or not set[str]().union(*changed.values()) <= set(MODELS):
        raise ValueError(f"models: must give v1, v2 or both a list of models; known: {', '.join(MODELS)}")
    return account.models | changed


# The settings that may be changed, and how to read each from JSON.
READERS: dict[str, Callable[[Account, Any], Any]] = {
    "skip": lambda _, value: float(value),
    "credits": lambda _, value: Decimal(str(float(value))),
    "speed": lambda _, value: float(value),
    "rate_limit": lambda _, value: int(value),
    "faults": _read_faults,
    "models": _read_models,
    "history_status": lambda _, value: int(value),
    "history": lambda account, value: account.history.changed(value),
}
