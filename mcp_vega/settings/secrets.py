"""The secrets in the environment of a server for a team."""

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

from mcp_vega.settings import ledger_url
from mcp_vega.settings.settings import Settings

# Variables of the clouds and of PostgreSQL's client that hold a secret, and not its id or the name of a file.
_VARIABLE = re.compile(r"(AWS|AZURE|GOOGLE|PG)\w*(KEY|SECRET|TOKEN|PASSWORD|SAS)(?!\w*(_ID|FILE|PATH|URL|URI)\b)\w*")


def secrets_of(settings: Settings, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The ledger's passwords in each spelling, and the secrets in the variables of the clouds and of PostgreSQL."""
    found = [value for name, value in environment.items() if _VARIABLE.fullmatch(name)]
    if settings.ledger:
        url = settings.ledger.get_secret_value()
        passwords = ledger_url.parsed(url).passwords
        found += [*passwords, *(quote(each, safe="") for each in passwords), url]
    return [each for each in found if each.strip()]
