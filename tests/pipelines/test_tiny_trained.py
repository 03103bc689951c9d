"""The shipped trained model does what its card says, and carries nothing but itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.tiny import scene
from pytest_genmodel.pipelines.tiny.cogvideox_trained import probe

NAME = "cogvideox-i2v-trained"
SIDE = 32


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("unused")
    shipped = tiny.materialise(f"tiny:{NAME}", target)
    assert list(target.iterdir()) == []
    return shipped


@pytest.fixture(scope="module")
def pipeline():
    built = tiny.build(NAME)
    built.set_progress_bar_config(disable=True)
    return built


def sample(pipeline, prompt: str, image: np.ndarray, *, seed: int = 0, steps: int = 8) -> np.ndarray:
    settings = probe()
    return pipeline(
        image=torch.from_numpy(image).permute(2, 0, 1)[None],
        prompt=prompt,
        height=settings["height"],
        width=settings["width"],
        num_frames=settings["frames"],
        num_inference_steps=steps,
        guidance_scale=settings["guidance"],
        max_sequence_length=settings["max_sequence_length"],
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).frames[0]


def way(video: np.ndarray) -> np.ndarray:
    """Return how far the vivid shape travels, (x, y) in pixels; fail where it is lost on the way."""
    places = [scene.locate(frame) for frame in video]
    assert None not in places
    return (np.array(places[-1]) - np.array(places[0])) * SIDE


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def test_the_probe_shows_the_image_first_and_then_moves_as_captioned(pipeline) -> None:
    settings = probe()
    image = scene.render(SIDE, SIDE)
    video = sample(pipeline, settings["prompt"], image, steps=settings["steps"])
    assert video.shape == (settings["frames"], SIDE, SIDE, 3)
    assert psnr(video[0], image) > 30
    assert np.abs(np.array(scene.locate(video[0])) - scene.locate(image)).max() * SIDE < 1
    right, down = way(video)
    assert settings["prompt"] == "a red square moves right"
    assert right > 5
    assert abs(down) < 2


@pytest.mark.parametrize(
    ("direction", "step"), [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))]
)
def test_the_caption_alone_decides_the_direction(pipeline, direction: str, step: tuple[int, int]) -> None:
    image = scene.render(SIDE, SIDE, shape="circle", color="blue", center=(0.5, 0.5))
    along = way(sample(pipeline, f"a blue circle moves {direction}", image, seed=3))
    assert along @ np.array(step) > 4
    assert np.abs(along - (along @ np.array(step)) * np.array(step)).max() < 2


def test_colour_comes_from_the_image(pipeline) -> None:
    for color, ink in (("green", scene.COLORS["green"]), ("magenta", scene.COLORS["magenta"])):
        image = scene.render(SIDE, SIDE, color=color)
        video = sample(pipeline, f"a {color} square moves right", image)
        x, y = (int(fraction * SIDE) for fraction in scene.locate(video[8]))
        assert np.abs(video[8][y, x] - ink).max() < 0.25


def test_learned_positions_matter_and_are_read_from_the_file(pipeline, folder: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")[
        "patch_embed.pos_embedding"
    ]
    table = pipeline.transformer.patch_embed.pos_embedding
    assert stored.dtype == torch.float16
    assert torch.equal(table, stored.float())
    image = scene.render(SIDE, SIDE)
    healthy = sample(pipeline, "a red square moves right", image)
    try:
        pipeline.transformer.patch_embed.pos_embedding = torch.zeros_like(table)
        assert psnr(sample(pipeline, "a red square moves right", image), healthy) < 35
    finally:
        pipeline.transformer.patch_embed.pos_embedding = table


def test_the_genuine_class_loads_the_folder_without_options(folder: Path) -> None:
    from diffusers import CogVideoXImageToVideoPipeline

    loaded = CogVideoXImageToVideoPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    parts = (loaded.transformer, loaded.vae, loaded.text_encoder)
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.float32}
    video = sample(loaded, "a red square moves right", scene.render(SIDE, SIDE), steps=2)
    assert np.isfinite(video).all()


def test_the_folder_is_small_and_half_precision(folder: Path) -> None:
    from safetensors import safe_open

    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) <= 5_000_000
    weights = sorted(folder.rglob("*.safetensors"))
    assert [path.parent.name for path in weights] == ["text_encoder", "transformer", "vae"]
    for path in weights:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_no_trace_of_the_machine_that_made_it(folder: Path) -> None:
    from safetensors import safe_open

    absolute = re.compile(r"(?:^|[\"'\s(=])(?:/|~/|[A-Za-z]:\\)\w", re.MULTILINE)
    assert absolute.search('{"a": "/somewhere/else"}')
    for path in [*folder.rglob("*.json"), *folder.rglob("*.md")]:
        text = path.read_text(encoding="utf-8")
        assert not absolute.search(text), path.name
        assert "_name_or_path" not in text
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
    assert {path.name for path in folder.iterdir()} == {
        *("model_index.json", "transformer", "vae", "text_encoder", "tokenizer", "scheduler"),
        *("README.md", "probe.json", "contact_sheet.png"),
    }


def test_the_card_and_the_probe_agree(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    settings = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    assert f"guidance_scale: {settings['guidance']}" in card
    assert f"num_inference_steps: {settings['steps']}" in card
    assert "python -m tools.train_tiny" in card
    assert (settings["frames"], settings["height"], settings["width"]) == (17, SIDE, SIDE)


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (480, 720)])
def test_a_scene_looks_alike_at_every_size(size: tuple[int, int]) -> None:
    picture = scene.render(*size, center=(0.4, 0.6), radius=0.2)
    assert picture.shape == (*size, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert np.array_equal(picture, scene.render(*size, center=(0.4, 0.6), radius=0.2))
    assert scene.locate(picture) == pytest.approx((0.4, 0.6), abs=0.02)
    inside = (picture.max(-1) - picture.min(-1) > 0.5).sum()
    assert inside == pytest.approx((2 * 0.9 * 0.2 * min(size)) ** 2, rel=0.35)


def test_a_scene_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(BadInputError, match=r"hexagon.*circle, square, triangle"):
        scene.render(8, 8, shape="hexagon")
    with pytest.raises(BadInputError, match=r"mauve.*red"):
        scene.render(8, 8, color="mauve")
    with pytest.raises(BadInputError, match="1 x 1"):
        scene.render(0, 8)
    assert scene.locate(scene.Backdrop().render(32, 32)) is None
