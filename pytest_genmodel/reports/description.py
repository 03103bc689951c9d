"""What a checkpoint is, as data: components, parameters, dtypes, sizes, files, adapter; a view of headers alone.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pytest_genmodel.checkpoints.alpha import scales
from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.digest import component_digest
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.checkpoints.weights import WeightSet
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.pipelines.families import family_of


@dataclass(frozen=True)
class WeightFacts:
    """What headers say of a set of weights. `dtypes` counts parameters; `bytes` is what the tensors take."""

    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    unexplained: int = 0
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComponentFacts:
    """A component. `weights` is None where it has none or they cannot be read: then `problem` says why."""

    name: str | None
    class_name: str | None
    library: str | None
    weights: WeightFacts | None
    problem: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class AdapterFacts:
    """A LoRA. `scales` are alpha / rank, one for each that occurs; `scale_from` says where they are kept."""

    file: str
    weights: WeightFacts | None
    ranks: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    scale_from: tuple[str, ...] = ()
    without_scale: int = 0
    modules: int = 0
    targets: tuple[str, ...] = ()
    problem: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class SetFacts:
    """One set of weights in a trainer's output."""

    label: str
    what: str
    step: int | None
    is_ema: bool
    place: str
    is_meant: bool


@dataclass(frozen=True)
class Description:
    """A checkpoint. `family` is None where its class belongs to no family that is known, or it names no class."""

    spec: str
    kind: str
    written_by: str | None
    pipeline_class: str | None
    family: str | None
    components: tuple[ComponentFacts, ...]
    adapter: AdapterFacts | None
    foreign: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return asdict(self)


def describe(
    checkpoint: Checkpoint, *, with_digests: bool = False, progress: Progress = silent
) -> Description:
    """Describe a checkpoint; a part that cannot be read is described by why not.

    Args:
        checkpoint: what to describe.
        with_digests: work out what identifies each component; reads all of its weights.
        progress: told how far that is.
    """
    return Description(
        spec=checkpoint.spec,
        kind=checkpoint.kind.value,
        written_by=checkpoint.written_by or None,
        pipeline_class=checkpoint.pipeline_class,
        family=_family(checkpoint),
        components=tuple(_component(one, with_digests, progress) for one in checkpoint.components.values()),
        adapter=_adapter(checkpoint.adapter, with_digests, progress) if checkpoint.adapter else None,
        foreign=dict(checkpoint.foreign),
    )


def _family(checkpoint: Checkpoint) -> str | None:
    if checkpoint.pipeline_class is None:
        return None
    try:
        family = family_of(checkpoint)
        return family.name if family.is_known else None
    except GenmodelError:
        return None


def _component(component: Component, with_digest: bool, progress: Progress) -> ComponentFacts:
    weights, digest, problem = None, None, None
    try:
        if component.has_weights:
            weights = _weights(component.weights)
        if with_digest:
            digest = component_digest(component, progress)
    except DamagedFileError as error:
        problem = str(error)
    return ComponentFacts(
        component.name or None,
        component.class_name or None,
        component.library or None,
        weights,
        problem,
        digest,
    )


def _weights(weights: WeightSet) -> WeightFacts:
    dtypes: Counter[str] = Counter()
    for tensor in weights.tensors.values():
        dtypes[tensor.dtype] += math.prod(tensor.shape)
    return WeightFacts(
        len(weights.tensors),
        dtypes.total(),
        sum(tensor.nbytes for tensor in weights.tensors.values()),
        dict(dtypes.most_common()),
        len(weights.unexplained),
        tuple(path.name for path in weights.files),
    )


def _adapter(adapter: Adapter, with_digest: bool, progress: Progress) -> AdapterFacts:
    try:
        known = scales(adapter)
        values = [scale for scale in known.by_module.values() if scale is not None]
        return AdapterFacts(
            adapter.file.name,
            _weights(adapter.weights),
            known.ranks,
            tuple(sorted({round(value, 9) for value in values})),
            tuple(dict.fromkeys(known.sources.values())),
            len(known.by_module) - len(values),
            len(known.by_module),
            _targets(known.by_module),
            None,
            adapter.weights.content_digest(progress) if with_digest else None,
        )
    except DamagedFileError as error:
        return AdapterFacts(adapter.file.name, None, problem=str(error))


def _targets(modules: Iterable[str]) -> tuple[str, ...]:
    """The layers that are adapted, each by the end of its name: `to_q`, `to_out.0`."""
    ends = set()
    for module in modules:
        parts = module.split(".")
        last = -1 if not parts[-1].isdecimal() or len(parts) == 1 else -2
        ends.add(".".join(parts[last:]))
    return tuple(sorted(ends))
