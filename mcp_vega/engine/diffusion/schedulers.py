# pyright: basic, reportMissingImports=false
# Pyright also runs where the extra `local` is not installed.
"""The documented schedulers, as the library diffusers names them.

Their options make each what its name says. The vendor has not published its own options.
"""

from typing import Any

import diffusers

from mcp_vega.parameters import Parameters, Scheduler, VegaParameters

_KARRAS = {"use_karras_sigmas": True}
# As Stable Diffusion was trained. The defaults of diffusers are others, and a scheduler's file need not have these.
_TRAINED = {"clip_sample": False, "set_alpha_to_one": False}
_SCHEDULERS: dict[Scheduler, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", _TRAINED),
    "DPM Multi": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "DPM Single": (
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "lower_order_final": True},
    ),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM2 a Karras": ("KDPM2AncestralDiscreteScheduler", _KARRAS),
    "DPM2 Karras": ("KDPM2DiscreteScheduler", _KARRAS),
    "LMS": ("LMSDiscreteScheduler", {}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "UniPC": ("UniPCMultistepScheduler", {"solver_order": 2}),
}


def scheduler_for(parameters: Parameters, config: Any) -> Any:
    """A new scheduler for a call.

    Args:
        parameters: The call. VegaRT was trained for one scheduler.
        config: That of the model's own scheduler. It must not be the config of one made here: options would stay.
    """
    name, options = ("LCMScheduler", {})
    if isinstance(parameters, VegaParameters):
        name, options = _SCHEDULERS[parameters.scheduler]
    return getattr(diffusers, name).from_config(config, **options)
