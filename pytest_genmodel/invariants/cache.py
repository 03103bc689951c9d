"""cache_is_fresh: precomputed embeddings and latents are what the encoders give today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.conditions import precision_floor, went_through
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.image_condition import CLOSE, SAME_SHAPE, cosine, distance
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.training_run import Trainer, check_values, train_once
from pytest_genmodel.pipelines.conditions import conditions_of
from pytest_genmodel.training.caches import CacheItem, Source, cache_items, sources_beside
from pytest_genmodel.training.clips import read_clip
from pytest_genmodel.training.trainers import BUILT_IN

if TYPE_CHECKING:
    import torch

MOST_ITEMS = 4
"""Items that are encoded again: an encoder that is another shows in each of them."""
MOST_SOURCES = 8
"""Clips that an item is held against where it does not say whose it is."""
_SEARCHED = ("trained", "dataset", "cwd")
"""Folders of a training run in which its cache may lie."""


@invariant(check=check_values)
def cache_is_fresh(
    context: Context, *, cache: str | None = None, trainer: Trainer | None = None, steps: int = 2
) -> Iterator[Finding]:
    """Items of a precomputed data set equal what text encoder and VAE give for the same caption and clip.

    `cache` is a file or folder of the user's; without it the tiny data set is trained on with `trainer`, and what
    that run has left behind is judged. Skipped where there is no cache.
    """
    if cache is None:
        if trainer is None or trainer in BUILT_IN:
            context.skip("no cache was given (--genmodel-cache), and the built-in trainers keep none")
        items, sources = _of_run(context, trainer, steps)
        if not items:
            context.skip("the training run kept no precomputed embeddings or latents")
    else:
        items, sources = cache_items(Path(cache), MOST_ITEMS), sources_beside(Path(cache))
        if not items:
            context.cannot_judge(
                f"{Path(cache).name} holds no embeddings or latents that are known by their names"
            )
    judge = _Judge(context, sources, certain=cache is None)
    for item in items:
        yield from judge.item(item)
    context.measure(items=len(items), compared=judge.compared)
    if not judge.compared:
        context.cannot_judge(
            "the cache does not say which caption or clip its items belong to, and no data set lies beside it "
            "(prompts.txt and videos.txt, metadata.csv or metadata.jsonl)"
        )


def _of_run(context: Context, trainer: Trainer, steps: int) -> tuple[list[CacheItem], list[Source]]:
    trained = train_once(context, trainer, lr=context.policy.zero_rate, steps=steps)
    if trained.output is None:
        return [], []
    run = trained.output.parent
    items: list[CacheItem] = []
    for name in _SEARCHED:
        if (run / name).is_dir():
            items += cache_items(run / name, MOST_ITEMS - len(items))
    return items, sources_beside(run / "dataset") if (run / "dataset").is_dir() else []


@dataclass
class _Judge:
    """Encodes anew, each caption and clip once; `certain` says that the data set is the one that was encoded."""

    context: Context
    sources: list[Source]
    certain: bool
    compared: int = 0
    _texts: dict[str, torch.Tensor] = field(default_factory=dict)
    _means: dict[tuple[Any, ...], tuple[torch.Tensor, float]] = field(default_factory=dict)

    def item(self, item: CacheItem) -> Iterator[Finding]:
        """Judge what one item holds."""
        named = [source for source in self.sources if source.names(item)]
        for key, value in item.of_kind("text").items():
            yield from self._text(item, key, value, named)
        for kind in ("latents", "image"):
            for key, value in item.of_kind(kind).items():
                yield from self._latents(item, key, value, named, kind)

    def _text(self, item: CacheItem, key: str, value: torch.Tensor, named: list[Source]) -> Iterator[Finding]:
        own = [item.caption] if item.caption is not None else [source.caption for source in named]
        others = [source.caption for source in self.sources[:MOST_SOURCES]]
        if not own and not others:
            return
        self.compared += 1
        ours = value.reshape(-1, value.shape[-1])
        floor = precision_floor(value)
        gaps = {
            caption: _text_gap(ours, self._fresh_text(caption)) for caption in dict.fromkeys(own or others)
        }
        caption, gap = min(gaps.items(), key=lambda pair: pair[1])
        place = _place(item, key)
        if gap <= floor:
            yield from _rounded(place, value)
            return
        swapped = next(
            (
                other
                for other in others
                if other not in gaps and _text_gap(ours, self._fresh_text(other)) <= floor
            ),
            None,
        )
        if swapped is not None:
            yield Finding(
                "GM747",
                f"{place} is the embedding of {swapped!r}, and is kept for {caption!r}",
                component="text_encoder",
                location=place,
            )
            return
        fresh = self._fresh_text(caption)
        yield Finding(
            "GM745",
            f"{place} {_text_difference(ours, fresh, gap, caption)}",
            component="text_encoder",
            location=place,
            cause="it comes from another text encoder, length or caption"
            if ours.shape[-1] == fresh.shape[-1]
            else "it comes from another text encoder",
            evidence={"relative_difference": gap, **against(gap, floor, "relative difference")},
        )

    def _fresh_text(self, caption: str) -> torch.Tensor:
        if caption not in self._texts:
            found = conditions_of(self.context.candidate, self.context.probe.but(prompt=caption))
            texts = [
                value
                for piece in found.of_kind("text")
                if (value := found.value(piece)).is_floating_point() and value.ndim == 3
            ]
            if not texts:
                self.context.cannot_judge("the pipeline gives its denoiser no text embedding by a known name")
            self._texts[caption] = texts[0].reshape(-1, texts[0].shape[-1])
        return self._texts[caption]

    def _latents(
        self, item: CacheItem, key: str, value: torch.Tensor, named: list[Source], kind: str
    ) -> Iterator[Finding]:
        if "vae" not in self.context.candidate.components:
            return
        vae = self.context.candidate.component("vae")
        channels = int(vae.config.get("latent_channels") or vae.config.get("z_dim") or 0)
        layouts = _layouts(value, channels)
        sources = named or self.sources[:MOST_SOURCES]
        if not layouts or not sources:
            return
        self.compared += 1
        fits = [(self._fit(tensor, source, kind), source) for tensor in layouts for source in sources]
        best, source = min(fits, key=lambda pair: pair[0].gap)
        place = _place(item, key)
        if value.numel() == layouts[0].numel() * 2:
            self.context.measure(moments=place)
        if best.gap <= CLOSE + best.spread and best.factor_is_one:
            if best.unscaled:
                yield Finding(
                    "GM748",
                    f"{place} is the VAE's own latent, without its scaling",
                    component="vae",
                    location=place,
                )
            yield from _rounded(place, value)
            return
        for other in self.sources[:MOST_SOURCES] if named else ():
            if other in named:
                continue
            if any((fit := self._fit(tensor, other, kind)).gap <= CLOSE + fit.spread for tensor in layouts):
                yield Finding(
                    "GM747",
                    f"{place} is the latent of {other.video.name}, and is kept for {source.video.name}",
                    component="vae",
                    location=place,
                )
                return
        severity = None if self.certain or best.cosine >= SAME_SHAPE else Severity.WARNING
        yield Finding(
            "GM746",
            f"{place} is not what the VAE gives for {source.video.name}: {best.text}",
            component="vae",
            location=place,
            severity=severity,
            cause=best.cause,
            evidence={
                "relative_difference": best.gap,
                "cosine": best.cosine,
                "factor": best.factor,
                **against(best.gap, CLOSE + best.spread, "relative difference"),
            },
        )

    def _fit(self, latent: torch.Tensor, source: Source, kind: str) -> _Fit:
        """How a latent (channel, frame, height, width) fits a clip: with or without scaling, and by which factor."""
        fits = []
        for spaced in (False, True) if kind == "latents" and latent.shape[1] > 1 else (False,):
            mean, spread = self._encoded(source, tuple(latent.shape[1:]), spaced=spaced)
            if mean.shape == latent.shape:
                fits.append(
                    _fit(latent.double(), mean, spread, self.context.candidate.component("vae").config)
                )
        return min(fits, key=lambda fit: fit.gap, default=_Fit(float("inf"), 0.0, 0.0, 0.0, False, None))

    def _encoded(self, source: Source, shape: tuple[int, ...], *, spaced: bool) -> tuple[torch.Tensor, float]:
        import torch

        from pytest_genmodel.pipelines.library import quiet
        from pytest_genmodel.pipelines.placement import controlled
        from pytest_genmodel.pipelines.residents import parameter_count

        key = (source, shape, spaced)
        if key not in self._means:
            candidate = self.context.candidate
            vae = candidate.component("vae")
            space = int(getattr(candidate.diffusers, "vae_scale_factor_spatial", None) or 8)
            time = int(getattr(candidate.diffusers, "vae_scale_factor_temporal", None) or 1)
            frames, height, width = (shape[0] - 1) * time + 1, shape[1] * space, shape[2] * space
            clip = read_clip(source.video)
            places = torch.linspace(0, len(clip) - 1, frames).long() if spaced else torch.arange(frames)
            clip = clip[places.clamp(max=len(clip) - 1)]
            if clip.shape[-2:] != (height, width):
                clip = torch.nn.functional.interpolate(clip, (height, width), mode="bilinear", antialias=True)
            video = (clip * 2 - 1).permute(1, 0, 2, 3).unsqueeze(0).to(vae.device, vae.dtype)
            with controlled(candidate.placement.device, parameter_count(vae)), quiet(), torch.no_grad():
                posterior = vae.encode(video).latent_dist
            mean = posterior.mode()[0].double().cpu()
            deviation = float(posterior.std.double().pow(2).mean().sqrt())
            self._means[key] = (mean, deviation / max(float(mean.pow(2).mean().sqrt()), 1e-12))
        return self._means[key]


@dataclass(frozen=True)
class _Fit:
    gap: float
    spread: float
    cosine: float
    factor: float
    unscaled: bool
    cause: str | None

    @property
    def factor_is_one(self) -> bool:
        """Whether the latent has the size that it must have."""
        return abs(self.factor - 1) <= CLOSE

    @property
    def text(self) -> str:
        """The figures in words."""
        if self.cosine >= SAME_SHAPE:
            return f"{self.factor:.4g} times that (cosine {self.cosine:.4f})"
        return f"relative difference {self.gap:.3g}, cosine {self.cosine:.2f}"


def _fit(latent: torch.Tensor, mean: torch.Tensor, spread: float, config: Mapping[str, Any]) -> _Fit:
    scale = config.get("scaling_factor")
    scaled = _normalised(mean, config)
    raw, own = distance(latent, mean), distance(latent, scaled)
    unscaled = raw < own
    target = mean if unscaled else scaled
    gap = min(raw, own)
    if gap <= CLOSE + spread:
        factor = float((latent * target).sum() / (target * target).sum())
        drawn = max(spread, CLOSE)
        return _Fit(
            gap, spread, cosine(latent, target), 1.0 if abs(factor - 1) <= drawn else factor, unscaled, None
        )
    factor = float((latent * scaled).sum() / (scaled * scaled).sum())
    cause = None
    if scale and cosine(latent, scaled) >= SAME_SHAPE:
        known = {
            float(scale): "scaled twice with the VAE's scaling_factor",
            1 / float(scale) ** 2: "divided by the VAE's scaling_factor, where encoding multiplies",
        }
        near = min(known, key=lambda value: abs(value - factor))
        cause = known[near] if abs(near - factor) <= 0.03 * near else None
    return _Fit(own, spread, cosine(latent, scaled), factor, False, cause)


def _normalised(mean: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    import torch

    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        middle, size = (
            torch.tensor(config[name], dtype=mean.dtype).view(-1, 1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        return (mean - middle) / size
    return mean * float(config.get("scaling_factor") or 1.0)


def _layouts(value: torch.Tensor, channels: int) -> list[torch.Tensor]:
    """The tensor as (channel, frame, height, width), in each way that its shape allows; of moments the mean."""
    while value.ndim > 4 and value.shape[0] == 1:
        value = value[0]
    if value.ndim == 3:
        value = value.unsqueeze(1)
    if value.ndim != 4 or not channels:
        return []
    found = []
    for tensor in (value, value.transpose(0, 1)):
        if tensor.shape[0] == channels:
            found.append(tensor)
        elif tensor.shape[0] == 2 * channels:
            found.append(tensor[:channels])
    return found


def _text_gap(ours: torch.Tensor, fresh: torch.Tensor) -> float:
    if ours.shape[-1] != fresh.shape[-1]:
        return float("inf")
    length = min(len(ours), len(fresh))
    return distance(ours[:length].float(), fresh[:length].float())


def _text_difference(ours: torch.Tensor, fresh: torch.Tensor, gap: float, caption: str) -> str:
    if ours.shape[-1] != fresh.shape[-1]:
        return f"has {ours.shape[-1]} values a token, the text encoder gives {fresh.shape[-1]}"
    length = f", {len(ours)} tokens and {len(fresh)}" if len(ours) != len(fresh) else ""
    return f"differs from a fresh encoding of {caption!r}: relative difference {gap:.3g}{length}"


def _place(item: CacheItem, key: str) -> str:
    return f"{item.name}:{key}" if key else item.name


def _rounded(place: str, value: torch.Tensor) -> Iterator[Finding]:
    through = went_through(value)
    if through is not None:
        yield Finding("GM749", f"{place} holds values rounded to {through}", location=place)
