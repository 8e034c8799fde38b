"""How the sandbox's request history differs from the documented one, to test how a client reacts to it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Inputs = Literal["full", "missing", "nested", "no-seed", "null-seed", "cut"]


class HistoryBehaviour(BaseModel):
    """How the request history shows the calls; the defaults are as the API documents it.

    Every attribute may be set while the sandbox runs. A wrong value or name raises a `ValidationError`.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    late: Annotated[float, Field(ge=0)] = 0  # seconds from a call's arrival until its row appears
    per_page: Annotated[int, Field(ge=1, le=100)] = 100  # the most rows on a page, even if a query asks for more
    first_page: Literal[0, 1] = 1  # the number of the first page
    time_zone: Annotated[float, Field(gt=-24, lt=24)] | None = None  # times are so many hours ahead of UTC, unmarked
    inputs: Inputs = "full"  # the form of `request_body`
    models: Literal["slugs", "titles"] = "slugs"  # how the names of models are written
    total: bool = True  # whether a page says how many rows there are
    date: bool = True  # whether an answer has a `Date` header
    date_off: Annotated[float, Field(gt=-1e9, lt=1e9)] = 0  # this header is so many seconds ahead
    error: bool = False  # whether the answer is an error with status 200
    account: Literal["own", "another"] = "own"  # whose calls the history shows
    order: Literal["as-asked", "ascending"] = "as-asked"

    def changed(self, changes: Any) -> "HistoryBehaviour":
        """Return a copy with some attributes changed, from JSON.

        Raises:
            ValueError: There is no such attribute, or the value is wrong; the text says what is allowed.
        """
        known = ", ".join(type(self).model_fields)
        if not isinstance(changes, dict):
            raise ValueError(f"history: must be an object; known: {known}")  # noqa: TRY004  a wrong value in JSON
        try:
            return self.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            name = first["loc"][0]
            if first["type"] == "extra_forbidden":
                raise ValueError(f"The history has no setting {name!r}; known: {known}") from error
            raise ValueError(f"history, {name}: {first['msg']}") from error
