"""Train, export and measure: ``python -m tools.train_tiny --out DIR --seed 0``.

One thread is the default: a second one saves little on idle cores and costs several times the work on busy ones. With
more than one, set ``OMP_WAIT_POLICY=PASSIVE``, or threads spin while they wait.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from pytest_genmodel.pipelines.tiny.cogvideox import scheduler

from . import card, data, denoiser, evaluate, export, text, vae
from .clock import Clock

TRAIN_CLIPS, HELD_OUT_CLIPS = 6144, 64
TEST_CLIPS, SHEET_ROWS = 96, 6


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    clock = Clock("all")

    tokens = text.tokenizer()
    encoder = text.train(tokens, options.seed)
    autoencoder = vae.train(options.seed)
    scale = vae.fold_scale(autoencoder, options.seed + 2)
    clock.say(f"autoencoder scaled by {scale:.4f}")
    states = text.embed(encoder, tokens, [*data.captions(), ""])
    cache = denoiser.make_cache(autoencoder, states, options.seed + 3, TRAIN_CLIPS)
    held_out = denoiser.make_cache(autoencoder, states, options.seed + 4, HELD_OUT_CLIPS)
    clock.say(f"cached {TRAIN_CLIPS} clips, deviation {cache.latents.std().item():.3f}")
    transformer = denoiser.train(cache, held_out, scheduler(), options.seed)
    trained = f"{clock.wall:.0f} s wall, {clock.cpu:.0f} s CPU"

    parts = {
        "tokenizer": tokens,
        "text_encoder": encoder,
        "vae": autoencoder,
        "transformer": transformer,
        "scheduler": scheduler(),
    }
    export.write(parts, options.out)
    report(options.out, options.seed, trained)
    clock.say("done")


def report(folder: Path, seed: int, trained: str) -> None:
    """Measure the exported folder and write its contact sheet, probe and model card."""
    pipeline = evaluate.load(folder)
    probe = card.PROBE
    settings = {"steps": probe["steps"], "guidance": probe["guidance"]}
    videos, clips = evaluate.sample_held_out(pipeline, TEST_CLIPS, **settings)
    truth = np.stack([clip.render() for clip in clips])
    measured = card.Measured(
        reconstruction=evaluate.reconstruct(pipeline, TEST_CLIPS),
        samples=evaluate.score(videos, truth),
        moving=sum(evaluate.moves(video, clip.direction) for video, clip in zip(videos, clips, strict=True)),
        count=TEST_CLIPS,
        table_std=pipeline.transformer.patch_embed.pos_embedding.std().item(),
        parameters={
            part: sum(p.numel() for p in getattr(pipeline, part).parameters())
            for part in ("transformer", "vae", "text_encoder")
        },
        trained=trained,
        threads=torch.get_num_threads(),
        seed=seed,
    )
    own = evaluate.probe_sample(pipeline, probe)
    sheet = np.concatenate([own[None], videos[: SHEET_ROWS - 1]])
    images = np.concatenate([evaluate.probe_image()[None], truth[: SHEET_ROWS - 1, 0]])
    evaluate.contact_sheet(sheet, images, folder / "contact_sheet.png")
    export.write_json(folder / "probe.json", probe)
    rows = [str(probe["prompt"]), *(clip.caption for clip in clips[: SHEET_ROWS - 1])]
    (folder / "README.md").write_text(card.text_of(measured, probe, rows), encoding="utf-8")
    print(f"{measured}\n{export.size(folder)} bytes", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.train_tiny", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the pipeline into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads of torch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
