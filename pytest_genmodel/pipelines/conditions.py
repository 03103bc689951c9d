"""What a pipeline tells its denoiser for one probe, apart from the noise: found by looking, not known by family.

Arguments that are the same bits at two steps are conditions; so are the channels, frames or tokens of the noisy
argument that do not change from step to step (an image latent beside the noise, a clean first frame).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.pipelines.recording import Call, Recorded, Recorder, kept, record_pipeline
from pytest_genmodel.pipelines.sampling import run_pipeline

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe

Pixels = Callable[["torch.Tensor"], "torch.Tensor"]

TIME = ("timestep", "timesteps", "timestep_r", "sigma", "t")
_POSITIONS = ("rotary", "freqs", "pos_emb", "coords", "rope", "position", "video_coords")
_IMAGE = ("encoder_hidden_states_image", "image_embeds", "image_latents", "image_embeddings")
_SECTIONS = ("history", "latents_clean", "indices")
"""Of a clip that is made in sections: what was made before, which a first step does not have."""
_TEXT = ("encoder_hidden_states", "encoder_attention_mask", "pooled", "prompt", "text")


class TooFewCallsError(GenmodelError):
    """The denoiser is not called at each step."""


@dataclass(frozen=True)
class Piece:
    """A part of an argument that does not change from step to step: the whole, or a range of one of its axes.

    `kind` is "image", "text", "positions", "guidance", "section" or "other".
    """

    path: str
    kind: str
    axis: int | None = None
    start: int = 0
    stop: int = 0
    axis_name: str = ""

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Cut it out of a tensor of the same layout."""
        return tensor if self.axis is None else tensor.narrow(self.axis, self.start, self.stop - self.start)

    @property
    def place(self) -> str:
        """In words: `hidden_states[channels 4:8]`."""
        return self.path if self.axis is None else f"{self.path}[{self.axis_name} {self.start}:{self.stop}]"


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the denoiser is given for one probe, one row of the batch.

    `calls` are the first two calls. `pieces` do not change between them; `noisy` is the path of the argument that
    holds the noise. `spread` is the spread of the VAE's posterior for the image relative to its mean, both as root
    mean squares (0 where the image is not drawn from one): the recording takes the mean.
    """

    probe: Probe
    calls: tuple[Call, ...]
    pieces: tuple[Piece, ...]
    noisy: str
    spread: float

    def value(self, piece: Piece) -> torch.Tensor:
        """The piece at inference."""
        return piece.of(self.calls[0].tensors[piece.path].values)

    def of_kind(self, kind: str) -> list[Piece]:
        """The pieces of one kind."""
        return [piece for piece in self.pieces if piece.kind == kind]


def conditions_of(pipeline: Pipeline, probe: Probe, pixels: Pixels | None = None) -> Conditions:
    """Run the pipeline up to its second step, without guidance, and give what the denoiser was told.

    Costs the encoders and one call of the denoiser.

    Args:
        pipeline: it is left as it was.
        probe: image, prompt and size; guidance is switched off.
        pixels: done to whatever the VAE is given to encode: to see what a wrong range would look like.

    Raises:
        TooFewCallsError: two steps do not call the denoiser twice.
    """
    pipeline.require_backed()
    live, family = pipeline.diffusers, pipeline.family
    asked = probe.but(guidance=1.0, steps=2)
    recorder = Recorder(2, stop=True)
    with posterior_mean(getattr(live, "vae", None), pixels) as spreads:
        record_pipeline(
            live,
            family.live_denoisers(live),
            recorder,
            lambda: run_pipeline(
                live, family, pipeline.checkpoint, asked, pipeline.placement.device, lambda *_: None
            ),
        )
    if len(recorder.calls) < 2:
        raise TooFewCallsError(
            f"the pipeline calls its denoiser {len(recorder.calls)} times in two steps: conditions cannot be told "
            "from the noise"
        )
    calls = tuple(row_of(call, -1) for call in recorder.calls)
    noisy = noisy_argument(calls)
    pieces = tuple(_pieces(calls, noisy, family.latent_axes))
    return Conditions(probe, calls, pieces, noisy, max(spreads, default=0.0))


@contextmanager
def posterior_mean(vae: Any, pixels: Pixels | None = None) -> Iterator[list[float]]:
    """Have `vae.encode` give posteriors that are never drawn from: `sample` is their mean, while this lasts.

    Yields:
        For each posterior its spread over its mean, both as root mean squares.
    """
    spreads: list[float] = []
    if vae is None:
        yield spreads
        return
    encode = vae.encode

    def watched(images: Any, *args: Any, **kwargs: Any) -> Any:
        result = encode(pixels(images) if pixels is not None else images, *args, **kwargs)
        posterior = result[0] if isinstance(result, tuple) else getattr(result, "latent_dist", None)
        if posterior is not None and hasattr(posterior, "sample") and hasattr(posterior, "std"):
            mean = posterior.mode()
            posterior.sample = lambda *_, **__: mean
            spreads.append(_rms(posterior.std) / max(_rms(mean), 1e-12))
        return result

    vae.encode = watched
    try:
        yield spreads
    finally:
        del vae.encode


def row_of(call: Call, row: int) -> Call:
    """Give a call with one row of its batch: what has another first axis than the batch is kept whole."""
    batch = batch_of(call)
    if batch == 1:
        return call
    arguments = {
        path: _row(value, row) if isinstance(value, Recorded) and _has_batch(value, batch) else value
        for path, value in call.arguments.items()
    }
    return replace(call, arguments=arguments)


def batch_of(call: Call) -> int:
    """Rows of a call's batch: the first axis of its first tensor."""
    first = next((value for value in call.tensors.values() if value.shape), None)
    return first.shape[0] if first is not None else 1


