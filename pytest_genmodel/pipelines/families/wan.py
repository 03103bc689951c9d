"""Wan image-to-video: 2.1 (CLIP image tokens), 2.2 A14B (two experts), 2.2 TI2V-5B (a timestep for each token)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families.base import (
    Contradiction,
    Family,
    Geometry,
    Grid,
    ImageLatents,
    TrainingClip,
)
from pytest_genmodel.pipelines.families.pictures import picture

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pytest_genmodel.pipelines.probe import Probe

TEXT_TOKENS = 512
"""The transformer takes what lies behind so many tokens for those of the image, whatever the text's length."""
LATENT_CHANNELS, TEMPORAL, SPATIAL = 16, 4, 8
"""What the autoencoder's class has by default: channels, frames a latent frame, pixels a latent pixel."""
EDITED_FRAMES = 5
"""Of an edit with ChronoEdit, whatever number is asked for."""


class Wan(Family):
    """Wan: a mask and the image's latent beside the noise, or the image's latent in place of frame 0."""

    name = "wan"
    title = "Wan"
    pipeline_classes: tuple[str, ...] = ("WanImageToVideoPipeline",)
    experts: tuple[str, ...] = ("transformer_2",)
    guidance = 5.0
    masks_padding = ("text_encoder",)
    zeros_for_padding = True
    image_enters = (
        "as a latent with a mask beside the noise and, in 2.1, as CLIP tokens; with expand_timesteps (2.2 5B) as "
        "latent frame 0, whose timestep is 0"
    )

    def needed(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """The image encoder where the transformer takes its tokens, the second expert where it has steps."""
        found = [self.denoiser]
        if self._config(checkpoint).get("image_dim") is not None:
            found += ["image_encoder", "image_processor"]
        if checkpoint.pipeline_arguments.get("boundary_ratio") is not None:
            found += self.experts
        return tuple(found)

    def contradictions(self, checkpoint: Checkpoint) -> Iterator[Contradiction]:
        """An expert that is never called, and channels that do not add up."""
        ratio = checkpoint.pipeline_arguments.get("boundary_ratio")
        if ratio is None and "transformer_2" in checkpoint.components:
            yield Contradiction(
                "no boundary_ratio is stored, so that the transformer takes every step and transformer_2 is never "
                "called",
                "model_index.json:boundary_ratio",
                cause="the pipeline was assembled without it; the published models have 0.9 (image-to-video)",
            )
        elif isinstance(ratio, (int, float)) and not 0 < ratio < 1:
            idle = "transformer" if ratio >= 1 else "transformer_2"
            yield Contradiction(
                f"boundary_ratio is {ratio}, so that the {idle} is called in no step",
                "model_index.json:boundary_ratio",
                cause="a timestep was stored instead of its share of the schedule" if ratio > 1 else None,
            )
        yield from self._channels(checkpoint)

    def _channels(self, checkpoint: Checkpoint) -> Iterator[Contradiction]:
        """With the image in place of frame 0 the transformer takes the latent; else twice that, and a mask."""
        vae, transformer = self.stored_configs(checkpoint, "vae", self.denoiser)
        if not vae or not transformer:
            return
        latent = int(vae.get("z_dim", LATENT_CHANNELS))
        taken = int(transformer.get("in_channels", LATENT_CHANNELS))
        beside = 2 * latent + self._compression(vae)[1]
        expanded = bool(checkpoint.pipeline_arguments.get("expand_timesteps"))
        if taken == (latent if expanded else beside):
            return
        if taken == (beside if expanded else latent):
            yield Contradiction(
                f"expand_timesteps is {expanded}, and the transformer takes {taken} channels: that of a model with "
                f"expand_timesteps {not expanded} (the autoencoder's latent has {latent})",
                "model_index.json:expand_timesteps",
                cause="the pipeline's own arguments were lost, or are those of another model of the family",
            )
        else:
            yield Contradiction(
                f"the autoencoder's latent has {latent} channels, and the transformer takes {taken}, not "
                f"{latent if expanded else beside}",
                "config.json:z_dim",
                component="vae",
                cause="the autoencoder or the transformer is that of another model of the family",
            )

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The configuration says no size: those of the published models."""
        if checkpoint.pipeline_arguments.get("expand_timesteps"):
            return Geometry(height=704, width=1280, frames=121)
        return Geometry(height=480, width=832, frames=81)

    def grid(self, checkpoint: Checkpoint) -> Grid:
        """Whole patches of latents, and 16 pixels, which the call asks for; frames as the autoencoder takes them."""
        vae = checkpoint.components["vae"].config
        patch = tuple(self._config(checkpoint).get("patch_size", (1, 2, 2)))
        spatial, temporal = self._compression(vae)
        return Grid(math.lcm(16, spatial * int(patch[1])), temporal)

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """A model for first and last frame has positions for two images: the second is the first, mirrored."""
        if self._config(checkpoint).get("pos_embed_seq_len") is None:
            return {}
        return {"last_image": _mirrored(probe.picture())}

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """The encoded clip (image, then grey) behind noise and mask; with expand_timesteps in place of frame 0."""
        if checkpoint.pipeline_arguments.get("expand_timesteps"):
            return ImageLatents.first(frames, beside=False)
        return ImageLatents(tuple(range(frames)), beside=True)

    def encode(self, pipeline: Any, clip: torch.Tensor, prompt: str) -> TrainingClip:
        """The clip's normalised latents, and the image's condition as the pipeline itself prepares it."""
        import torch

        transformer = pipeline.transformer
        latents = encoded_video(pipeline.vae, clip)
        first = picture(clip[0])
        two = transformer.config.pos_embed_seq_len is not None  # positions for two images
        last = {"last_image": to_model(clip[-1:], latents)} if two else {}
        prepared = pipeline.prepare_latents(
            to_model(clip[:1], latents),
            1,
            latents.shape[1],
            clip.shape[2],
            clip.shape[3],
            clip.shape[0],
            latents.dtype,
            latents.device,
            latents=latents,
            **last,
        )
        conditions: dict[str, Any] = {"text": encoded_prompt(pipeline, prompt), "image": None}
        if transformer.config.image_dim is not None:
            pictures = [first, picture(clip[-1])] if two else first
            conditions["image"] = pipeline.encode_image(pictures, latents.device).to(transformer.dtype)
        if len(prepared) == 3:  # expand_timesteps: the mask is 0 where the image is
            _, kept, mask = prepared
            clean = 1 - mask
            return TrainingClip(torch.where(clean.bool(), kept, latents), conditions, clean)
        return TrainingClip(latents, {**conditions, "beside": prepared[1]})

    def predict(
        self, pipeline: Any, denoiser: str, noisy: torch.Tensor, sigma: torch.Tensor, clip: TrainingClip
    ) -> torch.Tensor:
        """As a step of the pipeline calls it."""
        import torch

        model = getattr(pipeline, denoiser)
        timestep = sigma * pipeline.scheduler.config.num_train_timesteps
        if clip.clean is not None:
            _, high, wide = model.config.patch_size
            timestep = ((1 - clip.clean)[0, 0, :, ::high, ::wide] * timestep).reshape(1, -1)
        beside = clip.conditions.get("beside")
        taken = noisy if beside is None else torch.cat([noisy, beside], dim=1)
        prediction: torch.Tensor = model(
            hidden_states=taken.to(model.dtype),
            timestep=timestep,
            encoder_hidden_states=clip.conditions["text"],
            encoder_hidden_states_image=clip.conditions["image"],
            return_dict=False,
        )[0]
        return prediction

    def noise_levels(self, pipeline: Any, denoiser: str) -> tuple[float, float]:
        """Each expert's own side of the boundary."""
        boundary = getattr(pipeline.config, "boundary_ratio", None)
        if boundary is None:
            return 0.0, 1.0
        return (boundary, 1.0) if denoiser == self.denoiser else (0.0, boundary)

    def _compression(self, vae: Mapping[str, Any]) -> tuple[int, int]:
        """Pixels a latent pixel and frames a latent frame, as the pipeline takes them from this configuration."""
        return int(vae.get("scale_factor_spatial", SPATIAL)), int(vae.get("scale_factor_temporal", TEMPORAL))

    def _config(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        return self.stored_configs(checkpoint, self.denoiser)[0]


def encoded_video(vae: Any, clip: torch.Tensor) -> torch.Tensor:
    """Encode (frames, 3, height, width) in [0, 1] as normalised latents (1, channels, frames, height, width)."""
    import torch

    video = (clip * 2 - 1).to(vae.device, vae.dtype).permute(1, 0, 2, 3).unsqueeze(0)
    latents: torch.Tensor = vae.encode(video).latent_dist.mode().float()
    mean, std = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents - mean) / std


def encoded_prompt(pipeline: Any, prompt: str) -> torch.Tensor:
    """The text's states, in the transformer's dtype and of the length that it takes for text."""
    transformer = pipeline.transformer
    states, _ = pipeline.encode_prompt(
        prompt,
        do_classifier_free_guidance=False,
        max_sequence_length=TEXT_TOKENS,
        device=transformer.device,
    )
    found: torch.Tensor = states.to(transformer.dtype)
    return found


def to_model(picture: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bring pixels from [0, 1] to [-1, 1], where `like` is."""
    return (picture * 2 - 1).to(like)


def _mirrored(picture: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.mirror(picture)


class ChronoEdit(Wan):
    """ChronoEdit: Wan 2.1 that edits an image as a clip of five frames."""

    name = "chronoedit"
    title = "ChronoEdit"
    pipeline_classes = ("ChronoEditPipeline",)
    experts = ()
    image_enters = "as a latent with a mask beside the noise, and as CLIP tokens"

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The published size; five frames, as the call makes no others unless it is asked to reason in time."""
        return Geometry(height=480, width=832, frames=EDITED_FRAMES)

    def check_size(self, checkpoint: Checkpoint, *, height: int, width: int, frames: int) -> None:
        """As `grid` has it, and five frames."""
        super().check_size(checkpoint, height=height, width=width, frames=frames)
        if frames != EDITED_FRAMES:
            raise BadInputError(f"{frames} frames cannot be made: ChronoEdit makes {EDITED_FRAMES} frames")


FAMILIES = (Wan(), ChronoEdit())
