"""The names of CogVideoX's autoencoder as it was trained (`3d-vae.pt`), and diffusers'."""

from __future__ import annotations

from pytest_genmodel.checkpoints.keymaps.rules import KeyMap, left_out, renamed

_LEVELS = 4
_RESNET = "{side}.down.{i}.block.{j}", "{side}.down_blocks.{i}.resnets.{j}"
_RESNETS = (
    _RESNET,
    *(
        (f"{{side}}.up.{level}.block.{{j}}", f"{{side}}.up_blocks.{_LEVELS - 1 - level}.resnets.{{j}}")
        for level in range(_LEVELS)
    ),
    *((f"{{side}}.mid.block_{n + 1}", f"{{side}}.mid_block.resnets.{n}") for n in range(2)),
)
"""Both count the levels of the decoder from opposite ends."""

VAE = KeyMap(
    component="vae",
    marks=(".encoder.down.", ".decoder.up.", ".encoder.mid.block_", ".decoder.mid.block_"),
    rules=(
        *(renamed(f"{a}.nin_shortcut.{{rest}}", f"{b}.conv_shortcut.{{rest}}") for a, b in _RESNETS),
        *(renamed(f"{a}.{{rest}}", f"{b}.{{rest}}") for a, b in _RESNETS),
        renamed("{side}.down.{i}.downsample.{rest}", "{side}.down_blocks.{i}.downsamplers.0.{rest}"),
        *(
            renamed(
                f"{{side}}.up.{level}.upsample.{{rest}}",
                f"{{side}}.up_blocks.{_LEVELS - 1 - level}.upsamplers.0.{{rest}}",
            )
            for level in range(_LEVELS)
        ),
        *(
            renamed(f"{{side}}.{layer}.{{rest}}", f"{{side}}.{layer}.{{rest}}")
            for layer in ("conv_in", "norm_out", "conv_out")
        ),
        *left_out("loss.{rest}"),
    ),
)
