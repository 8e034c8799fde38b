"""`mcp-vega doctor`: one page that says whether the server has everything it needs, and how to fix what is bad."""

import json
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial

from mcp_vega.cli.application import redact_secrets, require_stores
from mcp_vega.cli.doctor import folders, handshake, hosts, installation, team
from mcp_vega.cli.doctor.api import check_api
from mcp_vega.cli.doctor.check import Check, State, unknown
from mcp_vega.cli.doctor.page import page
from mcp_vega.cli.doctor.runner import CheckGroup, run_groups
from mcp_vega.cli.doctor.settings import check_settings, read_settings
from mcp_vega.cli.install.entry import KEY, KEY_FILE
from mcp_vega.cli.output import terminal_width, write
from mcp_vega.errors import InvalidArguments
from mcp_vega.settings import Settings

# The handshake ends after 20 s and the API's check after 10 s, and each says more than that it took too long.
SECONDS = 25.0
SECRETS = (KEY, "MCP_VEGA_TOKEN", "MCP_VEGA_AUTH_TOKENS", "MCP_VEGA_ENGINE_KEY")


def run_doctor(options: Namespace, environment: Mapping[str, str], *, seconds: float = SECONDS) -> int:
    """Print the page, or JSON.

    Args:
        options: The options of the command line.
        environment: The environment variables to check.
        seconds: After this time, checks that have not ended are given up.

    Returns:
        The exit code: 1 if something is bad, else 0.
    """
    if options.paid:
        return _run_paid(options, environment)
    if options.yes or options.max_usd is not None:
        raise InvalidArguments("--yes and --max-usd go with --paid", next_step="Add --paid, or leave them out")
    option = next((name for name in ("sandbox", "local") if vars(options)[name]), "")
    checks, is_late = run_groups(_groups(environment, option), seconds)
    code = _show(checks, options, environment)
    if is_late:  # a normal exit would wait for the threads
        os._exit(code)  # the output is flushed already
    return code


def _run_paid(options: Namespace, environment: Mapping[str, str]) -> int:
    """Compare the API's answers with what is assumed of them, if the API, the key and the balance are good."""
    from mcp_vega.cli.doctor.paid.command import require_consent, run_paid

    environment, source = _with_a_key(environment)
    settings = Settings.from_environment(environment)
    if settings.local:
        raise InvalidArguments("--paid looks at the API, and --local uses none", next_step="Leave one of them out")
    require_stores(settings)
    require_consent(options, sandbox=settings.sandbox)
    checks = check_api(settings, source)
    if any(check.state is State.BAD for check in checks):
        return _show(checks, options, environment)
    if source:
        sys.stderr.write(f"This uses the key in {source}'s file.\n")
    return run_paid(options, settings, _secrets(environment))


def _show(checks: Sequence[Check], options: Namespace, environment: Mapping[str, str]) -> int:
    """Print the page, or JSON; returns the exit code."""
    checks = [check.without(_secrets(environment)) for check in checks]
    if options.json:
        write(json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False))
    else:
        write("\n".join(page(checks, terminal_width(), in_colour=_takes_colours(environment))))
    return int(any(check.state is State.BAD for check in checks))


def _secrets(environment: Mapping[str, str]) -> list[str]:
    settings, _ = read_settings(environment)
    in_files = [settings.api_key, *settings.auth_tokens] if settings.api_key_file or settings.auth_tokens_file else []
    keys = [environment.get(name, "") for name in SECRETS]
    return re.split("[:,]", ",".join([*keys, *(each.get_secret_value() for each in in_files if each)]))


