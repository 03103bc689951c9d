"""SwissArmyTransformer's folders: which file is meant, what is in it, and that it is judged as what it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.damage import DamagedFileError, UnreadableCheckpointError
from pytest_genmodel.checkpoints.formats import sat
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.invariants.verdict import Outcome
from tests.checkpoints import sat_files
from tests.checkpoints.sat_files import DENOISER, STATES, Tensors
from tests.editing import TO_Q, TRANSFORMER, VAE

TEXT_ENCODER = "text_encoder/model.safetensors"
PARTS = {"transformer": TRANSFORMER, "vae": VAE, "text_encoder": TEXT_ENCODER}
FUSED = "transformer.layers.0.attention.query_key_value.weight"


@pytest.fixture(scope="module")
def diffusers(healthy) -> dict[str, Tensors]:
    return {name: load_file(healthy / file) for name, file in PARTS.items()}


@pytest.fixture(scope="module")
def denoiser(diffusers) -> Tensors:
    """The transformer under SAT's names."""
    return sat_files.with_frequencies(sat_files.transformer(diffusers["transformer"]))


@pytest.fixture(scope="module")
def engine(diffusers, denoiser) -> dict[str, object]:
    """A whole engine in training: transformer, T5 and VAE, and the state of the run."""
    return sat_files.engine(denoiser, diffusers["text_encoder"], sat_files.autoencoder(diffusers["vae"]))


@pytest.fixture(scope="module")
def training(engine, tmp_path_factory) -> Path:
    """Read only."""
    return sat_files.write(tmp_path_factory.mktemp("sat") / "run", engine)


@pytest.fixture(scope="module")
def release(denoiser, tmp_path_factory) -> Path:
    """Read only."""
    folder = tmp_path_factory.mktemp("sat") / "transformer"
    return sat_files.write(folder, sat_files.engine(denoiser, training=False), "release")


def tensors_of(checkpoint: Checkpoint, name: str) -> Tensors:
    weights = checkpoint.components[name].weights
    return {tensor: weights.read(tensor) for tensor in weights.tensors}


def assert_equal(actual: Tensors, expected: Tensors) -> None:
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


# --- what is meant --------------------------------------------------------------------------------------------------


def test_an_engine_in_training_gives_three_components_under_the_models_names(training, diffusers):
    checkpoint = open_checkpoint(training, "run")

    assert (checkpoint.kind, checkpoint.written_by) == (Kind.WEIGHTS, "SwissArmyTransformer (SAT)")
    assert set(checkpoint.components) == set(PARTS)
    assert checkpoint.adapter is None
    for name, expected in diffusers.items():
        component = checkpoint.components[name]
        assert (component.name, component.library, component.class_name) == (name, "", "")
        assert component.weights.unexplained == ()
        assert_equal(tensors_of(checkpoint, name), expected)


def test_a_release_gives_the_transformer(release, diffusers):
    checkpoint = open_checkpoint(release, "release")

    assert list(checkpoint.components) == ["transformer"]
    assert_equal(tensors_of(checkpoint, "transformer"), diffusers["transformer"])


def test_its_bytes_can_be_found_in_the_file(release):
    weights = open_checkpoint(release, "release").components["transformer"].weights

    assert all(weights.spans(name) is not None for name in weights.tensors)


@pytest.mark.parametrize("given", ["1000", f"1000/{STATES}"])
def test_the_folder_of_the_iteration_and_the_lone_file_are_the_same_checkpoint(training, given, diffusers):
    checkpoint = open_checkpoint(training / given, "run")

    assert checkpoint.written_by == "SwissArmyTransformer (SAT)"
    assert set(checkpoint.components) == set(PARTS)
    assert_equal(tensors_of(checkpoint, "vae"), diffusers["vae"])


def test_a_lone_file_by_any_name_is_known_by_its_content(training, tmp_path):
    file = tmp_path / "transformer.pt"
    file.write_bytes((training / "1000" / STATES).read_bytes())

    assert open_checkpoint(file, "file").written_by == "SwissArmyTransformer (SAT)"


def test_names_without_the_engines_prefix_are_known(denoiser, diffusers, tmp_path):
    folder = sat_files.write(tmp_path / "run", {"module": denoiser})

    assert_equal(tensors_of(open_checkpoint(folder, "run"), "transformer"), diffusers["transformer"])


def test_latest_says_which_iteration_is_meant(engine, denoiser, tmp_path):
    folder = sat_files.write(tmp_path / "run", sat_files.engine(denoiser, training=False), "500")
    sat_files.write(folder, engine, "1000")

    assert set(open_checkpoint(folder, "run").components) == set(PARTS)
    (folder / "latest").write_text("500\n")
    assert list(open_checkpoint(folder, "run").components) == ["transformer"]


