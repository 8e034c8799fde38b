"""The schedulers of the models by the names that a server has.

Newer versions of the web UI have a sampler and, apart from it, a scheduler that chooses the noise levels. Older ones
have one name for both. SD.Next takes the noise levels as a setting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mcp_vega.engine.errors import EngineError
from mcp_vega.parameters import Parameters, VegaParameters

# For each scheduler the names of the sampler that draws the same, without those that only resemble it.
_SAMPLERS = {
    "DDIM": ("DDIM", "ddim_trailing"),
    "DPM Multi": ("DPM++ 2M", "dpm++2m"),
    "DPM Single": ("DPM++ 2S",),
    "Euler a": ("Euler a", "euler_a"),
    "Euler": ("Euler",),
    "Heun": ("Heun",),
    "DPM2 a Karras": ("DPM2 a", "KDPM2 a"),
    "DPM2 Karras": ("DPM2", "KDPM2"),
    "LMS": ("LMS", "LMSD"),
    "PNDM": ("PNDM", "PLMS"),  # PNDM without its first steps, which the model leaves out, is PLMS
    "DDPM": ("DDPM",),
    "UniPC": ("UniPC",),
}
# What VegaRT is drawn with.
LCM = "LCM"
_KARRAS = " Karras"
# The noise levels that a model was trained with. Without them, a web UI may choose others for some samplers.
_PLAIN = ("Uniform", "Normal", "discrete")
# SD.Next's own name of a sampler, and its setting for the noise levels.
_SD_NEXT, _SIGMAS = "KDPM2", "schedulers_sigma"


@dataclass(frozen=True)
class Sampler:
    """The part of a request that chooses the sampler.

    Attributes:
        name: The sampler.
        scheduler: What chooses the noise levels; None if the server has no such choice.
        settings: Settings of the server for this request.
    """

    name: str
    scheduler: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the request's body."""
        settings = {"override_settings": dict(self.settings)} if self.settings else {}
        return {"sampler_name": self.name, **({"scheduler": self.scheduler} if self.scheduler else {}), **settings}


class Samplers:
    """What a server has: names of samplers and schedulers, each with the name by which it is asked for."""

    def __init__(self, samplers: Mapping[str, str], schedulers: Mapping[str, str]) -> None:
        self._samplers = {name.lower(): asked for name, asked in samplers.items()}
        self._schedulers = {name.lower(): asked for name, asked in schedulers.items()}

    @property
    def is_cpp(self) -> bool:
        """Whether the server is stable-diffusion.cpp, by its spelling of names."""
        return "euler_a" in self._samplers and "euler a" not in self._samplers

    def of(self, parameters: Parameters) -> Sampler:
        """The sampler for a call.

        Raises:
            EngineError: The server lacks it. Its own substitute would draw another picture.
        """
        wanted = parameters.scheduler if isinstance(parameters, VegaParameters) else LCM
        sampler = self._named(wanted)
        if sampler is None:
            raise EngineError(
                f"The server that draws has no sampler for the scheduler {wanted}",
                "Install a version of that server that has LCM, or use segmind-vega"
                if wanted == LCM
                else f"Use one of the schedulers that it has: {', '.join(self.available) or 'none'}",
            )
        return sampler

    @property
    def available(self) -> Sequence[str]:
        """The schedulers of Vega that the server can draw with."""
        return [name for name in _SAMPLERS if self._named(name)]

    def _named(self, wanted: str) -> Sampler | None:
        karras = wanted.endswith(_KARRAS)
        if karras and wanted.lower() in self._samplers:  # one name for both
            return Sampler(self._samplers[wanted.lower()])
        names = _SAMPLERS.get(wanted, (wanted,))
        found = next((self._samplers[name.lower()] for name in names if name.lower() in self._samplers), None)
        if found is None:
            return None
        if _SD_NEXT.lower() in self._samplers:
            return Sampler(found, settings={_SIGMAS: "karras" if karras else "default"})
        levels = ("Karras",) if karras else (*((LCM,) if wanted == LCM else ()), *_PLAIN)
        scheduler = next((self._schedulers[name.lower()] for name in levels if name.lower() in self._schedulers), None)
        return None if karras and scheduler is None else Sampler(found, scheduler)
