"""A LoRA attached, switched off, unloaded, merged and unmerged: on a denoiser of its own, never on the shared one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.products import products
from pytest_genmodel.pipelines.adapters import attach, resolved
from pytest_genmodel.pipelines.assembly import assembled
from pytest_genmodel.pipelines.denoiser_call import DenoiserCall, record_call
from pytest_genmodel.pipelines.families.base import Family
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.loading import load_component
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.placement import SMALL_MODEL
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.residents import residents

if TYPE_CHECKING:
    import torch

RANK = 4
ALPHA = 12
"""Not the rank: a loader that forgets alpha takes alpha = rank, and would go unseen."""
SHARE = 0.1
"""How large a random adapter is: typical size of what it adds to a weight, relative to the weights themselves."""
IN_MEMORY = "memory"
"""The name of an adapter that was made here; one that is loaded has `pipelines.adapters.ADAPTER_NAME`."""


@dataclass(frozen=True)
class ModelState:
    """What makes a model what it is: digest of every tensor, class of every module, hooks, what PEFT has noted."""

    tensors: Mapping[str, str]
    modules: Mapping[str, str]
    hooks: int
    notes: tuple[str, ...]

    def differences(self, before: ModelState) -> list[str]:
        """Name what is not as it was `before`, in words, each with its place first."""
        found = [
            f"{name}: a {kind} ({before.modules.get(name, 'nothing')} before)"
            for name, kind in self.modules.items()
            if before.modules.get(name) != kind
        ]
        found += [f"{name}: the module is gone" for name in before.modules if name not in self.modules]
        found += [f"{name}: its values are others" for name in self.changed(before)]
        found += [f"{name}: it is gone" for name in before.tensors if name not in self.tensors]
        found += [f"{name}: it was not there" for name in self.tensors if name not in before.tensors]
        if self.hooks != before.hooks:
            found.append(f"hooks: {self.hooks} are set ({before.hooks} before)")
        found += [f"{note}: left behind" for note in self.notes if note not in before.notes]
        return found

    def changed(self, before: ModelState) -> list[str]:
        """Tensors that both have, with other values."""
        return [
            name
            for name, value in before.tensors.items()
            if name in self.tensors and self.tensors[name] != value
        ]


def state_of(model: torch.nn.Module) -> ModelState:
    """Take down the state of a model; a layer that wears an adapter keeps its own name for its own weights."""
    from pytest_genmodel.tensors import digest

    hooks = sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
    return ModelState(
        {name: digest(resident.tensor.cpu()) for name, resident in residents(model).items()},
        {name: type(part).__qualname__ for name, part in model.named_modules()},
        hooks,
        tuple(note for note in ("peft_config",) if getattr(model, note, None)),
    )


class AdapterBench:
    """A denoiser of its own in a pipeline around it, for adapters to be tried on.

    The other components are those of `pipeline`; its own denoiser, and an adapter that it wears, are left alone.
    `live` is the diffusers pipeline, `denoiser` the model.
    """

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        checkpoint, family = pipeline.checkpoint, pipeline.family
        self.family: Family = family
        self.checkpoint: Checkpoint = checkpoint
        self.folder = folder
        self._device = pipeline.placement.device
        self._saved = 0
        denoiser = checkpoint.components[family.denoiser]
        parts = {name: pipeline.component(name) for name in pipeline.components if name != family.denoiser}
        parts[family.denoiser] = load_component(denoiser, pipeline.placement).module
        if scheduler := parts.get("scheduler"):
            parts["scheduler"] = type(scheduler).from_config(scheduler.config)
        self.live: Any = assembled(checkpoint, parts)
        self.denoiser: Any = parts[family.denoiser]

    @property
    def has_loader(self) -> bool:
        """Whether diffusers loads a LoRA into this kind of pipeline."""
        return hasattr(self.live, "load_lora_weights")

    def record(self, probe: Probe) -> DenoiserCall:
        """Give the denoiser's first call of a sample; see `record_call`."""
        return record_call(self.live, self.family, self.checkpoint, probe, self._device)

    def add(self, config: Mapping[str, Any], seed: int) -> None:
        """Make a new adapter in memory, as a trainer does; `config` is what PEFT's LoraConfig takes."""
        import torch
        from peft import LoraConfig

        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(seed)
            self.denoiser.add_adapter(LoraConfig(**config), adapter_name=IN_MEMORY)
        self.denoiser.eval()

    def randomise_ups(self, seed: int) -> None:
        """Give every lora_B of the adapter in memory random values."""
        import torch

        generator = torch.Generator("cpu").manual_seed(seed)
        typical = typical_weight(self.denoiser, self.family)
        for layer in self._layers(IN_MEMORY):
            down, up = layer.lora_A[IN_MEMORY].weight, layer.lora_B[IN_MEMORY].weight
            values = random_up(up, down, layer.scaling[IN_MEMORY], typical, generator)
            with torch.no_grad():
                up.copy_(values)

    def _layers(self, name: str) -> list[Any]:
        return [part for part in self.denoiser.modules() if name in getattr(part, "lora_B", {})]

    def scalings(self) -> dict[str, float]:
        """At which scale each layer's adapter acts, as PEFT has it."""
        return {
            name: float(scale)
            for name, part in self.denoiser.named_modules()
            if hasattr(part, "base_layer")
            for scale in getattr(part, "scaling", {}).values()
        }

    def switch(self, on: bool) -> None:
        """Switch the adapter off or on."""
        with quiet():
            if self.has_loader:
                (self.live.enable_lora if on else self.live.disable_lora)()
            else:
                (self.denoiser.enable_lora if on else self.denoiser.disable_lora)()

    def weigh(self, weight: float) -> None:
        """Let the adapter in memory act at `weight` times its strength."""
        owner = self.live if self.has_loader else self.denoiser
        with quiet():
            owner.set_adapters([IN_MEMORY], [weight])

    def save(self, *, alpha: bool = True) -> Adapter:
        """Save the adapter in memory as diffusers does, and open what was written.

        Args:
            alpha: whether the configuration is given to the save call; without it the file says no alpha.
        """
        from peft.utils import get_peft_model_state_dict

        self._saved += 1
        folder = self.folder / f"saved-{self._saved}"
        config = self.denoiser.peft_config[IN_MEMORY].to_dict() if alpha else {}
        with quiet():
            tensors = get_peft_model_state_dict(self.denoiser, adapter_name=IN_MEMORY)
            self.family.save_lora(self.live, folder, tensors, config)
        return opened(folder, self.checkpoint)

    def attach(self, adapter: Adapter) -> None:
        """Load an adapter file as everything else here does; raises AttachError."""
        with quiet():
            attach(self.live, adapter, self.family)

    def merge(self) -> None:
        """Fuse the attached adapter into the weights."""
        with quiet():
            if self.has_loader:
                self.live.fuse_lora(components=[self.family.denoiser])
            else:
                self.denoiser.fuse_lora()

    def unmerge(self) -> None:
        """Take a fused adapter out of the weights."""
        with quiet():
            if self.has_loader:
                self.live.unfuse_lora(components=[self.family.denoiser])
            else:
                self.denoiser.unfuse_lora()

    def unload(self) -> None:
        """Take every adapter off."""
        with quiet():
            (self.live.unload_lora_weights if self.has_loader else self.denoiser.unload_lora)()

    def weights(self, layers: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Copies of the layers' own weights, on the CPU; layers that the model has not are left out."""
        live = residents(self.denoiser)
        named = {layer: live.get(f"{layer}.weight") for layer in layers}
        return {layer: found.tensor.cpu().clone() for layer, found in named.items() if found is not None}


def is_large(pipeline: Pipeline) -> bool:
    """Whether a second copy of the denoiser is too much beside the first."""
    denoiser = pipeline.checkpoint.components[pipeline.family.denoiser]
    return sum(prod(tensor.shape) for tensor in denoiser.weights.tensors.values()) > SMALL_MODEL


def config_for(pipeline: Pipeline) -> dict[str, Any]:
    """Arguments of PEFT's LoraConfig: the ranks and scales of the candidate's own adapter, or the family's layers."""
    adapter = pipeline.checkpoint.adapter
    if adapter is None:
        return {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(pipeline.family.lora_targets)}
    found = products(adapter)
    ranks = {module: found.scales.rank_by_module[module] for module in found.names}
    alphas = {module: found.scales.applied(module) * rank for module, rank in ranks.items()}
    return {
        "r": next(iter(ranks.values()), RANK),
        "lora_alpha": next(iter(alphas.values()), ALPHA),
        "target_modules": list(ranks),
        "rank_pattern": {re.escape(module): rank for module, rank in ranks.items()},
        "alpha_pattern": {re.escape(module): alpha for module, alpha in alphas.items()},
    }


def typical_weight(denoiser: torch.nn.Module, family: Family) -> float:
    """The root mean square of the weights that LoRAs of this family adapt (the median over its layers)."""
    import torch

    sizes = [
        part.weight.detach().float().square().mean().sqrt()
        for name, part in denoiser.named_modules()
        if isinstance(part, torch.nn.Linear)
        and "lora_" not in name
        and name.removesuffix(".base_layer").endswith(family.lora_targets)
    ]
    return float(torch.stack(sizes).median()) if sizes else 1.0


def random_up(
    up: torch.Tensor, down: torch.Tensor, scale: float, typical: float, generator: torch.Generator
) -> torch.Tensor:
    """Random values for a lora_B, such that scale x B @ A is `SHARE` of a typical weight; zero where A is."""
    import torch

    values = torch.randn(up.shape, generator=generator)
    size = float(down.detach().float().square().mean().sqrt()) * abs(scale) * down.shape[0] ** 0.5
    return (values * (SHARE * typical / size if size else 0.0)).to(up)


def opened(path: Path, whole: Checkpoint) -> Adapter:
    """Open an adapter at rest for the whole pipeline that it is laid over."""
    adapter = open_checkpoint(path, path.name).adapter
    assert adapter is not None
    return resolved(adapter, whole)
