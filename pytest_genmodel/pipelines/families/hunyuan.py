"""HunyuanVideo image-to-video, and SkyReels V1, which is built on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families.base import Family, Geometry, Grid, ImageLatents, TrainingClip
from pytest_genmodel.pipelines.families.pictures import picture

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe

TEXT_LENGTH = 256
"""Tokens of the prompt, as the call's default has it."""
DROPPED = 4
"""Frames that the pipeline leaves out at the beginning where the image stands beside the noise."""
TEMPLATES = {
    "HunyuanVideoImageToVideoPipeline": 103,
    "HunyuanSkyreelsImageToVideoPipeline": 95,
    "HunyuanVideoFramepackPipeline": 95,
}
"""Tokens of each pipeline's template before the prompt; they are cut off after the language model."""
IMAGE_STARTS = 5


class HunyuanVideo(Family):
    """HunyuanVideo I2V: LLaVA reads image and prompt; the image's latent stands beside the noise, or is frame 0."""

    name = "hunyuan-video"
    title = "HunyuanVideo"
    pipeline_classes: tuple[str, ...] = ("HunyuanVideoImageToVideoPipeline",)
    guidance = 6.0
    masks_padding = ("text_encoder", "transformer")
    prompt_tail = 8  # the answer's header of LLaVA's template: five tokens, and what is cut off around it
    unread = (  # LLaVA takes the states before CLIP's last layer, the 24th, and its norm
        "text_encoder.*vision_tower.*post_layernorm.*",
        "text_encoder.*vision_tower.*layers.23.*",
    )
    image_enters = (
        "as tokens of LLaVA in the text, and as a latent: beside the noise with a mask (latent_concat), or in place "
        "of the first frame (token_replace)"
    )

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The defaults of the call: no configuration says a size."""
        return Geometry(height=720, width=1280, frames=129)

    def grid(self, checkpoint: Checkpoint) -> Grid:
        """Multiples of 16 pixels; frames as the autoencoder compresses them."""
        return Grid(
            pixels=16, frames=checkpoint.components["vae"].config.get("temporal_compression_ratio", 4)
        )

    def check_size(self, checkpoint: Checkpoint, *, height: int, width: int, frames: int) -> None:
        """As `grid` has it, and enough frames to be left with one."""
        super().check_size(checkpoint, height=height, width=width, frames=frames)
        if self.image_stands(checkpoint) == "latent_concat" and frames <= DROPPED:
            raise BadInputError(
                f"{frames} frames cannot be made: the pipeline drops the first {DROPPED} (the least is {DROPPED + 1})"
            )

    def frames_made(self, checkpoint: Checkpoint, probe: Probe) -> int | None:
        """What was asked for, without the frames that are dropped at the beginning."""
        dropped = DROPPED if self.image_stands(checkpoint) == "latent_concat" else 0
        return probe.frames - dropped

    def told(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, tuple[float, ...]]:
        """Guidance times 1,000, where the model has it as an input."""
        if not checkpoint.components[self.denoiser].config.get("guidance_embeds", False):
            return {}
        scale = self.own_arguments(checkpoint, probe).get("guidance_scale", probe.guidance)
        return {"guidance": (1000.0 * scale,)}

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """Beside the noise of frame 0, before a mask of one channel, or in place of it."""
        if self.image_stands(checkpoint) == "token_replace":
            return ImageLatents.first(frames, beside=False)
        return ImageLatents.first(frames, beside=True, behind=1)

    def image_stands(self, checkpoint: Checkpoint) -> str:
        """Where the image's latent is: `latent_concat` or `token_replace`."""
        return str(checkpoint.components[self.denoiser].config.get("image_condition_type"))

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """Guidance is an input of the model where it was distilled; the template counts the image's own tokens.

        A model without that input is sampled without guidance, as its card does.
        """
        distilled = checkpoint.components[self.denoiser].config.get("guidance_embeds", True)
        return {
            "guidance_scale": probe.guidance if distilled else 1.0,
            "max_sequence_length": text_length(checkpoint),
            "prompt_template": template(
                checkpoint.components["text_encoder"].config.get("image_seq_length", 576)
            ),
        }

    def without_effect(self, checkpoint: Checkpoint) -> frozenset[str]:
        """There is no unconditional call at the default `true_cfg_scale`; guidance is an input, or none."""
        distilled = checkpoint.components[self.denoiser].config.get("guidance_embeds", True)
        return frozenset({"negative_prompt"} if distilled else {"negative_prompt", "guidance_scale"})

    def encode(self, pipeline: Any, clip: torch.Tensor, prompt: str) -> TrainingClip:
        """Latents with the image's: zeros after its frame and a mask beside them, or the first frame kept clean."""
        import torch

        latents = encoded(pipeline.vae, clip)
        image = encoded(pipeline.vae, clip[:1])
        replaces = pipeline.transformer.config.image_condition_type == "token_replace"
        text = pipeline.encode_prompt(
            image=picture(clip[0]),
            prompt=prompt,
            prompt_template=template(pipeline.text_encoder.config.image_seq_length),
            max_sequence_length=live_text_length(pipeline),
            image_embed_interleave=4 if replaces else 2,
        )
        conditions: dict[str, Any] = {"text": text}
        if replaces:
            clean = torch.zeros_like(latents[:, :1])
            clean[:, :, 0] = 1.0
            return TrainingClip(latents, conditions, clean)
        mask = torch.zeros_like(latents[:, :1])
        mask[:, :, 0] = 1.0
        conditions["beside"] = torch.cat([first_only(image, latents), mask], dim=1)
        return TrainingClip(latents, conditions)

    def predict(
        self, pipeline: Any, denoiser: str, noisy: torch.Tensor, sigma: torch.Tensor, clip: TrainingClip
    ) -> torch.Tensor:
        """Text embeddings, their mask and the pooled ones; guidance as an input where the model has it."""
        import torch

        transformer = pipeline.transformer
        beside = clip.conditions.get("beside")
        embeddings, pooled, mask = clip.conditions["text"]
        guided = transformer.config.guidance_embeds
        result: torch.Tensor = transformer(
            hidden_states=noisy if beside is None else torch.cat([noisy, beside], dim=1),
            timestep=sigma * 1000,
            encoder_hidden_states=embeddings,
            encoder_attention_mask=mask.to(embeddings.dtype),
            pooled_projections=pooled,
            guidance=noisy.new_full((1,), 1000.0) if guided else None,
            return_dict=False,
        )[0]
        return result


