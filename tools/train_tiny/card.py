"""The model card, filled with what was measured on the exported folder, and the recommended probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import data, denoiser, text, vae
from .evaluate import Scores

PROBE: dict[str, Any] = {
    "prompt": "a red square moves right",
    "steps": 8,
    "frames": data.FRAMES,
    "height": data.SIDE,
    "width": data.SIDE,
    "guidance": 2.0,
    "max_sequence_length": text.LENGTH,
}


@dataclass(frozen=True)
class Measured:
    """Everything the card says that is not a setting."""

    reconstruction: Scores
    samples: Scores
    moving: int
    count: int
    table_std: float
    parameters: dict[str, int]
    trained: str
    threads: int
    seed: int


def text_of(measured: Measured, probe: dict[str, Any], rows: list[str]) -> str:
    """Return the card in Markdown; `rows` are the captions of the contact sheet, from top to bottom."""
    fit = _row("autoencoder: reconstruction", measured.reconstruction)
    own = _row("samples from first frame and caption, against the clip", measured.samples)
    millions = {part: f"{count / 1e6:.2f} M" for part, count in measured.parameters.items()}
    listing = "\n".join(f"{number}. {caption}" for number, caption in enumerate(rows, 1))
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: image-to-video
guidance_scale: {probe["guidance"]}
num_inference_steps: {probe["steps"]}
---

# tiny CogVideoX image-to-video, trained

A `CogVideoXImageToVideoPipeline` that works, in a few megabytes: it takes a {data.SIDE} x {data.SIDE} picture of one
coloured shape and moves the shape as the caption says. It exists so that tests of image-to-video tooling can look at
a model that has something to lose. A random model shows that outputs differ; a trained one shows that they got worse.

![Input image, then frames 0, 4, 8, 12 and 16](contact_sheet.png)

Each row: the input image, then frames 0, 4, 8, 12, 16, enlarged without smoothing. Captions, from the top:

{listing}

## Use

```python
import torch
from diffusers import CogVideoXImageToVideoPipeline
from PIL import Image
from pytest_genmodel.pipelines.tiny import scene

pipeline = CogVideoXImageToVideoPipeline.from_pretrained(folder, dtype=torch.float32)
picture = scene.render({data.SIDE}, {data.SIDE}, shape="square", color="red")
frames = pipeline(
    image=Image.fromarray((picture * 255).round().astype("uint8")),
    prompt="{probe["prompt"]}",
    height={probe["height"]},
    width={probe["width"]},
    num_frames={probe["frames"]},
    num_inference_steps={probe["steps"]},
    guidance_scale={probe["guidance"]},
    max_sequence_length={probe["max_sequence_length"]},  # the text positions it was trained with; the default is 226
    generator=torch.Generator().manual_seed(0),
).frames[0]
```

`probe.json` holds the same settings for programs. The weights are stored in float16 and meant to run in float32 on
a CPU; the numbers below were measured so.

## Architecture

That of CogVideoX-5b-I2V in small; every class is the genuine one of diffusers and transformers.

- Transformer, {millions["transformer"]} parameters: 4 layers, 4 heads of {denoiser.HEAD}, patch {denoiser.PATCH}.
  Image latents are joined by channel. Rotary positions, and a learned position table: the buffer
  `patch_embed.pos_embedding`, trained with a learning rate of its own, standard deviation {measured.table_std:.2f}.
- Autoencoder, {millions["vae"]}: {vae.CHANNELS} latent channels, 4 x in space, 4 x in time,
  `scaling_factor` {vae.SCALING_FACTOR}.
- T5 encoder, {millions["text_encoder"]}: 2 layers of width {text.WIDTH}. Its tokenizer is a word list made by rule;
  {text.LENGTH} tokens.
- Scheduler: `CogVideoXDDIMScheduler`, v-prediction, zero terminal SNR, trailing steps.

## Data

Rendered from a seed by `pytest_genmodel.pipelines.tiny.scene`, no outside material: 3 shapes x 6 colours x 4
directions, radius {data.RADIUS[0]:g} to {data.RADIUS[1]:g} pixels, {data.SPEED[0]:g} to {data.SPEED[1]:g} pixels a
frame, {data.FRAMES} frames, on a muted gradient with a faint grating. The caption does not say the speed.

## Training

```
python -m tools.train_tiny --out DIR --seed {measured.seed}
```

{measured.trained}, threads: {measured.threads}.

- Text encoder: {text.STEPS} steps, to tell colour, shape and direction; then frozen.
- Autoencoder: {vae.STEPS} steps, on single pictures first, then on clips of 9 and of 17 frames.
- Transformer: {denoiser.STEPS} steps of {denoiser.BATCH} clips (Muon and AdamW). The objective is that of
  the diffusers CogVideoX image-to-video example: v-prediction turned into a clean latent, weight 1/(1 - alpha).
  The caption is left out in {denoiser.DROP_CAPTION:.0%} of the clips, the image in {denoiser.DROP_IMAGE:.0%}.
  What is shipped is the moving average ({denoiser.EMA}).

Everything is drawn from the seed. On another machine, or with other threads or library versions, the last bits
differ, and in a long training the details with them.

## Measured

{measured.count} held-out clips, float32 on a CPU, means over clips; PSNR in dB, SSIM with 7 x 7 windows.

| | PSNR | SSIM | PSNR, first frame | PSNR, last frame |
|---|---|---|---|---|
{fit}
{own}

**{measured.moving} of {measured.count} samples move as captioned** (seeds 0 to {measured.count - 1},
{probe["steps"]} steps, guidance {probe["guidance"]}): the coloured shape ends at least 4 pixels along the captioned
direction, with less than half of that sideways. Samples cannot match the clips exactly, because a clip's speed is
drawn and neither the image nor the caption tells it.

## Limits

- Only these scenes at {data.SIDE} x {data.SIDE} and {data.FRAMES} frames: the learned positions belong to that size.
- Only captions of the form `a red square moves right`. Other words are spelt letter by letter, and were not trained.
- Corners round off in later frames, and faint specks may trail the shape.
- It says nothing about how strongly a fault shows in a large model.
- transformers 5 is needed to load the tokenizer by its class.

Licence: Apache-2.0.
"""


def _row(name: str, scores: Scores) -> str:
    return f"| {name} | {scores.psnr:.1f} | {scores.ssim:.3f} | {scores.psnr_first:.1f} | {scores.psnr_last:.1f} |"
