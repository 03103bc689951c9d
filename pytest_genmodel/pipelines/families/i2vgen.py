"""I2VGen-XL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.pipelines.families.base import Family, Geometry, Grid, ImageLatents
from pytest_genmodel.pipelines.families.dropout import dropout_from
from pytest_genmodel.pipelines.families.noising import training_scheduler

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe

FPS = 16
"""The call's default, an input of the model."""


class I2VGenXL(Family):
    """I2VGen-XL: the image as CLIP's embedding in the text, and as latents that are an input of their own.

    Its pipeline has no callback, and draws the image's latents from torch's global random state.
    """

    name = "i2vgen-xl"
    title = "I2VGen-XL"
    pipeline_classes = ("I2VGenXLPipeline",)
    denoiser = "unet"
    guidance = 9.0
    masks_padding = ()
    lora_targets = ()  # diffusers has neither a loader of LoRA for this pipeline nor `add_adapter` on its UNet
    image_enters = "as latents that are an input of their own, and as CLIP's embedding in the text"
    draws_globally = True
    soft_config = frozenset({"sample_size"})

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The defaults of the call."""
        return Geometry(height=704, width=1280, frames=16)

    def grid(self, checkpoint: Checkpoint) -> Grid:
        """Multiples of 8 pixels; any number of frames."""
        return Grid(pixels=8)

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """Nothing; with transformers 5, the last layer of the text encoder.

        To leave that out, the call's default, the pipeline asks the encoder for a part (`text_model`) that it no
        longer has, and raises.
        """
        import transformers

        return {"clip_skip": None} if int(transformers.__version__.partition(".")[0]) >= 5 else {}

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """In frame 0 of an input of their own."""
        return ImageLatents.first(frames, beside=True, argument="image_latents")

    def told(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, tuple[float, ...]]:
        """Frames a second."""
        return {"fps": (float(FPS),)}

    def training_scheduler(self, pipeline: Any) -> Any:
        """The pipeline's own where it serves."""
        return training_scheduler(pipeline.scheduler, "DDIMScheduler")

    def training_loss(
        self, pipeline: Any, clip: torch.Tensor, prompt: str, generator: torch.Generator
    ) -> torch.Tensor:
        """The mean squared error of what the scheduler says is predicted, at a timestep drawn at random."""
        import torch
        from diffusers.utils.torch_utils import randn_tensor

        unet, vae, scheduler = pipeline.unet, pipeline.vae, self.training_scheduler(pipeline)
        video = (clip * 2 - 1).to(vae.device, vae.dtype)
        with torch.no_grad():
            latents = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor
            latents = latents.permute(1, 0, 2, 3).unsqueeze(0)
            pipeline._guidance_scale = 1.0
            text, _ = pipeline.encode_prompt(prompt, vae.device, 1)
            side = pipeline.feature_extractor.crop_size
            first = torch.nn.functional.interpolate(
                clip[:1].to(vae.device), (side["height"], side["width"]), mode="bilinear"
            )
            pixels = pipeline.feature_extractor(
                images=first, do_resize=False, do_center_crop=False, do_rescale=False, return_tensors="pt"
            ).pixel_values.to(vae.device, vae.dtype)
            embedding = pipeline.image_encoder(pixels).image_embeds.unsqueeze(1)
        image = torch.cat([latents[:, :, :1], _positions(latents)], dim=2)
        timestep = torch.randint(0, scheduler.config.num_train_timesteps, (1,), generator=generator)
        timestep = timestep.to(latents.device)
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        noisy = scheduler.add_noise(latents, noise, timestep)
        with dropout_from(generator):  # the UNet's convolutions along time drop out while they are trained
            prediction = unet(
                noisy,
                timestep,
                fps=latents.new_tensor([FPS]),
                image_latents=image,
                image_embeddings=embedding,
                encoder_hidden_states=text,
                return_dict=False,
            )[0]
        is_velocity = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(latents, noise, timestep) if is_velocity else noise
        loss: torch.Tensor = ((prediction - target).float() ** 2).mean()
        return loss


def _positions(latents: torch.Tensor) -> torch.Tensor:
    """What stands for the other frames where the first has the image's latent: how far along each of them is."""
    import torch

    count = latents.shape[2] - 1
    along = torch.arange(1, count + 1, device=latents.device, dtype=latents.dtype) / max(1, count)
    return along.view(1, 1, -1, 1, 1).expand(-1, latents.shape[1], -1, *latents.shape[3:])


FAMILIES = (I2VGenXL(),)
