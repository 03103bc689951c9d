"""Whether an autoencoder's tiles are cut and joined exactly, whatever its weights are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import first_line
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.residents import parameter_count
from pytest_genmodel.transformations.bench import Bench
from pytest_genmodel.transformations.neutral import BrokenError

if TYPE_CHECKING:
    import torch

TILE, STRIDE = 4, 3
"""A tile and the way to the next one, in latent pixels: whole numbers, which the library's own rarely are."""
CLIP = (6, 8)
"""Height and width in latent pixels: two rows of tiles, three columns, the last of each cut short."""
LIMITS = {"float32": 1e-5, "bfloat16": 0.02, "float16": 0.003}
"""How far blends of equal values may be apart; they go from 0 to 1 (rounding of two products and a sum)."""
FIXED = 1234
CHANNELS = 3


def require_exact_tiles(bench: Bench) -> str | None:
    """Decode and encode in tiles with layers that only enlarge or shrink: what the tiles are joined to is exact.

    The decoder runs, and its output is replaced by its input enlarged, so that no pixel depends on a neighbour
    beyond the tile's border. Then the picture in tiles is the picture at once, in every pixel.
    Gives what could not be tried and why; None where both ways were.

    Raises:
        BrokenError: a pixel is another one.
    """
    arguments, options = bench.decoded
    if not arguments:
        return None
    import torch

    vae = bench.live.vae
    given = arguments[0]
    frames = given.shape[2:-2]
    latents = _still((1, given.shape[1], *(min(count, 2) for count in frames), *CLIP), given)

    def decode(latents: torch.Tensor) -> torch.Tensor:
        video: torch.Tensor = vae.decode(latents, *arguments[1:], **options)[0]
        return video

    def encode(video: torch.Tensor) -> torch.Tensor:
        found = vae.encode(video)[0]
        latents: torch.Tensor = getattr(found, "mean", found)
        return latents

    with controlled(given.device, parameter_count(vae)), quiet(), torch.no_grad(), _kept(vae):
        try:
            scale = bench.probe.width // given.shape[-1]
            if not _set_tiles(vae, scale):
                return "its tiles cannot be set to whole latent pixels"
            if refused := _Way("tiled_decode", vae, vae.decoder, decode).compare(latents, 1, scale):
                return refused
            size = tuple(pixels * scale for pixels in CLIP)
            video = _still((1, CHANNELS, *(1 for _ in frames), *size), given)
            return _Way("tiled_encode", vae, vae.encoder, encode).compare(video, scale, 1)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            return f"tiles of {TILE} latent pixels cannot be tried ({first_line(error)})"


@dataclass(frozen=True)
class _Way:
    """One way through an autoencoder: the method that joins tiles, the layers it calls for each, and its call."""

    name: str
    vae: Any
    part: Any
    run: Callable[[torch.Tensor], torch.Tensor]

    def compare(self, given: torch.Tensor, scale: int, becomes: int) -> str | None:
        """Hold the result in tiles against that at once; one latent pixel is `scale` pixels given, and `becomes`.

        Raises:
            BrokenError: they differ.
        """
        with _local(self.part) as seen:
            self.vae.use_tiling = False
            whole = self.run(given)
            if tuple(whole.shape[-2:]) != tuple(pixels * becomes for pixels in CLIP):
                return f"{self.name} is not judged: a latent pixel is no whole number of pixels"
            seen.clear()
            self.vae.use_tiling = True
            tiled = self.run(given)
            if len(seen) < 2:  # the last row and column of tiles are cut short: there are several sizes
                return f"{self.name} does not cut {CLIP[0]} x {CLIP[1]} latent pixels into tiles of {TILE}"
            wrong = _difference(tiled, whole)
            if wrong is None:
                return None
            self.vae.use_tiling = False
            if not self._is_local(given, whole, scale, becomes):
                return f"{self.name} is not judged: what is around its layers looks beyond one pixel"
        raise BrokenError("GM613", f"{self.name} {wrong}", component="vae", location=self.name)

    def _is_local(self, given: torch.Tensor, whole: torch.Tensor, scale: int, becomes: int) -> bool:
        """Whether a change of one latent pixel changes that pixel of the result alone."""
        row, column = CLIP[0] // 2, CLIP[1] // 2
        other = given.clone()
        other[..., row * scale : (row + 1) * scale, column * scale : (column + 1) * scale] += 0.5
        changed = self.run(other) != whole
        there = (
            ...,
            slice(row * becomes, (row + 1) * becomes),
            slice(column * becomes, (column + 1) * becomes),
        )
        changed[there] = False
        return not bool(changed.any())


