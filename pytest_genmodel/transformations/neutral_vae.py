"""Neutral: the decoder in slices, and in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import first_line
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.residents import parameter_count
from pytest_genmodel.transformations.bench import FRAMES, Bench, Look, Observation
from pytest_genmodel.transformations.neutral import BrokenError, NotHereError, neutral
from pytest_genmodel.transformations.tiles import require_exact_tiles

if TYPE_CHECKING:
    import torch

LIKE = 0.5
"""The least correlation of a clip decoded in tiles with the same decoded at once."""
BLENDS = {"blend_v": -2, "blend_h": -1, "blend_t": -3}
"""The methods by which diffusers' autoencoders join tiles, with the axis along which each does."""


def decoded_rows(bench: Bench, name: str, live: Any) -> Observation:
    """Look at a batch of two different latents decoded at once; with nothing done, at each decoded by itself."""
    import torch

    arguments, _ = bench.decoded
    pair = torch.cat([arguments[0], arguments[0].flip(-1)])
    rows = _decode(bench, live, pair) if name else [_decode(bench, live, row[None])[0] for row in pair]
    return tuple(Look(f"row {row}", FRAMES, values) for row, values in enumerate(rows))


def _decode(bench: Bench, live: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents as the pipeline does, in a batch: float32, on the CPU."""
    import torch

    arguments, options = bench.decoded
    with controlled(bench.pipeline.placement.device, parameter_count(live.vae)), quiet(), torch.no_grad():
        output = live.vae.decode(latents, *arguments[1:], **options)
    videos: torch.Tensor = output[0]
    return videos.detach().float().cpu().clone()


@neutral(
    code="GM612",
    observe=decoded_rows,
    cause="a slice is decoded with what another left in a cache, or the slices are joined in another order",
)
def vae_slicing(bench: Bench) -> Iterator[Any]:
    """A batch decoded one video at a time."""
    vae = _switched(bench, "enable_slicing", "use_slicing")
    arguments, _ = bench.decoded
    if not arguments:
        raise NotHereError("the pipeline does not call its autoencoder's decode with latents alone")
    was = vae.use_slicing
    bench.base(decoded_rows)
    vae.enable_slicing()
    try:
        yield bench.live
    finally:
        vae.use_slicing = was


@neutral(code="GM613", cause="a clip that fits into one tile is cut all the same")
def vae_tiling(bench: Bench) -> Iterator[Any]:
    """The decoder in tiles: a clip within one tile stays as it is, and tiles are cut and joined exactly."""
    vae = _switched(bench, "enable_tiling", "use_tiling")
    _require_ramps(vae)
    refused = require_exact_tiles(bench)
    cut = _tiles_cut(bench, vae)
    was = vae.use_tiling
    try:
        vae.enable_tiling()
        note = _cut_note(bench) if cut else "the clip fits into one tile: tiling does nothing to it"
        bench.notes["vae_tiling"] = f"{note}; {refused}" if refused else note
        yield None if cut else bench.live
    finally:
        vae.use_tiling = was


def _cut_note(bench: Bench) -> str:
    """Decode in tiles and say how like the picture is: it is not the same, as no tile sees beyond its border.

    Raises:
        BrokenError: it is another picture.
    """
    import torch

    arguments, _ = bench.decoded
    if not arguments:
        return "the clip is cut into tiles: only how they are joined was judged"
    vae, latents = bench.live.vae, arguments[0]
    try:
        tiled = _decode(bench, bench.live, latents)
    except (RuntimeError, ValueError) as error:
        return f"joins alone were judged: the library cannot cut this clip into its own tiles ({first_line(error)})"
    vae.use_tiling = False
    at_once = _decode(bench, bench.live, latents)
    if tiled.shape != at_once.shape:
        return (
            "joins alone were judged: the library's own tiles do not fit this clip (decoded in tiles it is "
            f"{list(tiled.shape[-2:])} pixels, else {list(at_once.shape[-2:])})"
        )
    likeness = float(torch.corrcoef(torch.stack([tiled.flatten(), at_once.flatten()]))[0, 1])
    if not likeness >= LIKE:
        raise BrokenError(
            "GM613",
            f"decoded in tiles the clip is another picture (correlation {likeness:.2f}, at least {LIKE:g})",
            component="vae",
            location="frame 0",
        )
    return f"the clip is cut into tiles, which is not exact: joins judged by themselves, correlation {likeness:.3f}"


def _switched(bench: Bench, method: str, flag: str) -> Any:
    vae = bench.models.get("vae")
    if vae is None or not hasattr(vae, flag) or not hasattr(vae, method):
        raise NotHereError(f"its autoencoder has no {method}")
    was = getattr(vae, flag)
    try:
        getattr(vae, method)()
    except NotImplementedError as error:
        raise NotHereError(first_line(error)) from error
    setattr(vae, flag, was)
    return vae


def _tiles_cut(bench: Bench, vae: Any) -> bool:
    """Whether the clip is larger than a tile in height or width; unknown sizes count as larger."""
    probe = bench.probe
    single = getattr(vae, "tile_sample_min_size", None)
    height = getattr(vae, "tile_sample_min_height", single)
    width = getattr(vae, "tile_sample_min_width", single)
    if not isinstance(height, int) or not isinstance(width, int):
        return True
    return probe.height > height or probe.width > width


def _require_ramps(vae: Any) -> None:
    """Join a tile of zeros to one of ones by each method that there is: what comes out must rise from 0 to 1."""
    import torch

    extent, size = 4, 8
    for name, axis in BLENDS.items():
        if not hasattr(vae, name):
            continue
        shape = [1, 1, size, size, size] if axis == -3 or _is_video(vae) else [1, 1, size, size]
        first, second = torch.zeros(shape), torch.ones(shape)
        ramp = getattr(vae, name)(first, second.clone(), extent).transpose(axis, -1).flatten(0, -2)[0]
        band, rest = ramp[:extent], ramp[extent:]
        rises = bool((band.diff() >= 0).all()) and float(band[0]) < 0.5 < float(band[-1])
        if not rises or float(band.min()) < 0 or float(band.max()) > 1:
            raise BrokenError(
                "GM613",
                f"{name} joins a tile of zeros to a tile of ones as {[round(v, 3) for v in band.tolist()]}: it must "
                "rise from 0 to 1",
                component="vae",
                location=name,
            )
        if not bool((rest == 1).all()):
            raise BrokenError(
                "GM613", f"{name} changes pixels beyond the seam", component="vae", location=name
            )


def _is_video(vae: Any) -> bool:
    import torch

    return any(isinstance(part, torch.nn.Conv3d) for part in vae.modules())
