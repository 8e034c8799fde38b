# pyright: basic, reportMissingImports=false, reportPrivateImportUsage=false, reportArgumentType=false
# Pyright also runs where torch is not installed. Some annotations of diffusers are wrong.
"""Random weights for the tests and benchmarks of the engine, in the files that a user's weights have.

The small ones have a few hundred thousand numbers. Their parts have the types and the blocks of the real ones, and the
same layers per block in the UNet. Only the VAE has more blocks than the real one, so that a picture of 1024 x 1024
needs 16 x 16 latents instead of 128 x 128, and takes a second. The pictures are noise.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

# The configuration of the real UNet, as published with it.
UNET: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SMALL_UNET = {
    "block_out_channels": (8, 16, 32),
    "norm_num_groups": 8,
    "attention_head_dim": (1, 2, 4),
    "cross_attention_dim": 32,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 16 + 6 * 8,
}
VAE: dict[str, Any] = {
    "sample_size": 1024,
    "latent_channels": 4,
    "scaling_factor": 0.13025,
    "force_upcast": True,
    "layers_per_block": 2,
    "block_out_channels": (128, 256, 512, 512),
}
SMALL_VAE = {"layers_per_block": 1, "block_out_channels": (4,) * 7, "norm_num_groups": 4}
# Of the two text encoders.
TEXTS: tuple[dict[str, Any], dict[str, Any]] = (
    {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
    {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32},
)
SMALL_TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}
SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
# What the LoRA of VegaRT changes.
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]


def write_weights(folder: Path, *, full_size: bool = False, half: bool = True) -> Path:
    """Write `Segmind-Vega` and `Segmind-VegaRT` into a folder, as `save_pretrained` writes them; returns the folder.

    Args:
        folder: Where to.
        full_size: As large as the real ones: 3.5 GB.
        half: Numbers of 16 bits in files of the variant fp16, as the published ones; else of 32 bits without a variant.
    """
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16 if half else torch.float32)
    try:
        tokenizer, words = _tokenizer(folder / "tokenizer", 49408 if full_size else 0)
        unet = UNet2DConditionModel(**UNET | ({} if full_size else SMALL_UNET))
        pipeline = StableDiffusionXLPipeline(
            vae=_vae(full_size=full_size),
            text_encoder=CLIPTextModel(_text(0, words, full_size=full_size)),
            text_encoder_2=CLIPTextModelWithProjection(_text(1, words, full_size=full_size)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=EulerDiscreteScheduler(**SCHEDULER),
            add_watermarker=False,
        )
        pipeline.save_pretrained(folder / "Segmind-Vega", variant="fp16" if half else None)
        _write_lora(unet, folder / "Segmind-VegaRT", full_size=full_size)
    finally:
        torch.set_default_dtype(torch.float32)
    return folder


def scale(file: Path, factor: float) -> None:
    """Multiply all numbers of a safetensors file."""
    save_file({name: value * factor for name, value in load_file(file).items()}, file)


def has_device(kind: str) -> bool:
    """Whether torch can use a device of this machine."""
    return {"cuda": torch.cuda, "mps": torch.backends.mps}[kind].is_available()


def _tokenizer(folder: Path, words: int) -> tuple[CLIPTokenizer, int]:
    """A tokenizer that knows single letters, and how many words its vocabulary has: `words`, or as few as it can."""
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    # The letters of the 256 bytes: those that cannot be printed have the codes after 255.
    letters += [chr(256 + number) for number in range(256 - len(letters))]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary[512:512] = [f"word{number}" for number in range(words - len(vocabulary))]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder), len(vocabulary)


def _text(number: int, words: int, *, full_size: bool) -> CLIPTextConfig:
    sizes = TEXTS[number] if full_size else SMALL_TEXT
    return CLIPTextConfig(
        **sizes,
        projection_dim=sizes["hidden_size"],
        hidden_act=("quick_gelu", "gelu")[number],
        vocab_size=words,
        max_position_embeddings=77,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )


def _vae(*, full_size: bool) -> AutoencoderKL:
    sizes = VAE | ({} if full_size else SMALL_VAE)
    blocks = len(sizes["block_out_channels"])
    return AutoencoderKL(
        **sizes, down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks
    )


def _write_lora(unet: UNet2DConditionModel, folder: Path, *, full_size: bool) -> None:
    rank, targets = (64, [*ATTENTION, *CONVOLUTIONS]) if full_size else (4, ATTENTION)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False, target_modules=targets))
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
