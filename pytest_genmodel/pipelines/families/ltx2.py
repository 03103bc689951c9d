"""LTX-2: image to video with sound, both denoised by one transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.pipelines.families.base import Family, Geometry, Grid, ImageLatents, TrainingClip

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe

FRAME_RATE = 24.0
"""The call's default, in frames a second; the length of the sound follows from it."""


class LTX2(Family):
    """LTX-2 image-to-video: as LTX-Video, with a sound track beside the picture; both are packed into tokens."""

    name = "ltx2"
    title = "LTX-2"
    pipeline_classes: tuple[str, ...] = ("LTX2ImageToVideoPipeline",)
    guidance = 3.0
    masks_padding = (
        "text_encoder",
        "connectors",
    )  # what the transformer is given has registers in place of it
    image_enters = "as the first latent frame, whose tokens have timestep 0"
    latent_axes = ("batch", "token", "channel")
    # The pipeline reads the statistics; the image branch of Gemma is there for rewriting prompts alone.
    unread = (
        "vae.latents_mean",
        "vae.latents_std",
        "audio_vae.latents_mean",
        "audio_vae.latents_std",
        "text_encoder.model.vision_tower.*",
        "text_encoder.model.multi_modal_projector.*",
        "text_encoder.lm_head.*",
    )

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """The defaults of the call: no configuration says a size."""
        return Geometry(height=512, width=768, frames=121)

    def grid(self, checkpoint: Checkpoint) -> Grid:
        """Multiples of 32 pixels, whatever the autoencoder; frames as it compresses them."""
        config = checkpoint.components["vae"].config
        stages = sum(config.get("spatio_temporal_scaling", (True, True, True)))
        along_time = config.get("patch_size_t", 1) * 2**stages
        return Grid(pixels=32, frames=config.get("temporal_compression_ratio") or along_time)

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """Guidance by the prompt alone, one call of the transformer a step; the image as it is.

        By default the call compresses the image with H.264 first, which is another result with each codec.
        """
        return {
            "frame_rate": FRAME_RATE,
            "stg_scale": 0.0,
            "modality_scale": 1.0,
            "guidance_rescale": 0.0,
            "audio_guidance_scale": probe.guidance,
            "audio_stg_scale": 0.0,
            "audio_modality_scale": 1.0,
            "audio_guidance_rescale": 0.0,
            "image_crf": 0,
        }

    def told(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, tuple[float, ...]]:
        """Frames a second, by which its positions count."""
        return {"fps": (FRAME_RATE,)}

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """In place of the noise of frame 0."""
        return ImageLatents.first(frames, beside=False)

    def encode(self, pipeline: Any, clip: torch.Tensor, prompt: str) -> TrainingClip:
        """Tokens of the picture and behind them of a silent sound track, laid flat; the first frame stays clean."""
        import torch

        vae, transformer = pipeline.vae, pipeline.transformer
        video = (clip * 2 - 1).to(vae.device, vae.dtype).permute(1, 0, 2, 3).unsqueeze(0)
        latents = vae.encode(video).latent_dist.mode()
        latents = pipeline._normalize_latents(latents, vae.latents_mean, vae.latents_std)
        clean = torch.zeros_like(latents)
        clean[:, :, 0] = 1.0
        patches = (transformer.config.patch_size, transformer.config.patch_size_t)
        pictures, mask = (pipeline._pack_latents(each, *patches) for each in (latents, clean))
        sound = self._silence(pipeline, len(clip))
        embeddings, text_mask, _, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        texts = pipeline.connectors(embeddings, text_mask, padding_side=pipeline.tokenizer.padding_side)
        return TrainingClip(
            latents=torch.cat([pictures.flatten(), sound.flatten()]),
            clean=torch.cat([mask.flatten(), torch.zeros_like(sound).flatten()]),
            conditions={
                "texts": texts,
                "pictures": pictures.shape,
                "sound": sound.shape,
                "size": dict(zip(("num_frames", "height", "width"), latents.shape[2:], strict=True)),
            },
        )

    @staticmethod
    def _silence(pipeline: Any, frames: int) -> torch.Tensor:
        """The packed latents of a sound track of `frames` frames on which nothing is heard."""
        import torch

        vae = pipeline.audio_vae
        ratio = pipeline.audio_vae_temporal_compression_ratio
        length = round(frames / FRAME_RATE * pipeline.audio_sampling_rate / pipeline.audio_hop_length / ratio)
        mel = torch.zeros(
            (1, vae.config.in_channels, length * ratio, vae.config.mel_bins),
            device=vae.device,
            dtype=vae.dtype,
        )
        packed = pipeline._pack_audio_latents(vae.encode(mel).latent_dist.mode()[:, :, :length])
        silence: torch.Tensor = pipeline._normalize_audio_latents(packed, vae.latents_mean, vae.latents_std)
        return silence

    def predict(
        self, pipeline: Any, denoiser: str, noisy: torch.Tensor, sigma: torch.Tensor, clip: TrainingClip
    ) -> torch.Tensor:
        """One timestep a token of the picture, 0 for the image's own; one for the whole sound track."""
        import torch

        assert clip.clean is not None
        pictures, sound = clip.conditions["pictures"], clip.conditions["sound"]
        behind = pictures.numel()
        kept = clip.clean[:behind].view(pictures)[..., 0]
        video, audio, mask = clip.conditions["texts"]
        size, transformer = clip.conditions["size"], pipeline.transformer
        frames, height, width = (size[name] for name in ("num_frames", "height", "width"))
        where = noisy.device
        predicted = transformer(
            hidden_states=noisy[:behind].view(pictures),
            audio_hidden_states=noisy[behind:].view(sound),
            encoder_hidden_states=video,
            audio_encoder_hidden_states=audio,
            timestep=(sigma * 1000)[:, None] * (1 - kept),
            audio_timestep=sigma * 1000,
            sigma=sigma * 1000,
            encoder_attention_mask=mask,
            audio_encoder_attention_mask=mask,
            fps=FRAME_RATE,
            audio_num_frames=sound[1],
            video_coords=transformer.rope.prepare_video_coords(
                1, frames, height, width, where, fps=FRAME_RATE
            ),
            audio_coords=transformer.audio_rope.prepare_audio_coords(1, sound[1], where),
            use_cross_timestep=True,
            return_dict=False,
            **size,
        )
        return torch.cat([each.flatten() for each in predicted])


FAMILIES = (LTX2(),)
