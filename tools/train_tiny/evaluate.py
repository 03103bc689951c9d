"""What the finished folder can do, measured on clips that training never saw, through the genuine pipeline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXImageToVideoPipeline
from PIL import Image

from pytest_genmodel.pipelines.tiny import scene

from . import data, text, vae

TEST_SEED = 9001
# A shape moves as captioned when it ends at least this far along its way (pixels) and drifts less than half of it.
MOVED = 4.0


@dataclass(frozen=True)
class Scores:
    """Means over clips; PSNR in dB against data in [0, 1], over all frames unless `first` or `last`."""

    psnr: float
    ssim: float
    psnr_first: float
    psnr_last: float


def load(folder: Path) -> Any:
    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: Any, image: np.ndarray, prompt: str, *, seed: int, steps: int, guidance: float
) -> np.ndarray:
    """Return the frames of one seeded run: float32 (FRAMES, SIDE, SIDE, 3) in [0, 1]; `image` (SIDE, SIDE, 3)."""
    result = pipeline(
        image=torch.from_numpy(image).permute(2, 0, 1)[None],
        prompt=prompt,
        height=data.SIDE,
        width=data.SIDE,
        num_frames=data.FRAMES,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=text.LENGTH,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    )
    return np.asarray(result.frames[0], dtype=np.float32)


def probe_image() -> np.ndarray:
    """Return the product's default image at the size of this model."""
    return scene.render(data.SIDE, data.SIDE)


def probe_sample(pipeline: Any, probe: dict[str, Any]) -> np.ndarray:
    """Return the frames of the recommended probe, seed 0."""
    chosen = {"steps": probe["steps"], "guidance": probe["guidance"]}
    return sample(pipeline, probe_image(), probe["prompt"], seed=0, **chosen)


def reconstruct(pipeline: Any, count: int) -> Scores:
    """Score the autoencoder alone on `count` held-out clips."""
    truth = np.stack([clip.render() for clip in data.clips(TEST_SEED, count)])
    return score(vae.decode(pipeline.vae, vae.encode(pipeline.vae, truth)), truth)


def sample_held_out(
    pipeline: Any, count: int, *, steps: int, guidance: float
) -> tuple[np.ndarray, list[data.Clip]]:
    """Sample one video for each of `count` held-out clips, from its first frame and caption, seed = its number."""
    clips = list(data.clips(TEST_SEED, count))
    videos = [
        sample(pipeline, clip.render(1)[0], clip.caption, seed=number, steps=steps, guidance=guidance)
        for number, clip in enumerate(clips)
    ]
    return np.stack(videos), clips


def moves(video: np.ndarray, direction: str) -> bool:
    """Say whether the vivid shape of `video` moves as `direction` says, and is still there at the end."""
    first, last = scene.locate(video[0]), scene.locate(video[-1])
    if first is None or last is None:
        return False
    step = np.asarray(data.DIRECTIONS[direction], dtype=float)
    way = (np.asarray(last) - np.asarray(first)) * data.SIDE
    along = float(way @ step)
    return along >= MOVED and float(np.abs(way - along * step).max()) < along / 2


def score(videos: np.ndarray, truth: np.ndarray) -> Scores:
    """Compare (clips, frames, height, width, 3) with the truth of the same shape."""
    return Scores(
        psnr=float(np.mean([psnr(a, b) for a, b in zip(videos, truth, strict=True)])),
        ssim=float(
            np.mean(
                [ssim(f, g) for a, b in zip(videos, truth, strict=True) for f, g in zip(a, b, strict=True)]
            )
        ),
        psnr_first=float(np.mean([psnr(a[0], b[0]) for a, b in zip(videos, truth, strict=True)])),
        psnr_last=float(np.mean([psnr(a[-1], b[-1]) for a, b in zip(videos, truth, strict=True)])),
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10 * math.log10(max(float(np.mean((a.astype(np.float64) - b) ** 2)), 1e-10))


def ssim(a: np.ndarray, b: np.ndarray, window: int = 7) -> float:
    """Return the structural similarity of two pictures in [0, 1] (uniform 7 x 7 windows, mean over channels)."""

    def mean(x: np.ndarray) -> np.ndarray:
        views = np.lib.stride_tricks.sliding_window_view(x, (window, window), axis=(0, 1))
        return views.mean(axis=(-2, -1))

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return float((values / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def contact_sheet(videos: np.ndarray, images: np.ndarray, path: Path, zoom: int = 4, gap: int = 4) -> None:
    """Write one row a sample: the input image, then every fourth frame, enlarged without smoothing."""

    def enlarge(picture: np.ndarray) -> np.ndarray:
        return np.kron((picture * 255).round().astype(np.uint8), np.ones((zoom, zoom, 1), dtype=np.uint8))

    rows = []
    for image, video in zip(images, videos, strict=True):
        pictures = [enlarge(image), *(enlarge(frame) for frame in video[::4])]
        white = np.full((pictures[0].shape[0], gap, 3), 255, dtype=np.uint8)
        # The input image stands apart from the frames.
        row = [pictures[0], white, white, white]
        for picture in pictures[1:]:
            row += [picture, white]
        rows += [np.concatenate(row, axis=1), np.full((gap, sum(p.shape[1] for p in row), 3), 255, np.uint8)]
    Image.fromarray(np.concatenate(rows)).save(path, optimize=True)