class Skyreels(HunyuanVideo):
    """SkyReels V1: the image's latent beside the noise, text alone for the language model."""

    name = "hunyuan-skyreels"
    title = "SkyReels V1"
    prompt_tail = 2
    pipeline_classes = ("HunyuanSkyreelsImageToVideoPipeline",)
    image_enters = "as a latent beside the noise, zeros after frame 0"

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The size of the model's card."""
        return Geometry(height=544, width=960, frames=97)

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """Beside the noise of frame 0."""
        return ImageLatents.first(frames, beside=True)

    def image_stands(self, checkpoint: Checkpoint) -> str:
        """Beside the noise, and no frame is dropped."""
        return "beside the noise"

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """Guidance by a second, unconditional call; the distilled one is an input that stays at 1."""
        return {
            "guidance_scale": 1.0,
            "true_cfg_scale": probe.guidance,
            "max_sequence_length": text_length(checkpoint),
        }

    def without_effect(self, checkpoint: Checkpoint) -> frozenset[str]:
        """Every input counts: guidance is by an unconditional call."""
        return frozenset()

    def encode(self, pipeline: Any, clip: torch.Tensor, prompt: str) -> TrainingClip:
        """Latents, and the image's with zeros after its frame."""
        latents = encoded(pipeline.vae, clip)
        text = pipeline.encode_prompt(prompt=prompt, max_sequence_length=live_text_length(pipeline))
        beside = first_only(encoded(pipeline.vae, clip[:1]), latents)
        return TrainingClip(latents, {"text": text, "beside": beside})


def template(image_tokens: int) -> dict[str, Any]:
    """The pipeline's own template of the prompt, for a model whose image has this many tokens."""
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_image2video as module

    end = IMAGE_STARTS + image_tokens
    return {**module.DEFAULT_PROMPT_TEMPLATE, "image_emb_len": image_tokens, "image_emb_end": end}


def text_length(checkpoint: Checkpoint) -> int:
    """Tokens of the prompt: the call's default, or what the tokenizer has room for behind the template."""
    limit = checkpoint.components["tokenizer"].config.get("model_max_length")
    return _room(limit, str(checkpoint.pipeline_class))


def live_text_length(pipeline: Any) -> int:
    """As `text_length`, of a live pipeline."""
    return _room(pipeline.tokenizer.model_max_length, type(pipeline).__name__)


def _room(limit: Any, pipeline_class: str) -> int:
    if not isinstance(limit, int) or limit <= TEMPLATES[pipeline_class]:
        return TEXT_LENGTH
    return min(TEXT_LENGTH, limit - TEMPLATES[pipeline_class])


def encoded(vae: Any, clip: torch.Tensor) -> torch.Tensor:
    """Encode (frames, 3, height, width) in [0, 1] as scaled latents (1, channel, frame, height, width)."""
    video = (clip * 2 - 1).to(vae.device, vae.dtype).permute(1, 0, 2, 3).unsqueeze(0)
    latents: torch.Tensor = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor
    return latents


def first_only(image: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """The image's latent in frame 0, zeros in the other frames of `latents`."""
    import torch

    return torch.cat([image, torch.zeros_like(latents[:, :, 1:])], dim=2)


FAMILIES = (HunyuanVideo(), Skyreels())
