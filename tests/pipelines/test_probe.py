"""The probe: settled from wish, checkpoint and family; exact in its image, and known by a key."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe


def probe_of(folder: Path, full: bool = False, **wishes) -> Probe:
    checkpoint = open_checkpoint(folder, "candidate")
    return make_probe(ProbeWishes(**wishes), checkpoint, family_of(checkpoint), full=full)


def picture_file(path: Path, size=(31, 17), mode="RGB") -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(path)
    return path


def test_defaults_are_the_familys_and_small(healthy):
    probe = probe_of(healthy)

    assert (probe.width, probe.height, probe.frames, probe.steps, probe.seed) == (16, 16, 9, 4, 0)
    assert (probe.guidance, probe.negative_prompt) == (6.0, "")
    assert probe.prompt
    assert probe_of(healthy, full=True).steps == 25


def test_wishes_come_first(healthy):
    probe = probe_of(healthy, prompt="", seed=7, steps=2, frames=17)

    assert (probe.prompt, probe.seed, probe.steps, probe.frames) == ("", 7, 2, 17)


def test_the_image_is_made_of_256_levels_and_comes_back_from_its_picture(healthy, tmp_path):
    for probe in (probe_of(healthy), probe_of(healthy, image=str(picture_file(tmp_path / "p.png")))):
        assert (probe.image.dtype, tuple(probe.image.shape)) == (torch.float32, (3, 16, 16))
        levels = probe.image * 255
        assert torch.equal(levels.round() / 255, probe.image)
        assert 0 <= float(probe.image.min()) < float(probe.image.max()) <= 1
        back = torch.from_numpy(np.array(probe.picture())).permute(2, 0, 1).float() / 255
        assert torch.equal(back, probe.image)


def test_every_level_survives_the_picture(healthy):
    ramp = torch.arange(256, dtype=torch.float32).reshape(1, 16, 16).expand(3, 16, 16) / 255

    back = np.array(probe_of(healthy).but(image=ramp).picture())

    assert (back[..., 0] == np.arange(256).reshape(16, 16)).all()


@pytest.mark.parametrize(("mode", "ending"), [("RGB", "png"), ("RGBA", "png"), ("L", "png"), ("P", "gif")])
def test_a_picture_of_any_kind_is_resized_to_the_clip(healthy, tmp_path, mode, ending):
    probe = probe_of(healthy, image=str(picture_file(tmp_path / f"p.{ending}", mode=mode)))

    assert probe.picture().size == (16, 16)
    assert probe.key != probe_of(healthy).key


def test_a_picture_of_the_right_size_is_taken_as_it_is(healthy, tmp_path):
    file = picture_file(tmp_path / "p.png", size=(16, 16))

    probe = probe_of(healthy, image=str(file))

    assert np.array_equal(np.array(probe.picture()), np.array(Image.open(file)))


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_one_line_that_names_the_option(healthy, tmp_path, content):
    file = tmp_path / "p.png"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(BadInputError, match="--genmodel-image=") as caught:
        probe_of(healthy, image=str(file))
    assert "\n" not in str(caught.value)


def test_a_picture_cut_in_the_middle_is_refused_too(healthy, tmp_path):
    file = picture_file(tmp_path / "p.png", size=(200, 200))
    file.write_bytes(file.read_bytes()[:5000])

    with pytest.raises(BadInputError, match="cannot be read as a picture"):
        probe_of(healthy, image=str(file))


def test_a_picture_too_large_to_be_one_is_refused_too(healthy, tmp_path, monkeypatch):
    """Pillow's own guard raises what is neither an OSError nor a ValueError."""
    file = picture_file(tmp_path / "p.png", size=(200, 200))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)

    with pytest.raises(BadInputError, match=r"--genmodel-image=.*cannot be read as a picture"):
        probe_of(healthy, image=str(file))


def test_the_checkpoints_own_probe_file_is_honoured(copy):
    own = {"prompt": "a blue cat", "guidance": 2.5, "frames": 17, "steps": 8}
    (copy / "probe.json").write_text(json.dumps(own))

    quick, full = probe_of(copy), probe_of(copy, full=True)

    assert (quick.prompt, quick.guidance, quick.frames, quick.steps) == ("a blue cat", 2.5, 9, 4)
    assert (full.prompt, full.guidance, full.frames, full.steps) == ("a blue cat", 2.5, 17, 8)
    assert probe_of(copy, prompt="mine", frames=17).prompt == "mine"


@pytest.mark.parametrize(
    "own",
    [
        {"prompt": 5},
        {"guidance": "6"},
        {"frames": "9"},
        {"frames": 9.0},
        {"steps": 0},
        {"steps": -1},
        {"width": [16]},
        {"height": True},
        {"guidance": None},
        {"guidance": float("nan")},
    ],
    ids=str,
)
def test_a_probe_file_with_a_value_of_the_wrong_kind_is_damage_and_no_traceback(copy, own):
    (copy / "probe.json").write_text(json.dumps(own))

    with pytest.raises(DamagedFileError, match=next(iter(own))) as caught:
        probe_of(copy, full=True)
    assert (caught.value.path.name, caught.value.damage) == ("probe.json", Damage.CONFIG)


def test_a_probe_file_may_say_more_than_is_read_here(copy):
    (copy / "probe.json").write_text('{"max_sequence_length": 16, "note": [1]}')

    assert probe_of(copy).key == probe_of(copy).key


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"size": (17, 16)}, "multiples of 16"),
        ({"size": (32, 32)}, "learned positions for 16x16 only"),
        ({"frames": 10}, "the nearest is 9"),
        ({"frames": 16}, "the nearest is 17"),
    ],
    ids=str,
)
def test_a_clip_that_cannot_be_made_is_refused_in_one_line(healthy, wishes, said):
    with pytest.raises(BadInputError, match=said) as caught:
        probe_of(healthy, **wishes)
    assert "\n" not in str(caught.value)


# --- keys and changes -----------------------------------------------------------------------------------------------

CHANGES = {
    "image": torch.zeros(3, 16, 16),
    "prompt": "something else",
    "negative_prompt": "blurry",
    "seed": 1,
    "steps": 5,
    "frames": 17,
    "height": 32,
    "width": 32,
    "guidance": 6.000001,
}


def test_the_key_changes_with_each_input_and_with_nothing_else(healthy):
    probe = probe_of(healthy)

    keys = [probe.but(**{name: value}).key for name, value in CHANGES.items()]

    assert len({probe.key, *keys}) == len(CHANGES) + 1
    assert probe.but().key == probe_of(healthy).key == probe.key


def test_one_level_of_one_pixel_is_another_key(healthy):
    probe = probe_of(healthy)
    image = probe.image.clone()
    image[1, 2, 3] += 1 / 255

    assert probe.but(image=image).key != probe.key


def test_but_changes_what_is_named_and_leaves_none_alone(healthy):
    probe = probe_of(healthy)

    changed = probe.but(seed=7, steps=None, prompt="")

    assert (changed.seed, changed.steps, changed.prompt) == (7, probe.steps, "")
    assert (probe.seed, probe.prompt) == (0, probe_of(healthy).prompt)
    assert changed.image is probe.image


def test_but_refuses_a_name_that_no_input_has(healthy):
    with pytest.raises(BadInputError, match=r"no 'sead'; it has frames, guidance, height, image, .*seed"):
        probe_of(healthy).but(sead=1)
