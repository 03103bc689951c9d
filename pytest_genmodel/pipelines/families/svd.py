"""Stable Video Diffusion: an image and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families.base import Family, Geometry, Grid, ImageLatents
from pytest_genmodel.pipelines.families.pictures import picture

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe

FPS, MOTION, AUGMENTATION = 7, 127, 0.02
"""The call's defaults: frames a second, motion bucket, strength of the noise on the image."""
MEAN, DEVIATION = 0.7, 1.6
"""Of the logarithm of the noise levels that the trainers of the public model draw."""


class StableVideoDiffusion(Family):
    """Stable Video Diffusion: the image's latent beside the noise of every frame, CLIP's embedding as the context."""

    name = "stable-video-diffusion"
    title = "Stable Video Diffusion"
    pipeline_classes = ("StableVideoDiffusionPipeline",)
    denoiser = "unet"
    guidance = 3.0
    masks_padding = ()  # there is no prompt
    lora_targets = ()  # diffusers has neither a loader of LoRA for this pipeline nor `add_adapter` on its UNet
    image_enters = "as a latent beside the noise of every frame, and as CLIP's embedding, the only context"
    latent_axes = ("batch", "frame", "channel", "height", "width")
    # AutoencoderKLTemporalDecoder never calls its attention; over one image token a softmax is 1, whoever asks.
    unread = (
        "vae.decoder.mid_block.attentions.0.*",
        "unet.*.attn2.to_q.weight",
        "unet.*.attn2.to_k.weight",
        "unet.*.transformer_blocks.*.norm2.*",
        "unet.*.temporal_transformer_blocks.*.norm2.*",
    )
    soft_config = frozenset({"sample_size", "num_frames"})

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The call's size, and the frames of the UNet's configuration (14 or 25)."""
        frames = checkpoint.components[self.denoiser].config.get("num_frames", 25)
        return Geometry(height=576, width=1024, frames=frames)

    def grid(self, checkpoint: Checkpoint) -> Grid:
        """Sizes that the autoencoder and the UNet can halve as often as they do."""
        halvings = sum(
            len(checkpoint.components[name].config.get("block_out_channels", blocks)) - 1
            for name, blocks in (("vae", (64,)), (self.denoiser, (320, 640, 1280, 1280)))
        )
        return Grid(pixels=int(2**halvings))

    def check_size(self, checkpoint: Checkpoint, *, height: int, width: int, frames: int) -> None:
        """As `grid` has it, and two frames at least: the UNet mixes along time."""
        super().check_size(checkpoint, height=height, width=width, frames=frames)
        if frames < 2:
            raise BadInputError(f"{frames} frame cannot be made: {self.title} makes 2 or more")

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """Guidance rises from 1 in the first frame to the probe's in the last."""
        return {"max_guidance_scale": probe.guidance}

    def strengths(self, probe: Probe, frames: int) -> tuple[float, ...]:
        """From 1 in the first frame to the probe's in the last, in equal steps."""
        steps = max(1, frames - 1)
        return tuple(1 + (probe.guidance - 1) * frame / steps for frame in range(frames))

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """Beside the noise of every frame, as the autoencoder gives them."""
        return ImageLatents((0,) * frames, beside=True, argument="sample", power=0)

    def told(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, tuple[float, ...]]:
        """Frames a second (the model was trained with one less), motion, and the noise on the image."""
        return {"added_time_ids": (FPS - 1.0, float(MOTION), AUGMENTATION)}

    def training_loss(
        self, pipeline: Any, clip: torch.Tensor, prompt: str, generator: torch.Generator
    ) -> torch.Tensor:
        """The objective of EDM, as the public trainers of this model have it; the caption is not used.

        The noise level is log-normal; the network's output is turned into clean latents with c_out and c_skip, and
        the error weighed by (1 + sigma^2) / sigma^2.
        """
        import torch
        from diffusers.utils.torch_utils import randn_tensor

        unet, vae = pipeline.unet, pipeline.vae
        video = (clip * 2 - 1).to(vae.device, vae.dtype)

        def noise_like(tensor: torch.Tensor) -> torch.Tensor:
            noise: torch.Tensor = randn_tensor(
                tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype
            )
            return noise

        with torch.no_grad():
            latents = vae.encode(video).latent_dist.mode().unsqueeze(0) * vae.config.scaling_factor
            first = video[:1]
            image = vae.encode(first + AUGMENTATION * noise_like(first)).latent_dist.mode()
            image = image.unsqueeze(1).expand(-1, len(clip), -1, -1, -1)
            context = pipeline._encode_image(picture(clip[0]), vae.device, 1, False)
        sigma = (MEAN + DEVIATION * torch.randn((1,), generator=generator)).exp().to(latents)
        noisy = latents + sigma * noise_like(latents)
        prediction = unet(
            torch.cat([noisy / (sigma**2 + 1).sqrt(), image], dim=2),
            0.25 * sigma.log(),
            encoder_hidden_states=context,
            added_time_ids=latents.new_tensor([[FPS - 1, MOTION, AUGMENTATION]]),
            return_dict=False,
        )[0]
        denoised = noisy / (sigma**2 + 1) - prediction * sigma / (sigma**2 + 1).sqrt()
        weight = (1 + sigma**2) / sigma**2
        loss: torch.Tensor = (weight * (denoised - latents) ** 2).float().mean()
        return loss


FAMILIES = (StableVideoDiffusion(),)
