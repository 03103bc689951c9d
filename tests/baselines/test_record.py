"""What a baseline of a reference holds, and how it is read; damage is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod

import pytest
import torch

from pytest_genmodel.baselines import record
from pytest_genmodel.baselines.conditions import misfit
from pytest_genmodel.baselines.fingerprint import (
    Fingerprint,
    fingerprints,
    from_entry,
    number_digest,
    to_entry,
)
from pytest_genmodel.baselines.observations import (
    in_levels,
    sample_from_entry,
    sample_to_entry,
    seen_from_json,
    seen_of,
    seen_to_json,
)
from pytest_genmodel.baselines.sketch import SIZE, Facts
from pytest_genmodel.baselines.stand_in import StoredReference
from pytest_genmodel.baselines.store import BaselineError, Blob, Entry, Store
from pytest_genmodel.checkpoints.weights import SafetensorsWeights
from pytest_genmodel.pipelines.sampling import Sample
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.tensors import digest
from pytest_genmodel.tensors.moments import ValueStatistics
from tests.baselines.conftest import baseline_of


@pytest.fixture
def stored(recorded):
    return StoredReference(Store.open(recorded))


@pytest.fixture
def session(healthy):
    made = GenmodelSession(Settings(candidates=(str(healthy),)))
    yield made
    made.close()


def test_it_holds_the_digests_that_the_checkpoint_has(stored, session, healthy):
    pipeline = session.pipeline(str(healthy))

    assert stored.digest == pipeline.digest
    for name, component in pipeline.checkpoint.components.items():
        printed = stored.checkpoint.components[name]
        assert printed.has_weights == component.has_weights
        assert printed.class_name == component.class_name
        if component.has_weights:
            assert printed.weights.content_digest() == component.weights.content_digest()
            with pytest.raises(BaselineError, match="holds no weights"):
                printed.weights.read(next(iter(component.weights.tensors)))


def test_the_sample_on_record_is_the_sample(stored, session, healthy):
    probe = session.context(0).probe
    sample = session.pipeline(str(healthy)).sample(probe)

    kept = stored.sample(probe)

    assert kept is not None
    assert kept.steps == len(sample.latents)
    for step, latents in kept.latents.items():
        assert torch.equal(latents, sample.latents[step - 1])
    assert torch.equal(kept.frames, in_levels(sample.frames))
    assert stored.sample(probe.but(seed=99)) is None


def test_a_transformer_of_14e9_parameters_takes_a_few_megabytes(tmp_path):
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel(in_channels=36, image_dim=1280, added_kv_proj_dim=5120)
    row = torch.randn(SIZE)
    prints = {
        name: Fingerprint(
            "F32",
            tuple(tensor.shape),
            "0" * 64,
            "1" * 64,
            {"BF16": "2" * 64, "F16": "3" * 64},
            Facts(ValueStatistics(tensor.numel(), 0, 0, 0, 3, -1.1 / 3, 2.2 / 3, 0.1 / 3, 1e5 / 3), row),
        )
        for name, tensor in model.state_dict().items()
    }
    store = Store(tmp_path / "b", {f"{record.COMPONENT}transformer": to_entry(prints, {})})

    assert sum(prod(one.shape) for one in prints.values()) > 14e9
    size = len(store.to_bytes())
    assert 1 << 20 < size < 5 << 20


def test_two_runs_make_the_same_bytes(recorded, healthy, tmp_path):
    again = baseline_of(healthy, tmp_path / "again.baseline")
    assert again.read_bytes() == recorded.read_bytes()


def test_no_path_of_a_machine_is_in_it(recorded, healthy, stored):
    assert stored.spec == healthy.name
    assert str(healthy.parent).encode() not in recorded.read_bytes()


def test_a_static_baseline_samples_nothing(healthy, tmp_path):
    store = Store.open(baseline_of(healthy, tmp_path / "b", level="static"))
    assert store.get(record.SAMPLE) is None
    assert store.get(record.CLIPS) is None
    assert store.get(record.SCHEDULE) is not None


VALUES = {
    "zeros": torch.tensor([0.0, -0.0, 1.0, -2.5]),
    "half": torch.randn(40, 50).half(),
    "long": torch.arange(10),
    "complex": torch.tensor([1 + 2j]),
    "wide": torch.randn(30, 30),
}


def test_fingerprints_come_back(tmp_path):
    from safetensors.torch import save_file

    save_file(VALUES, tmp_path / "w.safetensors")
    prints = fingerprints(SafetensorsWeights((tmp_path / "w.safetensors",)))

    back = from_entry(to_entry(prints, {"class": "X"}), tmp_path)

    for name, tensor in VALUES.items():
        one, other = prints[name], back[name]
        assert one.digest == other.digest == digest(tensor)
        assert (one.numbers, one.casts, one.shape) == (other.numbers, other.casts, other.shape)
        assert torch.equal(one.facts.row, other.facts.row)
        assert other.facts.norm == pytest.approx(one.facts.norm)
    assert back["wide"].casts["BF16"] == number_digest(VALUES["wide"].bfloat16())
    assert set(back["half"].casts) == set()


def test_a_zero_of_either_sign_is_one_number():
    plus, minus = torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0])
    assert digest(plus) != digest(minus)
    assert number_digest(plus) == number_digest(minus) == digest(plus)
    assert number_digest(torch.tensor([0.0, 1.5])) != number_digest(plus)
    nan = torch.tensor([float("nan"), 2.0])
    assert number_digest(nan) == digest(nan)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {"tensors": [1]},
        {"tensors": {"a": {"dtype": "F32", "shape": [3]}}},
        {"tensors": {"a": {"dtype": "X9", "shape": [3], "digest": "0", "figures": {}}}},
        {"tensors": {"a": {"dtype": "F32", "shape": [-3], "digest": "0", "figures": {}}}},
        {"tensors": {"a": {"dtype": "F32", "shape": [3], "digest": "0", "figures": {"mean": "x"}}}},
        {"tensors": {"a": {"dtype": "F32", "shape": [3000], "digest": "0", "figures": {"numel": 3000}}}},
    ],
)
def test_a_damaged_fingerprint_is_one_line(tmp_path, broken):
    entry = Entry(broken, {"sketch": Blob.of(torch.ones(4))})
    with pytest.raises(BaselineError, match="is damaged"):
        from_entry(entry, tmp_path / "b")


def test_a_damaged_reference_is_one_line(recorded, tmp_path):
    for name, value in (
        (record.PIPELINE, {}),
        (record.PIPELINE, {"conditions": 1}),
        (f"{record.COMPONENT}vae", {"class": "x"}),
    ):
        store = Store(tmp_path / "b", {key: Store.open(recorded).get(key) for key in Store.open(recorded)})
        store.put(name, Entry(value))
        with pytest.raises(BaselineError, match=r"b: .*damaged"):
            _ = StoredReference(store).checkpoint
    store.remove(record.PIPELINE)
    with pytest.raises(BaselineError, match="holds no reference"):
        StoredReference(store)


LATENTS = torch.randn(3, 1, 2, 4, 5, generator=torch.Generator().manual_seed(0))
FRAMES = torch.rand(5, 3, 16, 17, generator=torch.Generator().manual_seed(1))


def test_observations_come_back_without_loss():
    back = sample_from_entry(sample_to_entry(Sample(LATENTS, FRAMES), "key", "float32", "cpu"), "b")

    assert list(back.latents) == [1, 2, 3]
    assert torch.equal(torch.stack(list(back.latents.values())), LATENTS)
    assert torch.equal(back.frames, in_levels(FRAMES))


def test_latents_in_half_precision_take_half_the_room():
    entry = sample_to_entry(Sample(LATENTS.bfloat16().float(), FRAMES), "key", "bfloat16", "cpu")
    assert entry.tensors["latents"].dtype == "BF16"
    assert torch.equal(sample_from_entry(entry, "b").latents[2], LATENTS[1].bfloat16().float())


def test_what_is_too_large_is_left_out(monkeypatch):
    from pytest_genmodel.baselines import observations

    monkeypatch.setattr(observations, "MOST_LATENTS", LATENTS.numel())
    monkeypatch.setattr(observations, "MOST_FRAMES", 10)

    back = sample_from_entry(sample_to_entry(Sample(LATENTS, FRAMES), "key", "float32", "cpu"), "b")

    assert list(back.latents) == [3]
    assert back.frames is None


def test_frames_that_unfold_to_more_than_they_say_are_refused():
    entry = sample_to_entry(Sample(LATENTS, torch.zeros(50, 3, 100, 100)), "key", "float32", "cpu")
    for shape in ([1, 3, 2, 2], [50, 3, 100, 10**9], [50, 3, 100], [50, 3, 100, 101], "x"):
        hostile = Entry({**entry.value, "frames": shape}, entry.tensors)
        with pytest.raises(BaselineError, match="damaged"):
            sample_from_entry(hostile, "b")


def test_the_numbers_of_a_clip_survive_json(session):
    probe = session.context(0).probe
    frames = torch.rand(3, 3, probe.height, probe.width)
    frames[0] = probe.image  # the fidelity is infinite
    seen = seen_of(Sample(LATENTS, frames), probe)

    back = seen_from_json(json.loads(json.dumps(seen_to_json(seen), allow_nan=False)))

    assert back == replace(seen, frames=None)


MADE = {"level": "quick", "seed": 0, "prompt": "a red square", "dtype": "float32"}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({}, None),
        ({"seed": 1}, "made with seed 0, and this run has 1 (--genmodel-seed)"),
        ({"level": "full", "seed": 1}, "made with level 'quick', and this run has 'full' (--genmodel-level)"),
        ({"level": "static", "seed": 1}, None),
        ({"dtype": "bfloat16"}, "made with dtype 'float32', and this run has 'bfloat16' (--genmodel-dtype)"),
        ({"guidance": 2.0}, "made with guidance None, and this run has 2.0"),
    ],
)
def test_the_key_that_differs_is_named(now, told):
    assert misfit(MADE, {**MADE, **now}) == told
