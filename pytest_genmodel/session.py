"""What a run holds: one context for each candidate, built from the settings, opened when first touched.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.settings import Settings
from pytest_genmodel.work_folder import WorkFolder

if TYPE_CHECKING:
    from pytest_genmodel.baselines.stand_in import StoredReference
    from pytest_genmodel.baselines.store import Entry, Store
    from pytest_genmodel.checkpoints.checkpoint import Checkpoint
    from pytest_genmodel.invariants.context import Context
    from pytest_genmodel.invariants.verdict import Verdict
    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.placement import Placement
    from pytest_genmodel.pipelines.probe import Probe
    from pytest_genmodel.pipelines.probing import ProbeWishes
    from pytest_genmodel.pipelines.residency import Residency
    from pytest_genmodel.pipelines.sampling import Samples
    from pytest_genmodel.reports.html.footage import Filming
    from pytest_genmodel.reports.progress_bar import ProgressView


def labels(specs: tuple[str, ...]) -> tuple[str, ...]:
    """Name each candidate without a machine's paths: its last part, numbered where two are alike.

    Which set of weights is meant is part of the name: `run-17@checkpoint-200`.
    """
    short = [_short(spec) for spec in specs]
    named: list[str] = []
    for label in short:
        if short.count(label) == 1:
            named.append(label)
            continue
        numbers = (f"{label}-{number}" for number in count(1))
        named.append(next(name for name in numbers if name not in named and name not in short))
    return tuple(named)


def _short(spec: str) -> str:
    if spec.startswith("tiny:"):
        return spec
    from pytest_genmodel.pipelines.resolve import split

    base, which = split(spec)
    name = Path(base).name or base
    return name if which is None else f"{name}@{which}"


@dataclass
class GenmodelSession:
    """The candidates and the reference of one pytest run, and what they share.

    Nothing heavy is imported or read before a test asks.
    """

    settings: Settings
    progress: ProgressView | None = None
    echo: Callable[[str], None] | None = None
    """Is given each line that a training command prints."""
    suite_size: int = 0
    """Items of the built-in suite, before any was deselected."""
    again: tuple[str, ...] = ()
    """Options under which an item is judged again as it is now."""
    _contexts: dict[int, Context] = field(default_factory=dict)
    _work: WorkFolder = field(init=False)

    def __post_init__(self) -> None:
        self._work = WorkFolder(keep=self.settings.keep)

    @property
    def labels(self) -> tuple[str, ...]:
        """Short names of the candidates, in their order."""
        return labels(self.settings.candidates)

    @property
    def workdir(self) -> Path:
        """A folder of the run's own, outside every checkpoint; removed by `close`, and when the process is ended."""
        return self._work.path

    @cached_property
    def samples(self) -> Samples:
        """Every sample of the run."""
        from pytest_genmodel.pipelines.sampling import Samples

        return Samples()

    @cached_property
    def filming(self) -> Filming:
        """What the HTML report shows of the samples."""
        from pytest_genmodel.reports.html.footage import Filming

        specs = dict(zip(self.labels, self.settings.candidates, strict=True))
        return Filming(specs, self.settings.reference, self.samples, self.known_digest)

    @cached_property
    def residency(self) -> Residency:
        """What is in memory."""
        from pytest_genmodel.pipelines.residency import Residency

        return Residency()

    @cached_property
    def baseline_store(self) -> Store | None:
        """The entries of the baseline; None where none was given, or the file is not there and is not to be made.

        Raises:
            BaselineError: the file is damaged, or no baseline.
        """
        from pytest_genmodel.baselines.store import Store

        if self.settings.baseline is None:
            return None
        if not self.settings.update_baseline and not Path(self.settings.baseline).exists():
            return None
        return Store.open(self.settings.baseline)

    @cached_property
    def baseline(self) -> StoredReference | None:
        """What the baseline holds of a reference; None where it holds none, or is being made of one.

        Raises:
            BaselineError: the file is damaged, or no baseline.
        """
        store, settings = self.baseline_store, self.settings
        if store is None or (settings.update_baseline and settings.reference is not None):
            return None
        if not store.names("reference"):
            return None
        from pytest_genmodel.baselines.stand_in import StoredReference

        return StoredReference(store)

    def record_reference(self) -> dict[str, Entry]:
        """What a baseline keeps of the reference; reads every weight of it, and samples unless the level is static.

        Raises:
            GenmodelError: the reference cannot be read, loaded or sampled.
        """
        from pytest_genmodel.baselines.record import record
        from pytest_genmodel.pipelines.probing import make_probe

        pipeline = self.pipeline(str(self.settings.reference))
        full = self.settings.level == "full"
        probe = make_probe(self.wishes, pipeline.checkpoint, pipeline.family, full=full)
        return record(pipeline, probe, self.settings.level)

    def record_candidate(self, *, with_weights: bool = True) -> tuple[dict[str, Entry], str | None]:
        """What a baseline could keep of the one candidate, and what is left out; nothing is sampled for it.

        Args:
            with_weights: also what is at rest: fingerprints (every weight is read), configuration, tokens.
        """
        from pytest_genmodel.baselines.record import record, record_seen
        from pytest_genmodel.errors import GenmodelError

        if len(self.settings.candidates) != 1:
            return {}, "no baseline can be made of the run: it has not one candidate"
        pipeline, found = self._pipelines.get(self.settings.candidates[0]), {}
        if pipeline is None:
            return {}, "no baseline can be made of the run: nothing of it opened the candidate"
        try:
            probe = self.probe(0)
            if with_weights:
                found = record(pipeline, probe, "static")
            return {**found, **record_seen(pipeline, probe, self.samples)}, None
        except (GenmodelError, OSError) as error:
            return {}, f"no baseline can be made of the run: {error}"

    def context(self, index: int) -> Context:
        """The context of candidate number `index`."""
        from pytest_genmodel.invariants.context import Context, Policy
        from pytest_genmodel.invariants.registry import Level

        if index not in self._contexts:
            settings = self.settings
            self._contexts[index] = Context(
                label=self.labels[index],
                candidate_source=partial(self.pipeline, settings.candidates[index]),
                reference_source=partial(self.pipeline, settings.reference) if settings.reference else None,
                probe_source=partial(self.probe, index),
                policy=Policy(
                    settings.expect,
                    Level(settings.level),
                    settings.strict,
                    float(settings.train_timeout),
                    self.echo,
                    settings.resume_args,
                    settings.zero_rate,
                    settings.train_result,
                    settings.keep,
                    calibrate=settings.calibrate,
                    allow=settings.allow,
                    saves=settings.save_run is not None,
                ),
                workdir=self.workdir,
                baseline=self.baseline,
            )
        return self._contexts[index]

    def judge(self, index: int, name: str, parameters: dict[str, Any]) -> Verdict:
        """Judge one invariant for candidate number `index`."""
        from pytest_genmodel.diagnosis.allowance import ALLOW
        from pytest_genmodel.invariants.judge import judge
        from pytest_genmodel.invariants.registry import find

        invariant = find(name)
        invariant.check({key: value for key, value in parameters.items() if key != ALLOW})
        return judge(invariant, self.context(index), parameters)

    def for_candidate(self, spec: str) -> GenmodelSession:
        """A run of another candidate under the same settings, which shares what is known of the reference.

        Close it, and `release` what it has loaded, before the next one.
        """
        other = GenmodelSession(replace(self.settings, candidates=(spec,)), self.progress, self.echo)
        other.residency = self.residency
        if self.settings.reference is not None:
            other._pipelines[self.settings.reference] = self.pipeline(self.settings.reference)
        return other

    def release(self) -> None:
        """Let go of every live component."""
        for pipeline in self._pipelines.values():
            pipeline.release()

    def pipeline(self, spec: str) -> Pipeline:
        """The pipeline of `spec`, opened once; a partial candidate is laid over the reference."""
        if spec not in self._pipelines:
            self._pipelines[spec] = self._open(spec)
        return self._pipelines[spec]

    @cached_property
    def _pipelines(self) -> dict[str, Pipeline]:
        return {}

    def _open(self, spec: str) -> Pipeline:
        from pytest_genmodel.checkpoints.progress import silent
        from pytest_genmodel.errors import BadInputError
        from pytest_genmodel.pipelines.overlay import overlay
        from pytest_genmodel.pipelines.pipeline import Pipeline
        from pytest_genmodel.pipelines.resolve import resolve

        checkpoint = resolve(spec, self.workdir)
        if checkpoint.is_partial:
            if self.settings.reference is None or self.settings.reference == spec:
                raise BadInputError(
                    f"{spec}: a {checkpoint.kind.value} needs a whole pipeline as --genmodel-ref"
                )
            checkpoint = overlay(checkpoint, self.pipeline(self.settings.reference).checkpoint, self.workdir)
        return Pipeline(
            checkpoint,
            self._placement(checkpoint),
            residency=self.residency,
            samples=self.samples,
            progress=self.progress or silent,
        )

    def _placement(self, checkpoint: Checkpoint) -> Placement:
        from pytest_genmodel.checkpoints.damage import DamagedFileError
        from pytest_genmodel.pipelines.families import family_of
        from pytest_genmodel.pipelines.placement import resolve_placement

        denoiser = checkpoint.components.get(family_of(checkpoint).denoiser)
        stored = "F32"
        try:
            if denoiser is not None and denoiser.has_weights:
                stored = next(iter(denoiser.weights.tensors.values())).dtype
        except (DamagedFileError, StopIteration):
            pass  # what is wrong with it is for the claims that need it
        return resolve_placement(self.settings.device, self.settings.dtype, stored)

    @property
    def wishes(self) -> ProbeWishes:
        """What was asked of the probe."""
        from pytest_genmodel.pipelines.probing import ProbeWishes

        settings = self.settings
        return ProbeWishes(
            settings.prompt, settings.image, settings.seed, settings.steps, settings.frames, settings.size
        )

    def probe(self, index: int) -> Probe:
        """The fixed inputs for candidate number `index`."""
        from pytest_genmodel.pipelines.probing import make_probe

        pipeline = self.pipeline(self.settings.candidates[index])
        return make_probe(
            self.wishes,
            pipeline.checkpoint,
            pipeline.family,
            full=self.settings.level == "full",
            base=self._base_of(pipeline.checkpoint),
        )

    def _base_of(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """The reference, where a candidate without a probe file of its own needs it for its size."""
        from pytest_genmodel.errors import GenmodelError
        from pytest_genmodel.pipelines.probing import PROBE_FILE

        if self.settings.reference is None or (checkpoint.root / PROBE_FILE).is_file():
            return None
        try:
            return self.pipeline(self.settings.reference).checkpoint
        except GenmodelError:
            return None  # what is wrong with it is for the claims that need it

    def describe(self, index: int) -> dict[str, Any]:
        """What is known of a candidate, for the report; reads no weights that no test has read."""
        spec = self.settings.candidates[index]
        return {"label": self.labels[index], "spec": spec, **self._facts(spec)}

    def describe_reference(self) -> dict[str, Any] | None:
        """What is known of the reference, for the report; None where there is none."""
        spec = self.settings.reference
        return {"spec": spec, **self._facts(spec)} if spec is not None else None

    def _facts(self, spec: str) -> dict[str, Any]:
        pipeline = self._pipelines.get(spec)
        if pipeline is None:
            return {"digest": None, "device": None, "dtype": None}
        placement = pipeline.placement
        return {"digest": pipeline.known_digest, "device": placement.device, "dtype": placement.dtype}

    def known_digest(self, spec: str | None) -> str | None:
        """The digest of what `spec` names, where something has needed it already."""
        pipeline = self._pipelines.get(spec) if spec is not None else None
        return pipeline.known_digest if pipeline is not None else None

    def clear_progress(self) -> None:
        """Take away what a job that was broken off has left on the terminal."""
        if self.progress is not None:
            self.progress.clear()

    @property
    def kept(self) -> Path | None:
        """The work folder, where it was asked to stay and something lies in it."""
        return self._work.kept

    def close(self) -> None:
        """Remove the work folder, unless it was asked to stay."""
        self._work.close()
