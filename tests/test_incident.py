"""The founding incident (zai-org/CogVideo issue 374) on the trained tiny model: seen, found, and named."""

from __future__ import annotations

import pytest

from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.progress import silent
from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped, load_as_the_incident_did
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.sampling import run_pipeline
from pytest_genmodel.reports.contact_sheet import write_contact_sheet
from pytest_genmodel.tensors import bitwise, compare, psnr

TRAINED = "tiny:cogvideox-i2v-trained"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tiny.materialise(TRAINED, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def incident(trained, tmp_path_factory):
    return adapter_wrapped(trained, tmp_path_factory.mktemp("incident") / "saved")


def sampled(folder):
    checkpoint = open_checkpoint(folder, folder.name)
    family = family_of(checkpoint)
    probe = make_probe(ProbeWishes(), checkpoint, family, full=True)
    return probe, run_pipeline(load_as_the_incident_did(folder), family, checkpoint, probe, "cpu", silent)


@pytest.fixture(scope="module")
def videos(trained, incident):
    probe, healthy = sampled(trained)
    return probe, healthy.frames, sampled(incident)[1].frames


def test_healthy_model_shows_the_image_and_the_incident_noise(videos):
    probe, healthy, noise = videos
    assert compare(healthy[0], probe.image, psnr(25)).passed
    figure = compare(noise[-1], healthy[-1], psnr(20)).psnr
    assert figure < 18, "the last frame of the incident has nothing of the healthy one"


def test_no_value_of_the_incident_was_changed_by_the_save(trained, incident):
    before = open_checkpoint(trained, "before").components["transformer"].weights
    after = open_checkpoint(incident, "after").components["transformer"].weights
    names = [name for name in after.tensors if ".lora_" not in name]
    assert len(names) == len(before.tensors)
    for name in names:
        bare = before.read(name.replace(".base_layer.", "."))
        assert compare(after.read(name), bare, bitwise, check_dtype=False).passed, name


def test_incident_is_found_by_its_file_and_by_its_model(judged, incident):
    for level in ("static", "quick"):
        [finding] = judged("coverage", incident, TRAINED, level=level).findings
        assert (finding.code, finding.evidence["count"]) == ("GM203", 32)
        assert "attn1.{to_q, to_k, to_v, to_out.0}.{weight, bias}" in finding.message


@pytest.mark.parametrize(
    "name",
    [
        "coverage",
        "same_weights",
        "same_config",
        "save_load_round_trip",
        "seeded_sampling",
        "zero_lr_identity",
    ],
)
def test_trained_model_holds(judged, name):
    verdict = judged(name, TRAINED, TRAINED)
    assert (verdict.outcome, list(verdict.findings)) == (Outcome.PASSED, [])


def test_contact_sheet_shows_every_row(videos, tmp_path):
    from PIL import Image

    probe, healthy, noise = videos
    path = tmp_path / "deep" / "sheet.png"
    write_contact_sheet(
        [("image", probe.image.unsqueeze(0)), ("a", healthy), ("b", noise)], path, most_frames=5
    )

    with Image.open(path) as sheet:
        assert sheet.size == (4 + 5 * 100, 3 * (16 + 96 + 4) + 4)
        left_of_last_row = sheet.crop((4, 2 * 116 + 20, 100, 3 * 116)).getcolors(10_000)
    assert len(left_of_last_row) > 100, "the row is a picture, not background"
