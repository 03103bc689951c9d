"""Sample from CogVideoX image-to-video, with or without a LoRA: diffusers, as most inference scripts are.

    python examples/sample_cogvideox_i2v.py --model outputs/run-1 --image cat.png --prompt "a cat turns its head" \\
        --output cat.mp4

This script is also what the tests of pytest-genmodel name as `--genmodel-sample-cmd`, and break on purpose.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXImageToVideoPipeline
from PIL import Image


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="the whole pipeline; the base, with a LoRA")
    parser.add_argument("--lora", type=Path, help="a LoRA's file")
    parser.add_argument("--image", required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--output", required=True, type=Path, help=".mp4, or .npy for the frames themselves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=6.0)
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    return parser.parse_args()


def load(args: argparse.Namespace) -> CogVideoXImageToVideoPipeline:
    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(args.model)
    if args.lora is not None:
        pipeline.load_lora_weights(str(args.lora.parent), weight_name=args.lora.name)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def sample(pipeline: CogVideoXImageToVideoPipeline, args: argparse.Namespace) -> np.ndarray:
    """Frames as floats (frame, height, width, channel) in [0, 1]."""
    image = Image.open(args.image).convert("RGB")
    return pipeline(
        image=image,
        prompt=args.prompt,
        height=args.height,
        width=args.width,
        num_frames=args.frames,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance,
        max_sequence_length=pipeline.transformer.config.max_text_seq_length,
        generator=torch.Generator("cpu").manual_seed(args.seed),
        output_type="np",
    ).frames[0]


def write(frames: np.ndarray, output: Path) -> None:
    if output.suffix == ".npy":
        np.save(output, frames)
        return
    import av

    with av.open(str(output), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for picture in (frames * 255).round().astype(np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    args = parse_args()
    pipeline = load(args)
    pipeline.set_progress_bar_config(disable=True)
    write(sample(pipeline, args), args.output)


if __name__ == "__main__":
    main()
