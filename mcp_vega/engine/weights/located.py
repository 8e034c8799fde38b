"""Finds the weights on this machine and checks them without a network, and without torch.

Only the headers of large files are read, so that a server can check before each start of an engine.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.weights.cache import cache_folder, snapshot_folder
from mcp_vega.engine.weights.catalog import (
    COMPONENTS,
    CONFIGS,
    FP16,
    LORA,
    REPOSITORIES,
    TRANSFORMERS,
    VEGA,
    VEGA_RT,
    Repository,
    weights_file,
)
from mcp_vega.engine.weights.header import BrokenFile, tensors_of

_GIGABYTES = f"{sum(each.bytes for each in REPOSITORIES) / 1e9:.1f} GB"
FETCH = f"Run `mcp-vega weights`, which fetches them ({_GIGABYTES})"
FETCH_AGAIN = "Run `mcp-vega weights`, which fetches what is missing"
# A LoRA names a block with dots or with underscores, depending on the program that wrote it.
_TRANSFORMER = re.compile(
    r"((?:down|mid|up)_blocks?(?:[._]\d+)?[._]attentions[._]\d+[._]transformer_blocks[._]\d+)[._]"
)


@dataclass(frozen=True)
class Weights:
    """Weights that are complete.

    Attributes:
        vega: The folder of Segmind-Vega, as `save_pretrained` of diffusers writes it.
        vega_rt: The folder of Segmind-VegaRT, with `catalog.LORA`.
        variant: The variant of Vega's files, as diffusers takes it: `fp16`, or None for files without one.
    """

    vega: Path
    vega_rt: Path
    variant: str | None = None


def find_weights(folder: Path | None, environment: Mapping[str, str] = os.environ) -> Weights:
    """The weights in a folder; if that is None, those in the user's Hugging Face cache.

    Args:
        folder: It holds the folders `Segmind-Vega` and `Segmind-VegaRT`.
        environment: With the variables that say where the cache is.

    Raises:
        EngineError: A file is missing, incomplete or unreadable, or these are the weights of another model.
    """
    vega, vega_rt = (folder_of(each, folder, environment) for each in REPOSITORIES)
    variant = check_vega(vega, in_cache=folder is None)
    check_vega_rt(vega_rt, in_cache=folder is None)
    return Weights(vega, vega_rt, variant)


def folder_of(repository: Repository, folder: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the files of a repository are, or should be; `folder` is that of `find_weights`."""
    return folder / repository.title if folder else snapshot_folder(cache_folder(environment), repository)


def check_vega(folder: Path, *, in_cache: bool) -> str | None:
    """The variant of the files of Segmind-Vega in a folder.

    Raises:
        EngineError: As for `find_weights`.
    """
    check = _Check(VEGA, folder, in_cache=in_cache)
    for name in CONFIGS:
        check.config(name)
    for name in ("tokenizer", "tokenizer_2"):
        if not check.exists(f"{name}/tokenizer.json"):
            check.require(f"{name}/vocab.json")
            check.require(f"{name}/merges.txt")
    variant = FP16 if check.exists(weights_file("unet", FP16)) or in_cache else None
    tensors = {each: check.tensors(weights_file(each, variant)) for each in COMPONENTS}
    if _transformers(tensors["unet"]) != TRANSFORMERS:
        raise check.another_model(weights_file("unet", variant))
    return variant


def check_vega_rt(folder: Path, *, in_cache: bool) -> None:
    """Check that a folder holds the LoRA of Segmind-VegaRT.

    Raises:
        EngineError: As for `find_weights`.
    """
    check = _Check(VEGA_RT, folder, in_cache=in_cache)
    found = _transformers(check.tensors(LORA))
    if not found or not found <= TRANSFORMERS:
        raise check.another_model(LORA)


def _transformers(tensors: frozenset[str]) -> frozenset[str]:
    """The transformer blocks that tensors belong to, by the names that diffusers gives them."""
    found = (match[1] for name in tensors if (match := _TRANSFORMER.search(name)))
    return frozenset(re.sub(r"[._](?=attentions|transformer_blocks|\d)", ".", name) for name in found)


class _Check:
    """Looks at the files of a repository, and says what is wrong with them."""

    def __init__(self, repository: Repository, folder: Path, *, in_cache: bool) -> None:
        self._repository = repository
        self._folder = folder
        self._in_cache = in_cache

    def exists(self, name: str) -> bool:
        """Whether there is a file."""
        try:
            return (self._folder / name).is_file()
        except OSError as error:
            raise self._unreadable(name, error) from error

    def require(self, name: str) -> None:
        """Check that there is a file."""
        if not self.exists(name):
            raise self._missing(name)

    def config(self, name: str) -> None:
        """Check that a file holds JSON."""
        self.require(name)
        try:
            json.loads((self._folder / name).read_bytes())
        except ValueError as error:
            raise self._broken(name, "it is no JSON") from error
        except OSError as error:
            raise self._unreadable(name, error) from error

    def tensors(self, name: str) -> frozenset[str]:
        """The names of the tensors in a file."""
        self.require(name)
        try:
            return tensors_of(self._folder / name)
        except BrokenFile as error:
            raise self._broken(name, str(error)) from error
        except OSError as error:
            raise self._unreadable(name, error) from error

    def another_model(self, name: str) -> EngineError:
        """The error for a file that is of another model."""
        return EngineError(f"{self._folder / name} is not that of {self._repository.title}", self._repair())

    def _missing(self, name: str) -> EngineError:
        title = self._repository.title
        if self._folder.is_dir():
            return EngineError(
                f"The weights of {title} in {self._folder} are incomplete: {name} is missing", self._repair()
            )
        where = "your Hugging Face cache" if self._in_cache else self._folder.parent
        next_step = FETCH if self._in_cache else self._repair()
        return EngineError(f"The weights of {title} are not in {where}", next_step)

    def _broken(self, name: str, reason: str) -> EngineError:
        return EngineError(f"{self._folder / name} is damaged or incomplete: {reason}", self._repair())

    def _unreadable(self, name: str, error: OSError) -> EngineError:
        what = f"{self._folder / name} cannot be read: {error.strerror or error}"
        return EngineError(what, "Give this user the right to read it")

    def _repair(self) -> str:
        if self._in_cache:
            return FETCH_AGAIN
        return (
            f"Put the files of https://huggingface.co/{self._repository.name} into {self._folder}, or use no folder: "
            "leave out --weights, unset MCP_VEGA_WEIGHTS and run `mcp-vega weights`"
        )