def test_an_average_beside_the_weights_is_for_the_user_to_choose(engine, denoiser, tmp_path):
    folder = sat_files.write(tmp_path / "run", sat_files.engine(denoiser, training=False), "1000-ema")
    sat_files.write(folder, engine, "1000")

    assert "side by side" in refusal(folder)
    assert set(sat.read(folder, "run").components) == set(PARTS)
    assert list(open_checkpoint(folder / "1000-ema", "run").components) == ["transformer"]


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableCheckpointError) as caught:
        open_checkpoint(path, "run")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_save_that_was_broken_off_is_no_guess(denoiser, tmp_path):
    folder = sat_files.write(tmp_path / "run", sat_files.engine(denoiser, training=False), "1000")
    sat_files.write(folder, sat_files.engine(denoiser, training=False), "1000-ema")

    message = refusal(folder)

    assert "latest names 1000-ema" in message
    assert "run/1000-ema or run/1000" in message
    (folder / "1000").rename(folder / "else")
    assert refusal(folder).endswith("run/1000-ema")


@pytest.mark.parametrize("given", ["", "1000"])
def test_a_part_of_every_layer_is_refused(training, tmp_path, given):
    folder = sat_files.write(tmp_path / "run", sat_files.engine(sat_files.transformer({})))
    states = (training / "1000" / STATES).read_bytes()
    for rank in (0, 1):
        (folder / "1000" / f"mp_rank_0{rank}_model_states.pt").write_bytes(states)

    message = refusal(folder / given)

    assert "2 files" in message
    assert "tensor parallelism" in message


@pytest.mark.parametrize("given", ["", "1000"])
def test_the_stretches_of_zero_3_are_said_to_be_that(tmp_path, given):
    (tmp_path / "run" / "1000").mkdir(parents=True)
    (tmp_path / "run" / "latest").write_text("1000")
    for rank in range(2):
        torch.save({"module": {}}, tmp_path / "run" / "1000" / f"z3_rank_0{rank}_model_states.pt")

    assert "ZeRO stage 3" in refusal(tmp_path / "run" / given)


def test_an_iteration_that_is_not_there_is_damage_of_latest(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "latest").write_text("1000")

    with pytest.raises(DamagedFileError, match="latest: it names the iteration '1000'"):
        open_checkpoint(tmp_path / "run", "run")


@pytest.mark.parametrize("text", ["../else", "/etc", "..", "", "a/b", "1000\x00", "x" * 300])
def test_latest_cannot_lead_out_of_the_folder(training, tmp_path, text):
    sat_files.write(tmp_path / "else", {"module": {}}, "1000")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "latest").write_text(text)

    with pytest.raises(UnreadableCheckpointError):
        open_checkpoint(tmp_path / "run", "run")


def test_a_folder_of_deepspeed_is_none_of_sats(tmp_path):
    folder = sat_files.write(
        tmp_path / "run", {"module": {"blocks.0.weight": torch.ones(2)}}, "global_step10"
    )

    assert not sat.recognises(folder)
    assert not sat.recognises(folder / "global_step10")