def _groups(environment: Mapping[str, str], option: str) -> list[CheckGroup]:
    """The checks, in the page's order; `option` as in `check_settings`."""
    settings, problems = read_settings(environment)
    redact_secrets(settings, environment)

    def group(*names: str, run: Callable[[], list[Check]], needs: Sequence[str] = ()) -> CheckGroup:
        """A group of checks, which are not made if a variable that they need cannot be used."""
        if needs and problems.keys() & {*needs, "MCP_VEGA_SANDBOX", "MCP_VEGA_LOCAL"}:
            return CheckGroup(names, lambda: [unknown(name, "settings") for name in names])
        return CheckGroup(names, run)

    every = [str(field.alias) for field in Settings.model_fields.values()]
    api = partial(_check_api, environment, settings, has_unusable_key=bool(problems.keys() & {KEY, KEY_FILE}))
    in_settings = partial(check_settings, environment, problems, option=option)
    gallery, ledger = partial(folders.check_gallery, settings), partial(folders.check_ledger, settings)
    return [
        group("python", run=installation.check_python),
        group("packages", run=installation.check_packages),
        group("command", run=partial(installation.check_command, environment)),
        group("settings", run=in_settings),
        group("api", "key", "balance", run=api, needs=["SEGMIND_BASE_URL"]),
        *(_local_groups(environment, settings, group) if settings.local else ()),
        group("gallery", run=gallery, needs=["MCP_VEGA_GALLERY"]),
        group("ledger", "servers", "jobs", run=ledger, needs=["MCP_VEGA_HOME", "MCP_VEGA_LEDGER"]),
        *([group("oauth", run=partial(team.check_oauth, settings))] if settings.oauth_issuer else []),
        *([group("metrics", run=partial(team.check_metrics, settings))] if settings.metrics_address else []),
        group("handshake", run=partial(handshake.check_handshake, environment), needs=every),
        group("hosts", run=partial(hosts.check_hosts, environment)),
    ]


def _local_groups(
    environment: Mapping[str, str], settings: Settings, group: Callable[..., CheckGroup]
) -> list[CheckGroup]:
    """The checks of what draws on this machine."""
    from mcp_vega.cli.engine import checks

    home, device = "MCP_VEGA_HOME", partial(checks.check_device, settings, environment)
    weights = partial(checks.check_weights, settings, environment)
    return [
        group("engine", run=partial(checks.check_engine, settings), needs=[home]),
        group("torch", "driver", "device", "memory", run=device, needs=[home]),
        group("weights", run=weights, needs=[home, "MCP_VEGA_WEIGHTS"]),
    ]


def _check_api(environment: Mapping[str, str], settings: Settings, *, has_unusable_key: bool) -> list[Check]:
    """Check the API with the key that is set or, if none is, with a host's: `install` writes it only there.

    Without a key, the API is not asked if none is needed, because all hosts use servers over HTTP. If a variable of the
    key cannot be used, only the API is checked.
    """
    if has_unusable_key:
        return [check_api(settings)[0], unknown("key", "settings"), unknown("balance", "settings")]
    environment, source = _with_a_key(environment)
    has_key = environment.get(KEY, "").strip() or settings.api_key_file
    if not (settings.sandbox or settings.local or has_key) and (reason := hosts.why_no_key(environment)):
        return [
            Check("api", State.NOTE, "not asked, because no key is needed here"),
            Check("key", State.NOTE, f"none is set, and none is needed: {reason}", f"To draw with the API, set {KEY}"),
            unknown("balance", "key"),
        ]
    if source:
        settings = read_settings(environment)[0]
    return [check.without(_secrets(environment)) for check in check_api(settings, source)]


def _with_a_key(environment: Mapping[str, str]) -> tuple[Mapping[str, str], str]:
    """The environment; if it has no key, with the key of a host's file, and that host's title."""
    settings, _ = read_settings(environment)
    if any(environment.get(name, "").strip() for name in (KEY, KEY_FILE)) or settings.sandbox or settings.local:
        return environment, ""
    key, source = hosts.key_of_a_host(environment)
    return {**environment, **key}, source


def _takes_colours(environment: Mapping[str, str]) -> bool:
    plain = environment.get("NO_COLOR") or environment.get("TERM") == "dumb" or sys.platform == "win32"
    return sys.stdout.isatty() and not plain
