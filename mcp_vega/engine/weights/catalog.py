"""Where the weights come from, and the files that one needs of them.

The revisions are pinned: what a repository holds later changes no picture, and is not trusted either.
"""

from dataclasses import dataclass

LICENSE = "Apache-2.0"
# The part of a file's name that says that its numbers have 16 bits. Hugging Face calls that a variant.
FP16 = "fp16"


@dataclass(frozen=True)
class Repository:
    """A repository of the Hugging Face hub.

    Attributes:
        name: Its owner and its name.
        revision: The commit that the weights are taken from.
        patterns: The files that one needs of it, as patterns of `fnmatch`.
        bytes: How large these are together, about: for texts that are written without asking the hub.
    """

    name: str
    revision: str
    patterns: tuple[str, ...]
    bytes: int

    @property
    def title(self) -> str:
        """Its name without the owner; also the name of its folder in a folder of weights."""
        return self.name.partition("/")[2]


VEGA = Repository(
    "segmind/Segmind-Vega",
    "7714c4363e5856ff974a4f4b068e8691f26d0b40",
    # Without patterns, 13 GB would come: the same numbers in 32 bits, in other formats, and in one file.
    ("model_index.json", "*/*.json", "*/*.txt", f"*/*.{FP16}.safetensors"),
    3_290_000_000,
)
LORA = "pytorch_lora_weights.safetensors"
VEGA_RT = Repository("segmind/Segmind-VegaRT", "3162e917016cef536fa040ceeeeadd9e09d93e7a", (LORA,), 239_000_000)
REPOSITORIES = (VEGA, VEGA_RT)

# The components of the pipeline that have weights, each with the name of its file before `.safetensors`.
COMPONENTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}


def weights_file(component: str, variant: str | None) -> str:
    """The path of the weights of a component: those of a variant, or those without one."""
    return f"{component}/{COMPONENTS[component]}.{f'{variant}.' if variant else ''}safetensors"


CONFIGS = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer_config.json",
    *(f"{component}/config.json" for component in COMPONENTS),
)
# The transformer blocks of Vega's UNet. They tell it from SDXL, which it was distilled from, and from SSD-1B: both have
# more of them.
TRANSFORMERS = frozenset(
    f"{block}.attentions.{layer}.transformer_blocks.{depth}"
    for block, layers, depths in (
        ("down_blocks.1", 2, 1),
        ("down_blocks.2", 2, 2),
        ("up_blocks.0", 3, 2),
        ("up_blocks.1", 3, 1),
    )
    for layer in range(layers)
    for depth in range(depths)
)