def test_opening_reads_no_weights_and_needs_no_torch(training):
    code = (
        "import sys; from pathlib import Path; from pytest_genmodel.checkpoints.opening import open_checkpoint; "
        f"c = open_checkpoint(Path({str(training)!r}), 'run'); assert len(c.components) == 3; "
        "assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


# --- what is wrong with it ------------------------------------------------------------------------------------------


def test_a_name_that_nobody_knows_is_unexplained(engine, tmp_path):
    module = {
        **engine["module"],
        "control_model.x.weight": torch.ones(2),
        f"{DENOISER}transformer.layers.0.lora_layer.down": torch.ones(2),
    }
    folder = sat_files.write(tmp_path / "run", {"module": module})

    checkpoint = open_checkpoint(folder, "run")

    assert set(checkpoint.components["transformer"].weights.unexplained) == {
        "control_model.x.weight",
        f"{DENOISER}transformer.layers.0.lora_layer.down",
    }
    assert checkpoint.components["vae"].weights.unexplained == ()


def test_a_fused_projection_that_does_not_fall_into_three_is_a_finding(engine, healthy, tmp_path, judged):
    module = {**engine["module"]}
    module[DENOISER + FUSED] = module[DENOISER + FUSED][:-1]
    folder = sat_files.write(tmp_path / "run", {"module": module})

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is Outcome.FAILED
    [finding] = [f for f in verdict.findings if f.code == "GM101"]
    assert FUSED in finding.message
    assert "3 equal parts" in finding.message


def test_a_pickle_that_wants_to_run_something_is_a_finding_and_runs_nothing(
    engine, healthy, tmp_path, judged
):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = sat_files.write(tmp_path / "run", {**engine, "np_rng_state": Bomb()})

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is Outcome.FAILED
    assert "GM104" in {f.code for f in verdict.findings}
    assert not (tmp_path / "ran").exists()


# --- judged end to end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["static", "quick"])
@pytest.mark.parametrize("which", ["training", "release"])
def test_an_equal_checkpoint_passes(request, which, level, healthy, judged):
    folder = request.getfixturevalue(which)

    covered = judged("coverage", folder, healthy, level=level)
    same = judged("same_weights", folder, healthy, level=level, expect="identical")

    assert (covered.outcome, covered.findings) == (Outcome.PASSED, ())
    assert (same.outcome, same.findings) == (Outcome.PASSED, ())
    assert same.measurements["transformer"]["compared"] == 65
    assert same.measurements["vae"]["compared"] == 236


@pytest.mark.parametrize("level", ["static", "quick"])
def test_a_changed_tensor_is_named_as_diffusers_names_it(engine, healthy, tmp_path, judged, level):
    module = {**engine["module"]}
    module[DENOISER + FUSED] = module[DENOISER + FUSED].clone()
    module[DENOISER + FUSED][3, 5] += 1  # a row of the query
    folder = sat_files.write(tmp_path / "run", {**engine, "module": module})

    assert judged("coverage", folder, healthy, level=level).outcome is Outcome.PASSED
    verdict = judged("same_weights", folder, healthy, level=level, expect="identical")

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component, finding.location) == ("GM301", "transformer", TO_Q)


@pytest.mark.parametrize("level", ["static", "quick"])
def test_a_tensor_that_is_not_there_is_named_as_diffusers_names_it(engine, healthy, tmp_path, judged, level):
    module = {**engine["module"]}
    del module[DENOISER + FUSED.replace("weight", "bias")]
    folder = sat_files.write(tmp_path / "run", {**engine, "module": module})

    verdict = judged("coverage", folder, healthy, level=level)

    assert verdict.outcome is Outcome.FAILED
    [finding] = [f for f in verdict.findings if f.code == "GM201"]
    assert set(finding.evidence["tensors"]) == {f"transformer_blocks.0.attn1.to_{x}.bias" for x in "qkv"}


def test_it_samples_as_the_model_it_is(training, healthy, judged):
    assert judged("seeded_sampling", training, healthy).outcome is Outcome.PASSED


# --- a transformer that wears its LoRA ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worn(denoiser, diffusers, tmp_path_factory) -> tuple[Path, Tensors]:
    """A checkpoint of a LoRA's training, and its factors under diffusers' names. Read only."""
    tensors, factors = sat_files.lora(denoiser)
    folder = sat_files.write(tmp_path_factory.mktemp("sat") / "lora", sat_files.engine(tensors))
    return folder, factors


def test_the_base_is_the_base_and_the_adapter_comes_with_it(worn, diffusers):
    folder, factors = worn

    checkpoint = open_checkpoint(folder, "run")

    weights = checkpoint.components["transformer"].weights
    assert weights.unexplained == ()
    base = {name: t for name, t in tensors_of(checkpoint, "transformer").items() if name not in factors}
    assert_equal(base, diffusers["transformer"])
    adapter = checkpoint.adapter
    assert adapter is not None
    assert adapter.weights.unexplained == ()
    assert_equal(
        {name: adapter.weights.read(name) for name in adapter.weights.tensors},
        {f"transformer.{name}": tensor for name, tensor in factors.items()},
    )


@pytest.mark.parametrize("level", ["static", "quick"])
def test_that_it_wears_its_lora_is_said(worn, healthy, judged, level):
    """A bare model reads none of the wrapped layers: the fault of zai-org/CogVideo issue 374."""
    folder, factors = worn

    verdict = judged("coverage", folder, healthy, level=level)

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component) == ("GM203", "transformer")
    assert finding.evidence["lora_factors"] == len(factors)


def test_the_base_under_the_lora_is_compared_with_the_reference(worn, denoiser, healthy, tmp_path, judged):
    folder, _ = worn
    codes = [f.code for f in judged("same_weights", folder, healthy, expect="adapter").findings]
    assert codes == ["GM203"]

    changed = {**denoiser, FUSED: denoiser[FUSED].clone()}
    changed[FUSED][3, 5] += 1
    other = sat_files.write(tmp_path / "run", sat_files.engine(sat_files.lora(changed)[0]))
    findings = judged("same_weights", other, healthy, expect="adapter").findings
    assert [f.location for f in findings if f.code == "GM301"] == [TO_Q]
