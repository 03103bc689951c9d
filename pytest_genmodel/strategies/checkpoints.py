"""Healthy variations of a checkpoint: other files, the same model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    import torch

WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")


@dataclass(frozen=True)
class Variation:
    """How a diffusers folder is written anew: `shards` files a component, keys in the order of `order` (None: as
    they are), with a variant's name where one is given."""

    shards: int = 1
    order: int | None = None
    variant: str | None = None

    def apply(self, source: Path, target: Path) -> Path:
        """Copy the folder `source` to `target`, varied; every component that has weights, and gives `target`."""
        shutil.copytree(source, target)
        for path in sorted(target.glob("*/*.safetensors")):
            if path.name in WEIGHTS:
                self._rewrite(path)
        return target

    def _rewrite(self, path: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(path)
        names = list(tensors)
        if self.order is not None:
            Random(self.order).shuffle(names)
        path.unlink()
        stem = path.name.removesuffix(".safetensors")
        ending = f".{self.variant}.safetensors" if self.variant else ".safetensors"
        if self.shards == 1:
            save_file(
                {name: tensors[name] for name in names}, str(path.with_name(stem + ending)), {"format": "pt"}
            )
            return
        index: dict[str, str] = {}
        for number in range(self.shards):
            part = names[number :: self.shards]
            middle = f".{self.variant}" if self.variant else ""
            file = f"{stem}{middle}-{number + 1:05d}-of-{self.shards:05d}.safetensors"
            save_file({name: tensors[name] for name in part}, str(path.with_name(file)), {"format": "pt"})
            index |= dict.fromkeys(part, file)
        _write_index(
            path.with_name(f"{stem}.safetensors.index{'.' + self.variant if self.variant else ''}.json"),
            index,
            tensors,
        )


def _write_index(path: Path, index: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    content = {"metadata": {"total_size": size}, "weight_map": index}
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def variations(*, most_shards: int = 3) -> st.SearchStrategy[Variation]:
    """Variations that no check may mind: resharded, renamed as a variant, with keys in another order."""
    return st.builds(
        Variation,
        shards=st.integers(1, most_shards),
        order=st.none() | st.integers(0, 2**16),
        variant=st.sampled_from([None, "fp16", "ema"]),
    )
