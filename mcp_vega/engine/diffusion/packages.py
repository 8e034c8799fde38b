"""The packages that drawing with the weights needs. This module imports none of them."""

# Those of the extra `local`, as they are imported.
PACKAGES = ("torch", "accelerate", "diffusers", "peft", "psutil", "scipy", "transformers")
