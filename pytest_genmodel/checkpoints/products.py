"""What a LoRA at rest adds to each layer: scale x B @ A, by the file's own factors and alpha."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.alpha import Scales, scales
from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.keymaps.lora import bare_module, factor_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Product:
    """The factors of one layer, float64: `up` (outputs, rank), `down` (rank, inputs); kernels are laid flat."""

    up: torch.Tensor
    down: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return int(self.down.shape[0])

    @property
    def unscaled(self) -> torch.Tensor:
        """B @ A, float64 (outputs, inputs)."""
        return self.up @ self.down


@dataclass(frozen=True)
class Products:
    """The products of an adapter's layers, by the layers' own names; read one at a time."""

    adapter: Adapter
    scales: Scales
    names: Mapping[str, tuple[str, str]]
    """Layer -> names of (down, up) in the file."""

    def read(self, module: str) -> Product:
        """Give the product of a layer; raises DamagedFileError where a factor cannot be read."""
        down, up = (self.adapter.weights.read(name).double().flatten(1) for name in self.names[module])
        return Product(up, down, self.scales.applied(module))


def products(adapter: Adapter) -> Products:
    """Pair the factors of `adapter`; a half without its other half is left out.

    Raises:
        DamagedFileError: what says its alpha cannot be read.
    """
    halves: dict[str, dict[str, str]] = {}
    for name in adapter.weights.tensors:
        factor = factor_of(name)
        if factor is not None and factor.role in ("lora_A", "lora_B") and factor.leaf != ".bias":
            halves.setdefault(bare_module(factor.module), {})[factor.role] = name
    names = {module: (of["lora_A"], of["lora_B"]) for module, of in halves.items() if len(of) == 2}
    return Products(adapter, scales(adapter), names)


def more_than_products(adapter: Adapter) -> str | None:
    """Say why the adapter adds something else than scale x B @ A; None where it does not."""
    for name in adapter.weights.tensors:
        factor = factor_of(name)
        if factor is None:
            continue
        if factor.role == "lora_magnitude_vector":
            return f"it is DoRA ({name}): its layers are scaled by magnitudes too"
        if factor.leaf == ".bias":
            return f"its factors have a bias ({name})"
        if factor.role.startswith("lora_embedding"):
            return f"it adapts an embedding ({name})"
    return None
