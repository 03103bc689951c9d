"""FramePack: HunyuanVideo that makes a clip in sections, each after what came before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.pipelines.families.base import Geometry, ImageLatents, TrainingClip
from pytest_genmodel.pipelines.families.hunyuan import (
    HunyuanVideo,
    encoded,
    live_text_length,
    text_length,
)

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe

WINDOW = 9
"""Latent frames of a section of the released models."""
HISTORY = (1, 2, 16)
"""Latent frames of what was made before: as they are, in pairs, in fours."""


class FramePack(HunyuanVideo):
    """FramePack I2V: the image's latent and a history as clean tokens beside the noise, SigLIP's in the text."""

    name = "hunyuan-framepack"
    title = "FramePack"
    prompt_tail = 2
    pipeline_classes = ("HunyuanVideoFramepackPipeline",)
    image_enters = "as a latent among the clean tokens beside the noise, and as SigLIP's tokens in the text"

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The defaults of the call."""
        return Geometry(height=720, width=1280, frames=129)

    def frames_made(self, checkpoint: Checkpoint, probe: Probe) -> int | None:
        """Whole sections, each of so many frames as its window has: no rule in what is asked for."""
        return None

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """The first of the clean frames; nothing was made before the first section."""
        return ImageLatents.first(frames, beside=True, argument="latents_clean")

    def told(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, tuple[float, ...]]:
        """Guidance times 1,000."""
        return {"guidance": (1000.0 * probe.guidance,)}

    def image_stands(self, checkpoint: Checkpoint) -> str:
        """Among the clean tokens, and no frame is dropped."""
        return "clean tokens"

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """A section no longer than the clip: the pipeline makes whole ones, of 33 frames by default."""
        unit = checkpoint.components["vae"].config.get("temporal_compression_ratio", 4)
        return {
            "latent_window_size": min(WINDOW, (probe.frames - 1) // unit + 1),
            "max_sequence_length": text_length(checkpoint),
        }

    def encode(self, pipeline: Any, clip: torch.Tensor, prompt: str) -> TrainingClip:
        """The latents of one section; what was made before it, and comes after it, stands still at its last frame."""
        latents = encoded(pipeline.vae, clip)
        text = pipeline.encode_prompt(prompt=prompt, max_sequence_length=live_text_length(pipeline))
        image = (clip[:1] * 2 - 1).to(pipeline.vae.device)
        conditions = {
            "text": text,
            "image": encoded(pipeline.vae, clip[:1]),
            "past": latents[:, :, -1:].expand(-1, -1, sum(HISTORY), -1, -1),
            "embeddings": pipeline.encode_image(image, device=latents.device).to(latents.dtype),
        }
        return TrainingClip(latents, conditions)

    def predict(
        self, pipeline: Any, denoiser: str, noisy: torch.Tensor, sigma: torch.Tensor, clip: TrainingClip
    ) -> torch.Tensor:
        """The image first, then the section, then what was made before, in the order of their indices."""
        import torch

        held = clip.conditions
        embeddings, pooled, mask = held["text"]
        near, pairs, fours = held["past"].split(HISTORY, dim=2)
        sizes = [1, noisy.shape[2], *HISTORY]
        first, own, at_near, at_pairs, at_fours = torch.split(torch.arange(sum(sizes)), sizes)
        result: torch.Tensor = pipeline.transformer(
            hidden_states=noisy,
            timestep=sigma * 1000,
            encoder_hidden_states=embeddings,
            encoder_attention_mask=mask.to(embeddings.dtype),
            pooled_projections=pooled,
            image_embeds=held["embeddings"],
            guidance=noisy.new_full((1,), 1000.0),
            indices_latents=own,
            latents_clean=torch.cat([held["image"], near], dim=2),
            indices_latents_clean=torch.cat([first, at_near]),
            latents_history_2x=pairs,
            indices_latents_history_2x=at_pairs,
            latents_history_4x=fours,
            indices_latents_history_4x=at_fours,
            return_dict=False,
        )[0]
        return result


FAMILIES = (FramePack(),)