def _has_batch(value: Recorded, batch: int) -> bool:
    return bool(value.shape) and value.shape[0] == batch and value.whole


def _row(value: Recorded, row: int) -> Recorded:
    place = range(value.shape[0])[row]
    return kept(value.values[place : place + 1])


def noisy_argument(calls: Sequence[Call]) -> str:
    """The argument that holds the noise: the largest tensor that changes from step to step."""
    first, last = calls[0].tensors, calls[-1].tensors
    changing = [
        path
        for path, value in first.items()
        if path not in TIME and path in last and value.digest != last[path].digest
    ]
    return max(changing, key=lambda path: first[path].values.numel(), default="")


def _pieces(calls: Sequence[Call], noisy: str, axes: tuple[str, ...]) -> Iterator[Piece]:
    first, last = calls[0].tensors, calls[-1].tensors
    for path, value in first.items():
        if path in TIME or path not in last or last[path].shape != value.shape:
            continue
        if value.digest == last[path].digest:
            yield Piece(path, kind_of(path))
        elif value.whole:
            yield from _constant_ranges(path, value.values == last[path].values, axes)


def _constant_ranges(path: str, same: torch.Tensor, axes: tuple[str, ...]) -> Iterator[Piece]:
    """The ranges along one axis that are the same at both steps; of the axis that has the most of them."""
    best: tuple[float, int, list[bool]] = (0.0, 0, [])
    for axis in range(1, same.ndim):
        flags = same.transpose(0, axis).flatten(1).all(dim=1).tolist()
        share = sum(flags) / len(flags)
        if share > best[0]:
            best = (share, axis, flags)
    _, axis, flags = best
    named = axes[axis] if len(axes) == same.ndim else f"axis {axis}"
    name = f"{named}s" if named in ("channel", "frame") else named
    start = None
    for place, constant in enumerate([*flags, False]):
        if constant and start is None:
            start = place
        elif not constant and start is not None:
            yield Piece(path, "image", axis, start, place, name)
            start = None


def kind_of(path: str) -> str:
    """What an argument is about, by its name: image, text, positions, guidance, section or other."""
    base = path.lower()
    kinds: Mapping[str, tuple[str, ...]] = {
        "positions": _POSITIONS,
        "image": _IMAGE,
        "guidance": ("guidance",),
        "section": _SECTIONS,
        "text": _TEXT,
    }
    return next((kind for kind, words in kinds.items() if any(word in base for word in words)), "other")


def _rms(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().pow(2).mean().sqrt())
