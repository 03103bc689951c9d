"""A small pipeline to which neutral things are done one after another, checked after each."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.calibration import budget
from pytest_genmodel.pipelines.library import dtype_keyword, quiet
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.placement import Placement
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.residents import align, residents
from pytest_genmodel.pipelines.resolve import resolve
from pytest_genmodel.pipelines.sampling import Sample, run_pipeline
from pytest_genmodel.tensors import digest
from pytest_genmodel.transformations.adapters import ALPHA, RANK, random_up, typical_weight
from pytest_genmodel.transformations.bench import looks
from pytest_genmodel.transformations.controls import distances
from pytest_genmodel.transformations.known import Step
from pytest_genmodel.transformations.neutral_kernels import FUSED

if TYPE_CHECKING:
    import torch

NAME = "neutral"
MERGED_ROUNDING = 1e-6
"""What adding an adapter to weights and taking it out again may leave, relative to the largest weight."""


class BrokenModelError(GenmodelError, AssertionError):
    """A sequence of neutral steps broke the model: `what` happened after the last of `steps`.

    The message ends with the sequence as a test.
    """

    def __init__(self, what: str, spec: str, steps: Sequence[Step]) -> None:
        super().__init__(f"{what}\n\n{as_test(spec, steps)}")
        self.what = what
        self.spec = spec
        self.steps = tuple(steps)


@cache
def _work() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="genmodel-sequences-")


@cache
def _source(spec: str) -> Pipeline:
    return Pipeline(resolve(spec, Path(_work().name)), Placement("cpu", "float32"))


@cache
def _expected(spec: str, strength: float) -> Sample:
    """What a new model gives with the random adapter at this strength, put on and set once; 0: without one."""
    model = NeutralModel(spec, check=False)
    if strength:
        model.add_adapter("random")
        model.set_weight(strength)
    return model.look()


class NeutralModel:
    """A tiny pipeline with at most one adapter, and what it must be: each step does something and checks.

    Weights are checked by digest, the sample within float32's budget, against a model to which only what matters was
    done. Steps raise BrokenModelError where that fails, or where the library raises.
    """

    def __init__(self, spec: str = "tiny:cogvideox-i2v", *, check: bool = True) -> None:
        self.spec = spec
        self.steps: list[Step] = []
        self.adapter: str | None = None
        self.weight, self.enabled = 1.0, True
        self.fused: float | None = None
        self.unloaded = False
        """Whether an adapter was on the model, and was taken off."""
        self._checks = check
        self._unmerged = False
        source = _source(spec)
        self._family, self._checkpoint = source.family, source.checkpoint
        self._probe: Probe = make_probe(ProbeWishes(steps=2), source.checkpoint, source.family, full=False)
        self.live: Any = source.derive(source.checkpoint, share=False).diffusers
        self._digests = self._content()

    @property
    def denoiser(self) -> Any:
        """The live denoiser."""
        return getattr(self.live, self._family.denoiser)

    @property
    def strength(self) -> float:
        """At which strength the random adapter must act now."""
        if self.adapter != "random":
            return 0.0
        acting = self.weight if self.fused is None else self.fused
        return acting if self.enabled else 0.0

    def look(self) -> Sample:
        """Sample with the probe."""
        return run_pipeline(self.live, self._family, self._checkpoint, self._probe, "cpu", lambda *_: None)

    def add_adapter(self, kind: Literal["new", "random"] = "new") -> None:
        """Put on a LoRA: a new one (B = 0), or one with random values."""
        self._do("add_adapter", lambda: self._add(kind), kind=kind)

    def set_weight(self, weight: float) -> None:
        """`set_adapters`: let the adapter act at so many times its strength."""

        def change() -> None:
            self.live.set_adapters([NAME], [weight])
            self.weight = weight

        self._do("set_weight", change, weight=weight)

    def disable(self) -> None:
        """`disable_lora`."""

        def change() -> None:
            self.live.disable_lora()
            self.enabled = False

        self._do("disable", change)

    def enable(self) -> None:
        """`enable_lora`."""

        def change() -> None:
            self.live.enable_lora()
            self.enabled = True

        self._do("enable", change)

    def fuse(self) -> None:
        """`fuse_lora`: the adapter goes into the weights; one that is switched off stays without effect."""

        def change() -> None:
            self.fused = self.weight
            self.live.fuse_lora(components=[self._family.denoiser])

        self._do("fuse", change)

    def unfuse(self) -> None:
        """`unfuse_lora`: it comes out again."""

        def change() -> None:
            self.live.unfuse_lora(components=[self._family.denoiser])
            self.fused, self._unmerged = None, True

        self._do("unfuse", change)

    def unload(self) -> None:
        """`unload_lora_weights`: the model without an adapter."""

        def change() -> None:
            self.live.unload_lora_weights()
            self.adapter, self.weight, self.enabled, self.fused = None, 1.0, True, None
            self.unloaded = True

        self._do("unload", change)

    def save_and_reload(self) -> None:
        """`save_pretrained`, then `from_pretrained` of what was written, in float32.

        Without a dtype diffusers 0.42 gives a learned table of positions back in float64.
        """
        import torch

        dtype = {dtype_keyword("diffusers"): torch.float32}

        def change() -> None:
            with tempfile.TemporaryDirectory(dir=_work().name) as folder:
                self.live.save_pretrained(folder)
                self.live = type(self.live).from_pretrained(folder, local_files_only=True, **dtype)
                self._align()

        self._do("save_and_reload", change)

    def deepcopy(self) -> None:
        """Go on with `copy.deepcopy` of the pipeline."""

        def change() -> None:
            self.live = copy.deepcopy(self.live)

        self._do("deepcopy", change)

    def from_pipe(self) -> None:
        """Go on with `from_pipe` into its own class."""
        import torch

        def change() -> None:
            self.live = type(self.live).from_pipe(self.live, **{dtype_keyword("diffusers"): torch.float32})

        self._do("from_pipe", change)

    def float64_and_back(self) -> None:
        """`to(float64)`, then `to(float32)`."""
        import torch

        def change() -> None:
            self.live.to(torch.float64)
            self.live.to(torch.float32)

        self._do("float64_and_back", change)

    def slice(self) -> None:
        """The autoencoder in slices, and at once again."""

        def change() -> None:
            self.live.vae.enable_slicing()
            self.look()
            self.live.vae.disable_slicing()

        self._do("slice", change)

    def tile(self) -> None:
        """The autoencoder's tiling on and off again."""

        def change() -> None:
            self.live.vae.enable_tiling()
            self.live.vae.disable_tiling()

        self._do("tile", change)

    def fuse_qkv(self) -> None:
        """Query, key and value joined, and taken apart again."""

        def change() -> None:
            self.denoiser.fuse_qkv_projections()
            self.look()
            self.denoiser.unfuse_qkv_projections()

        self._do("fuse_qkv", change)

    def sample(self) -> None:
        """A sample of something else."""

        def change() -> None:
            other = self._probe.but(prompt="a blue circle", seed=7, steps=3)
            run_pipeline(self.live, self._family, self._checkpoint, other, "cpu", lambda *_: None)

        self._do("sample", change)

    def train_at_zero(self) -> None:
        """One AdamW step at learning rate 0 on whatever can be trained; nothing, where the adapter is off."""
        self._do("train_at_zero", self._train)

    def _do(self, step: str, change: Callable[[], None], **arguments: object) -> None:
        self.steps.append((step, arguments))
        with quiet():
            try:
                change()
            except BrokenModelError:
                raise
            except Exception as error:  # whatever a library raises in the middle of something harmless
                raise self._broken(f"{type(error).__name__}: {first_line(error)}") from error
            if self._checks:
                self.check()

    def check(self) -> None:
        """See that weights and sample are what they must be; raises BrokenModelError."""
        if self.fused is None:
            self._check_weights()
        try:
            seen = looks(self.look())
        except Exception as error:  # whatever a broken model raises when it is sampled
            raise self._broken(f"sampled, it raises {type(error).__name__}: {first_line(error)}") from error
        away = distances(seen, looks(_expected(self.spec, self.strength)))
        worst = max(away, key=lambda kind: away[kind])
        if not away[worst] <= budget("float32"):
            raise self._broken(
                f"the {worst} are off by {away[worst]:.3g} of their largest value (rounding: {budget('float32'):.2g})"
            )

    def _check_weights(self) -> None:
        import torch

        found = self._content()
        for name, (value, tensor) in self._digests.items():
            if name not in found:
                raise self._broken(f"{name} is gone")
            now, live = found[name]
            if live.is_meta:
                raise self._broken(f"{name} has no memory (meta device)")
            if now == value:
                continue
            near = live.shape == tensor.shape and bool(
                (live - tensor).abs().max() <= MERGED_ROUNDING * tensor.abs().max()
            )
            if not (self._unmerged and near and live.dtype == torch.float32):
                raise self._broken(f"{name} has other values")

    def _content(self) -> dict[str, tuple[str, torch.Tensor]]:
        """Every tensor of every model but adapters and joined projections: (digest, values)."""
        import torch

        return {
            f"{component}.{name}": (_digest(resident.tensor), resident.tensor.clone())
            for component, model in self.live.components.items()
            if isinstance(model, torch.nn.Module)
            for name, resident in residents(model).items()
            if "lora_" not in name and not any(f".{part}." in f".{name}." for part in FUSED)
        }

    def _add(self, kind: str) -> None:
        import torch
        from peft import LoraConfig

        targets = list(self._family.lora_targets)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets)
            self.denoiser.add_adapter(config, adapter_name=NAME)
        self.denoiser.eval()
        self.adapter, self.weight, self.enabled = kind, 1.0, True
        if kind == "random":
            generator = torch.Generator("cpu").manual_seed(6)
            typical = typical_weight(self.denoiser, self._family)
            for layer in self.denoiser.modules():
                if NAME in getattr(layer, "lora_B", {}):
                    down, up = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
                    with torch.no_grad():
                        up.copy_(random_up(up, down, layer.scaling[NAME], typical, generator))

    def _train(self) -> None:
        import torch

        if not self.enabled:
            return
        weights = [weight for weight in self.denoiser.parameters() if weight.requires_grad]
        if not weights:
            raise self._broken("no parameter of the denoiser can be trained any more (requires_grad is off)")
        optimizer = torch.optim.AdamW(weights, lr=0.0)
        clip = self._probe.image[None].repeat(self._probe.frames, 1, 1, 1)
        generator = torch.Generator("cpu").manual_seed(8)
        with torch.enable_grad():
            loss = self._family.training_loss(self.live, clip, "a red square", generator)
            torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _align(self) -> None:
        import torch

        for model in self.live.components.values():
            if isinstance(model, torch.nn.Module):
                align(model)

    def _broken(self, what: str) -> BrokenModelError:
        return BrokenModelError(what, self.spec, self.steps)


def _digest(tensor: torch.Tensor) -> str:
    return "meta" if tensor.is_meta else digest(tensor)


def as_test(spec: str, steps: Sequence[Step]) -> str:
    """A sequence of steps as a test that can be pasted into a file."""
    calls = (
        f"    model.{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        for name, arguments in steps
    )
    lines = [
        "from pytest_genmodel.transformations.sequences import NeutralModel",
        "",
        "",
        "def test_neutral_sequence():",
        f"    model = NeutralModel({spec!r})",
        *calls,
    ]
    return "\n".join(lines)
