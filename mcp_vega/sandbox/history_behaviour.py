"""How the sandbox's request history departs from what the API documents, for tests of what a client makes of it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Inputs = Literal["full", "missing", "nested", "no-seed", "null-seed", "cut"]


class HistoryBehaviour(BaseModel):
    """How the request history tells of the calls; by default as the API documents it.

    Every attribute may be set while the sandbox runs. A wrong value or name is refused with a `ValidationError`.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    late: Annotated[float, Field(ge=0)] = 0  # seconds from a call's arrival until its row shows
    per_page: Annotated[int, Field(ge=1, le=100)] = 100  # rows on a page at most, however many are asked for
    first_page: Literal[0, 1] = 1  # the number of the first page
    time_zone: Annotated[float, Field(gt=-24, lt=24)] | None = None  # hours that times are ahead of UTC, unmarked
    inputs: Inputs = "full"  # what stands in `request_body`
    models: Literal["slugs", "titles"] = "slugs"  # how models are spelled
    total: bool = True  # whether a page says how many rows there are
    date: bool = True  # whether an answer has a `Date` header
    date_off: Annotated[float, Field(gt=-1e9, lt=1e9)] = 0  # seconds that this header is ahead
    error: bool = False  # whether the answer is an error under 200
    account: Literal["own", "another"] = "own"  # whose calls are told
    order: Literal["as-asked", "ascending"] = "as-asked"

    def changed(self, changes: Any) -> "HistoryBehaviour":
        """A copy with some attributes changed, from JSON.

        Raises:
            ValueError: It has no such attribute, or not such a value; the text says what there is.
        """
        known = ", ".join(type(self).model_fields)
        if not isinstance(changes, dict):
            raise ValueError(f"The history is set by an object; known: {known}")  # noqa: TRY004  JSON's value is wrong
        try:
            return self.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            name = first["loc"][0]
            if first["type"] == "extra_forbidden":
                raise ValueError(f"The history has no setting {name!r}; known: {known}") from error
            raise ValueError(f"history, {name}: {first['msg']}") from error
