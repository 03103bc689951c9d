"""SkyReels-V2 image-to-video: Wan 2.1's way, and diffusion forcing (a timestep for each frame)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.pipelines.families.base import Contradiction, Geometry, ImageLatents, TrainingClip
from pytest_genmodel.pipelines.families.wan import LATENT_CHANNELS, Wan, encoded_prompt, encoded_video

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe


class SkyReels(Wan):
    """SkyReels-V2 image-to-video: Wan 2.1 with another transformer class."""

    name = "skyreels-v2"
    title = "SkyReels-V2"
    pipeline_classes = ("SkyReelsV2ImageToVideoPipeline",)
    experts = ()
    image_enters = "as a latent with a mask beside the noise, and as CLIP tokens"

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The configuration says no size: that of the published 540P models."""
        return Geometry(height=544, width=960, frames=97)

    def _compression(self, vae: Mapping[str, Any]) -> tuple[int, int]:
        """This pipeline counts the stages of the autoencoder, and passes over the factors beside them."""
        stages = vae.get("temperal_downsample", (False, True, True))
        return int(2 ** len(stages)), int(2 ** sum(stages))


class SkyReelsForcing(SkyReels):
    """SkyReels-V2 by diffusion forcing: the image's latent is frame 0, and stays as it is."""

    name = "skyreels-v2-df"
    title = "SkyReels-V2 (diffusion forcing)"
    pipeline_classes = ("SkyReelsV2DiffusionForcingImageToVideoPipeline",)
    image_enters = "as latent frame 0, which is clean from the first step on"

    def needed(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """No image encoder: the class has no place for one."""
        return (self.denoiser,)

    def contradictions(self, checkpoint: Checkpoint) -> Iterator[Contradiction]:
        """Channels that do not add up: the transformer takes the latent alone."""
        vae, transformer = self.stored_configs(checkpoint, "vae", self.denoiser)
        if not vae or not transformer:
            return
        latent = int(vae.get("z_dim", LATENT_CHANNELS))
        taken = int(transformer.get("in_channels", LATENT_CHANNELS))
        if taken != latent:
            yield Contradiction(
                f"the autoencoder's latent has {latent} channels, and the transformer takes {taken}",
                "config.json:in_channels",
                component=self.denoiser,
                cause="the transformer is that of a model without diffusion forcing",
            )

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """In place of the noise of frame 0."""
        return ImageLatents.first(frames, beside=False)

    def encode(self, pipeline: Any, clip: torch.Tensor, prompt: str) -> TrainingClip:
        """The clip's latents; frame 0 is the image by itself, as the call encodes it."""
        import torch

        latents = encoded_video(pipeline.vae, clip)
        clean = torch.zeros_like(latents[:, :1])
        clean[:, :, 0] = 1
        latents = torch.cat([encoded_video(pipeline.vae, clip[:1]), latents[:, :, 1:]], dim=2)
        return TrainingClip(latents, {"text": encoded_prompt(pipeline, prompt)}, clean)

    def predict(
        self, pipeline: Any, denoiser: str, noisy: torch.Tensor, sigma: torch.Tensor, clip: TrainingClip
    ) -> torch.Tensor:
        """As a step of the pipeline calls it: a timestep for each latent frame, 0 for the image's."""
        assert clip.clean is not None
        model = getattr(pipeline, denoiser)
        steps = sigma * pipeline.scheduler.config.num_train_timesteps
        prediction: torch.Tensor = model(
            hidden_states=noisy.to(model.dtype),
            timestep=(1 - clip.clean)[:, 0, :, 0, 0] * steps,
            encoder_hidden_states=clip.conditions["text"],
            enable_diffusion_forcing=True,
            fps=[1],
            return_dict=False,
        )[0]
        return prediction


FAMILIES = (SkyReels(), SkyReelsForcing())
