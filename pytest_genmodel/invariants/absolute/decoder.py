"""GM938, GM939 and GM944: where in the video a latent lands, how many frames come out, and what is carried over."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.observed_run import ObservedRun
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.residents import parameter_count

if TYPE_CHECKING:
    import torch

FRAMES, NARROW, WIDE = 5, 4, 8
"""Latent frames, and latents a side, of the clips that are decoded: more frames than any decoder takes in one piece
by default where it works in pieces; one frame, and more of it, for what is asked about height and width."""
ORDER, STILL, FLOOR, NOTHING = 0.2, 1e-3, 1e-2, 1e-6
"""Correlation between latent frames and the middle of what they change, below whose negative a video is in reverse
(random decoders, whose attention spreads everything: 0.4 and more, others 0.9); how alike frames are that stand
still; and what counts as no change in a logarithm, and at all (the clips of a batch differ by rounding)."""
IN_PLACE, ELSEWHERE = 0.25, 0.5
"""How well the quarters must fit at most where they are, and at least where they are not, to be called turned (random
and trained decoders alike: 0.75 and more in place, 0.22 at most elsewhere)."""
SYMMETRIES = {
    "in place": (0, 1, 2, 3),
    "mirrored": (1, 0, 3, 2),
    "upside down": (2, 3, 0, 1),
    "turned by half": (3, 2, 1, 0),
    "height and width exchanged": (0, 2, 1, 3),
    "turned by a quarter": (1, 3, 0, 2),
}
"""Where the quarters of the latents (upper left, upper right, lower left, lower right) may show."""


def decoder_findings(context: Context, run: ObservedRun) -> Iterator[Finding]:
    """Number of frames; then the decoder is given a clip with one latent frame, or one corner, changed."""
    yield from _frame_count(context, run)
    vae = getattr(context.candidate.diffusers, "vae", None)
    if vae is None or not run.decoded or getattr(vae.config, "timestep_conditioning", False):
        context.measure(decoder="not judged: there is none, or it draws noise")
        return
    device = context.candidate.placement.device
    with controlled(device, parameter_count(vae)), quiet():
        yield from _in_time(context, _Decoder(vae, run.decoded[0], FRAMES, NARROW))
        yield from _in_space(context, _Decoder(vae, run.decoded[0], 1, WIDE))


def _frame_count(context: Context, run: ObservedRun) -> Iterator[Finding]:
    expected = context.candidate.family.frames_made(context.candidate.checkpoint, run.probe)
    made = 0 if run.sample is None else len(run.sample.frames)
    if expected is not None and made != expected:
        yield Finding(
            "GM939",
            f"{run.probe.frames} frames were asked for, {expected} are made by the family's rule, and {made} "
            "came out",
            component="vae",
            location="frames",
            evidence={"asked": run.probe.frames, "expected": expected, "made": made},
        )


Part = tuple[slice, slice, slice]
"""Frames, rows and columns of the latents."""
ALL = slice(None)


class _Decoder:
    """Decodes a random clip of the right scale, of which parts are changed, and says what changed."""

    def __init__(self, vae: Any, like: torch.Tensor, frames: int, side: int) -> None:
        import torch

        self.vae, self.frames = vae, frames
        self.is_video = like.ndim == 5
        shape = (1, like.shape[1], frames, side, side)
        generator = torch.Generator("cpu").manual_seed(0)
        self.clip = torch.randn(shape, generator=generator) * (float(like.float().std()) or 1.0)

    def changes(self, parts: Sequence[Part]) -> torch.Tensor:
        """How much each pixel changes, (part, frame, height, width), where each of these parts of the clip does."""

        clips = self.clip.repeat(
            len(parts) + 1, 1, 1, 1, 1
        )  # all at once: what one call costs is mostly its calls
        for row, (times, rows, columns) in enumerate(parts):
            clips[row, :, times, rows, columns] *= -1
        frames = self._decoded(clips)
        changed: torch.Tensor = (frames[:-1] - frames[-1:]).abs().mean(2).double()
        return changed

    def _decoded(self, clips: torch.Tensor) -> torch.Tensor:
        """(clip, frame, 3, height, width), float32."""
        import torch

        more = {}
        if "num_frames" in inspect.signature(self.vae.decode).parameters:
            more["num_frames"] = self.frames
        given = (
            clips if self.is_video else clips.transpose(1, 2).flatten(0, 1)
        )  # of pictures, frames are the batch
        with torch.no_grad():
            made = self.vae.decode(given.to(self.vae.device, self.vae.dtype), return_dict=False, **more)[0]
        made = made.float().cpu()
        video: torch.Tensor = made.transpose(1, 2) if made.ndim == 5 else made.unflatten(0, (len(clips), -1))
        return video


def _in_time(context: Context, decoder: _Decoder) -> Iterator[Finding]:
    """Each latent frame changes some frame, and later ones change later frames."""
    import torch

    parts = [(slice(frame, frame + 1), ALL, ALL) for frame in range(FRAMES)]
    changes = decoder.changes(parts).mean((2, 3))
    changes = torch.where(changes > NOTHING * changes.max(), changes, 0.0)
    dead = changes.sum(1) == 0
    if bool(dead.any()):
        frame = int(dead.nonzero()[0])
        yield Finding(
            "GM938",
            f"latent frame {frame} of {FRAMES} changes no frame of the video",
            component="vae",
            location="frame 0",
            cause="the decoder shows other frames in its place",
        )
        return
    count = changes.shape[1]
    if count == 1:
        return
    centres = (changes * torch.arange(count)).sum(1) / changes.sum(1)
    due = torch.arange(FRAMES).double() - (FRAMES - 1) / 2
    spread = centres - centres.mean()
    agreement = float((spread * due).sum() / (spread.norm() * due.norm()).clamp_min(1e-30))
    still = float((changes.max(1).values - changes.min(1).values).max()) < STILL * float(changes.max())
    context.measure(decoder_order=round(agreement, 3))
    if still or agreement < -ORDER:
        yield Finding(
            "GM938",
            "every latent frame changes all frames of the video alike"
            if still
            else f"later latent frames change earlier frames of the video (agreement {agreement:.2f}, 1 is in order)",
            component="vae",
            location="frame 0",
            cause="one frame is shown again and again" if still else "the frames come out in reverse",
            evidence={"agreement": agreement, "centres": [float(centre) for centre in centres]},
        )
        return
    yield from _carried(decoder, changes)


def _beside_the_common(changes: torch.Tensor) -> torch.Tensor:
    """The logarithm without what a whole row or a whole column shares (two-way centred)."""
    logs = (changes + FLOOR * changes.max()).log()
    centred: torch.Tensor = logs - logs.mean(0) - logs.mean(1, keepdim=True) + logs.mean()
    return centred


def _carried(decoder: _Decoder, changes: torch.Tensor) -> Iterator[Finding]:
    """A decoder that mixes along time lets a latent frame reach beyond its own frames, at every place alike."""
    import torch

    mixes = any(
        isinstance(part, torch.nn.Conv3d) and part.kernel_size[0] > 1
        for part in (getattr(decoder.vae, "decoder", None) or decoder.vae).modules()
    )
    count = changes.shape[1]
    if not mixes or count < FRAMES:
        return
    step = (count - 1) / (FRAMES - 1) if (count - 1) % (FRAMES - 1) == 0 else count / FRAMES
    for frame in range(FRAMES - 1):
        after = int(frame * step) + 1 if (count - 1) % (FRAMES - 1) == 0 else int((frame + 1) * step)
        if not bool(changes[frame, after:].any()):
            yield Finding(
                "GM944",
                f"latent frame {frame} has no influence on any frame after its own (from frame {after} on), although "
                "the decoder mixes along time",
                component="vae",
                location=f"frame {after}",
                cause="what the decoder keeps of one piece of the clip for the next is lost: a seam, or a shift of "
                "colours, at each piece",
                evidence={"latent_frame": frame, "frame": after},
            )
            return


def _in_space(context: Context, decoder: _Decoder) -> Iterator[Finding]:
    """Each quarter of the latents changes its own quarter of the picture, and not a turned or mirrored one."""
    import torch

    halves = (slice(0, WIDE // 2), slice(WIDE // 2, WIDE))
    rows = []
    for change in decoder.changes([(ALL, down, across) for down in halves for across in halves]).mean(1):
        high, wide = (side // 2 for side in change.shape)
        parts = (change[:high, :wide], change[:high, wide:], change[high:, :wide], change[high:, wide:])
        rows.append(torch.stack([part.mean() for part in parts]))
    own = _beside_the_common(torch.stack(rows))
    size = max(float(own.norm()), 1e-30) * 3**0.5  # so that a perfect fit is 1
    fits = {
        name: float(sum(own[place, shown] for place, shown in enumerate(order))) / size
        for name, order in SYMMETRIES.items()
    }
    context.measure(decoder_in_place=round(fits["in place"], 2))
    best = max(fits, key=lambda name: fits[name])
    if fits["in place"] < IN_PLACE and fits[best] > ELSEWHERE:
        yield Finding(
            "GM938",
            f"the picture that is decoded lies otherwise than its latents: {best}",
            component="vae",
            location="frame 0",
            cause="height and width have changed places" if best == "height and width exchanged" else None,
            evidence=fits,
        )
