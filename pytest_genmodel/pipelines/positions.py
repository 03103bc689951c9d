"""Positions in closed form: the rotary and sinusoidal tables that a denoiser must be given, in float64.

Worked out from the models' definitions and not from the library's code. Sources (arXiv): rotary embeddings
2104.09864; their axes of time, height and width: CogVideoX 2408.06072, Wan 2503.20314, HunyuanVideo 2412.03603,
LTX-Video 2501.00103; sinusoids 1706.03762, section 3.5. What the papers leave open (the crop of a grid, the share of
an axis, the order of the halves) is as the published weights need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOST_ROWS = 4096
"""Tokens whose row of a table is worked out; of a longer sequence so many, evenly spaced."""
THETA = 10_000.0
LTX_BASE = (20, 2048, 2048)
"""Frames, pixels and pixels that LTX-Video's positions are a share of."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows `rows` of a rotary table (`cos` and `sin`, float64 (row, width)) of `length` rows in all.

    `largest` is the largest angle: a table made in float32 is off by about that many of its last places.
    """

    length: int
    rows: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    largest: float


def rotary_table(class_name: str, config: Mapping[str, Any], seen: Mapping[str, Any]) -> Table | None:
    """The table by the denoiser's class and effective configuration; None for a class that is not known here.

    Args:
        class_name: of the denoiser.
        config: its effective configuration.
        seen: what the table was made for: `shape` of the latents (batch, channel, frame, height, width), and what
            else the class takes (`indices`, `scale`, `coordinates`); for LTX-2 `module`, which of its tables it is,
            with what the denoiser was `told` or the `length` of the text.
    """
    form = ROTARY.get(class_name)
    return None if form is None else form(config, seen)


def _cogvideox(config: Mapping[str, Any], seen: Mapping[str, Any]) -> Table:
    import torch

    _, _, frames, height, width = seen["shape"]
    patch, along_time = config["patch_size"], config.get("patch_size_t")
    high, wide = height // patch, width // patch
    if along_time is None:
        top, left, tall, broad = crop(
            (high, wide), config["sample_height"] // patch, config["sample_width"] // patch
        )
        rows = _stretched(top, top + tall, high)
        columns = _stretched(left, left + broad, wide)
    else:
        frames = -(-frames // along_time)
        rows, columns = (torch.arange(count, dtype=torch.float64) for count in (high, wide))
    head = config["attention_head_dim"]
    shares = (head // 4, head // 8 * 3, head // 8 * 3)
    return _table((torch.arange(frames, dtype=torch.float64), rows, columns), shares, THETA)


def crop(grid: tuple[int, int], high: int, wide: int) -> tuple[int, int, int, int]:
    """Where a grid of this shape lies in the trained one, as large as it fits: top, left, height, width."""
    rows, columns = grid
    if rows / columns > high / wide:
        tall, broad = high, round(high / rows * columns)
    else:
        tall, broad = round(wide / columns * rows), wide
    return round((high - tall) / 2), round((wide - broad) / 2), tall, broad


def _stretched(first: float, last: float, count: int) -> torch.Tensor:
    """From `first` to `last` x (count - 1) / count, both included."""
    import torch

    end = last * (count - 1) / count
    steps = torch.arange(count, dtype=torch.float64) / max(1, count - 1)
    return first + (end - first) * steps


def _wan(config: Mapping[str, Any], seen: Mapping[str, Any]) -> Table:
    import torch

    sizes = [size // step for size, step in zip(seen["shape"][2:], config["patch_size"], strict=True)]
    axes = [torch.arange(size, dtype=torch.float64) for size in sizes]
    if (
        config.get("rope_temporal_skip_len") is not None and seen["shape"][2] == 2
    ):  # ChronoEdit: an edit's two ends
        axes[0] = torch.tensor([0.0, config["rope_temporal_skip_len"] - 1.0], dtype=torch.float64)
    head = config["attention_head_dim"]
    side = 2 * (head // 6)
    return _table(axes, (head - 2 * side, side, side), THETA)


def _hunyuan(config: Mapping[str, Any], seen: Mapping[str, Any]) -> Table:
    import torch

    along_time, patch = config["patch_size_t"], config["patch_size"]
    _, _, frames, height, width = seen["shape"]
    sizes = (frames // along_time, height // patch, width // patch)
    axes = [torch.arange(size, dtype=torch.float64) for size in sizes]
    if seen.get("indices") is not None:  # FramePack says which frame of the video each is
        axes[0] = seen["indices"].double().cpu()
    return _table(axes, tuple(config["rope_axes_dim"]), float(config["rope_theta"]))


def _ltx(config: Mapping[str, Any], seen: Mapping[str, Any]) -> Table:
    """Shares of a base size from -1 to 1, frequencies from pi/2 to 10,000 pi/2, the axes taken in turns."""
    import torch

    width = config["num_attention_heads"] * config["attention_head_dim"]
    if seen.get("coordinates") is not None:
        places = seen["coordinates"][-1].double().cpu().T  # pixels and seconds
    else:
        _, _, frames, high, wide = seen["shape"]
        grid = torch.meshgrid(
            *(torch.arange(size, dtype=torch.float64) for size in (frames, high, wide)), indexing="ij"
        )
        scale = seen.get("scale") or (1.0, 1.0, 1.0)
        places = torch.stack(
            [axis.flatten() * float(factor) for axis, factor in zip(grid, scale, strict=True)], -1
        )
    return _shares(places, LTX_BASE, width, THETA)


def _shares(
    places: torch.Tensor, bases: Sequence[float], width: int, theta: float, *, split: bool = False
) -> Table:
    """The table of places (token, axis) as shares of `bases`; what the axes leave over of the width turns nothing.

    Pairs of neighbours turn together; `split` has one column for each pair, for halves that turn together.
    """
    import torch

    rows = _rows(len(places))
    shares = 2 * places[rows] / torch.tensor(bases, dtype=torch.float64) - 1
    count = width // (2 * len(bases))
    powers = torch.arange(count, dtype=torch.float64) / max(1, count - 1)
    angles = (shares[:, None, :] * (theta**powers * pi / 2)[None, :, None]).flatten(1)
    cos, sin = angles.cos(), angles.sin()
    rest = width // 2 - cos.shape[1] if split else width % (2 * len(bases))
    if not split:
        cos, sin = (wave.repeat_interleave(2, 1) for wave in (cos, sin))
    cos = torch.cat([torch.ones(len(rows), rest, dtype=torch.float64), cos], 1)
    sin = torch.cat([torch.zeros(len(rows), rest, dtype=torch.float64), sin], 1)
    return Table(len(places), rows, cos, sin, float(angles.abs().max()))


def _ltx2(config: Mapping[str, Any], seen: Mapping[str, Any]) -> Table:
    """As LTX-Video, by the middle of what each token covers, in seconds and pixels; sound by its seconds alone.

    Between picture and sound both turn by their seconds. The first latent covers a single frame (`causal_offset`).
    """
    import torch

    module, told = seen["module"], seen["told"]
    of_sound, between = "audio" in module, module.startswith("cross")
    of = "audio_" if of_sound else ""
    longest = config["pos_embed_max_pos"], config["audio_pos_embed_max_pos"]
    if of_sound:
        unit, rate = config["audio_scale_factor"], config["audio_sampling_rate"] / config["audio_hop_length"]
    else:
        unit, rate = config["vae_scale_factors"][0], float(told["fps"])
    step = config[f"{of}patch_size_t"]
    starts = torch.arange(0, told[f"{of}num_frames"], step, dtype=torch.float64)
    bounds = [
        (at * unit + config["causal_offset"] - unit).clamp_min(0) / rate for at in (starts, starts + step)
    ]
    axes, bases = [(bounds[0] + bounds[1]) / 2], [max(longest) if between else longest[of_sound]]
    if not of_sound:
        side = config["patch_size"]
        for name, factor in (
            ("height", config["vae_scale_factors"][1]),
            ("width", config["vae_scale_factors"][2]),
        ):
            axes.append((torch.arange(0, told[name], side, dtype=torch.float64) + side / 2) * factor)
            bases.append(config[f"base_{name}"])
    places = torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], -1)
    if between:
        places, bases = places[:, :1], bases[:1]
    width = (
        config["audio_cross_attention_dim"]
        if between
        else config[f"{of}num_attention_heads"] * config[f"{of}attention_head_dim"]
    )
    return _shares(places, bases, width, float(config["rope_theta"]), split=config["rope_type"] == "split")


def _ltx2_text(config: Mapping[str, Any], seen: Mapping[str, Any]) -> Table:
    """What stands between text encoder and transformer: tokens as shares of a base length."""
    import torch

    of = seen["module"].partition(".")[0]
    width = config[f"{of}_num_attention_heads"] * config[f"{of}_attention_head_dim"]
    places = torch.arange(seen["length"], dtype=torch.float64)[:, None]
    return _shares(
        places,
        [config["connector_rope_base_seq_len"]],
        width,
        float(config["rope_theta"]),
        split=config["rope_type"] == "split",
    )


ROTARY: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Table]] = {
    "CogVideoXTransformer3DModel": _cogvideox,
    "WanTransformer3DModel": _wan,
    "SkyReelsV2Transformer3DModel": _wan,
    "ChronoEditTransformer3DModel": _wan,
    "SanaVideoTransformer3DModel": _wan,
    "HunyuanVideoTransformer3DModel": _hunyuan,
    "HunyuanVideoFramepackTransformer3DModel": _hunyuan,
    "LTXVideoTransformer3DModel": _ltx,
    "LTX2VideoTransformer3DModel": _ltx2,
    "LTX2TextConnectors": _ltx2_text,
}


def _rows(length: int) -> torch.Tensor:
    import torch

    if length <= MOST_ROWS:
        return torch.arange(length)
    return torch.linspace(0, length - 1, MOST_ROWS, dtype=torch.float64).round().long()


def _table(axes: Sequence[torch.Tensor], widths: Sequence[int], theta: float) -> Table:
    """Rotary angles of a grid, row-major; pairs of neighbours turn together, each axis has its share of the width."""
    import torch

    sizes = [len(axis) for axis in axes]
    length = sizes[0] * sizes[1] * sizes[2]
    rows = _rows(length)
    places = torch.unravel_index(rows, sizes)
    parts = []
    for axis, place, width in zip(axes, places, widths, strict=True):
        frequencies = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        parts.append(torch.outer(axis[place], frequencies))
    angles = torch.cat(parts, 1)
    cos, sin = (wave(angles).repeat_interleave(2, 1) for wave in (torch.cos, torch.sin))
    return Table(length, rows, cos, sin, float(angles.abs().max()))


def sinusoidal_positions(config: Mapping[str, Any], width: int) -> torch.Tensor:
    """CogVideoX-2B's table for the trained size, float64 (token, width): zeros for the text, then the patches.

    A quarter of the width is for time, the rest in halves for column and row; sines first, then cosines.
    """
    import torch

    patch, ratio = config["patch_size"], config["temporal_compression_ratio"]
    sizes = (
        (config["sample_frames"] - 1) // ratio + 1,
        config["sample_height"] // patch,
        config["sample_width"] // patch,
    )
    grid = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in sizes), indexing="ij")
    time, row, column = (axis.flatten() for axis in grid)
    spatial = float(config["spatial_interpolation_scale"])
    table = torch.cat(
        [
            _sinusoids(time / float(config["temporal_interpolation_scale"]), width // 4),
            _sinusoids(column / spatial, 3 * width // 8),
            _sinusoids(row / spatial, 3 * width // 8),
        ],
        1,
    )
    text = torch.zeros(config["max_text_seq_length"], width, dtype=torch.float64)
    return torch.cat([text, table])


def _sinusoids(places: torch.Tensor, width: int) -> torch.Tensor:
    import torch

    frequencies = THETA ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = torch.outer(places, frequencies)
    return torch.cat([angles.sin(), angles.cos()], 1)


def time_embedding(
    timesteps: torch.Tensor, width: int, *, cosines_first: bool, shift: float, scale: float
) -> torch.Tensor:
    """Sinusoids of timesteps (2006.11239, appendix B), float64 (timestep, width).

    Args:
        timesteps: one axis.
        width: of an embedding; an odd one ends with a zero.
        cosines_first: whether the cosines stand before the sines.
        shift: taken from half of the width, by which the exponents are divided.
        scale: factor of the angles.
    """
    import torch

    half = width // 2
    frequencies = THETA ** (-torch.arange(half, dtype=torch.float64) / (half - shift))
    angles = torch.outer(timesteps.double().cpu(), frequencies) * scale
    waves = [angles.cos(), angles.sin()] if cosines_first else [angles.sin(), angles.cos()]
    made = torch.cat(waves, 1)
    return torch.nn.functional.pad(made, (0, width % 2))
