"""What a family has to say about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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


class Family(ABC):
    """One kind of image-to-video pipeline.

    `denoiser` is the component that is trained; `lora_targets` the names of the linear layers that its trainers
    adapt; `inert_config` the (class, key) pairs that the installed classes accept and never use; `soft_config`
    the keys that say for which size a model was made, and change no tensor by themselves.
    """

    name: ClassVar[str]
    pipeline_classes: ClassVar[tuple[str, ...]]
    denoiser: ClassVar[str] = "transformer"
    guidance: ClassVar[float] = 6.0
    lora_targets: ClassVar[tuple[str, ...]] = ("to_k", "to_q", "to_v", "to_out.0")
    inert_config: ClassVar[frozenset[tuple[str, str]]] = frozenset()
    soft_config: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The size that the checkpoint's configuration implies."""

    @abstractmethod
    def check_size(self, checkpoint: Checkpoint, *, height: int, width: int, frames: int) -> None:
        """Raise BadInputError, in one line, when the pipeline cannot make a clip of this size."""

    @abstractmethod
    def call_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """The keyword arguments of the pipeline's call, but for the generator, output type and callback."""

    @abstractmethod
    def training_loss(
        self, pipeline: Any, clip: torch.Tensor, prompt: str, generator: torch.Generator
    ) -> torch.Tensor:
        """The family's own training objective for one clip.

        Args:
            pipeline: the live diffusers pipeline, whose denoiser may carry a LoRA.
            clip: float tensor (frames, 3, height, width) in [0, 1].
            prompt: the caption.
            generator: a CPU generator; draws the noise and the timestep.

        Returns:
            A scalar float32 tensor with a graph to the denoiser's parameters.
        """

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
