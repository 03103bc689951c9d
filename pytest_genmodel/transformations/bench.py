"""A pipeline of one's own to try things on, and what is looked at: never the shared one, which must stay as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.families.base import Family
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.sampling import Sample, run_pipeline
from pytest_genmodel.transformations.adapters import is_large

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.denoiser_call import DenoiserCall

LATENTS, FRAMES = "latents", "frames"


@dataclass(frozen=True, eq=False)
class Look:
    """One tensor that was looked at: `place` as findings name it (`step 1`, `frame 0`), `kind` latents or frames."""

    place: str
    kind: str
    values: torch.Tensor


Observation = tuple[Look, ...]
Decode = tuple[tuple[Any, ...], Mapping[str, Any]]


class Bench:
    """A pipeline of its own for one probe; `pipeline` holds it, `runs` counts the samples that were really made.

    Where a second copy is too much memory the shared pipeline lets go of its components first.
    """

    def __init__(self, shared: Pipeline, probe: Probe) -> None:
        self.shared = shared
        self.probe = probe
        self.is_large = is_large(shared)
        self.runs = 0
        self.notes: dict[str, str] = {}
        """What is to be said of a transformation although it holds, by its name."""
        self.call: DenoiserCall | None = None
        """The denoiser's first call, where one was recorded."""
        self.pipeline = self._own()
        self._bases: dict[str, Observation] = {}
        self._decodes: list[Decode] = []

    def _own(self) -> Pipeline:
        if self.is_large:
            self.shared.release()
        return self.shared.derive(self.shared.checkpoint, share=False)

    @property
    def live(self) -> Any:
        """The live diffusers pipeline."""
        return self.pipeline.diffusers

    @property
    def family(self) -> Family:
        """What is special about this kind of pipeline."""
        return self.pipeline.family

    @property
    def models(self) -> Mapping[str, Any]:
        """The components that are torch modules, by name."""
        import torch

        return {
            name: part for name, part in self.live.components.items() if isinstance(part, torch.nn.Module)
        }

    def renew(self) -> None:
        """Throw the pipeline away, because something is left on it, and load another."""
        self.pipeline.release()
        self.pipeline = self._own()

    def close(self) -> None:
        """Let go of the pipeline."""
        self.pipeline.release()

    def sample(self, name: str = "", live: Any = None, probe: Probe | None = None) -> Sample:
        """Sample under a transformation's name, once in a session; `live` in place of the own pipeline."""
        own, asked = self.pipeline, probe or self.probe

        def run() -> Sample:
            self.runs += 1
            own.require_backed()
            vae = self.models.get("vae") if live is None or live is self.live else None
            with watched_call(vae, "decode", lambda *given: self._decodes.append(given)):
                return run_pipeline(
                    live if live is not None else self.live,
                    own.family,
                    own.checkpoint,
                    asked,
                    own.placement.device,
                    own.progress,
                )

        key = (self.shared.digest, asked.key, name, own.placement.device, own.placement.dtype)
        return own.samples.get(key, run)

    def base(self, observe: Callable[[Bench, str, Any], Observation]) -> Observation:
        """What is seen with nothing done; looked at once, so it must first be asked for while nothing is."""
        name = observe.__name__
        if name not in self._bases:
            self._bases[name] = observe(self, "", self.live)
        return self._bases[name]

    @property
    def decoded(self) -> Decode:
        """The arguments of the first call of `vae.decode` in a sample; empty where there is none."""
        if not self._decodes:
            self.sample(f"to see what is decoded {id(self)}")
        return self._decodes[0] if self._decodes else ((), {})


@contextmanager
def watched_call(
    owner: Any, name: str, see: Callable[[tuple[Any, ...], Mapping[str, Any]], object]
) -> Iterator[None]:
    """Give `see` the arguments of every call of a method of this object, while the context lasts."""
    if owner is None:
        yield
        return
    method = getattr(owner, name)

    def watched(*arguments: Any, **options: Any) -> Any:
        see(arguments, options)
        return method(*arguments, **options)

    setattr(owner, name, watched)
    try:
        yield
    finally:
        delattr(owner, name)


def sampled(bench: Bench, name: str, live: Any) -> Observation:
    """Look at a sample: the latents after each step, then each frame."""
    return looks(bench.sample(name, live))


def looks(sample: Sample) -> Observation:
    """A sample as an observation."""
    return (
        *(Look(f"step {step}", LATENTS, values) for step, values in enumerate(sample.latents, start=1)),
        *(Look(f"frame {frame}", FRAMES, values) for frame, values in enumerate(sample.frames)),
    )
