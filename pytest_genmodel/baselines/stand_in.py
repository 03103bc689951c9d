"""What stands in for a reference: the same questions, asked of a live pipeline or of a baseline.

An invariant that compares with the reference asks a `Trusted`: what is not on record is None, and values of
weights there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from pytest_genmodel.baselines import record
from pytest_genmodel.baselines.difference import sketched_difference
from pytest_genmodel.baselines.fingerprint import PrintedWeights, from_entry
from pytest_genmodel.baselines.observations import Recorded, Seen, sample_from_entry, seen_from_json, seen_of
from pytest_genmodel.baselines.store import BaselineError, Entry, Store
from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.pipelines.effective import ARRAYS, effective_arguments, schedule
from pytest_genmodel.pipelines.equality import compare_stored
from pytest_genmodel.pipelines.tokens import TokenFacts, token_facts

if TYPE_CHECKING:
    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe


class Trusted(Protocol):
    """What a claim may ask of the reference without loading its weights."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Its components, with their classes, effective configuration and tensors' names; values only where live."""
        ...

    @property
    def digest(self) -> str:
        """What it is, as `Pipeline.digest`."""
        ...

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What the pipeline's class is called with beside its components, defaults filled in."""
        ...

    def difference(self, ours: Component, name: str, progress: Progress = silent) -> WeightDifference:
        """Compare a candidate's component with the one called `name`."""
        ...

    def tokens(self, name: str) -> TokenFacts | None:
        """What the tokenizer `name` does; None where it is not on record."""
        ...

    def schedule(self, steps: int) -> Mapping[str, Any] | None:
        """The arrays of a run of `steps` steps; None where they are not on record."""
        ...

    def seen(self, probe: Probe) -> Seen | None:
        """What is seen of the clip that `probe` asks for; None where it is not on record."""
        ...


@dataclass(frozen=True)
class LiveReference:
    """A reference that is here itself."""

    pipeline: Pipeline

    @property
    def checkpoint(self) -> Checkpoint:
        """The reference at rest."""
        return self.pipeline.checkpoint

    @property
    def digest(self) -> str:
        """What it is; reads every weight the first time."""
        return self.pipeline.digest

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Asked of the installed class."""
        return effective_arguments(self.pipeline.checkpoint)

    def difference(self, ours: Component, name: str, progress: Progress = silent) -> WeightDifference:
        """Compared value by value."""
        return compare_stored(ours, self.pipeline.checkpoint.components[name], progress)

    def tokens(self, name: str) -> TokenFacts:
        """Asked of the live tokenizer."""
        return token_facts(self.pipeline.component(name))

    def schedule(self, steps: int) -> Mapping[str, Any]:
        """Asked of the live scheduler."""
        return schedule(self.pipeline.component("scheduler"), steps)

    def seen(self, probe: Probe) -> Seen:
        """Sampled."""
        return seen_of(self.pipeline.sample(probe), probe)


@dataclass(frozen=True)
class _PrintedComponent(Component):
    """A component of which fingerprints are on record."""

    holds_weights: bool = False
    printed: Callable[[], PrintedWeights] | None = field(default=None)

    @property
    def config_path(self) -> None:
        """There is no file."""
        return None

    @property
    def has_weights(self) -> bool:
        """Whether the reference's had weights."""
        return self.holds_weights

    @cached_property
    def weights(self) -> PrintedWeights:
        """The fingerprints."""
        assert self.printed is not None
        return self.printed()


class StoredReference:
    """A reference of which a baseline is here.

    Raises:
        BaselineError: the baseline's part for the reference is damaged.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.path = store.path
        entry = store.get(record.PIPELINE)
        if entry is None:
            raise BaselineError(f"{store.path}: this baseline holds no reference")
        try:
            self.conditions: Mapping[str, Any] = dict(entry.value["conditions"])
            self.environment: Mapping[str, str] = dict(entry.value["environment"])
            self.digest = str(entry.value["digest"])
            self.spec = str(entry.value["spec"])
            self.pipeline_class = str(entry.value["class"])
            self.arguments: Mapping[str, Any] = dict(entry.value["arguments"])
            self._names = tuple(map(str, entry.value["components"]))
        except (KeyError, TypeError, ValueError):
            self._damaged()

    def _damaged(self) -> NoReturn:
        raise BaselineError(
            f"{self.path}: what it holds of the reference is damaged; make the baseline again"
        )

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The components on record."""
        return Checkpoint(
            spec=self.spec,
            root=self.path,
            kind=Kind.PIPELINE,
            pipeline_class=self.pipeline_class,
            components={name: self._component(name) for name in self._names},
        )

    def _component(self, name: str) -> Component:
        entry = self.store.get(f"{record.COMPONENT}{name}")
        if entry is None:
            self._damaged()
        try:
            value = entry.value
            return _PrintedComponent(
                name=name,
                folder=self.path.parent / name,
                library=str(value["library"]),
                class_name=str(value["class"]),
                effective=dict(value["effective"]),
                holds_weights=bool(value["has_weights"]),
                printed=lambda: PrintedWeights(lambda: from_entry(entry, self.path), self.path),
            )
        except (KeyError, TypeError, ValueError):
            self._damaged()

    def difference(self, ours: Component, name: str, progress: Progress = silent) -> WeightDifference:
        """Equal by digest, or different by an estimate."""
        return sketched_difference(ours, self.checkpoint.components[name], progress)

    def tokens(self, name: str) -> TokenFacts | None:
        """As they were when the baseline was made."""
        entry = self.store.get(f"{record.TOKENS}{name}")
        if entry is None:
            return None
        try:
            return TokenFacts(*(dict(entry.value[part]) for part in ("settings", "ids", "filled")))
        except (KeyError, TypeError, ValueError):
            self._damaged()

    def schedule(self, steps: int) -> Mapping[str, Any] | None:
        """On record for one number of steps."""
        entry = self.store.get(record.SCHEDULE)
        if entry is None or not isinstance(entry.value, dict) or entry.value.get("steps") != steps:
            return None
        arrays = {name: blob.tensor() for name, blob in entry.tensors.items()}
        return {name: arrays[name] for name in ARRAYS if name in arrays}

    def seen(self, probe: Probe) -> Seen | None:
        """On record for a few clips."""
        entry = self.store.get(record.CLIPS)
        if entry is None or not isinstance(entry.value, dict) or probe.key not in entry.value:
            return None
        try:
            return seen_from_json(entry.value[probe.key])
        except (KeyError, TypeError, ValueError):
            self._damaged()

    def sample(self, probe: Probe) -> Recorded | None:
        """The probe's sample; None where another is on record, or none."""
        entry: Entry | None = self.store.get(record.SAMPLE)
        if entry is None or not isinstance(entry.value, dict) or entry.value.get("probe") != probe.key:
            return None
        return sample_from_entry(entry, str(self.path))
