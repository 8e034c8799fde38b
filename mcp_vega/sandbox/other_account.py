"""The calls of another account, which the request history shows if its behaviour says so."""

import random
from decimal import Decimal
from typing import Any

from mcp_vega.parameters import MODELS
from mcp_vega.sandbox.account import Call
from mcp_vega.sandbox.faults import Faults

CALLS = 24
PAUSE_SECONDS = 600  # between two of them
PROMPTS = ("a red bicycle in the rain", "an owl with glasses", "a teapot on the moon")


def calls_of_other_account(now: float) -> list[Call]:
    """Return the calls of another account in the last hours; each call is the same at every request."""
    latest = int(now // PAUSE_SECONDS)
    return [_call(number) for number in range(latest - CALLS + 1, latest + 1)]


def _call(number: int) -> Call:
    rng = random.Random(number)  # noqa: S311  not a secret
    slug = list(MODELS)[number % len(MODELS)]
    body: dict[str, Any] = {"prompt": rng.choice(PROMPTS), "seed": rng.randrange(10**10)}
    parameters = MODELS[slug].model_validate(body)
    return Call(
        id=f"{rng.getrandbits(128):032x}",
        slug=slug,
        route=rng.choice(("v1", "v2")),
        body=parameters.body(base64=False),
        faults=Faults("", 0),
        created=number * PAUSE_SECONDS,
        queue_seconds=0,
        run_seconds=parameters.expected_seconds,
        cost=parameters.expected_cost,
        credits_left=Decimal(0),
        seed=parameters.seed,
        pictures=parameters.pictures,
        key="",
    )
