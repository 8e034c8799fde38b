"""The environment variables."""

from collections.abc import Mapping
from difflib import get_close_matches

from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.cli.serve.callers import token_callers
from mcp_vega.errors import InvalidSettings
from mcp_vega.settings import Settings

PREFIXES = ("MCP_VEGA_", "SEGMIND_")
FIX = "Correct it where it is set. For a host, that is the `env` block of this server's entry in its configuration"


def read_settings(environment: Mapping[str, str]) -> tuple[Settings, dict[str, InvalidSettings]]:
    """The settings without the variables that cannot be used, and the error of each of those variables."""
    problems: dict[str, InvalidSettings] = {}
    for field in Settings.model_fields.values():
        name = str(field.alias)
        try:
            token_callers(_one(environment, name))
        except InvalidSettings as error:
            problems[name] = error
    usable = {name: value for name, value in environment.items() if name not in problems}
    try:
        return Settings.from_environment(usable), problems
    except InvalidSettings as error:  # two variables do not go together; the error names them
        problems |= {name: error for name in usable if name in error.what.split()}
        return read_settings({name: value for name, value in usable.items() if name not in problems})[0], problems


def _one(environment: Mapping[str, str], name: str) -> Settings:
    return Settings.from_environment({name: environment.get(name, "")}, is_complete=False)


def check_settings(
    environment: Mapping[str, str], problems: Mapping[str, InvalidSettings], *, option: str = ""
) -> list[Check]:
    """Whether each variable can be used, and whether one is misspelled: the check settings.

    With an `option`, `sandbox` or `local`, this has set its variable in the environment, and not the user.
    """
    if problems:
        errors = {error.what: error for error in problems.values()}  # two variables can have the same error
        # A server has to start again; this command does not.
        steps = [FIX if error.next_step == InvalidSettings.next_step else error.next_step for error in errors.values()]
        return [Check("settings", State.BAD, "; ".join(errors), ". ".join(dict.fromkeys(steps)))]
    names = [str(field.alias) for field in Settings.model_fields.values()]
    unknown = sorted(name for name in environment if name.startswith(PREFIXES) and name not in names)
    if unknown:
        nearest = get_close_matches(unknown[0], names, n=1)
        fix = f"Did you mean {nearest[0]}?" if nearest else "Its name may be misspelled"
        return [Check("settings", State.NOTE, f"not a setting: {', '.join(unknown)}", fix)]
    read = Settings.from_environment(environment).model_fields_set
    # A secret that was read from a file has no variable of its own.
    read = {name for name in read if f"{name}_file" not in read}
    given = {name: str(field.alias) for name, field in Settings.model_fields.items() if name in read}
    given |= {option: f"--{option}"} if option else {}
    said = f"set: {', '.join(given.values())}" if given else "none is set; all are at their defaults"
    return [Check("settings", State.GOOD, said)]
