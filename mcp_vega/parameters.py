"""The documented parameters of the two models. Every schema is made from them.

Names, types, defaults, limits and averages come from the vendor's model pages for `segmind-vega` and
`segmind-vega-rt-v1`.
"""

from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Scheduler = Literal[
    "DDIM",
    "DPM Multi",
    "DPM Single",
    "Euler a",
    "Euler",
    "Heun",
    "DPM2 a Karras",
    "DPM2 Karras",
    "LMS",
    "PNDM",
    "DDPM",
    "UniPC",
]


# In characters. The API documents no limit, but the text encoders of its models take 77 tokens at a time. The recipe in
# a JPEG has room for a prompt and a negative prompt of this length, and so has a result besides its pictures. The
# schemas publish the limit. Only callers must keep it (`server/schemas.py`): longer prompts of calls that were paid for
# before or elsewhere are still read.
PROMPT_LENGTH = 10_000


def _limited(schema: dict[str, Any]) -> None:
    schema["maxLength"] = PROMPT_LENGTH


def _limited_without_default(schema: dict[str, Any]) -> None:
    _limited(schema)
    del schema["default"]


# 1024 is the minimum, maximum and default, because some hosts refuse a tool with a `const` or an integer `enum`.
Side = Annotated[int, Field(ge=1024, le=1024)]


class Parameters(BaseModel):
    """The parameters that both models take.

    The class attributes describe a model. `slug` is its name in the API, and `alias` its name on the command line.
    `average_cost` is in US dollars, and `average_seconds` in seconds; both are for one picture with default steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    slug: ClassVar[str]
    alias: ClassVar[str]
    title: ClassVar[str]
    average_cost: ClassVar[Decimal]
    average_seconds: ClassVar[float]

    prompt: str = Field(min_length=1, description="What to draw, best in English.", json_schema_extra=_limited)
    num_inference_steps: int
    seed: int = Field(
        default=-1,
        ge=-1,
        le=999_999_999_999_999,
        description="Same seed and parameters, same image; -1: random.",
    )
    img_width: Side = Field(default=1024)
    img_height: Side = Field(default=1024)
    base64: bool = Field(default=False, description="Full image instead of a preview, if it fits in 700 kB.")

    @field_validator("*", mode="before")
    @classmethod
    def _reject_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic reads true as 1, so the user would pay for a picture that nobody asked for.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("boolean", "is a boolean")
        return value

    @property
    def pictures(self) -> int:
        """The number of requested pictures."""
        return 1

    @property
    def effort(self) -> float:
        """The work, where one picture with default steps counts as 1. Time and price grow with it."""
        return self.pictures * self.num_inference_steps / type(self).default("num_inference_steps")

    @property
    def expected_seconds(self) -> float:
        """How many seconds the drawing takes on average, without the time in the queue."""
        return self.average_seconds * self.effort

    @property
    def expected_cost(self) -> Decimal:
        """The average cost of the call in US dollars."""
        return (self.average_cost * Decimal(str(self.effort))).normalize()

    @classmethod
    def default(cls, name: str) -> Any:
        """The documented default of a parameter."""
        return cls.model_fields[name].default

    def body(self, *, base64: bool) -> dict[str, Any]:
        """The JSON body of a call: all parameters, defaults included, and `base64` as the route needs it."""
        return {**self.model_dump(exclude={"negative_prompt"} if not self.negative else None), "base64": base64}

    @property
    def negative(self) -> str:
        """What the picture must not show; empty if the model has no such parameter."""
        return ""


class VegaParameters(Parameters):
    """The parameters of `segmind-vega`."""

    slug = "segmind-vega"
    alias = "vega"
    title = "Segmind-Vega"
    average_cost = Decimal("0.00225")
    average_seconds = 2.36

    num_inference_steps: int = Field(default=25, ge=20, le=100)
    # The vendor documents no default, so the schema has none. A prompt that is left out is not sent.
    negative_prompt: str = Field(
        default="", description="Things to exclude.", json_schema_extra=_limited_without_default
    )
    samples: int = Field(default=1, ge=1, le=4, description="Images of this prompt.")
    scheduler: Scheduler = Field(default="DPM2 Karras")
    guidance_scale: float = Field(default=7.5, ge=1, le=25, description="Higher follows the prompt closer.")

    @property
    def pictures(self) -> int:
        """The number of requested pictures."""
        return self.samples

    @property
    def negative(self) -> str:
        """What the picture must not show."""
        return self.negative_prompt


class VegaRTParameters(Parameters):
    """The parameters of `segmind-vega-rt-v1`."""

    slug = "segmind-vega-rt-v1"
    alias = "vegart"
    title = "Segmind-VegaRT"
    average_cost = Decimal("0.0020")
    average_seconds = 1.68

    num_inference_steps: int = Field(default=4, ge=4, le=10)


MODELS: dict[str, type[Parameters]] = {model.slug: model for model in (VegaParameters, VegaRTParameters)}
