"""Sana-Video image-to-video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.pipelines.families.base import Family, Geometry, Grid, ImageLatents, TrainingClip
from pytest_genmodel.pipelines.families.call import call_parameters

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe


class SanaVideo(Family):
    """Sana-Video I2V: the first latent frame is the image's, and each token has its timestep."""

    name = "sana-video"
    title = "Sana-Video"
    pipeline_classes = ("SanaImageToVideoPipeline",)
    guidance = 6.0
    masks_padding = ("text_encoder", "transformer")
    prompt_tail = 16  # the sentence about motion that the pipeline adds
    image_enters = "as the first latent frame, whose tokens have timestep 0"

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The defaults of the call."""
        return Geometry(height=480, width=832, frames=81)

    def grid(self, checkpoint: Checkpoint) -> Grid:
        """Multiples of 32 pixels; frames as the autoencoder compresses them."""
        vae = checkpoint.components["vae"].config
        return Grid(
            pixels=32, frames=vae.get("scale_factor_temporal") or vae.get("temporal_compression_ratio") or 4
        )

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """The size that is asked for, not the nearest of the trained ones made and cut to it."""
        return {"use_resolution_binning": False}

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """In place of the noise of frame 0."""
        return ImageLatents.first(frames, beside=False)

    def encode(self, pipeline: Any, clip: torch.Tensor, prompt: str) -> TrainingClip:
        """Latents normalised as the pipeline does for the autoencoder it has; the first frame stays clean."""
        import torch

        vae = pipeline.vae
        video = (clip * 2 - 1).to(vae.device, vae.dtype).permute(1, 0, 2, 3).unsqueeze(0)
        coded = vae.encode(video)
        latents = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latent
        held: Mapping[str, Any] = {**vae.config, **dict(vae.named_buffers())}
        if held.get("latents_mean") is not None:
            mean, std = (
                torch.as_tensor(held[name], device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1, 1)
                for name in ("latents_mean", "latents_std")
            )
            latents = (latents - mean) / std
        clean = torch.zeros_like(latents[:, :1])
        clean[:, :, 0] = 1.0
        instruction = call_parameters(type(pipeline))["complex_human_instruction"].default
        embeddings, mask, _, _ = pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, complex_human_instruction=instruction
        )
        return TrainingClip(latents, {"embeddings": embeddings, "mask": mask}, clean)

    def predict(
        self, pipeline: Any, denoiser: str, noisy: torch.Tensor, sigma: torch.Tensor, clip: TrainingClip
    ) -> torch.Tensor:
        """One timestep a token: 0 for the image's own."""
        assert clip.clean is not None
        along, down, across = pipeline.transformer.config.patch_size
        tokens = clip.clean[:, :, ::along, ::down, ::across]
        result: torch.Tensor = pipeline.transformer(
            noisy,
            encoder_hidden_states=clip.conditions["embeddings"],
            encoder_attention_mask=clip.conditions["mask"],
            timestep=sigma * 1000 * (1 - tokens),
            return_dict=False,
        )[0]
        return result


FAMILIES = (SanaVideo(),)
