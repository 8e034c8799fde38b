# pyright: basic, reportMissingImports=false, reportPrivateImportUsage=false
# Pyright also runs where the extra `local` is not installed.
"""Segmind-Vega on a device, with the LoRA that makes it VegaRT."""

from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from mcp_vega.engine.diffusion.device import Device
from mcp_vega.engine.diffusion.failures import black_picture
from mcp_vega.engine.diffusion.memory import MemoryPlan
from mcp_vega.engine.diffusion.schedulers import scheduler_for
from mcp_vega.engine.painter import OnStep
from mcp_vega.engine.weights.catalog import LORA
from mcp_vega.engine.weights.located import Weights
from mcp_vega.parameters import Parameters, VegaParameters

_TILE = 512


class VegaPipeline:
    """The model with everything that draws. It draws one picture at a time.

    Attributes:
        plan: What it does to need less memory.
    """

    def __init__(self, weights: Weights, device: Device, plan: MemoryPlan) -> None:
        """Load the model into the machine's own memory."""
        for library in (diffusers.utils.logging, transformers.utils.logging):
            library.disable_progress_bar()
        self.plan = plan
        self._device = device
        self._followed: MemoryPlan | None = None
        self._pipe: Any = StableDiffusionXLPipeline.from_pretrained(
            weights.vega,
            dtype=device.dtype,
            variant=weights.variant,
            use_safetensors=True,
            local_files_only=True,
            add_watermarker=False,
        )
        self._pipe.set_progress_bar_config(disable=True)
        self._pipe.load_lora_weights(weights.vega_rt, weight_name=LORA, local_files_only=True)
        self._scheduler_config = self._pipe.scheduler.config

    def prepare(self) -> None:
        """Bring the model to the device as the plan says. `draw` does so too, if the plan has changed."""
        if self._followed == self.plan:
            return
        vae = self._pipe.vae
        if self.plan >= MemoryPlan.TILES:
            # By default, a tile is as large as a picture of 1024 x 1024, and so there would be only one.
            vae.tile_sample_min_size, vae.tile_latent_min_size = _TILE, _TILE // self._pipe.vae_scale_factor
            vae.enable_tiling()
        if vae.dtype != self._device.dtype:
            # It had 32 bits while a picture was decoded, and that failed.
            vae.to(dtype=self._device.dtype)
        if self.plan == MemoryPlan.OFFLOAD:
            self._pipe.enable_model_cpu_offload(device=self._device.kind)
        else:
            self._pipe.to(self._device.kind)
        self._followed = self.plan

    def save_memory(self) -> bool:
        """Free what a failed drawing has left, and take the next plan; False if there is none."""
        self._device.free_unused()
        last = MemoryPlan.OFFLOAD if self._device.kind == "cuda" else MemoryPlan.TILES
        if self.plan >= last:
            return False
        self.plan = MemoryPlan(self.plan + 1)
        return True

    def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> Image.Image:
        """One picture.

        Raises:
            EngineError: It came out black.
        """
        self.prepare()
        pipe = self._pipe
        guidance, negative = 0.0, None
        if isinstance(parameters, VegaParameters):
            guidance, negative = parameters.guidance_scale, parameters.negative_prompt or None
            # It is switched off, and never fused and unfused: after that, Vega would draw other pictures.
            pipe.disable_lora()
        else:
            pipe.enable_lora()
        pipe.scheduler = scheduler_for(parameters, self._scheduler_config)

        def step(_pipe: Any, number: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            # Some schedulers make two evaluations a step. To decode the picture counts as one more.
            on_step((number + 1) / (len(pipe.scheduler.timesteps) + 1))
            return tensors

        try:
            with torch.inference_mode():
                (pixels,) = pipe(
                    parameters.prompt,
                    negative_prompt=negative,
                    guidance_scale=guidance,
                    num_inference_steps=parameters.num_inference_steps,
                    width=parameters.img_width,
                    height=parameters.img_height,
                    # The noise of all devices comes from the CPU, so that it depends on the seed alone.
                    generator=torch.Generator("cpu").manual_seed(seed),
                    callback_on_step_end=step,
                    output_type="pt",
                ).images
        finally:
            pipe.maybe_free_model_hooks()
        if pixels.isnan().any():
            raise black_picture()
        on_step(1)
        return Image.fromarray(pixels.permute(1, 2, 0).float().mul(255).round().to(torch.uint8).cpu().numpy())
