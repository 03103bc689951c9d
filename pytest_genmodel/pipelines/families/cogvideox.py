"""CogVideoX image-to-video (5B-I2V and 1.5-5B-I2V)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families.base import Contradiction, Family, Geometry, Grid, ImageLatents
from pytest_genmodel.pipelines.families.noising import training_scheduler

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe


class CogVideoX(Family):
    """CogVideoX: image latent beside the noise in the channels of frame 0, zeros in those of the other frames."""

    name = "cogvideox"
    title = "CogVideoX"
    pipeline_classes = ("CogVideoXImageToVideoPipeline",)
    masks_padding = ()
    image_enters = "as a latent beside the noise, in the upper channels of frame 0"
    latent_axes = ("batch", "frame", "channel", "height", "width")
    inert_config = frozenset(
        # Read by no line of the two schedulers (diffusers 0.42): they come from the class they were copied from.
        (scheduler, key)
        for scheduler in ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
        for key in ("clip_sample", "clip_sample_range", "sample_max_value")
    )
    soft_config = frozenset({"sample_height", "sample_width", "sample_frames"})

    def contradictions(self, checkpoint: Checkpoint) -> Iterator[Contradiction]:
        """Channels that do not add up: the latent goes in twice, as noise and as the image."""
        vae, transformer = self.stored_configs(checkpoint, "vae", self.denoiser)
        if not vae or not transformer:
            return
        latent, taken = int(vae.get("latent_channels", 16)), int(transformer.get("in_channels", 16))
        if taken != 2 * latent:
            yield Contradiction(
                f"the autoencoder's latent has {latent} channels, and the transformer takes {taken}",
                "config.json:in_channels",
                component=self.denoiser,
                cause="the transformer is that of a text-to-video model" if taken == latent else None,
            )

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """Latent size of the transformer's configuration times the VAE's compression."""
        config = checkpoint.components[self.denoiser].config
        spatial = self._spatial_compression(checkpoint)
        return Geometry(
            height=config.get("sample_height", 60) * spatial,
            width=config.get("sample_width", 90) * spatial,
            frames=config.get("sample_frames", 49),
        )

    def grid(self, checkpoint: Checkpoint) -> Grid:
        """Whole patches in space; latent frames in twos, the odd one first, as the decoder takes them.

        With an even number of them the clip has another length than was asked for.
        """
        config = checkpoint.components[self.denoiser].config
        return Grid(
            pixels=self._spatial_compression(checkpoint) * config.get("patch_size", 2),
            frames=2 * int(checkpoint.components["vae"].config.get("temporal_compression_ratio", 4)),
        )

    def check_size(self, checkpoint: Checkpoint, *, height: int, width: int, frames: int) -> None:
        """As `grid` has it, and the trained size where positions are learned; 1.5 makes none that is larger."""
        super().check_size(checkpoint, height=height, width=width, frames=frames)
        config = checkpoint.components[self.denoiser].config
        trained = self.geometry(checkpoint)
        if config.get("use_learned_positional_embeddings") and (height, width) != (
            trained.height,
            trained.width,
        ):
            raise BadInputError(
                f"the size {width}x{height} cannot be made: this checkpoint has learned positions "
                f"for {trained.width}x{trained.height} only"
            )
        if config.get("patch_size_t") is not None and (height > trained.height or width > trained.width):
            raise BadInputError(
                f"the size {width}x{height} cannot be made: this checkpoint has positions up to "
                f"{trained.width}x{trained.height}"
            )

    def own_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """The text's length: the call's default is that of the large models."""
        config = checkpoint.components[self.denoiser].config
        return {"max_sequence_length": config.get("max_text_seq_length", 226)}

    def image_latents(self, checkpoint: Checkpoint, probe: Probe, frames: int) -> ImageLatents | None:
        """Beside the noise of frame 0; 1.5 divides it by the scaling factor."""
        (vae,) = self.stored_configs(checkpoint, "vae")
        return ImageLatents.first(frames, beside=True, power=-1 if vae.get("invert_scale_latents") else 1)

    def told(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, tuple[float, ...]]:
        """The 1.5 model takes an offset, which is always 2."""
        config = checkpoint.components[self.denoiser].config
        return {} if config.get("ofs_embed_dim") is None else {"ofs": (2.0,)}

    def training_loss(
        self, pipeline: Any, clip: torch.Tensor, prompt: str, generator: torch.Generator
    ) -> torch.Tensor:
        """The objective of diffusers' train_cogvideox_image_to_video_lora.py.

        The noisy latents carry the clean latent of frame 0 in their upper channels; the prediction is turned
        into x0 with the scheduler's `get_velocity` and weighed by 1 / (1 - alpha_bar).
        """
        import torch
        from diffusers.utils.torch_utils import randn_tensor

        transformer, vae = pipeline.transformer, pipeline.vae
        scheduler = self.training_scheduler(pipeline)
        device, dtype = transformer.device, vae.dtype
        with torch.no_grad():
            video = (clip * 2 - 1).to(device, dtype).permute(1, 0, 2, 3).unsqueeze(0)
            latents = self._encode(vae, video)
            image = self._encode(vae, video[:, :, :1])
            if vae.config.invert_scale_latents:  # the pipeline of 1.5 divides the image latent, and only that
                image = image / vae.config.scaling_factor**2
            image = torch.cat([image, torch.zeros_like(latents[:, 1:])], dim=1)
            embeddings, _ = pipeline.encode_prompt(
                prompt,
                do_classifier_free_guidance=False,
                max_sequence_length=transformer.config.max_text_seq_length,
                device=device,
                dtype=dtype,
            )
        temporal_patch = transformer.config.patch_size_t
        if temporal_patch is not None and latents.shape[1] % temporal_patch:
            missing = temporal_patch - latents.shape[1] % temporal_patch
            latents = torch.cat([latents[:, :missing], latents], dim=1)
            image = torch.cat([image, torch.zeros_like(image[:, :missing])], dim=1)
        count = scheduler.config.num_train_timesteps
        timestep = torch.randint(0, count, (1,), generator=generator).to(device)
        noise = randn_tensor(latents.shape, generator=generator, device=device, dtype=latents.dtype)
        noisy = scheduler.add_noise(latents, noise, timestep)
        height, width = clip.shape[-2:]
        rotary = (
            pipeline._prepare_rotary_positional_embeddings(height, width, latents.shape[1], device)
            if transformer.config.use_rotary_positional_embeddings
            else None
        )
        ofs = None if transformer.config.ofs_embed_dim is None else latents.new_full((1,), 2.0)
        prediction = transformer(
            hidden_states=torch.cat([noisy, image], dim=2),
            encoder_hidden_states=embeddings,
            timestep=timestep,
            ofs=ofs,
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
        denoised = scheduler.get_velocity(prediction, noisy, timestep)
        weight = 1 / (1 - scheduler.alphas_cumprod.to(device)[timestep].float())
        loss: torch.Tensor = (weight * (denoised.float() - latents.float()) ** 2).mean()
        return loss

    def training_scheduler(self, pipeline: Any) -> Any:
        """The pipeline's own where it serves, as in the example."""
        return training_scheduler(pipeline.scheduler, "CogVideoXDPMScheduler")

    @staticmethod
    def _encode(vae: Any, video: torch.Tensor) -> torch.Tensor:
        """Encode (1, 3, frames, height, width) in [-1, 1] as (1, latent frames, channels, height, width)."""
        latents: torch.Tensor = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor
        return latents.permute(0, 2, 1, 3, 4)

    @staticmethod
    def _spatial_compression(checkpoint: Checkpoint) -> int:
        blocks = checkpoint.components["vae"].config.get("block_out_channels", (128, 256, 256, 512))
        return int(2 ** (len(blocks) - 1))


FAMILIES = (CogVideoX(),)
