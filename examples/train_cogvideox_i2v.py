"""Fine-tune CogVideoX image-to-video, whole or with LoRA: accelerate, diffusers and peft, as most trainers do.

    accelerate launch examples/train_cogvideox_i2v.py --pretrained_model_name_or_path THUDM/CogVideoX-5b-I2V \\
        --instance_data_root data --output_dir outputs/run-1 --training_type lora --learning_rate 1e-4

The data set is a folder with `prompts.txt` and `videos.txt`, a line for each clip. Every `--checkpointing_steps` a
state to resume from is kept in `checkpoint-N`; at the end the LoRA, or the whole pipeline, is saved.

This script is also what the tests of pytest-genmodel train with, and break on purpose.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from diffusers import CogVideoXImageToVideoPipeline
from diffusers.training_utils import EMAModel, cast_training_params
from peft import LoraConfig, get_peft_model_state_dict
from torch.utils.data import DataLoader, Dataset

logger = logging.getLogger(__name__)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument("--instance_data_root", required=True, type=Path)
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--training_type", choices=("lora", "sft"), default="lora")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--max_train_steps", type=int, default=100)
    parser.add_argument("--checkpointing_steps", type=int, default=50)
    parser.add_argument("--resume_from_checkpoint", help="the folder of a state, or latest")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--lora_alpha", type=float, default=32)
    parser.add_argument("--weight_decay", type=float, default=1e-2)
    parser.add_argument("--max_grad_norm", type=float, default=1.0)
    parser.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no")
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--num_frames", type=int)
    parser.add_argument("--use_ema", action="store_true")
    parser.add_argument("--cache_dir", type=Path, help="keep encoded clips there")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


class VideoDataset(Dataset):
    """Clips in [-1, 1], float32 (3, frames, height, width), with their captions."""

    def __init__(self, root: Path, frames: int, height: int, width: int) -> None:
        self.prompts = (root / "prompts.txt").read_text().splitlines()
        self.videos = [root / line for line in (root / "videos.txt").read_text().splitlines()]
        self.frames, self.size = frames, (height, width)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict:
        import av

        with av.open(str(self.videos[index])) as container:
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][
                : self.frames
            ]
        video = torch.stack([torch.from_numpy(picture) for picture in pictures]).permute(0, 3, 1, 2)
        video = torch.nn.functional.interpolate(
            video.float() / 255, self.size, mode="bilinear", antialias=True
        )
        return {"index": index, "prompt": self.prompts[index], "video": (video * 2 - 1).permute(1, 0, 2, 3)}


def encode(pipeline, item: dict, device: torch.device) -> dict:
    """What does not change from step to step: latents of the clip and of its first frame, and the prompt."""
    vae, transformer = pipeline.vae, pipeline.transformer
    video = item["video"].unsqueeze(0).to(device, vae.dtype)
    latents = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor
    image = vae.encode(video[:, :, :1]).latent_dist.mode() * vae.config.scaling_factor
    if vae.config.invert_scale_latents:
        image = image / vae.config.scaling_factor**2
    prompt, _ = pipeline.encode_prompt(
        item["prompt"],
        do_classifier_free_guidance=False,
        max_sequence_length=transformer.config.max_text_seq_length,
        device=device,
    )
    return {
        "latents": latents.permute(0, 2, 1, 3, 4),
        "image": image.permute(0, 2, 1, 3, 4),
        "prompt": prompt,
    }


def encoded(pipeline, item: dict, device: torch.device, cache: Path | None) -> dict:
    if cache is None:
        return encode(pipeline, item, device)
    file = cache / f"{item['index']}.pt"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(encode(pipeline, item, device), file)
    return torch.load(file, map_location=device, weights_only=True)


def loss_of(
    pipeline, transformer, batch: dict, generator: torch.Generator, size: tuple[int, int]
) -> torch.Tensor:
    scheduler = pipeline.scheduler
    config = pipeline.transformer.config
    latents = batch["latents"]
    image = torch.cat([batch["image"], torch.zeros_like(latents[:, 1:])], dim=1)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    timestep = torch.randint(0, scheduler.config.num_train_timesteps, (1,), generator=generator)
    timestep = timestep.to(latents.device)
    noisy = scheduler.add_noise(latents, noise, timestep)
    rotary = None
    if config.use_rotary_positional_embeddings:
        rotary = pipeline._prepare_rotary_positional_embeddings(*size, latents.shape[1], latents.device)
    prediction = transformer(
        hidden_states=torch.cat([noisy, image], dim=2),
        encoder_hidden_states=batch["prompt"],
        timestep=timestep,
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]
    denoised = scheduler.get_velocity(prediction, noisy, timestep)
    weight = 1 / (1 - scheduler.alphas_cumprod.to(latents.device)[timestep].float())
    return (weight * (denoised.float() - latents.float()) ** 2).mean()


def save_lora(pipeline, transformer, output: Path) -> None:
    """The LoRA with its configuration in the metadata: a file without alpha is loaded at another strength."""
    CogVideoXImageToVideoPipeline.save_lora_weights(
        save_directory=output,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
    )


def save_state(accelerator: Accelerator, ema: EMAModel | None, folder: Path, step: int) -> None:
    accelerator.save_state(str(folder))
    if not accelerator.is_main_process:
        return
    if ema is not None:
        torch.save(ema.state_dict(), folder / "ema.pt")
    (folder / "trainer_state.json").write_text(json.dumps({"step": step}))


def state_to_resume(wanted: str, output: Path) -> Path:
    """The state that is named, or the newest of `output` for `latest`; never a fresh start where there is none."""
    if wanted != "latest":
        return Path(wanted)
    states = sorted(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))
    if not states:
        raise SystemExit(f"{output} holds no checkpoint to resume from")
    return states[-1]


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        project_config=ProjectConfiguration(project_dir=str(args.output_dir)),
    )
    set_seed(args.seed)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(args.pretrained_model_name_or_path)
    device = accelerator.device
    transformer, vae, text_encoder = pipeline.transformer, pipeline.vae, pipeline.text_encoder
    for part in (transformer, vae, text_encoder):
        part.requires_grad_(False)
        part.to(device)
    config = transformer.config
    spatial = pipeline.vae_scale_factor_spatial
    height, width = args.height or config.sample_height * spatial, args.width or config.sample_width * spatial
    frames = args.num_frames or config.sample_frames

    if args.training_type == "lora":
        transformer.add_adapter(
            LoraConfig(
                r=args.rank,
                lora_alpha=args.lora_alpha,
                target_modules=["to_k", "to_q", "to_v", "to_out.0"],
                init_lora_weights=True,
            )
        )
        cast_training_params(transformer, dtype=torch.float32)
    else:
        transformer.requires_grad_(True)
    transformer.train()
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=args.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    clips = VideoDataset(args.instance_data_root, frames, height, width)
    loader = DataLoader(clips, batch_size=1, collate_fn=lambda items: items[0])
    transformer, optimizer, loader, scheduler = accelerator.prepare(transformer, optimizer, loader, scheduler)
    ema = EMAModel(parameters, decay=0.9) if args.use_ema else None

    generator = torch.Generator("cpu").manual_seed(args.seed)
    step = 0
    if args.resume_from_checkpoint:
        state = state_to_resume(args.resume_from_checkpoint, args.output_dir)
        accelerator.load_state(str(state))
        step = json.loads((state / "trainer_state.json").read_text())["step"]
        if ema is not None:
            ema.load_state_dict(torch.load(state / "ema.pt", weights_only=True))
    seen = step % len(loader)
    while step < args.max_train_steps:
        # A resumed run goes on with the clips that its epoch has not seen yet.
        items = accelerator.skip_first_batches(loader, seen) if seen else loader
        seen = 0
        for item in items:
            # The noise of a step depends on the step alone, so that a resumed run draws what the whole run drew; each
            # process draws its own.
            generator.manual_seed(args.seed + step * accelerator.num_processes + accelerator.process_index)
            with torch.no_grad():
                batch = encoded(pipeline, item, device, args.cache_dir)
            with accelerator.autocast():
                loss = loss_of(pipeline, transformer, batch, generator, (height, width))
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, args.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if ema is not None:
                ema.step(parameters)
            step += 1
            logger.info("step %d loss %.4f lr %g", step, loss.item(), scheduler.get_last_lr()[0])
            if step % args.checkpointing_steps == 0:
                save_state(accelerator, ema, args.output_dir / f"checkpoint-{step}", step)
            if step >= args.max_train_steps:
                break

    transformer = accelerator.unwrap_model(transformer)
    if ema is not None:
        ema.copy_to(parameters)
    transformer.eval()
    if not accelerator.is_main_process:
        return  # every process holds the same weights, and one writes them
    if args.training_type == "lora":
        save_lora(pipeline, transformer, args.output_dir)
    else:
        pipeline.transformer = transformer
        pipeline.save_pretrained(args.output_dir)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main()
