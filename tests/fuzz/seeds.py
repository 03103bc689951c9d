"""Valid checkpoints to damage, small, one or more for every reader. A new format is one line in `SEEDS`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

DATA = Path(__file__).parents[1] / "checkpoints" / "data"
CORPUS = Path(__file__).parent / "corpus"
MODEL = {
    "blocks.0.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "blocks.0.bias": torch.ones(3, dtype=torch.bfloat16),
    "blocks.1.weight": torch.arange(6, dtype=torch.float16).reshape(2, 3).t(),
    "scale": torch.ones(5).to(torch.float8_e4m3fn),
    "count": torch.tensor(7),
    "none": torch.empty(0, 2),
}
PLAIN = {name: tensor.contiguous() for name, tensor in MODEL.items()}
FACTORS = {
    "base_model.model.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 4),
    "base_model.model.blocks.0.attn1.to_q.lora_B.weight": torch.ones(4, 2),
}

Build = Callable[[Path], Path]


def safetensors_file(folder: Path) -> Path:
    save_file(PLAIN, folder / "model.safetensors", metadata={"format": "pt", "step": "7"})
    return folder / "model.safetensors"


def torch_zip(folder: Path) -> Path:
    torch.save({"module": MODEL, "step": 3, "betas": (0.9, 0.95), "name": "run"}, folder / "model.pt")
    return folder / "model.pt"


def torch_legacy(folder: Path) -> Path:
    tensors = {
        name: tensor for name, tensor in MODEL.items() if name != "scale"
    }  # torch cannot read its float8
    torch.save(tensors, folder / "model.bin", _use_new_zipfile_serialization=False)
    return folder / "model.bin"


def torch_parameters(folder: Path) -> Path:
    tagged = torch.ones(2)
    tagged.note = "tensor model parallel"  # type: ignore[attr-defined]
    whole = torch.arange(8.0)
    torch.save(
        {
            "state_dict": {
                "a": torch.nn.Parameter(torch.ones(2, 2)),
                "b": tagged,
                "c": whole[2:4],
                "d": whole[::3],
            }
        },
        folder / "model.ckpt",
    )
    return folder / "model.ckpt"


def sharded_component(folder: Path) -> Path:
    names = list(PLAIN)
    parts = {"00001": names[:3], "00002": names[3:]}
    weight_map = {}
    for number, part in parts.items():
        file = f"diffusion_pytorch_model-{number}-of-00002.safetensors"
        save_file({name: PLAIN[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 77}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel", "num_layers": 2}))
    return folder


def pipeline(folder: Path) -> Path:
    (folder / "transformer").mkdir()
    sharded_component(folder / "transformer")
    (folder / "vae").mkdir()
    torch.save(PLAIN, folder / "vae" / "diffusion_pytorch_model.bin")
    (folder / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKLWan", "scaling_factor": 0.7}')
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        '{"_class_name": "DDIMScheduler", "steps": 9}'
    )
    index = {
        "_class_name": "WanImageToVideoPipeline",
        "_diffusers_version": "0.42.1",
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "image_encoder": [None, None],
        "boundary_ratio": 0.9,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def peft_adapter(folder: Path) -> Path:
    save_file(FACTORS, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"r": 2, "lora_alpha": 4, "target_modules": ["to_q"], "alpha_pattern": {}, "peft_type": "LORA"}
        )
    )
    return folder


def diffusers_adapter(folder: Path) -> Path:
    factors = {name.replace("base_model.model.", "transformer."): tensor for name, tensor in FACTORS.items()}
    config = {"transformer.r": 2, "transformer.lora_alpha": 4, "transformer.target_modules": ["to_q"]}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
    save_file(factors, folder / "pytorch_lora_weights.safetensors", metadata=metadata)
    return folder


def kohya_adapter(folder: Path) -> Path:
    name = "lora_unet_transformer_blocks_0_attn1_to_q"
    factors = {
        f"{name}.lora_down.weight": torch.ones(2, 4),
        f"{name}.lora_up.weight": torch.ones(4, 2),
        f"{name}.alpha": torch.tensor(1.0),
    }
    save_file(factors, folder / "style.safetensors", metadata={"ss_network_alpha": "1"})
    return folder / "style.safetensors"


def sat(folder: Path) -> Path:
    tensors = {
        "transformer.layers.0.attention.query_key_value.weight": torch.arange(24.0).reshape(6, 4),
        "transformer.layers.0.attention.query_key_value.bias": torch.ones(6),
        "transformer.layers.0.attention.dense.weight": torch.ones(2, 2),
        "mixins.adaln_layer.adaLN_modulations.0.1.bias": torch.arange(24.0),
        "transformer.final_layernorm.weight": torch.ones(2),
        "transformer.position_embeddings.weight": torch.ones(2, 2),
    }
    (folder / "latest").write_text("1000")
    (folder / "1000").mkdir()
    module = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    states = {"module": module, "iteration": 1000, "buffer_names": [], "param_shapes": None}
    torch.save(states, folder / "1000" / "mp_rank_00_model_states.pt")
    return folder


def original_file(folder: Path) -> Path:
    tensors = {
        "model.diffusion_model.blocks.0.self_attn.q.weight": torch.ones(2, 2),
        "first_stage_model.encoder.conv_in.weight": torch.ones(2, 2),
        "conditioner.embedders.0.transformer.shared.weight": torch.ones(2, 2),
    }
    save_file(tensors, folder / "original.safetensors")
    return folder / "original.safetensors"


def accelerate_folder(folder: Path) -> Path:
    save_file(PLAIN, folder / "model.safetensors")
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.bin")
    return folder


def training_run(folder: Path) -> Path:
    for step in ("checkpoint-100", "checkpoint-200"):
        (folder / step / "transformer").mkdir(parents=True)
        sharded_component(folder / step / "transformer")
    return folder / "checkpoint-200"


def gguf(folder: Path) -> Path:
    return Path(shutil.copy(CORPUS / "valid.gguf", folder / "model.gguf"))


def _stored(name: str) -> Build:
    """A checkpoint that its own writer made, kept beside the tests of its reader."""

    def build(folder: Path) -> Path:
        return Path(shutil.copytree(DATA / name, folder / "run"))

    return build


SEEDS: Mapping[str, Build] = {
    "safetensors": safetensors_file,
    "torch-zip": torch_zip,
    "torch-legacy": torch_legacy,
    "torch-parameters": torch_parameters,
    "sharded": sharded_component,
    "pipeline": pipeline,
    "peft": peft_adapter,
    "diffusers-lora": diffusers_adapter,
    "kohya-lora": kohya_adapter,
    "sat": sat,
    "original": original_file,
    "accelerate": accelerate_folder,
    "training-run": training_run,
    "gguf": gguf,
    "zero2": _stored("zero/zero2-bf16-2"),
    "zero3": _stored("zero/zero3-bf16-2"),
    "dcp-rows": _stored("dcp/rows"),
    "dcp-grid": _stored("dcp/grid"),
}
