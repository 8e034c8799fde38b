"""The parser of the command line. Wrong usage is an `InvalidArguments` that names what is likely meant."""

import re
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from mcp_vega.errors import InvalidArguments

# argparse's messages, and what is said instead.
MESSAGES = (
    (r"argument ([^:]+): expected .*", r"\1 needs a value"),
    (r"argument ([^:]+): (is .*)", r"\1 \2"),  # from the functions that read a value
    (r"argument ([^:]+): ignored explicit argument .*", r"\1 takes no value"),
    (r"the following arguments are required: (.*)", r"\1 is missing"),
    (r"ambiguous option: ([^ =]*).* could match (.*)", r"\1 could be any of \2"),
)


class Parser(ArgumentParser):
    """The parser of the program or of one of its commands.

    `absent` explains options that users look for and that there are not.
    """

    absent: dict[str, str]

    def __init__(self, **given: Any) -> None:
        self.absent = {}
        super().__init__(**given)

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  argparse has overloads
        self, args: Iterable[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        """The options. A command's parser refuses what it does not know itself, so that the error names the command.

        Raises:
            InvalidArguments: The command line is wrong.
        """
        found, unknown = super().parse_known_args(args, Namespace() if namespace is None else namespace)
        if unknown:
            raise self._unknown(unknown)
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as an `InvalidArguments`."""
        for theirs, ours in MESSAGES:
            if found := re.fullmatch(theirs, message, re.DOTALL):
                raise self._wrong(found.expand(ours))
        raise self._wrong(message)

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(each) for each in action.choices]
        if action.dest == "command":
            near = _near(str(value), [*choices, *self._options()])
            raise self._wrong(f"There is no command {str(value)!r}{near}")
        name = "/".join(action.option_strings) or action.metavar or action.dest
        raise self._wrong(f"{name} is {value!r}, but must be one of: {', '.join(choices)}{_near(str(value), choices)}")

    def _unknown(self, arguments: Sequence[str]) -> "InvalidArguments":
        first = next((each for each in arguments if each.startswith("-")), arguments[0]).partition("=")[0]
        if not first.startswith("-"):
            said = f"{first!r} is one argument too many"
            return self._wrong(said, "Put a text of several words into quotes")
        if first in self.absent:
            return self._wrong(f"{self.prog} has no option {first}: {self.absent[first]}", f"Leave {first} out")
        return self._wrong(f"{self.prog} has no option {first}{_near(first, self._options())}")

    def _options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def _wrong(self, what: str, step: str | None = None) -> "InvalidArguments":
        from mcp_vega.cli.output import command_line
        from mcp_vega.errors import InvalidArguments
        from mcp_vega.redaction import redacted

        command = command_line(*self.prog.split()[1:], "--help")
        return InvalidArguments(redacted(what), next_step=step or f"Run `{command}` to see what there is")


def _near(given: str, names: Iterable[str]) -> str:
    near = get_close_matches(given, list(names), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
