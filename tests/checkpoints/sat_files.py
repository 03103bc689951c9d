"""Files as SwissArmyTransformer writes them, made from a diffusers model by hand: no code of the package is used."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]
DENOISER = "model.diffusion_model."
TEXT = "conditioner.embedders.0.transformer."
AUTOENCODER = "first_stage_model."
STATES = "mp_rank_00_model_states.pt"
RANK = 4


def transformer(diffusers: Tensors) -> Tensors:
    """The transformer's tensors under SAT's names: three projections fused, two modulations interleaved."""
    sat: Tensors = {}
    left = dict(diffusers)
    blocks = sorted({int(name.split(".")[1]) for name in diffusers if name.startswith("transformer_blocks.")})
    for n in blocks:
        block, layer, mixin = f"transformer_blocks.{n}.", f"transformer.layers.{n}.", "mixins.adaln_layer."
        for leaf in ("weight", "bias"):

            def take(name: str, block: str = block, leaf: str = leaf) -> torch.Tensor:
                return left.pop(f"{block}{name}.{leaf}")

            sat[f"{layer}attention.query_key_value.{leaf}"] = torch.cat(
                [take("attn1.to_q"), take("attn1.to_k"), take("attn1.to_v")]
            )
            sat[f"{layer}attention.dense.{leaf}"] = take("attn1.to_out.0")
            one, two = take("norm1.linear").chunk(6), take("norm2.linear").chunk(6)
            sat[f"{mixin}adaLN_modulations.{n}.1.{leaf}"] = torch.cat(
                [*one[:3], *two[:3], *one[3:], *two[3:]]
            )
            sat[f"{layer}input_layernorm.{leaf}"] = take("norm1.norm")
            sat[f"{layer}post_attention_layernorm.{leaf}"] = take("norm2.norm")
            sat[f"{mixin}query_layernorm_list.{n}.{leaf}"] = take("attn1.norm_q")
            sat[f"{mixin}key_layernorm_list.{n}.{leaf}"] = take("attn1.norm_k")
            sat[f"{layer}mlp.dense_h_to_4h.{leaf}"] = take("ff.net.0.proj")
            sat[f"{layer}mlp.dense_4h_to_h.{leaf}"] = take("ff.net.2")
    plain = {
        "patch_embed.proj": "mixins.patch_embed.proj",
        "patch_embed.text_proj": "mixins.patch_embed.text_proj",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "ofs_embedding.linear_1": "ofs_embed.0",
        "ofs_embedding.linear_2": "ofs_embed.2",
        "norm_final": "transformer.final_layernorm",
        "norm_out.norm": "mixins.final_layer.norm_final",
        "norm_out.linear": "mixins.final_layer.adaLN_modulation.1",
        "proj_out": "mixins.final_layer.linear",
    }
    for ours, theirs in plain.items():
        for leaf in ("weight", "bias"):
            if f"{ours}.{leaf}" in left:
                sat[f"{theirs}.{leaf}"] = left.pop(f"{ours}.{leaf}")
    if "patch_embed.pos_embedding" in left:
        sat["mixins.pos_embed.pos_embedding"] = left.pop("patch_embed.pos_embedding")
    assert not left, sorted(left)
    return sat


def autoencoder(diffusers: Tensors) -> Tensors:
    """The autoencoder's tensors under the names of its training, with a loss that nobody needs."""
    sat: Tensors = {"loss.discriminator.weight": torch.ones(3)}
    for name, tensor in diffusers.items():
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace(
            "mid_block.resnets.1", "mid.block_2"
        )
        name = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{3 - int(match[1])}", name)
        name = name.replace("down_blocks.", "down.").replace(".resnets.", ".block.")
        name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        sat[name.replace("conv_shortcut", "nin_shortcut")] = tensor
    return sat


def lora(sat: Tensors, seed: int = 0) -> tuple[Tensors, Tensors]:
    """The transformer as it is while SAT trains a LoRA, and the factors under diffusers' names."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    worn, factors = dict(sat), {}
    for name in sat:
        match = re.match(r"transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)\.weight$", name)
        if not match:
            continue
        layer = name.removesuffix(".weight")
        for leaf in ("weight", "bias"):
            worn[f"{layer}.original.{leaf}"] = worn.pop(f"{layer}.{leaf}")
        targets = ["to_q", "to_k", "to_v"] if match[2] == "query_key_value" else ["to_out.0"]
        rows, columns = sat[name].shape[0] // len(targets), sat[name].shape[1]
        for place, target in enumerate(targets):
            a, b = noise(RANK, columns), noise(rows, RANK)
            worn[f"{layer}.matrix_A.{place}"], worn[f"{layer}.matrix_B.{place}"] = a, b
            module = f"transformer_blocks.{match[1]}.attn1.{target}"
            factors[f"{module}.lora_A.weight"], factors[f"{module}.lora_B.weight"] = a, b
    return worn, factors


def with_frequencies(sat: Tensors) -> Tensors:
    """The rotary tables that SAT stores with the transformer of 5B."""
    table = torch.linspace(0, 1, 12).reshape(3, 4)
    return {**sat, "mixins.pos_embed.freqs_sin": table.sin(), "mixins.pos_embed.freqs_cos": table.cos()}


def engine(
    denoiser: Tensors, text: Tensors | None = None, vae: Tensors | None = None, *, training: bool = True
) -> dict[str, object]:
    """What lies in a states file: of a release the tensors, of a training the engine's state as well."""
    module = {DENOISER + name: tensor for name, tensor in denoiser.items()}
    module |= {TEXT + name: tensor for name, tensor in (text or {}).items()}
    module |= {AUTOENCODER + name: tensor for name, tensor in (vae or {}).items()}
    if not training:
        return {"module": module}
    return {
        "module": module,
        "buffer_names": [name for name in module if "freqs" in name],
        "optimizer": None,
        "param_shapes": [{name: tensor.shape for name, tensor in module.items()}],
        "ds_config": {"train_micro_batch_size_per_gpu": 1},
        "iteration": 1000,
        "client_lr_scheduler": {"total_iters": 1000},
        "random_rng_state": ("an", (1, 2, 3), None),
        "np_rng_state": np.random.RandomState(0).get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "skipped_steps": 0,
    }


def write(folder: Path, states: dict[str, object], iteration: str = "1000") -> Path:
    """A checkpoint's folder: `latest`, and the states under the iteration's name."""
    (folder / iteration).mkdir(parents=True)
    (folder / "latest").write_text(iteration)
    torch.save(states, folder / iteration / STATES)
    return folder
