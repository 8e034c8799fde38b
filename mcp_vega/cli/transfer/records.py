"""A job as JSON, with exact decimals and with times in ISO 8601. This form does not depend on the ledger's tables."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from mcp_vega.errors import Charged, VegaError
from mcp_vega.imaging.formats import BY_ENDING, MAX_BYTES
from mcp_vega.job import MOST_PICTURES, OPERATOR, REQUEST_ID, Image, ImageLocation, Job, Receipt, Route, Search, State
from mcp_vega.parameters import MODELS
from mcp_vega.segmind.values import DEAREST_CALL
from mcp_vega.server.http.access.callers import is_owner
from mcp_vega.storage.images.store import file_name, names_of

SUFFIXES = {each.mime_type: each.suffix for each in BY_ENDING.values()}


def _encodable(text: Any) -> Any:
    """A text that UTF-8 can encode. The API's answers may have halves of surrogate pairs, which become `?`."""
    return text.encode(errors="replace").decode() if isinstance(text, str) else text


def _in_utc(time: datetime) -> datetime:
    if time.year not in YEARS:
        raise ValueError(f"the year must be {YEARS[0]} to {YEARS[-1]}")
    return time.astimezone(UTC)


def _of_the_api(remote_id: str) -> str:
    if remote_id.startswith("local-"):
        raise ValueError("it is the id of another job")
    return remote_id


def _owner(owner: str) -> str:
    if owner != OPERATOR and not is_owner(owner):
        raise ValueError("no caller has this name")
    return owner


# Python cannot show other times in every time zone.
YEARS = range(2, 9999)
LocalId = Annotated[str, Field(pattern="^local-[0-9a-f]{32}$")]
RemoteId = Annotated[str, Field(pattern=f"^{REQUEST_ID}$"), AfterValidator(_of_the_api)]
Owner = Annotated[str, AfterValidator(_owner)]
Text = Annotated[str, BeforeValidator(_encodable)]
Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
# The ledger has whole numbers of 64 bits. No amount of money and no time needs so many digits.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Exact = Annotated[Decimal, Field(max_digits=60, allow_inf_nan=False)]


class Record(BaseModel):
    """A part of the file: other fields than these are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, from_attributes=True)


class ReceiptRecord(Record):
    """A `Receipt`."""

    request_id: Text | None
    cost: Annotated[Exact, Field(ge=0, le=DEAREST_CALL)] | None
    credits_left: Exact | None
    seconds: Exact | None
    seed: Whole | None


class ErrorRecord(Record):
    """A `VegaError`."""

    code: Text
    what: Text
    next_step: Text
    charged: Charged
    public: Text = ""


class SearchRecord(Record):
    """A `Search`."""

    earliest: Time | None
    latest: Time | None
    absent: Time | None


def name_in_zip(image_id: str, mime_type: str) -> str:
    """The name that a picture has in the zip."""
    return f"pictures/{image_id}{SUFFIXES[mime_type]}"


class ImageRecord(Record):
    """An `Image` without its place. `file` is its name in the zip; None if the zip does not have it."""

    id: str = Field(pattern="^[0-9a-f]{32}$")
    file: str | None
    mime_type: str = Field(pattern=f"^({'|'.join(SUFFIXES)})$")
    width: int = Field(ge=0, lt=2**31)
    height: int = Field(ge=0, lt=2**31)
    bytes: int = Field(ge=0, le=MAX_BYTES * 2)  # with the recipe, a file is larger than the picture that the API sent
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    starred: bool
    deleted: Time | None

    @model_validator(mode="after")
    def _named_by_its_id(self) -> Self:
        if self.file not in (None, name_in_zip(self.id, self.mime_type)):
            raise ValueError("the file's name does not fit the picture")
        return self

    @classmethod
    def of(cls, image: Image, *, kept: bool) -> Self:
        """The record of a picture; `kept` is whether the zip has it."""
        names = cls.model_fields.keys() - {"file"}
        file = name_in_zip(image.id, image.mime_type) if kept else None
        return cls(file=file, **{name: getattr(image, name) for name in names})

    def image(self, location: ImageLocation, *, fallback: bool = False) -> Image:
        """The picture in the place where it is kept now."""
        return Image(location=location, fallback=fallback, **self.model_dump(exclude={"file"}))


class JobRecord(Record):
    """A `Job` with everything that another ledger needs. Parameters have all values, those of defaults too."""

    local_id: LocalId
    remote_id: RemoteId | None
    base_url: str = Field(max_length=2000)
    account: str = Field(pattern="^[0-9a-f]{0,32}$")
    owner: Owner
    model: str
    route: Route
    arguments: dict[str, Any]
    parameters: dict[str, Any]
    state: State
    open: bool
    created: Time
    sent: Time | None
    ended: Time | None
    next_try: Time | None
    receipt: ReceiptRecord
    notes: tuple[Text, ...]
    error: ErrorRecord | None
    search: SearchRecord
    images: tuple[ImageRecord, ...] = Field(max_length=MOST_PICTURES)

    @classmethod
    def of(cls, job: Job, images: tuple[ImageRecord, ...], owner: str) -> Self:
        """The record of a job with the records of its pictures; `owner` replaces the job's own."""
        facts: dict[str, Any] = {name: getattr(job, name) for name in cls.model_fields}
        facts |= {"owner": owner, "parameters": job.parameters.model_dump(mode="json"), "images": images}
        return cls(**facts)

    def job(self) -> Job:
        """The job without its pictures.

        Raises:
            ValueError: This version cannot read the job; or the job may still be sent, and another ledger has it.
        """
        if self.model not in MODELS:
            raise ValueError(f"the model {self.model!r} is not known")
        if self.open and self.sent is None:
            raise ValueError("the job was not sent yet, so only the servers of its own ledger may have it")
        error, own = self.error, {"model", "parameters", "receipt", "error", "search", "images"}
        try:
            parameters = MODELS[self.model].model_validate(self.parameters)
        except ValidationError:
            raise ValueError(f"the parameters are not those of {self.model}") from None
        job = Job(
            parameters=parameters,
            receipt=Receipt(**dict(self.receipt)),
            error=error and VegaError.from_code(**dict(error)),
            search=Search(**dict(self.search)),
            **{name: value for name, value in self if name not in own},
        )
        for image in self.images:
            if not any(job.image_id(index) == image.id for index in range(MOST_PICTURES)):
                raise ValueError(f"the picture {image.id} is not one of its job")
        return job


def place_of(job: Job, image: ImageRecord) -> tuple[str, str]:
    """The name and the key with which a store keeps a picture, unless another file has that name."""
    name = file_name(job.parameters.prompt, job.seed, SUFFIXES[image.mime_type])
    return name, f"{job.created.date().isoformat()}/{names_of(name, image.id)[0]}"
