"""LTX-Video: image-to-video, and conditions at any frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.pipelines.families.base import Family, Geometry, Grid, ImageLatents, TrainingClip

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe

FRAME_RATE = 25
"""The call's default, in frames a second; positions along time are in seconds."""


class LTX(Family):
    """LTX-Video image-to-video: the first latent frame is the image's and has timestep 0; latents are packed."""

    name = "ltx"
    title = "LTX-Video"
    pipeline_classes: tuple[str, ...] = ("LTXImageToVideoPipeline",)
    guidance = 3.0
    masks_padding: tuple[str, ...] | None = ("transformer",)  # its T5 is given no mask
    image_enters = "as the first latent frame, whose tokens have timestep 0"
    latent_axes = ("batch", "token", "channel")
    unread = ("vae.latents_mean", "vae.latents_std")  # the pipeline reads them

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The defaults of the call: no configuration says a size."""
        return Geometry(height=512, width=704, frames=161)

    def grid(self, checkpoint: Checkpoint) -> Grid:
        """Multiples of 32 pixels, whatever the autoencoder; frames as it compresses them."""
        config = checkpoint.components["vae"].config
        stages = sum(config.get("spatio_temporal_scaling", (True, True, True, False)))
        along_time = config.get("patch_size_t", 1) * 2**stages
        return Grid(pixels=32, frames=config.get("temporal_compression_ratio") or along_time)

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """In place of the noise of frame 0."""
        return ImageLatents.first(frames, beside=False)

    def told(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, tuple[float, ...]]:
        """How many seconds a latent frame stands for, counted from the frames that one holds."""
        return {"rope_interpolation_scale[0]": (self.grid(checkpoint).frames / FRAME_RATE,)}

    def encode(self, pipeline: Any, clip: torch.Tensor, prompt: str) -> TrainingClip:
        """Latents normalised by the autoencoder's own statistics and packed; the first frame's tokens stay clean."""
        import torch

        vae, transformer = pipeline.vae, pipeline.transformer
        video = (clip * 2 - 1).to(vae.device, vae.dtype).permute(1, 0, 2, 3).unsqueeze(0)
        latents = vae.encode(video).latent_dist.mode()
        latents = pipeline._normalize_latents(latents, vae.latents_mean, vae.latents_std)
        clean = torch.zeros_like(latents[:, :1])
        clean[:, :, 0] = 1.0
        patches = (transformer.config.patch_size, transformer.config.patch_size_t)
        embeddings, mask, _, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        shape = dict(zip(("num_frames", "height", "width"), latents.shape[2:], strict=True))
        return TrainingClip(
            latents=pipeline._pack_latents(latents, *patches),
            clean=pipeline._pack_latents(clean, *patches)[..., :1],
            conditions={"embeddings": embeddings, "mask": mask, "shape": shape},
        )

    def predict(
        self, pipeline: Any, denoiser: str, noisy: torch.Tensor, sigma: torch.Tensor, clip: TrainingClip
    ) -> torch.Tensor:
        """One timestep a token: 0 for the image's own."""
        assert clip.clean is not None
        result: torch.Tensor = pipeline.transformer(
            hidden_states=noisy,
            encoder_hidden_states=clip.conditions["embeddings"],
            encoder_attention_mask=clip.conditions["mask"],
            timestep=(sigma * 1000)[:, None] * (1 - clip.clean.squeeze(-1)),
            return_dict=False,
            **self.positions(pipeline, clip.conditions["shape"]),
        )[0]
        return result

    def positions(self, pipeline: Any, shape: Mapping[str, int]) -> dict[str, Any]:
        """The arguments that tell the transformer where its tokens are; `shape` counts the latents."""
        spatial = pipeline.vae_spatial_compression_ratio
        scale = (pipeline.vae_temporal_compression_ratio / FRAME_RATE, spatial, spatial)
        return {"rope_interpolation_scale": scale, **shape}


class LTXCondition(LTX):
    """LTX-Video with conditions: the image as a condition at frame 0, one list of coordinates for all tokens."""

    name = "ltx-condition"
    title = "LTX-Video with conditions"
    pipeline_classes = ("LTXConditionPipeline",)
    masks_padding = ("text_encoder", "transformer")

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """The image is the condition at frame 0, as the call's default has it."""
        return {"frame_index": 0, "strength": 1.0}

    def told(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, tuple[float, ...]]:
        """Positions are told as coordinates."""
        return {}

    def positions(self, pipeline: Any, shape: Mapping[str, int]) -> dict[str, Any]:
        """Coordinates of every token in pixels and seconds."""
        transformer = pipeline.transformer
        patches = {
            "patch_size": transformer.config.patch_size,
            "patch_size_t": transformer.config.patch_size_t,
        }
        ids = pipeline._prepare_video_ids(
            1, shape["num_frames"], shape["height"], shape["width"], device=transformer.device, **patches
        )
        coordinates = pipeline._scale_video_ids(
            ids,
            scale_factor=pipeline.vae_spatial_compression_ratio,
            scale_factor_t=pipeline.vae_temporal_compression_ratio,
            frame_index=0,
            device=transformer.device,
        ).float()
        coordinates[:, 0] /= FRAME_RATE
        return {"video_coords": coordinates}


FAMILIES = (LTX(), LTXCondition())
