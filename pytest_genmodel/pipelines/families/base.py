"""What a family has to say about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families.call import probe_arguments

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.checkpoints.checkpoint import Checkpoint
    from pytest_genmodel.pipelines.probe import Probe


@dataclass(frozen=True)
class Geometry:
    """The size a checkpoint was made for: pixels and frames."""

    height: int
    width: int
    frames: int


@dataclass(frozen=True)
class Grid:
    """What sizes a pipeline can make: height and width in multiples of `pixels`, and `frames` x k + 1 frames."""

    pixels: int
    frames: int = 1


@dataclass(frozen=True)
class TrainingClip:
    """One clip, encoded for the training objective.

    `latents` is what noise is added to, in the layout of the denoiser. `clean` is 1 where a token stays the
    image's own (it gets no noise and no loss) and 0 elsewhere, broadcastable to `latents`; None where every token
    is denoised. `conditions` is whatever `Family.predict` needs beside them.
    """

    latents: torch.Tensor
    conditions: Mapping[str, Any] = field(default_factory=dict)
    clean: torch.Tensor | None = None


@dataclass(frozen=True)
class ImageLatents:
    """Where the image's latents stand in what the denoiser is given in its first step.

    `argument` is the denoiser's. `shown` says for each of its latent frames which one of the encoded clip it must
    hold; None where it holds no frame of it. `beside`: the latents have channels of their own, the last ones but
    `behind`; otherwise they take the place of the noise. `power` is that of the autoencoder's scaling factor in what
    is given: 1 where they are scaled as latents are, 0 where they are not.
    """

    shown: tuple[int | None, ...]
    beside: bool
    argument: str = "hidden_states"
    behind: int = 0
    power: int = 1

    @classmethod
    def first(cls, frames: int, **others: Any) -> ImageLatents:
        """The image alone, in the first of so many latent frames."""
        return cls((0, *(None,) * (frames - 1)), **others)


@dataclass(frozen=True)
class Contradiction:
    """Two facts of a checkpoint that no healthy model of the family has together.

    `location` is a configuration key (`model_index.json:boundary_ratio`) or a tensor's name; `cause` says what was
    probably done, `message` what follows.
    """

    message: str
    location: str
    component: str | None = None
    cause: str | None = None


class Family(ABC):
    """One kind of pipeline: what differs from the others, in as few facts as possible.

    name: what the family is called in reports.
    title: the same in a sentence.
    pipeline_classes: the diffusers classes that belong to it.
    denoiser: the component that is trained, and that a LoRA is attached to.
    experts: further denoisers, each for a part of the schedule; a checkpoint has them or not.
    guidance: the default strength of guidance of a probe.
    lora_targets: names of the linear layers that its trainers adapt.
    image_enters: where the image enters, in words; "" where the pipeline takes none.
    image_frame: which frame of the video shows the image itself; None where none does.
    latent_axes: names of the axes of the latents of a step; () where they are not known.
    draws_globally: whether a call draws from torch's global random state although it has a generator; it is
        seeded by the probe then.
    has_objective: whether `training_loss` is there: the built-in trainers need it.
    is_known: whether there is a module for it, and not only what the call's signature says.
    inert_config: (class, key) pairs that the installed classes accept and never use.
    unread: patterns of tensors (`vae.decoder.mid_block.*`) that the installed classes store and never read, or that
        the pipeline reads outside of their component.
    masks_padding: components that are given a mask of the prompt's padding, and must pass over it. A family whose
        denoiser reads the padding by design (CogVideoX: the states of pads are tokens like others) names none; None
        where it is not known.
    zeros_for_padding: whether zeros stand for the padding in what the denoiser is given.
    prompt_tail: tokens of the prompt's length that the end of the pipeline's template takes: a prompt that leaves no
        room for it loses its last words, by design.
    soft_config: keys that say for which size a model was made, and change no tensor by themselves.
    """

    name: str
    title: str
    pipeline_classes: tuple[str, ...]
    denoiser: str = "transformer"
    experts: tuple[str, ...] = ()
    guidance: float = 6.0
    lora_targets: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")
    image_enters: str = ""
    image_frame: int | None = 0
    latent_axes: tuple[str, ...] = ("batch", "channel", "frame", "height", "width")
    draws_globally: bool = False
    has_objective: bool = True
    is_known: bool = True
    inert_config: frozenset[tuple[str, str]] = frozenset()
    unread: tuple[str, ...] = ()
    masks_padding: tuple[str, ...] | None = None
    zeros_for_padding: bool = False
    prompt_tail: int = 0
    soft_config: frozenset[str] = frozenset()

    def denoisers(self, present: Collection[str]) -> tuple[str, ...]:
        """Every denoiser among the components `present`, the main one first."""
        return (self.denoiser, *(name for name in self.experts if name in present))

    def live_denoisers(self, pipeline: Any) -> dict[str, Any]:
        """The denoisers of a live diffusers pipeline, by name, the main one first."""
        present = [name for name, part in pipeline.components.items() if part is not None]
        return {name: getattr(pipeline, name) for name in self.denoisers(present)}

    def needed(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Components that a call cannot do without although the class takes None for them."""
        return (self.denoiser,)

    def without_effect(self, checkpoint: Checkpoint) -> frozenset[str]:
        """Arguments of the call that change nothing by the checkpoint's configuration, or by the class's defaults."""
        return frozenset()

    def contradictions(self, checkpoint: Checkpoint) -> Iterator[Contradiction]:
        """Facts of the configuration that contradict each other; nothing is loaded, no reference is needed."""
        return iter(())

    def frames_made(self, checkpoint: Checkpoint, probe: Probe) -> int | None:
        """How many frames the pipeline makes of a probe; None where there is no rule."""
        return probe.frames

    def strengths(self, probe: Probe, frames: int) -> tuple[float, ...]:
        """The strength of guidance of the probe: one for all, or one for each of so many frames."""
        return (probe.guidance,)

    def told(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, tuple[float, ...]]:
        """Numbers that the denoiser must be told in its first call, by the argument; the last row of a batch."""
        return {}

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """Where the image's latents stand among so many latent frames; None where it is not known."""
        return None

    @staticmethod
    def stored_configs(checkpoint: Checkpoint, *names: str) -> tuple[Mapping[str, Any], ...]:
        """What these components' configuration files hold; empty for a component that is not there or has none.

        Raises:
            DamagedFileError: a file cannot be read.
        """
        parts = [checkpoint.components.get(name) for name in names]
        return tuple({} if part is None else part.config for part in parts)

    @abstractmethod
    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The size that the checkpoint's configuration implies."""

    @abstractmethod
    def grid(self, checkpoint: Checkpoint) -> Grid:
        """The sizes that the pipeline can make."""

    def check_size(self, checkpoint: Checkpoint, *, height: int, width: int, frames: int) -> None:
        """Raise BadInputError, in one line, when the pipeline cannot make a clip of this size."""
        grid = self.grid(checkpoint)
        if height % grid.pixels or width % grid.pixels:
            raise BadInputError(f"the size {width}x{height} is not in multiples of {grid.pixels} pixels")
        if (frames - 1) % grid.frames:
            raise BadInputError(
                f"{frames} frames cannot be made: {self.title} makes {grid.frames}k + 1 "
                f"(the nearest is {round((frames - 1) / grid.frames) * grid.frames + 1})"
            )

    def call_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """The keyword arguments of the pipeline's call, but for the generator, output type and callback.

        What the probe holds, under the names that the class's call has; then `own_arguments`.
        """
        return {**probe_arguments(checkpoint, probe), **self.own_arguments(checkpoint, probe)}

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """Arguments of the call that only this family has, or has another value for than the probe's."""
        return {}

    def frames(self, output: Any) -> torch.Tensor:
        """Give the first video of what the call returned: (frame, channel, height, width) in [0, 1]."""
        video = next(iter(output.values())) if hasattr(output, "values") else output
        first: torch.Tensor = video[0]
        return first if first.ndim == 4 else first.unsqueeze(0)

    def stacked(self, latents: list[torch.Tensor]) -> torch.Tensor:
        """Give the latents of every step as one tensor, the step axis first.

        Steps of different shapes (a clip made in sections) are laid flat, and filled up with zeros at the end.
        """
        import torch

        if len({step.shape for step in latents}) <= 1:
            return torch.stack(latents)
        return torch.nn.utils.rnn.pad_sequence([step.flatten() for step in latents], batch_first=True)

    def training_loss(
        self, pipeline: Any, clip: torch.Tensor, prompt: str, generator: torch.Generator
    ) -> torch.Tensor:
        """The family's own training objective for one clip; here that of flow matching.

        For each denoiser a noise level is drawn from its part of the schedule, and its prediction is compared with
        noise - clean latents.

        Args:
            pipeline: the live diffusers pipeline, whose denoiser may carry a LoRA.
            clip: float tensor (frames, 3, height, width) in [0, 1].
            prompt: the caption.
            generator: a CPU generator; draws the noise and the timestep.

        Returns:
            A scalar float32 tensor with a graph to the denoiser's parameters.
        """
        import torch
        from diffusers.utils.torch_utils import randn_tensor

        with torch.no_grad():
            encoded = self.encode(pipeline, clip, prompt)
        latents, clean = encoded.latents, encoded.clean
        losses = []
        for name in self.live_denoisers(pipeline):
            low, high = self.noise_levels(pipeline, name)
            sigma = (low + (high - low) * torch.rand((1,), generator=generator)).to(latents)
            noise = randn_tensor(
                latents.shape, generator=generator, device=latents.device, dtype=latents.dtype
            )
            noisy = (1 - sigma) * latents + sigma * noise
            if clean is not None:
                noisy = torch.where(clean.bool(), latents, noisy)
            prediction = self.predict(pipeline, name, noisy, sigma, encoded)
            error = (prediction.float() - (noise - latents).float()) ** 2
            losses.append((error if clean is None else error * (1 - clean.float())).mean())
        return torch.stack(losses).sum()

    def training_scheduler(self, pipeline: Any) -> Any:
        """The scheduler by which `training_loss` adds noise; the same object in each call for one pipeline."""
        return pipeline.scheduler

    def encode(self, pipeline: Any, clip: torch.Tensor, prompt: str) -> TrainingClip:
        """Encode a clip (frames, 3, height, width) in [0, 1] and its caption for `training_loss`."""
        raise NotImplementedError(self.name)

    def predict(
        self, pipeline: Any, denoiser: str, noisy: torch.Tensor, sigma: torch.Tensor, clip: TrainingClip
    ) -> torch.Tensor:
        """Call the denoiser of this name on noisy latents at the noise level `sigma` (shape (1,), in [0, 1])."""
        raise NotImplementedError(self.name)

    def noise_levels(self, pipeline: Any, denoiser: str) -> tuple[float, float]:
        """Give the least and the largest noise level that this denoiser is trained for."""
        return 0.0, 1.0

    def attach_lora(
        self, pipeline: Any, tensors: Mapping[str, torch.Tensor], name: str, config: Mapping[str, Any] | None
    ) -> None:
        """Give the live denoiser the LoRA `tensors` under the adapter name `name`; raises what peft raises.

        A factor that `tensors` lacks stays on meta: it can be told, and draws nothing from a random generator.

        Args:
            pipeline: the live diffusers pipeline.
            tensors: the factors, by the denoiser's own names.
            name: what to call the adapter.
            config: the arguments of PEFT's LoraConfig; None to take rank from the tensors and alpha = rank.
        """
        getattr(pipeline, self.denoiser).load_lora_adapter(
            dict(tensors),
            prefix=None,
            adapter_name=name,
            metadata=dict(config) if config else None,
            low_cpu_mem_usage=True,
        )

    def save_lora(
        self, pipeline: Any, folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
    ) -> None:
        """Write LoRA `tensors` (by the denoiser's own names) into `folder` as diffusers does, alpha included."""
        layers = {f"{self.denoiser}_lora_layers": dict(tensors)}
        metadata = {f"{self.denoiser}_lora_adapter_metadata": dict(config)}
        pipeline.save_lora_weights(str(folder), **layers, **metadata)
