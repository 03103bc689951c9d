"""Make a reference's part of a baseline: fingerprints, effective configuration, schedule, tokens, observations."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel._version import __version__
from pytest_genmodel.baselines.conditions import STATIC, conditions
from pytest_genmodel.baselines.fingerprint import fingerprints, to_entry
from pytest_genmodel.baselines.observations import sample_to_entry, seen_of, seen_to_json
from pytest_genmodel.baselines.store import Blob, Entry, Store
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.digest import component_digest
from pytest_genmodel.pipelines.calibration import surroundings
from pytest_genmodel.pipelines.effective import effective_arguments, effective_config, schedule
from pytest_genmodel.pipelines.tokens import token_facts

if TYPE_CHECKING:
    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe
    from pytest_genmodel.pipelines.sampling import Samples

PIPELINE = "reference/pipeline"
COMPONENT = "reference/component/"
SCHEDULE = "reference/schedule"
TOKENS = "reference/tokens/"
SAMPLE = "reference/sample"
CLIPS = "reference/clips"
LARGEST_CLIPS = 200_000_000
"""Denoiser parameters up to which whole clips are sampled at the quick level, as `sound_video` has it."""
CLIP_SEEDS, CLIP_STEPS = 3, 8
"""What `sound_video` samples by default."""


def record(pipeline: Pipeline, probe: Probe, level: str) -> dict[str, Entry]:
    """Look at what a baseline keeps of `pipeline`; reads every weight, and samples unless `level` is static.

    Raises:
        DamagedFileError, LoadError: the reference cannot be read or loaded.
    """
    checkpoint = pipeline.checkpoint
    found = {PIPELINE: _pipeline(pipeline, probe, level)}
    for name, component in checkpoint.components.items():
        found[f"{COMPONENT}{name}"] = component_entry(component, pipeline)
        if "tokenizer" in name.lower():
            facts = token_facts(pipeline.component(name))
            value = {"settings": dict(facts.settings), "ids": dict(facts.ids), "filled": dict(facts.filled)}
            found[f"{TOKENS}{name}"] = Entry(value)
    if "scheduler" in checkpoint.components:
        found[SCHEDULE] = schedule_entry(pipeline, probe.steps)
    if level != STATIC:
        placement = pipeline.placement
        found[SAMPLE] = sample_to_entry(pipeline.sample(probe), probe.key, placement.dtype, placement.device)
        if level == "full" or _denoiser_size(pipeline) <= LARGEST_CLIPS:
            found[CLIPS] = _clips(pipeline, probe)
    return found


def record_seen(pipeline: Pipeline, probe: Probe, samples: Samples) -> dict[str, Entry]:
    """What a baseline keeps of samples that are there already; nothing is sampled."""
    known, found = samples.kept(pipeline.known_digest), {}
    if (sample := known.get(probe.key)) is not None:
        placement = pipeline.placement
        found[SAMPLE] = sample_to_entry(sample, probe.key, placement.dtype, placement.device)
    clips = clip_probes(probe, pipeline, CLIP_SEEDS, CLIP_STEPS, None)
    if all(clip.key in known for clip in clips):
        seen = {clip.key: seen_to_json(seen_of(known[clip.key], clip)) for clip in clips}
        found[CLIPS] = Entry(seen)
    return found


def clip_probes(probe: Probe, pipeline: Pipeline, seeds: int, steps: int, frames: int | None) -> list[Probe]:
    """The whole clips that videos are judged by: so many seeds, at least so many steps."""
    clip = frames or max(probe.frames, pipeline.family.geometry(pipeline.checkpoint).frames)
    return [
        probe.but(seed=probe.seed + number, steps=max(steps, probe.steps), frames=clip)
        for number in range(seeds)
    ]


def put_reference(store: Store, entries: dict[str, Entry]) -> None:
    """Put the reference's part into `store`, in place of the one that was there."""
    for name in store.names("reference"):
        store.remove(name)
    for name, entry in entries.items():
        store.put(name, entry)


def _pipeline(pipeline: Pipeline, probe: Probe, level: str) -> Entry:
    checkpoint = pipeline.checkpoint
    return Entry(
        {
            "spec": _name(pipeline.spec),
            "class": checkpoint.pipeline_class,
            "digest": pipeline.digest,
            "arguments": dict(effective_arguments(checkpoint)),
            "components": list(checkpoint.components),
            "conditions": conditions(probe, pipeline.placement, level),
            "environment": dict(_environment(pipeline)),
        }
    )


def _name(spec: str) -> str:
    """What the reference is called, without the path of a machine: the file may be committed."""
    path = Path(spec)
    return path.resolve().name if path.exists() else spec


def component_entry(component: Component, pipeline: Pipeline) -> Entry:
    """What is on record of one component: class, effective configuration, and fingerprints of its weights."""
    value: dict[str, Any] = {
        "library": component.library,
        "class": component.class_name,
        "digest": component_digest(component, pipeline.progress),
        "effective": dict(effective_config(component)),
        "has_weights": component.has_weights,
    }
    if not component.has_weights:
        return Entry(value)
    return to_entry(fingerprints(component.weights, pipeline.progress), value)


def schedule_entry(pipeline: Pipeline, steps: int) -> Entry:
    """The arrays that a run of `steps` steps takes from the scheduler."""
    arrays = schedule(pipeline.component("scheduler"), steps)
    return Entry({"steps": steps}, {name: Blob.of(array) for name, array in arrays.items()})


def _clips(pipeline: Pipeline, probe: Probe) -> Entry:
    probes = clip_probes(probe, pipeline, CLIP_SEEDS, CLIP_STEPS, None)
    return Entry({one.key: seen_to_json(seen_of(pipeline.sample(one), one)) for one in probes})


def _denoiser_size(pipeline: Pipeline) -> int:
    parts = [pipeline.checkpoint.components[name] for name in pipeline.denoisers]
    return sum(prod(tensor.shape) for part in parts for tensor in part.weights.tensors.values())


def _environment(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    yield "pytest-genmodel", __version__
    yield from surroundings(pipeline.placement).items()
    for name in ("peft", "safetensors"):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
