"""The autoencoder: trained on single pictures first, then on clips, then scaled so that its factor is 0.7."""

from __future__ import annotations

import math

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D

from . import data
from .clock import Clock, cosine

STEPS = 1500
RATE = 3e-3
KL_WEIGHT = 1e-5
SCALING_FACTOR = 0.7
CHANNELS = 8


def build() -> AutoencoderKLCogVideoX:
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(24, 32, 32),
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        temporal_compression_ratio=4,
        sample_height=data.SIDE,
        sample_width=data.SIDE,
        scaling_factor=SCALING_FACTOR,
    )
    with torch.no_grad():
        # Nearly deterministic at first: a posterior of unit variance would drown the signal for hundreds of steps.
        out = vae.encoder.conv_out.conv
        out.weight[CHANNELS:].mul_(0.01)
        out.bias[CHANNELS:].fill_(-6.0)
        # The decoder's norms are modulated by the latent; at first they act as plain group norms.
        for module in vae.decoder.modules():
            if isinstance(module, CogVideoXSpatialNorm3D):
                module.conv_y.conv.weight.mul_(0.05)
                module.conv_y.conv.bias.fill_(1.0)
                module.conv_b.conv.weight.mul_(0.05)
                module.conv_b.conv.bias.zero_()
    return vae


def to_tensor(videos: np.ndarray) -> torch.Tensor:
    """Turn (clips, frames, height, width, 3) in [0, 1] into float32 (clips, 3, frames, height, width) in [-1, 1]."""
    return torch.from_numpy(videos).permute(0, 4, 1, 2, 3).contiguous() * 2 - 1


def train(seed: int) -> AutoencoderKLCogVideoX:
    """Return the trained autoencoder, in eval mode and frozen."""
    clock = Clock("vae")
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    vae = build().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: cosine(step, STEPS))
    for step in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=step < 0.9 * STEPS):
            losses = [_loss(vae, batch) for batch in _batches(rng, step / STEPS)]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            clock.say(f"step {step + 1}/{STEPS} loss {loss.item():.5f}")
    vae.eval().requires_grad_(False)
    truth = np.stack([clip.render() for clip in data.clips(seed + 5, 32)])
    error = np.square(decode(vae, encode(vae, truth)) - truth).mean(axis=(0, 2, 3, 4))
    clock.say(f"held out PSNR by frame {[round(-10 * math.log10(e), 1) for e in error]}")
    return vae


def _batches(rng: np.random.Generator, progress: float) -> list[torch.Tensor]:
    """Return the batches of one step: pictures, and from 25 % on clips of 9 frames, from 55 % of 17."""

    def batch(count: int, frames: int) -> torch.Tensor:
        videos = []
        for _ in range(count):
            first = int(rng.integers(data.FRAMES - frames + 1))
            videos.append(data.draw(rng).render(frames, first))
        return to_tensor(np.stack(videos))

    if progress < 0.25:
        return [batch(16, 1)]
    if progress < 0.55:
        return [batch(8, 1), batch(4, 9)]
    return [batch(8, 1), batch(4, 17)]


def _loss(vae: AutoencoderKLCogVideoX, pixels: torch.Tensor) -> torch.Tensor:
    posterior = vae.encode(pixels).latent_dist
    error = (vae.decode(posterior.sample()).sample.float() - pixels).abs()
    # The square alone leaves edges soft, the absolute error alone starts slowly.
    return (
        error.square().mean() + 0.2 * error.mean() + KL_WEIGHT * posterior.kl().float().sum() / pixels.numel()
    )


@torch.no_grad()
def encode(vae: AutoencoderKLCogVideoX, videos: np.ndarray, batch: int = 32) -> torch.Tensor:
    """Return the posterior modes, unscaled: float32 (clips, latent frames, channels, height, width)."""
    parts = [
        vae.encode(to_tensor(videos[i : i + batch])).latent_dist.mode() for i in range(0, len(videos), batch)
    ]
    return torch.cat(parts).permute(0, 2, 1, 3, 4)


@torch.no_grad()
def encode_images(vae: AutoencoderKLCogVideoX, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mode and deviation of the posteriors of (images, height, width, 3), each (images, 1, channels, ...)."""
    posterior = vae.encode(to_tensor(images[:, None])).latent_dist
    return posterior.mode().permute(0, 2, 1, 3, 4), posterior.std.permute(0, 2, 1, 3, 4)


@torch.no_grad()
def decode(vae: AutoencoderKLCogVideoX, latents: torch.Tensor) -> np.ndarray:
    """Return the pictures of unscaled latents (clips, frames, channels, height, width), in [0, 1]."""
    pixels = vae.decode(latents.permute(0, 2, 1, 3, 4)).sample
    return (pixels.permute(0, 2, 3, 4, 1) / 2 + 0.5).clamp(0, 1).numpy()


@torch.no_grad()
def fold_scale(vae: AutoencoderKLCogVideoX, seed: int) -> float:
    """Scale the latents inside the weights until they have unit variance after the factor 0.7; return the scale.

    A factor of 1 would hide a pipeline that forgets it, or divides where it should multiply.
    """
    latents = encode(vae, np.stack([clip.render() for clip in data.clips(seed, 128)]))
    scale = 1.0 / (SCALING_FACTOR * latents.std().item())
    out = vae.encoder.conv_out.conv
    out.weight[:CHANNELS].mul_(scale)
    out.bias[:CHANNELS].mul_(scale)
    out.bias[CHANNELS:].add_(2 * float(np.log(scale)))
    vae.decoder.conv_in.conv.weight.div_(scale)
    for module in vae.decoder.modules():
        if isinstance(module, CogVideoXSpatialNorm3D):
            module.conv_y.conv.weight.div_(scale)
            module.conv_b.conv.weight.div_(scale)
    return scale