def _difference(tiled: torch.Tensor, whole: torch.Tensor) -> str | None:
    if tiled.shape != whole.shape:
        return f"gives {list(tiled.shape[-2:])} pixels, at once it is {list(whole.shape[-2:])}"
    away = (tiled.float() - whole.float()).abs().nan_to_num(nan=float("inf"))
    limit = LIMITS.get(str(whole.dtype).removeprefix("torch."), LIMITS["bfloat16"])
    limit *= max(1.0, float(whole.float().abs().max()))
    if float(away.max()) <= limit:
        return None
    *_, row, column = (away > limit).nonzero()[0].tolist()
    return (
        f"with layers that look at one pixel alone is off by {float(away.max()):.3g}, from row {row}, column "
        f"{column} on (tiles of {TILE} latent pixels, {STRIDE} apart): tiles are cut, joined or changed wrongly"
    )


def _still(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Random pixels from 0 to 1, the same in every frame: how frames are cut in chunks is not asked here."""
    import torch

    pixels = torch.rand((*shape[:2], *shape[-2:]), generator=torch.Generator().manual_seed(FIXED))
    if len(shape) == 5:
        pixels = pixels[:, :, None].expand(shape).clone()
    return pixels.to(like.device, like.dtype)


@contextmanager
def _kept(vae: Any) -> Iterator[None]:
    """Put every plain attribute back: sizes of tiles, and the switches."""
    before = {name: value for name, value in vars(vae).items() if isinstance(value, (bool, int, float))}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


@contextmanager
def _local(part: Any) -> Iterator[set[tuple[int, ...]]]:
    """Replace what a part puts out by what it was given, in the size and with the channels of the output.

    Gives the sizes (height and width) that the part is called with, as they are seen.
    """
    import torch

    seen: set[tuple[int, ...]] = set()

    def replace(_: Any, given: tuple[Any, ...], output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        source = given[0].float()
        seen.add(tuple(source.shape[-2:]))
        size = first.shape[2:]
        if size[-1] >= source.shape[-1]:
            scaled = torch.nn.functional.interpolate(source, size=size, mode="nearest")
        else:
            scaled = torch.nn.functional.interpolate(source, size=size, mode="area")
        picked = torch.arange(first.shape[1], device=scaled.device) % scaled.shape[1]
        new = scaled[:, picked].to(first.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    hook = part.register_forward_hook(replace)
    try:
        yield seen
    finally:
        hook.remove()


def _set_tiles(vae: Any, scale: int) -> bool:
    """Set tiles of `TILE` latent pixels in the three ways that diffusers 0.42 has; False where it has another."""
    if hasattr(vae, "tile_sample_stride_height"):
        vae.enable_tiling(
            tile_sample_min_height=TILE * scale,
            tile_sample_min_width=TILE * scale,
            tile_sample_stride_height=STRIDE * scale,
            tile_sample_stride_width=STRIDE * scale,
        )
    elif hasattr(vae, "tile_overlap_factor_height"):
        vae.enable_tiling(TILE * scale, TILE * scale, 1 - STRIDE / TILE, 1 - STRIDE / TILE)
    elif hasattr(vae, "tile_sample_min_size"):
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size = TILE * scale, TILE
        vae.tile_overlap_factor = 1 - STRIDE / TILE
    else:
        return False
    return True
