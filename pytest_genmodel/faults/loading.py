"""Faults of a library's loaders and savers: the file is right, and the model is not, or the reverse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.library import class_of
from pytest_genmodel.faults.registry import Place, broken_library
from pytest_genmodel.pipelines.loading import skeleton
from pytest_genmodel.pipelines.replaced import Original, replaced


@contextmanager
def _loaded_becomes(copy: Copy, name: str, change: Callable[[Any], None]) -> Iterator[None]:
    """`change` is done to each model that `from_pretrained` gives."""

    def make(original: Original) -> Original:
        def from_pretrained(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            import torch

            with torch.no_grad():
                change(result)
            return result

        return from_pretrained

    with replaced(class_of(copy, name), "from_pretrained", make):
        yield


@broken_library(
    "GM303",
    "coverage",
    layer="key-naming",
    place=Place("transformer"),
    seen_in="https://github.com/jhbastek/VideoMetamaterials/issues/2",
)
@contextmanager
def load_error_swallowed(copy: Copy) -> Iterator[None]:
    """Loading fails, the error is printed, and the run goes on with random weights."""
    import torch

    def remake(model: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.reset_parameters()

    with _loaded_becomes(copy, copy.denoiser, remake):
        yield


@broken_library(
    "GM201",
    "coverage",
    layer="text-encoder",
    place=Place("text_encoder", "encoder.embed_tokens.weight"),
    seen_in="https://github.com/huggingface/transformers/pull/43880",
)
@contextmanager
def embedding_zero_after_loading(copy: Copy) -> Iterator[None]:
    """A new library version no longer ties the token embedding: it is zero in the loaded model."""

    def untie(model: Any) -> None:
        import torch

        embedding = model.get_input_embeddings()
        embedding.weight = torch.nn.Parameter(torch.zeros_like(embedding.weight))

    with _loaded_becomes(copy, "text_encoder", untie):
        yield


@broken_library("GM303", "coverage", layer="dtype", place=Place("text_encoder", "shared.weight"))
@contextmanager
def rounded_while_loading(copy: Copy) -> Iterator[None]:
    """The loader casts to bfloat16 and back, although float32 was asked for."""

    def cast(model: Any) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16().to(parameter.dtype)

    with _loaded_becomes(copy, "text_encoder", cast):
        yield


@broken_library(
    "GM931",
    "absolute_checks",
    layer="positional-embedding",
    place=Place("transformer", "rope.freqs_cos"),
    model="wan2.1-i2v",
    entries=("non-persistent-buffer-uninitialised",),
    seen_in="https://github.com/huggingface/transformers/issues/48892",
)
@contextmanager
def table_that_no_file_holds_is_not_filled(copy: Copy) -> Iterator[None]:
    """A table that is computed and never saved is left with whatever lay in memory."""

    def tables(model: Any) -> list[Any]:
        saved = set(model.state_dict())
        return [b for name, b in model.named_buffers() if name not in saved and b.is_floating_point()]

    def spoil(model: Any) -> None:
        import torch

        for table in tables(model):
            table.copy_(torch.full_like(table, 0.37))

    if not tables(skeleton(copy.component(copy.denoiser))):
        copy.does_not_apply("the denoiser has no table that is computed and never saved")
    with _loaded_becomes(copy, copy.denoiser, spoil):
        yield


@broken_library(
    "GM601",
    "save_load_round_trip",
    layer="checkpoint-container",
    place=Place("transformer", "patch_embed.proj.weight"),
)
@contextmanager
def saver_drops_a_tensor(copy: Copy) -> Iterator[None]:
    """The saver leaves one tensor out; the loader fills it with random values and says nothing."""
    import torch

    def make(original: Original) -> Original:
        def save_pretrained(self: Any, *arguments: Any, **options: Any) -> Any:
            first = next(parameter for parameter in self.parameters() if parameter.dim() > 1)
            kept = first.data
            first.data = torch.full_like(kept, 0.01)
            try:
                return original(self, *arguments, **options)
            finally:
                first.data = kept

        return save_pretrained

    with replaced(class_of(copy, copy.denoiser), "save_pretrained", make):
        yield


@broken_library("GM602", "save_load_round_trip", layer="config", place=Place("vae", "vae:scaling_factor"))
@contextmanager
def saver_writes_a_default(copy: Copy) -> Iterator[None]:
    """The saver writes the class's default in the place of the VAE's own scaling factor."""
    if copy.config("vae").get("scaling_factor") in (None, 1.15258426):
        copy.does_not_apply("the VAE states no scaling_factor of its own")

    def make(original: Original) -> Original:
        def save_pretrained(self: Any, *arguments: Any, **options: Any) -> Any:
            kept = self.config.scaling_factor
            self.register_to_config(scaling_factor=1.15258426)
            try:
                return original(self, *arguments, **options)
            finally:
                self.register_to_config(scaling_factor=kept)

        return save_pretrained

    with replaced(class_of(copy, "vae"), "save_pretrained", make):
        yield


def _peft(copy: Copy) -> Any:
    import importlib.util

    if importlib.util.find_spec("peft") is None or not copy.family.lora_targets:
        copy.does_not_apply("the pipeline takes no LoRA, or peft is not installed")
    from peft.tuners.lora import layer

    return layer


@broken_library(
    "GM826",
    "adapter_identity",
    layer="lora",
    place=Place("transformer", "transformer_blocks.0.attn1.to_k"),
    entries=("fastvideo-870-merge-ignores-alpha",),
    seen_in="https://github.com/hao-ai-lab/FastVideo/pull/870",
)
@contextmanager
def merging_ignores_alpha(copy: Copy) -> Iterator[None]:
    """Merging an adapter takes B @ A without alpha / r."""
    layer = _peft(copy)

    def make(original: Original) -> Original:
        def delta(self: Any, adapter: str) -> Any:
            return original(self, adapter) / self.scaling[adapter]

        return delta

    with replaced(layer.Linear, "get_delta_weight", make):
        yield


@broken_library(
    "GM824",
    "adapter_identity",
    layer="lora",
    place=Place("transformer", "transformer_blocks.0.attn1.to_q"),
    entries=("unfuse-does-not-restore",),
    seen_in="https://github.com/huggingface/diffusers/pull/4833",
)
@contextmanager
def unmerging_leaves_a_rest(copy: Copy) -> Iterator[None]:
    """Unmerging takes off less than merging has put on."""
    layer = _peft(copy)

    def make(original: Original) -> Original:
        def unmerge(self: Any) -> Any:
            before = self.get_base_layer().weight.data.clone()
            result = original(self)
            weight = self.get_base_layer().weight
            weight.data += 0.1 * (before - weight.data)
            return result

        return unmerge

    with replaced(layer.Linear, "unmerge", make):
        yield


@broken_library(
    "GM829",
    "adapter_identity",
    layer="lora",
    place=Place("transformer", "transformer_blocks.0.attn1.to_q.weight"),
    entries=("pissa-mutates-base-weights",),
    seen_in="https://github.com/huggingface/peft/issues/2184",
)
@contextmanager
def attaching_changes_the_base(copy: Copy) -> Iterator[None]:
    """Attaching an adapter changes the weights that it is attached to."""
    layer = _peft(copy)

    def make(original: Original) -> Original:
        def reset(self: Any, *arguments: Any, **options: Any) -> None:
            original(self, *arguments, **options)
            weight = self.get_base_layer().weight
            if weight.device.type != "meta":
                weight.data *= 0.99

        return reset

    with replaced(layer.LoraLayer, "reset_lora_parameters", make):
        yield


@broken_library(
    "GM820",
    "adapter_identity",
    layer="lora",
    place=Place("transformer", "prediction"),
    entries=("fastvideo-789-lora-step0-differs",),
    seen_in="https://github.com/hao-ai-lab/FastVideo/issues/789",
)
@contextmanager
def new_adapter_is_not_neutral(copy: Copy) -> Iterator[None]:
    """A new adapter has factors that are not zero: it changes the model before any training."""
    layer = _peft(copy)

    def make(original: Original) -> Original:
        def reset(self: Any, adapter: str, *arguments: Any, **options: Any) -> None:
            import torch

            original(self, adapter, *arguments, **options)
            weight = self.lora_B[adapter].weight
            if weight.device.type != "meta":
                with torch.no_grad():
                    weight.fill_(0.02)

        return reset

    with replaced(layer.LoraLayer, "reset_lora_parameters", make):
        yield


@broken_library(
    "GM822",
    "adapter_identity",
    layer="lora",
    place=Place("transformer", "patch_embed.proj.weight"),
    entries=("control-lora-unload-leaves-base-changed",),
    seen_in="https://github.com/huggingface/diffusers/issues/10202",
)
@contextmanager
def unloading_leaves_the_base_changed(copy: Copy) -> Iterator[None]:
    """Unloading an adapter leaves a layer of the model changed."""
    _peft(copy)
    from diffusers.loaders.lora_base import LoraBaseMixin

    name = copy.denoiser

    def make(original: Original) -> Original:
        def unload(self: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            first = next(p for p in getattr(self, name).parameters() if p.dim() > 1)
            first.data *= 1.01
            return result

        return unload

    with replaced(LoraBaseMixin, "unload_lora_weights", make):
        yield
