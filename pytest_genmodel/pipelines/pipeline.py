"""A pipeline: one checkpoint, live as far as anyone has asked for it."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.digest import adapter_digest, checkpoint_digest, component_digest
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.errors import BadInputError, GenmodelError
from pytest_genmodel.pipelines.adapters import attach
from pytest_genmodel.pipelines.assembly import assembled, required_components
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.library import class_named, quiet
from pytest_genmodel.pipelines.loading import Loaded, load_component
from pytest_genmodel.pipelines.placement import Placement
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.residency import Residency
from pytest_genmodel.pipelines.residents import on_meta
from pytest_genmodel.pipelines.sampling import Sample, Samples, run_pipeline

WORTH_COLLECTING = 64_000_000
"""Bytes of memory that are not left to Python's own time; a collection takes about a tenth of a second."""


class UnbackedError(GenmodelError):
    """Tensors of the pipeline have no memory: whatever is done with it shows what lay there before."""


class Pipeline:
    """A checkpoint as a live diffusers pipeline; components are loaded when first touched.

    The live objects are `pipeline.diffusers` (the whole) and `pipeline.component(name)`. Treat them as read
    only: they are shared, and samples are remembered by content.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        placement: Placement,
        *,
        residency: Residency | None = None,
        samples: Samples | None = None,
        progress: Progress = silent,
    ) -> None:
        self.checkpoint = checkpoint
        self.family = family_of(checkpoint)
        self.placement = placement
        self.residency = residency or Residency()
        self.samples = samples or Samples()
        self.progress = progress
        self._loaded: dict[str, Loaded] = {}
        self._keys: dict[str, str] = {}
        self._contents: dict[str, str] = {}
        self._diffusers: Any = None

    @property
    def spec(self) -> str:
        """How the user named the checkpoint."""
        return self.checkpoint.spec

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components, as the checkpoint lists them."""
        return tuple(self.checkpoint.components)

    @property
    def denoisers(self) -> tuple[str, ...]:
        """Names of the denoisers that the checkpoint has, the main one first."""
        return self.family.denoisers(self.components)

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Components that the pipeline's class, or the family, cannot do without and the checkpoint does not have.

        Raises:
            BadInputError: the installed diffusers has no such class.
        """
        cls = class_named("diffusers", str(self.checkpoint.pipeline_class))
        needed = required_components(cls)
        has = self.checkpoint.components.keys() | self.checkpoint.pipeline_arguments.keys()
        needed += self.family.needed(self.checkpoint)
        return tuple(name for name in dict.fromkeys(needed) if name not in has)

    @cached_property
    def digest(self) -> str:
        """What the checkpoint is: a sha256 over class, arguments, adapter and the content of every component."""
        return checkpoint_digest(self.checkpoint, self.progress, content=self._content)

    @property
    def known_digest(self) -> str | None:
        """The digest, where something has needed it already; computing it reads every weight."""
        digest: str | None = self.__dict__.get("digest")
        return digest

    @property
    def _adapter_digest(self) -> str:
        adapter = self.checkpoint.adapter
        return adapter_digest(adapter, self.progress) if adapter else ""

    def loaded(self, name: str) -> Loaded:
        """Give the component `name` with what was said while it loaded; loads it the first time.

        Raises:
            BadInputError: the pipeline has no such component.
            LoadError: the library refuses it.
            DamagedFileError: its files cannot be read.
        """
        __tracebackhide__ = True
        if name not in self.checkpoint.components:
            raise BadInputError(
                f"{self.spec} has no component {name!r} (it has {', '.join(self.components)})"
            )
        if name not in self._loaded:
            keys = () if self.residency.is_alone(self) else tuple(self._readable_keys())
            self.residency.enter(self, keys)
            shared = self.residency.find(self._key(name)) if keys else None
            component = self.checkpoint.components[name]
            self._loaded[name] = shared or load_component(component, self.placement)
        return self._loaded[name]

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Raise as ever; whoever expects a diffusers pipeline is told how a component is asked for."""
            __tracebackhide__ = True
            checkpoint = self.__dict__.get("checkpoint")
            if checkpoint is None or name not in checkpoint.components:
                return super().__getattribute__(name)
            raise AttributeError(
                f"a genmodel Pipeline has no attribute {name!r}: component({name!r}) gives it live, and .diffusers "
                "the pipeline of diffusers"
            )

    def component(self, name: str) -> Any:
        """Give the live component `name` (a module, scheduler or tokenizer); raises as `loaded` does."""
        __tracebackhide__ = True
        return self.loaded(name).module

    @property
    def diffusers(self) -> Any:
        """The live diffusers pipeline, adapter attached; raises as `loaded` does.

        Raises:
            BadInputError: a component is missing that the class needs.
            MissingExtraError: the candidate is an adapter and peft is not installed.
            AttachError: the adapter cannot be attached.
        """
        if self._diffusers is None:
            self._require_complete()
            live = assembled(self.checkpoint, {name: self.component(name) for name in self.components})
            if self.checkpoint.adapter:
                with quiet():
                    attach(live, self.checkpoint.adapter, self.family)
            self._diffusers = live
        return self._diffusers

    def sample(self, probe: Probe, *, transformation: str = "", pinned: bool = True) -> Sample:
        """Sample once for each probe, transformation and content; the result is shared, do not write into it.

        Args:
            probe: the inputs.
            transformation: what was done to the run; another name is another run of the same inputs.
            pinned: whether torch's global random state is set for a family that draws from it.

        Raises:
            UnbackedError: tensors have no memory.
            LoadError, DamagedFileError: as `loaded`.
        """
        key = (self.digest, probe.key, transformation, self.placement.device, self.placement.dtype)
        self.samples.probes[probe.key] = probe
        return self.samples.get(key, lambda: self._run(probe, pinned))

    def require_backed(self) -> None:
        """Load every component, attach the adapter, and check that each tensor has memory.

        Raises:
            BadInputError: a component is missing that the class needs.
            AttachError: the adapter cannot be attached.
            UnbackedError: names the component and the first tensor that was never loaded.
        """
        self._require_complete()
        for name in self.components:
            _require_memory(name, self.loaded(name).meta)
        if self.checkpoint.adapter:
            denoiser = self.family.denoiser
            _require_memory(f"{denoiser}'s adapter", on_meta(getattr(self.diffusers, denoiser)))

    def _require_complete(self) -> None:
        if self.missing:
            raise BadInputError(
                f"{self.spec} has no {' and no '.join(self.missing)}, which {self.checkpoint.pipeline_class} needs "
                "(see coverage)"
            )

    def _run(self, probe: Probe, pinned: bool) -> Sample:
        self.require_backed()
        return run_pipeline(
            self.diffusers,
            self.family,
            self.checkpoint,
            probe,
            self.placement.device,
            self.progress,
            pinned=pinned,
        )

    def derive(self, checkpoint: Checkpoint, *, share: bool = True) -> Pipeline:
        """A pipeline for another checkpoint under the same conditions.

        Components of equal content are shared with this one, unless `share` is off: then every component is
        loaded from the checkpoint, whatever this pipeline holds.
        """
        return Pipeline(
            checkpoint,
            self.placement,
            residency=self.residency if share else None,
            samples=self.samples,
            progress=self.progress,
        )

    def live(self, key: str) -> Loaded | None:
        """Give the live component of this content key, if it is here."""
        return next((self._loaded[name] for name in self._loaded if self._key(name) == key), None)

    def release(self, keep: Collection[str] = ()) -> None:
        """Let go of the live components, but for those whose key is in `keep`.

        A live pipeline is held by cycles, so that large components are collected at once: the next model may not
        load while they are still in memory.
        """
        self._diffusers = None
        kept = {name: live for name, live in self._loaded.items() if self._key(name) in keep}
        freed = sum(live.nbytes for name, live in self._loaded.items() if name not in kept)
        self._loaded = kept
        if freed >= WORTH_COLLECTING:
            gc.collect()
        if not self._loaded:
            self.residency.leave(self)

    def _content(self, name: str) -> str:
        if name not in self._contents:
            self._contents[name] = component_digest(self.checkpoint.components[name], self.progress)
        return self._contents[name]

    def _readable_keys(self) -> Iterator[str]:
        """The keys of what can be read: a damaged component is a finding of its own, and of no other."""
        for name in self.components:
            with suppress(DamagedFileError):
                yield self._key(name)

    def content_key(self, name: str) -> str:
        """What names the content of a component as it is loaded: equal keys, equal modules."""
        return self._key(name)

    def _key(self, name: str) -> str:
        """Content, placement, and for what a LoRA is attached to, the LoRA; schedulers have state: never shared."""
        if name not in self._keys:
            own = str(id(self)) if name == "scheduler" else ""
            adapter = self._adapter_digest if name in self._adapted else ""
            self._keys[name] = f"{self._content(name)}{self.placement}{adapter}{own}"
        return self._keys[name]

    @property
    def _adapted(self) -> tuple[str, ...]:
        return (self.family.denoiser,) if self.checkpoint.adapter else ()


def _require_memory(owner: str, meta: tuple[str, ...]) -> None:
    if meta:
        raise UnbackedError(
            f"{len(meta)} tensors of the {owner} were never loaded ({meta[0]} first), and running it would "
            "show uninitialised memory (see coverage)"
        )
